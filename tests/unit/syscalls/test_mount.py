"""mount(2), umount2(2), pivot_root(2), on memory and on a gofer; sync(2)."""

import pytest

from sentry.abi.errno import (
    EACCES,
    EBUSY,
    EINVAL,
    ELOOP,
    ENODEV,
    ENOENT,
    ENOTDIR,
    EPERM,
    EROFS,
    ESPIPE,
)
from sentry.abi.fcntl import O_CREAT, O_RDWR
from sentry.vfs.dentry import (
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
)

DETACH = 2


@pytest.fixture(autouse=True)
def tree(calls):
    for name in ("/m", "/n", "/o"):
        calls("mkdir", name, 0o755)
    calls.make("/file", b"outer")


def mount(calls, source, target, flags=0, kind="", data=""):
    return calls("mount", source, target, kind, flags, data)


def tmpfs(calls, target, flags=0, data=""):
    return mount(calls, "none", target, flags, "tmpfs", data)


def fails(error, call, *args):
    with pytest.raises(error):
        call(*args)


def test_a_new_file_system_covers_what_was_there(calls):
    calls.make("/m/below")
    tmpfs(calls, "/m", data="mode=700")

    assert calls.listdir("/m") == []
    assert calls.stat("/m").mode == 0o040700
    assert calls.stat("/m").dev != calls.stat("/").dev
    calls.make("/m/inside", b"x")
    calls("chdir", "/m")
    assert calls.getcwd() == "/m"
    assert calls.stat("..").ino == calls.stat("/").ino
    fails(EBUSY, calls, "umount2", "/m", 0)
    calls("chdir", "/")
    calls("umount2", "/m", 0)
    assert calls.listdir("/m") == ["below"]


def test_busy_mounts(calls):
    tmpfs(calls, "/m")
    fd = calls.open("/m/a", O_CREAT | O_RDWR)
    fails(EBUSY, calls, "umount2", "/m", 0)
    calls("umount2", "/m", DETACH)

    calls.write(fd, b"still works")
    assert calls.pread(fd, 99, 0) == b"still works"
    assert calls.listdir("/m") == []


def test_mounts_stack(calls):
    tmpfs(calls, "/m")
    calls.make("/m/first")
    tmpfs(calls, "/m")
    calls.make("/m/second")
    calls("mkdir", "/m/sub", 0o755)
    tmpfs(calls, "/m/sub")

    assert calls.listdir("/m") == ["second", "sub"]
    fails(EBUSY, calls, "umount2", "/m", 0)
    calls("umount2", "/m/sub", 0)
    calls("umount2", "/m", 0)
    assert calls.listdir("/m") == ["first"]


def test_bind(calls):
    calls.make("/m/a", b"same")
    mount(calls, "/m", "/n", MS_BIND)
    mount(calls, "/file", "/m/a", MS_BIND)

    assert calls.contents("/n/a") == b"same"
    assert calls.contents("/m/a") == b"outer"
    calls.make("/n/new")
    assert "new" in calls.listdir("/m")
    fails(ENOTDIR, mount, calls, "/m", "/file", MS_BIND)
    fails(ENOTDIR, mount, calls, "/file", "/m", MS_BIND)
    fails(ENOENT, mount, calls, "/missing", "/m", MS_BIND)
    fails(EINVAL, mount, calls, "", "/m", MS_BIND)


def test_bind_with_what_is_mounted_below(calls):
    calls("mkdir", "/m/sub", 0o755)
    tmpfs(calls, "/m/sub")
    calls.make("/m/sub/deep")

    mount(calls, "/m", "/n", MS_BIND)
    mount(calls, "/m", "/o", MS_BIND | MS_REC)

    assert calls.listdir("/n/sub") == []
    assert calls.listdir("/o/sub") == ["deep"]


def test_remount_of_one_mount(calls):
    mount(calls, "/m", "/n", MS_BIND)
    mount(calls, "none", "/n", MS_REMOUNT | MS_BIND | MS_RDONLY)

    fails(EROFS, calls, "mkdir", "/n/x", 0o755)
    calls("mkdir", "/m/x", 0o755)
    mount(calls, "none", "/n", MS_REMOUNT | MS_BIND)
    calls("mkdir", "/n/y", 0o755)
    fails(EINVAL, mount, calls, "none", "/m", MS_REMOUNT | MS_RDONLY)


def test_remount_changes_a_tmpfs(calls):
    tmpfs(calls, "/m", data="size=1m")
    mount(calls, "none", "/m", MS_REMOUNT | MS_RDONLY, data="size=2m")

    fs = calls.t.fs.root.mount.children[0].fs
    assert fs.show_options().startswith(",size=2048k")
    fails(EROFS, calls, "mkdir", "/m/x", 0o755)


def test_mount_flags_bind_walks_and_opens(calls):
    tmpfs(calls, "/m", MS_NODEV | MS_NOSYMFOLLOW)
    calls("mknod", "/m/null", 0o020666, 0x103)
    calls("symlink", "null", "/m/link")

    fails(EACCES, calls.open, "/m/null")
    for _ in range(2):
        fails(ELOOP, calls.stat, "/m/link")
    assert calls.lstat("/m/link").mode == 0o120777


def test_move(calls):
    tmpfs(calls, "/m")
    calls.make("/m/a")
    calls("mkdir", "/m/sub", 0o755)

    fails(ELOOP, mount, calls, "/m", "/m/sub", MS_MOVE)
    mount(calls, "/m", "/n", MS_MOVE)

    assert calls.listdir("/m") == []
    assert calls.listdir("/n") == ["a", "sub"]
    fails(EINVAL, mount, calls, "/m", "/o", MS_MOVE)
    fails(ENOTDIR, mount, calls, "/n", "/file", MS_MOVE)
    fails(EINVAL, mount, calls, "/", "/o", MS_MOVE)


def test_mount_errors(calls, user):
    fails(EPERM, tmpfs, user, "/m")
    fails(EPERM, user, "umount2", "/m", 0)
    fails(EPERM, user, "pivot_root", "/m", "/m")
    fails(ENODEV, mount, calls, "none", "/m", 0, "ext4")
    fails(EINVAL, mount, calls, "none", "/m", 0, "")
    fails(ENOENT, tmpfs, calls, "/missing")
    fails(ENOTDIR, tmpfs, calls, "/file")
    fails(EINVAL, mount, calls, "none", "/", MS_PRIVATE | MS_SHARED)
    fails(EINVAL, mount, calls, "none", "/m", MS_PRIVATE)
    assert mount(calls, "none", "/", MS_PRIVATE | MS_REC) == 0
    fails(EINVAL, calls, "umount2", "/m", 0)
    fails(EINVAL, calls, "umount2", "/m", 4)
    fails(EBUSY, calls, "umount2", "/", 0)


def test_pivot_root(calls, guest):
    tmpfs(calls, "/m")
    calls("mkdir", "/m/old", 0o755)
    calls.make("/m/new", b"new root")
    fails(EBUSY, calls, "pivot_root", "/n", "/n")
    fails(EBUSY, calls, "pivot_root", "/m", "/n")

    calls("pivot_root", "/m", "/m/old")

    assert calls.contents("/new") == b"new root"
    assert calls.contents("/old/file") == b"outer"
    assert calls.getcwd() == "/"
    calls("umount2", "/old", DETACH)
    assert calls.listdir("/old") == []


def test_sync(calls):
    fd = calls.open("/a", O_CREAT | O_RDWR)
    calls.write(fd, b"data")

    for call in ("fsync", "fdatasync", "syncfs"):
        assert calls(call, fd) == 0
    assert calls("fsync", calls.open("/")) == 0
    assert calls("sync") == 0
    assert calls("sync_file_range", fd, 0, 0, 7) == 0
    calls("mknod", "/fifo", 0o010666, 0)
    fifo = calls.open("/fifo", O_RDWR)
    fails(EINVAL, calls, "fsync", fifo)
    fails(ESPIPE, calls, "sync_file_range", fifo, 0, 0, 0)
    fails(EINVAL, calls, "sync_file_range", fd, 0, 0, 8)
    assert calls("fadvise64", fd, 0, 0, 3) == 0
    fails(EINVAL, calls, "fadvise64", fd, 0, 0, 9)
    fails(ESPIPE, calls, "fadvise64", fifo, 0, 0, 3)
    assert calls("readahead", fd, 0, 100) == 0
    fails(EINVAL, calls, "readahead", calls.open("/"), 0, 100)
