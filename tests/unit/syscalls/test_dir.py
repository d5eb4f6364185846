"""Names: mkdir, mknod, link, symlink, unlink, rmdir, rename, getcwd, chdir, chroot, getdents."""

import struct

import pytest

from sentry.abi.errno import (
    EACCES,
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    EISDIR,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    ERANGE,
    EROFS,
    EXDEV,
)
from sentry.abi.fcntl import (
    AT_FDCWD,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    O_PATH,
    O_RDONLY,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    SEEK_SET,
)
from sentry.vfs.dentry import MS_RDONLY


@pytest.fixture
def tree(calls):
    """/d/e/, /d/file, /file, /link -> file, /empty/"""
    for name in ("/d", "/d/e", "/empty"):
        calls("mkdir", name, 0o755)
    calls.make("/d/file", b"inner")
    calls.make("/file", b"outer")
    calls("symlink", "file", "/link")


def fails(error, call, *args):
    with pytest.raises(error):
        call(*args)


# ---- Making.


def test_mkdir(calls, tree):
    calls("umask", 0o022)
    assert calls("mkdir", "/new/", 0o7777) == 0

    assert calls.stat("/new").mode == 0o041755
    for name in ("/d", "/file", "/link", "/", "/d/.", "/d/..", "/new/"):
        fails(EEXIST, calls, "mkdir", name, 0o755)
    fails(ENOENT, calls, "mkdir", "/missing/x", 0o755)
    fails(ENOTDIR, calls, "mkdir", "/file/x", 0o755)
    fails(ENOENT, calls, "mkdir", "", 0o755)


def test_making_needs_a_writable_directory(calls, user, tree):
    fails(EACCES, user, "mkdir", "/d/x", 0o755)
    fails(EACCES, user, "symlink", "t", "/d/x")
    fails(EACCES, user, "mknod", "/d/x", 0o010644, 0)
    fails(EACCES, user.open, "/d/x", 0o101)
    fails(EEXIST, user, "mkdir", "/d/file", 0o755)


def test_mknod(calls, user, tree):
    calls("mknod", "/fifo", 0o010644, 0)
    calls("mknod", "/socket", 0o140644, 0)
    calls("mknod", "/regular", 0o644, 0)

    kinds = [calls.stat(name).mode >> 12 for name in ("/fifo", "/socket", "/regular")]
    assert kinds == [0o1, 0o14, 0o10]
    fails(EPERM, calls, "mknod", "/x", 0o040755, 0)
    fails(EINVAL, calls, "mknod", "/x", 0o170000, 0)
    fails(ENOENT, calls, "mknod", "/x/", 0o010644, 0)
    calls("chmod", "/d", 0o777)
    fails(EPERM, user, "mknod", "/d/dev", 0o020644, 0x103)


def test_symlink(calls, tree):
    calls("symlink", "anything at all", "/new")

    assert calls.readlink("/new") == "anything at all"
    fails(EEXIST, calls, "symlink", "x", "/link")
    fails(ENOENT, calls, "symlink", "", "/x")
    fails(ENOENT, calls, "symlink", "x", "/x/")


def test_link(calls, tree):
    calls("link", "/file", "/d/other")

    assert calls.stat("/file").nlink == 2
    assert calls.contents("/d/other") == b"outer"
    fails(EEXIST, calls, "link", "/file", "/link")
    fails(EPERM, calls, "link", "/d", "/d2")
    fails(ENOENT, calls, "link", "/missing", "/x")
    fails(ENOENT, calls, "link", "/file", "/x/")
    calls("link", "/link", "/link2")
    assert calls.lstat("/link2").mode == 0o120777
    calls("linkat", AT_FDCWD, "/link", AT_FDCWD, "/followed", AT_SYMLINK_FOLLOW)
    assert calls.lstat("/followed").mode == 0o100644
    fails(EINVAL, calls, "linkat", AT_FDCWD, "/file", AT_FDCWD, "/x", 1)


def test_new_files_in_a_setgid_directory_take_its_group(calls, tree):
    calls("chown", "/d", -1, 42)
    calls("chmod", "/d", 0o2777)

    calls.make("/d/new")
    calls("mkdir", "/d/newdir", 0o755)

    assert calls.stat("/d/new").gid == 42
    assert (calls.stat("/d/newdir").gid, calls.stat("/d/newdir").mode) == (42, 0o042755)


# ---- Removing.


def test_unlink(calls, tree):
    fd = calls.open("/file")
    calls("unlink", "/file")

    assert calls.fstat(fd).nlink == 0
    assert calls.read(fd) == b"outer"
    fails(ENOENT, calls.stat, "/file")
    calls("unlink", "/link")
    assert calls.listdir("/") == ["d", "empty"]
    for name, error in (
        ("/d", EISDIR),
        ("/d/", EISDIR),
        ("/d/file/", ENOTDIR),
        ("/missing", ENOENT),
        ("/d/..", EISDIR),
        ("/", EISDIR),
    ):
        fails(error, calls, "unlink", name)


def test_rmdir(calls, tree):
    calls("rmdir", "/empty/")
    calls("unlinkat", AT_FDCWD, "/d/e", AT_REMOVEDIR)

    assert calls.listdir("/d") == ["file"]
    for name, error in (
        ("/d", ENOTEMPTY),
        ("/file", ENOTDIR),
        ("/d/.", EINVAL),
        ("/d/..", ENOTEMPTY),
        ("/", EBUSY),
        ("/missing", ENOENT),
    ):
        fails(error, calls, "rmdir", name)
    fails(EINVAL, calls, "unlinkat", AT_FDCWD, "/d", 1)


def test_sticky_directories(calls, user, tree):
    calls("chmod", "/d", 0o1777)

    fails(EPERM, user, "unlink", "/d/file")
    fails(EPERM, user, "rename", "/d/file", "/d/mine")
    user.make("/d/mine")
    assert user("unlink", "/d/mine") == 0
    calls("chmod", "/d", 0o755)
    fails(EACCES, user, "unlink", "/d/file")


def test_nothing_can_be_made_in_a_removed_directory(calls, tree):
    calls("chdir", "/empty")
    fd = calls.open("/empty")
    calls("rmdir", "/empty")

    fails(ENOENT, calls.open, "x", 0o101)
    fails(ENOENT, calls, "mkdir", "x", 0o755)
    fails(ENOENT, calls.getcwd)
    fails(ENOENT, calls.entries, fd)
    assert calls.stat(".").nlink == 0
    assert calls.stat("..").ino == calls.stat("/").ino


# ---- Renaming.


def test_rename_replaces(calls, tree):
    fd = calls.open("/d/file")
    calls("rename", "/file", "/d/file")

    assert calls.contents("/d/file") == b"outer"
    assert calls.read(fd) == b"inner"
    assert calls.fstat(fd).nlink == 0
    assert calls.listdir("/") == ["d", "empty", "link"]
    fails(ENOENT, calls.stat, "/file")


def test_directories_move_with_what_is_in_them_and_who_is_in_them(calls, tree):
    calls("chdir", "/d/e")
    calls("rename", "/d", "/empty/moved")

    assert calls.getcwd() == "/empty/moved/e"
    assert calls.contents("../file") == b"inner"
    assert calls.contents("/empty/moved/file") == b"inner"


def test_renaming_between_names_of_one_file_does_nothing(calls, tree):
    calls("link", "/file", "/other")

    calls("rename", "/file", "/other")

    assert calls.listdir("/") == ["d", "empty", "file", "link", "other"]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("/missing", "/x", ENOENT),
        ("/d", "/d/e/x", EINVAL),
        ("/d", "/d/x", EINVAL),
        ("/d/e", "/d", ENOTEMPTY),
        ("/empty", "/d", ENOTEMPTY),
        ("/file", "/d", EISDIR),
        ("/d", "/file", ENOTDIR),
        ("/file", "/x/", ENOTDIR),
        ("/file/", "/x", ENOTDIR),
        ("/d/.", "/x", EBUSY),
        ("/d", "/empty/..", EBUSY),
        ("/", "/x", EBUSY),
        ("/file", "/missing/x", ENOENT),
        ("", "/x", ENOENT),
    ],
)
def test_rename_errors(calls, tree, old, new, error):
    fails(error, calls, "rename", old, new)


def test_a_directory_replaces_an_empty_one(calls, tree):
    calls("rename", "/d", "/empty")

    assert calls.listdir("/empty") == ["e", "file"]
    calls("rename", "/empty/", "/again/")
    assert calls.listdir("/again") == ["e", "file"]


def test_renameat2(calls, tree):
    def rename(old, new, flags):
        return calls("renameat2", AT_FDCWD, old, AT_FDCWD, new, flags)

    fails(EEXIST, rename, "/file", "/d/file", RENAME_NOREPLACE)
    fails(EEXIST, rename, "/file", "/d/..", RENAME_NOREPLACE)
    rename("/file", "/fresh", RENAME_NOREPLACE)
    assert calls.contents("/fresh") == b"outer"
    rename("/fresh", "/d", RENAME_EXCHANGE)
    assert calls.contents("/d") == b"outer"
    assert calls.listdir("/fresh") == ["e", "file"]
    fails(ENOENT, rename, "/d", "/missing", RENAME_EXCHANGE)
    fails(EINVAL, rename, "/fresh", "/fresh/e", RENAME_EXCHANGE)
    fails(EINVAL, rename, "/d", "/x", RENAME_NOREPLACE | RENAME_EXCHANGE)
    fails(EINVAL, rename, "/d", "/x", 8)


def test_moving_a_directory_elsewhere_needs_write_permission_on_it(calls, user, tree):
    calls("chmod", "/d", 0o777)
    calls("chmod", "/empty", 0o777)

    fails(EACCES, user, "rename", "/d/e", "/empty/e")
    assert user("rename", "/d/e", "/d/f") == 0
    assert user("rename", "/d/file", "/empty/file") == 0


def test_a_read_only_mount_refuses_all(calls, tree):
    calls.t.fs.root.mount.flags |= MS_RDONLY

    fails(EEXIST, calls, "mkdir", "/d", 0o755)
    fails(EROFS, calls, "mkdir", "/x", 0o755)
    fails(EROFS, calls, "unlink", "/missing")
    fails(EROFS, calls, "rmdir", "/empty")
    fails(EROFS, calls, "rename", "/file", "/x")
    fails(EROFS, calls, "link", "/file", "/x")
    fails(EROFS, calls, "symlink", "t", "/x")


# ---- Working directory and root.


def test_getcwd_and_chdir(calls, user, tree):
    calls("chdir", "/d")
    calls("chdir", "e")
    assert calls.getcwd() == "/d/e"
    calls("chdir", "../..")
    assert calls.getcwd() == "/"
    calls("fchdir", calls.open("/d", O_PATH))
    assert calls.getcwd() == "/d"
    assert calls("getcwd", calls.t.mem.alloc(3), 3) == 3
    fails(ERANGE, calls, "getcwd", calls.t.mem.alloc(3), 2)
    fails(ENOTDIR, calls, "chdir", "/file")
    fails(ENOENT, calls, "chdir", "/missing")
    fails(ENOTDIR, calls, "fchdir", calls.open("/file"))
    fails(EBADF, calls, "fchdir", 99)
    calls("chmod", "/empty", 0o700)
    fails(EACCES, user, "chdir", "/empty")


def test_chroot(calls, user, tree):
    calls("chdir", "/d")
    fails(EPERM, user, "chroot", "/d")
    fails(ENOTDIR, calls, "chroot", "/file")

    calls("chroot", "/d")

    assert calls.getcwd() == "/"
    assert calls.contents("/file") == b"inner"
    assert calls.contents("/../file") == b"inner"
    assert calls.stat("/..").ino == calls.stat("/").ino


def test_a_working_directory_outside_of_the_root_is_unreachable(calls, tree):
    calls("chdir", "/empty")
    calls("chroot", "/d")

    assert calls.getcwd().startswith("(unreachable)")


# ---- getdents.


def test_entries(calls, tree):
    fd = calls.open("/")

    entries = {name: (ino, kind) for name, ino, kind in calls.entries(fd)}

    assert set(entries) == {".", "..", "d", "empty", "file", "link"}
    assert {name: kind for name, (_, kind) in entries.items()} == {
        ".": 4,
        "..": 4,
        "d": 4,
        "empty": 4,
        "file": 8,
        "link": 10,
    }
    assert entries["file"][0] == calls.stat("/file").ino
    assert entries["."][0] == calls.stat("/").ino


def test_many_entries_in_small_pieces(calls):
    names = {f"name-{n}" for n in range(300)}
    for name in names:
        calls.make("/" + name)
    fd = calls.open("/")

    for size in (32, 100, 4096, 65536):
        calls("lseek", fd, 0, SEEK_SET)
        assert {name for name, _, _ in calls.entries(fd, size)} == names | {".", ".."}


def test_removing_what_was_listed_while_listing(calls):
    names = {f"n{n}" for n in range(100)}
    for name in names:
        calls.make("/" + name)
    fd, buf = calls.open("/"), calls.t.mem.alloc(256)
    seen = set()
    while n := calls("getdents64", fd, buf, 256):
        data, at = calls.t.mem.read(buf, n), 0
        while at < n:
            length = struct.unpack_from("<H", data, at + 16)[0]
            name = data[at + 19 : at + length].split(b"\0")[0].decode()
            at += length
            if name not in (".", ".."):
                seen.add(name)
                calls("unlink", "/" + name)

    assert seen == names
    assert calls.listdir("/") == []


def test_the_older_getdents(calls):
    calls.make("/abc")
    fd, buf = calls.open("/"), calls.t.mem.alloc(4096)
    n = calls("getdents", fd, buf, 4096)
    data, at, found = calls.t.mem.read(buf, n), 0, {}
    while at < n:
        ino, _, length = struct.unpack_from("<QQH", data, at)
        found[data[at + 18 : at + length].split(b"\0")[0].decode()] = (ino, data[at + length - 1])
        at += length

    assert found["abc"] == (calls.stat("/abc").ino, 8)
    assert set(found) == {".", "..", "abc"}


def test_getdents_errors(calls):
    calls.make("/abc")
    fd, buf = calls.open("/", O_RDONLY), calls.t.mem.alloc(64)

    fails(EINVAL, calls, "getdents64", fd, buf, 16)
    fails(ENOTDIR, calls, "getdents64", calls.open("/abc"), buf, 64)
    fails(EBADF, calls, "getdents64", 99, buf, 64)
    assert len(calls.entries(fd)) == 3


# ---- Two tasks at once.


def test_two_tasks_create_one_name_and_one_wins(guest, calls, user):
    calls("chmod", "/", 0o777)
    first = calls.start("openat", AT_FDCWD, "/a", 0o301, 0o644)
    second = user.start("openat", AT_FDCWD, "/a", 0o301, 0o644)

    results = []
    for call in (first, second):
        try:
            results.append(guest.finish(call))
        except EEXIST:
            results.append("EEXIST")

    assert results == [0, "EEXIST"]
    assert calls.stat("/a").uid == 0


def test_two_tasks_remove_one_name_and_one_wins(guest, calls, user):
    calls("chmod", "/", 0o777)
    calls.make("/a")
    both = [calls.start("unlink", "/a"), user.start("unlink", "/a")]

    results = []
    for call in both:
        try:
            results.append(guest.finish(call))
        except ENOENT:
            results.append("ENOENT")

    assert results == [0, "ENOENT"]
    assert calls.listdir("/") == []


def test_across_mounts(calls, tree):
    calls("mount", "none", "/empty", "tmpfs", 0, 0)

    fails(EXDEV, calls, "rename", "/file", "/empty/file")
    fails(EXDEV, calls, "link", "/file", "/empty/file")
    fails(EBUSY, calls, "rmdir", "/empty")
    fails(EBUSY, calls, "rename", "/empty", "/x")
