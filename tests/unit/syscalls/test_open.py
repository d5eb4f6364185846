"""open(2), openat2(2), close(2), close_range(2)."""

import struct

import pytest

from sentry.abi.errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBADF,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    EPERM,
    EROFS,
    EXDEV,
)
from sentry.abi.fcntl import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    F_GETFD,
    F_GETFL,
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_LARGEFILE,
    O_NOATIME,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_TMPFILE,
    O_TRUNC,
    O_WRONLY,
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
)
from sentry.vfs.dentry import MS_RDONLY


def test_a_created_file_has_the_callers_owner_and_masked_mode(calls):
    calls("umask", 0o027)
    fd = calls.open("/a", O_CREAT | O_RDWR, 0o666)

    assert fd == 0
    st = calls.fstat(fd)
    assert (st.mode, st.uid, st.gid, st.size) == (0o100640, 0, 0, 0)


def test_a_file_may_be_created_read_only_and_written_through_that_descriptor(calls, user):
    calls("mkdir", "/d", 0o777)
    calls("chmod", "/d", 0o777)

    fd = user.open("/d/a", O_CREAT | O_WRONLY, 0o444)

    assert user.write(fd, b"x") == 1
    with pytest.raises(EACCES):
        user.open("/d/a", O_WRONLY)


def test_excl(calls):
    calls.make("/a")
    calls("symlink", "nowhere", "/link")

    with pytest.raises(EEXIST):
        calls.open("/a", O_CREAT | O_EXCL)
    with pytest.raises(EEXIST):
        calls.open("/link", O_CREAT | O_EXCL)
    assert calls.open("/a", O_CREAT) == 0


def test_creating_through_a_dangling_link_makes_its_target(calls):
    calls("mkdir", "/d", 0o755)
    calls("symlink", "d/target", "/link")

    calls("close", calls.open("/link", O_CREAT | O_WRONLY))

    assert calls.listdir("/d") == ["target"]


@pytest.mark.parametrize(
    ("name", "flags", "error"),
    [
        ("/missing", O_RDONLY, ENOENT),
        ("/missing/a", O_CREAT, ENOENT),
        ("/file/a", O_RDONLY, ENOTDIR),
        ("/file/", O_RDONLY, ENOTDIR),
        ("/file", O_DIRECTORY, ENOTDIR),
        ("/file", O_DIRECTORY | O_PATH, ENOTDIR),
        ("/dir", O_WRONLY, EISDIR),
        ("/dir", O_RDWR, EISDIR),
        ("/dir", O_CREAT, EISDIR),
        ("/dir", O_TRUNC, EISDIR),
        ("/new/", O_CREAT | O_WRONLY, EISDIR),
        ("/dir/.", O_CREAT, EISDIR),
        ("/dir/..", O_CREAT, EISDIR),
        ("/", O_CREAT, EISDIR),
        ("/", O_CREAT | O_EXCL, EEXIST),
        ("/link", O_NOFOLLOW, ELOOP),
        ("/loop", O_RDONLY, ELOOP),
        ("/link/x", O_RDONLY, ENOTDIR),
        ("", O_RDONLY, ENOENT),
        ("/" + "x" * 256, O_RDONLY, ENAMETOOLONG),
        ("/" + "x/" * 2048, O_RDONLY, ENAMETOOLONG),
        ("/dir", O_TMPFILE, EINVAL),
        ("/file", O_TMPFILE | O_RDWR, ENOTDIR),
        ("/file", O_CREAT | O_DIRECTORY, EINVAL),
    ],
)
def test_errors(calls, name, flags, error):
    calls("mkdir", "/dir", 0o755)
    calls.make("/file")
    calls("symlink", "file", "/link")
    calls("symlink", "loop", "/loop")

    with pytest.raises(error):
        calls.open(name, flags)

    assert calls.listdir("/") == ["dir", "file", "link", "loop"]


def test_a_bad_directory_descriptor_matters_for_relative_names_only(calls):
    calls.make("/a")

    assert calls.open("/a", dirfd=77) == 0
    with pytest.raises(EBADF):
        calls.open("a", dirfd=77)
    with pytest.raises(ENOTDIR):
        calls.open("a", dirfd=0)
    with pytest.raises(ENOENT):
        calls.open("", dirfd=77)


def test_permissions_of_file_and_path(calls, user):
    calls("mkdir", "/closed", 0o700)
    calls.make("/closed/a")
    calls.make("/secret", mode=0o600)
    calls.make("/readable", mode=0o644)

    with pytest.raises(EACCES):
        user.open("/closed/a")
    with pytest.raises(EACCES):
        user.open("/secret")
    with pytest.raises(EACCES):
        user.open("/readable", O_RDONLY | O_TRUNC)
    with pytest.raises(EPERM):
        user.open("/readable", O_RDONLY | O_NOATIME)
    assert user.open("/readable") == 0


def test_truncating_takes_the_set_id_bits_of_other_users_writers(calls, user):
    calls.make("/a", b"x", 0o777)
    calls("chmod", "/a", 0o6777)

    user("close", user.open("/a", O_WRONLY | O_TRUNC))

    assert calls.stat("/a").mode & 0o7777 == 0o777
    assert calls.stat("/a").size == 0


def test_status_flags_forget_what_only_concerned_opening(calls):
    fd = calls.open("/a", O_CREAT | O_TRUNC | O_RDWR | O_APPEND | O_NONBLOCK | O_CLOEXEC)

    assert calls("fcntl", fd, F_GETFL) == O_RDWR | O_APPEND | O_NONBLOCK | O_LARGEFILE
    assert calls("fcntl", fd, F_GETFD) == 1


def test_a_full_table_fails_before_the_file_is_made(calls):
    calls.t.files.limit = 1
    calls.open("/", O_RDONLY)

    with pytest.raises(EMFILE):
        calls.open("/a", O_CREAT)

    calls("close", 0)
    assert calls.listdir("/") == []


def test_a_path_descriptor_is_good_for_names_only(calls):
    calls("mkdir", "/d", 0o755)
    calls.make("/d/a", b"x")
    fd = calls.open("/d", O_PATH)

    assert calls.open("a", dirfd=fd) == 1
    assert calls.fstat(fd).mode & 0o170000 == 0o040000
    with pytest.raises(EBADF):
        calls.read(fd)
    with pytest.raises(EBADF):
        calls("fchmod", fd, 0o700)
    assert calls("fcntl", fd, F_GETFL) == O_PATH | O_LARGEFILE


def test_a_path_descriptor_of_a_link_can_be_read(calls):
    calls("symlink", "target", "/link")
    fd = calls.open("/link", O_PATH | O_NOFOLLOW)
    buf = calls.t.mem.alloc(64)

    n = calls("readlinkat", fd, "", buf, 64)

    assert calls.t.mem.read(buf, n) == b"target"


def test_an_unnamed_file_can_be_given_a_name(calls):
    fd = calls.open("/", O_TMPFILE | O_RDWR, 0o600)
    calls.write(fd, b"data")
    assert calls.fstat(fd).nlink == 0
    assert calls.listdir("/") == []

    calls("linkat", fd, "", AT_FDCWD, "/named", AT_EMPTY_PATH)

    assert calls.contents("/named") == b"data"
    assert calls.stat("/named").nlink == 1
    with pytest.raises(ENOENT):
        calls("linkat", AT_FDCWD, "/nothing", AT_FDCWD, "/x", AT_SYMLINK_FOLLOW)


def test_a_read_only_mount(calls):
    calls.make("/a", b"x", 0o666)
    calls("mknod", "/fifo", 0o010666, 0)
    calls.t.fs.root.mount.flags |= MS_RDONLY

    for flags in (O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_CREAT):
        with pytest.raises(EROFS):
            calls.open("/a", flags)
    with pytest.raises(EROFS):
        calls.open("/new", O_CREAT)
    assert calls.open("/a") == 0
    assert calls.open("/a", O_CREAT) == 1
    assert calls.open("/fifo", O_RDWR) == 2


# ---- openat2.


def how(flags=O_RDONLY, mode=0, resolve=0, rest=b""):
    return struct.pack("<QQQ", flags, mode, resolve) + rest


def test_openat2_checks_its_arguments(calls):
    calls.make("/a")

    def fails(error, data, size=None):
        with pytest.raises(error):
            calls("openat2", AT_FDCWD, "/a", data, size if size is not None else len(data))

    fails(EINVAL, how(), 16)
    fails(E2BIG, how(rest=b"\1"))
    fails(EINVAL, how(flags=1 << 40))
    fails(EINVAL, how(mode=0o644))
    fails(EINVAL, how(flags=O_PATH | O_WRONLY))
    fails(EINVAL, how(resolve=1 << 20))
    fails(EINVAL, how(resolve=RESOLVE_BENEATH | RESOLVE_IN_ROOT))
    fails(EAGAIN, how(flags=O_CREAT, resolve=RESOLVE_CACHED))
    assert calls("openat2", AT_FDCWD, "/a", how(rest=bytes(8)), 32) == 0


def test_openat2_resolution(calls):
    calls("mkdir", "/d", 0o755)
    calls.make("/d/a", b"inside")
    calls.make("/a", b"outside")
    calls("symlink", "../a", "/d/up")
    calls("symlink", "a", "/d/link")
    fd = calls.open("/d", O_PATH)

    def opened(name, resolve):
        new = calls("openat2", fd, name, how(resolve=resolve), 24)
        data = calls.read(new)
        calls("close", new)
        return data

    assert opened("a", RESOLVE_BENEATH) == b"inside"
    assert opened("up", 0) == b"outside"
    assert opened("up", RESOLVE_IN_ROOT) == b"inside"
    assert opened("/a", RESOLVE_IN_ROOT) == b"inside"
    with pytest.raises(EXDEV):
        opened("up", RESOLVE_BENEATH)
    with pytest.raises(EXDEV):
        opened("/a", RESOLVE_BENEATH)
    with pytest.raises(ELOOP):
        opened("link", RESOLVE_NO_SYMLINKS)


# ---- close.


def test_close(calls):
    fd = calls.open("/")

    assert calls("close", fd) == 0
    with pytest.raises(EBADF):
        calls("close", fd)


def test_close_range(calls):
    fds = [calls.open("/") for _ in range(5)]

    calls("close_range", 1, 2, 4)  # CLOSE_RANGE_CLOEXEC
    assert [calls("fcntl", fd, F_GETFD) for fd in fds] == [0, 1, 1, 0, 0]
    calls("close_range", 2, 0xFFFFFFFF, 0)

    assert [fd for fd, _ in calls.t.files.items()] == [0, 1]
    with pytest.raises(EINVAL):
        calls("close_range", 2, 1, 0)
    with pytest.raises(EINVAL):
        calls("close_range", 0, 1, 1)


def test_close_range_can_unshare_first(guest, calls):
    calls.open("/")
    other = guest.thread(calls.t)
    other.files.refs = 2

    calls("close_range", 0, 9, 2)  # CLOSE_RANGE_UNSHARE

    assert list(calls.t.files.items()) == []
    assert len(list(other.files.items())) == 1
