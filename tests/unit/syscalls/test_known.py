"""Names that were walked before (sentry/vfs/known.py): whatever happens, they lead where walking would lead."""

import random

import pytest

from sentry.abi.errno import EACCES, ENOENT, LinuxError
from sentry.abi.fcntl import AT_FDCWD, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR, RENAME_EXCHANGE
from sentry.kernel.fscontext import FsContext
from sentry.vfs.dentry import MS_BIND, MS_NOSYMFOLLOW, MS_REMOUNT
from sentry.vfs.known import FILLED_LIMIT, NAMES_LIMIT, Known, _filled, forget_known

DETACH = 2


def what(calls, name):
    """The inode that name leads to, or the error."""
    try:
        return calls.stat(name).ino
    except LinuxError as e:
        return type(e)


def walked(calls, name):
    """The same by a task that knows no names."""
    t = calls.t
    fs = t.fs
    t.fs = FsContext(fs.root, fs.cwd, fs.umask)
    try:
        return what(calls, name)
    finally:
        t.fs = fs


def test_a_name_is_walked_once(calls):
    calls("mkdir", "/d", 0o755)
    calls.make("/d/a")
    assert calls.stat("/d/a") == calls.stat("/d/a")
    with pytest.raises(ENOENT):
        calls.stat("/d/b")
    assert {b"/d/a", b"/d/b"} <= calls.t.fs.known.keys()
    # And by others that start where it did, until they go elsewhere.
    assert calls.t.fs.copy().known is calls.t.fs.known
    calls("chdir", "/d")
    assert not calls.t.fs.known
    assert what(calls, "a") == what(calls, "/d/a")


def test_other_credentials_know_other_names(calls, user):
    calls("mkdir", "/closed", 0o700)
    calls.make("/closed/a")
    inode = calls.stat("/closed/a").ino
    user.t.fs = calls.t.fs  # as of threads
    for _ in range(2):
        with pytest.raises(EACCES):
            user.stat("/closed/a")
        assert calls.stat("/closed/a").ino == inode


def test_a_directory_is_closed_and_opened(calls, user):
    calls("mkdir", "/d", 0o755)
    calls.make("/d/a")
    for mode, error in ((0o700, EACCES), (0o711, None), (0o700, EACCES)):
        calls("chmod", "/d", mode)
        assert (what(user, "/d/a") == EACCES) is bool(error)
    calls("chown", "/d", 1000, 1000)
    assert what(user, "/d/a") == what(calls, "/d/a")


def test_the_last_link_is_followed_or_not(calls):
    calls.make("/a")
    calls("symlink", "a", "/link")
    for _ in range(2):
        assert calls.stat("/link").mode == 0o100644
        assert calls.lstat("/link").mode == 0o120777
        with pytest.raises(LinuxError):
            calls.open("/link", O_NOFOLLOW)


def test_mounts_come_and_go(calls):
    calls("mkdir", "/m", 0o755)
    calls("mkdir", "/n", 0o755)
    calls("symlink", "x", "/n/link")
    calls.make("/n/x")
    names = ("/m", "/m/x", "/m/link", "/m/../n/x")
    seen = []
    for change in (
        lambda: None,
        lambda: calls("mount", "/n", "/m", "", MS_BIND, ""),
        lambda: calls("mount", "", "/m", "", MS_REMOUNT | MS_NOSYMFOLLOW, ""),
        lambda: calls("umount2", "/m", DETACH),
    ):
        change()
        for name in names:
            assert what(calls, name) == what(calls, name) == walked(calls, name)
        seen.append(tuple(what(calls, name) for name in names))
    assert seen[0] == seen[3]
    assert len(set(seen)) == 3


def test_a_moved_directory_has_another_parent(calls):
    for name in ("/p", "/p/d", "/q"):
        calls("mkdir", name, 0o755)
    calls.make("/p/here")
    calls("chdir", "/p/d")
    assert what(calls, "../here") == what(calls, "/p/here")
    calls("rename", "/p/d", "/q/d")
    assert what(calls, "../here") == ENOENT


def test_whatever_happens(calls, user):
    """Random changes among a few names; after each, all names lead where they would without being known."""
    chance = random.Random(5)
    names = ["/a", "/b", "/d", "/d/a", "/d/b", "/d/e", "/d/e/a", "/l", "/d/l", "/l/a", "/d/l/a"]
    names += ["a", "../a", "e/a", "./b"]
    targets = ["a", "/d", "d", "../a", "e", "/nowhere"]
    calls("chmod", "/", 0o777)

    def change():
        name, other = chance.choice(names), chance.choice(names)
        fd = 99
        match chance.randrange(10):
            case 0 | 1:
                fd = calls.open(name, O_CREAT | O_RDWR | (O_EXCL if chance.random() < 0.5 else 0))
            case 2:
                calls("mkdir", name, 0o755)
            case 3:
                calls("unlink", name)
            case 4:
                calls("rmdir", name)
            case 5:
                calls("rename", name, other)
            case 6:
                calls("renameat2", AT_FDCWD, name, AT_FDCWD, other, RENAME_EXCHANGE)
            case 7:
                calls("symlink", chance.choice(targets), name)
            case 8:
                calls("chmod", name, chance.choice((0o755, 0o700, 0o711, 0o644)))
            case 9:
                calls("chdir", name)
                user.t.fs.chdir(calls.t.fs.cwd)
        if fd != 99:
            calls("close", fd)

    for _ in range(400):
        try:
            change()
        except LinuxError:
            continue
        for who in (calls, user):
            for name in names:
                assert what(who, name) == walked(who, name), name


def test_there_are_limits(guest):
    forget_known()
    tables = [Known() for _ in range(FILLED_LIMIT + 1)]
    for known in tables:
        known.note(b"a", guest.root)
    assert len(_filled) == 1
    assert [len(known) for known in tables] == [0] * FILLED_LIMIT + [1]
    for i in range(NAMES_LIMIT):
        tables[0].note(b"%d" % i, guest.root)
    assert len(tables[0]) == NAMES_LIMIT
    tables[0].note(b"one more", guest.root)
    assert list(tables[0]) == [b"one more"]
    assert len(_filled) == 2
    forget_known()
