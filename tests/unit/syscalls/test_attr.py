"""chmod, chown, utimensat, truncate, fallocate, umask, statfs."""

import struct

import pytest

from sentry.abi.errno import (
    EACCES,
    EBADF,
    EINVAL,
    EISDIR,
    ENOENT,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESPIPE,
)
from sentry.abi.fcntl import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    O_CREAT,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
)
from sentry.abi.stat import STATFS
from sentry.vfs.attrs import UTIME_NOW, UTIME_OMIT
from sentry.vfs.dentry import MS_NOSUID, MS_RDONLY


def fails(error, call, *args):
    with pytest.raises(error):
        call(*args)


def mode(calls, name):
    return calls.lstat(name).mode & 0o7777


# ---- chmod.


def test_chmod(calls, user):
    calls.make("/a")
    calls("symlink", "a", "/link")

    calls("chmod", "/link", 0o4711)
    assert mode(calls, "/a") == 0o4711
    calls("fchmod", calls.open("/a"), 0o600)
    assert mode(calls, "/a") == 0o600
    calls("fchmodat", AT_FDCWD, "/a", 0o640)
    assert mode(calls, "/a") == 0o640
    calls("fchmodat2", calls.open("/a", O_PATH), "", 0o644, AT_EMPTY_PATH)
    assert mode(calls, "/a") == 0o644
    fails(EOPNOTSUPP, calls, "fchmodat2", AT_FDCWD, "/link", 0o600, AT_SYMLINK_NOFOLLOW)
    fails(EINVAL, calls, "fchmodat2", AT_FDCWD, "/a", 0o600, 1)
    fails(EPERM, user, "chmod", "/a", 0o777)
    fails(ENOENT, calls, "chmod", "/missing", 0o777)
    calls.t.fs.root.mount.flags |= MS_RDONLY
    fails(EROFS, calls, "chmod", "/a", 0o777)


def test_set_group_id_is_for_members_of_the_group(calls, user):
    calls.make("/a")
    calls("chown", "/a", 1000, 50)

    user("chmod", "/a", 0o2755)
    assert mode(calls, "/a") == 0o755
    calls("chown", "/a", 1000, 1000)
    user("chmod", "/a", 0o2755)
    assert mode(calls, "/a") == 0o2755


# ---- chown.


def owner(calls, name):
    st = calls.lstat(name)
    return st.uid, st.gid


def test_chown(calls):
    calls.make("/a")
    calls("symlink", "a", "/link")

    calls("chown", "/link", 5, 6)
    assert owner(calls, "/a") == (5, 6)
    calls("lchown", "/link", 7, -1)
    assert (owner(calls, "/link"), owner(calls, "/a")) == ((7, 0), (5, 6))
    calls("fchown", calls.open("/a"), -1, 9)
    assert owner(calls, "/a") == (5, 9)
    calls("fchownat", calls.open("/a", O_PATH), "", 1, 2, AT_EMPTY_PATH)
    assert owner(calls, "/a") == (1, 2)
    fails(EINVAL, calls, "fchownat", AT_FDCWD, "/a", 1, 2, 1)


def test_who_may_change_owners(calls, user):
    calls.make("/a")
    calls("chown", "/a", 1000, 1000)
    user.t.creds = user.t.creds.changed(groups=(77,))

    assert user("chown", "/a", 1000, 77) == 0
    assert user("chown", "/a", -1, -1) == 0
    fails(EPERM, user, "chown", "/a", 0, -1)
    fails(EPERM, user, "chown", "/a", -1, 78)
    calls("chown", "/a", 0, 0)
    fails(EPERM, user, "chown", "/a", -1, 77)


def test_changing_owners_takes_set_id_bits_of_files(calls):
    calls.make("/a")
    calls("mkdir", "/d", 0o755)
    calls("chmod", "/a", 0o6755)
    calls("chmod", "/d", 0o2755)

    calls("chown", "/a", 1, 1)
    calls("chown", "/d", 1, 1)

    assert mode(calls, "/a") == 0o755
    assert mode(calls, "/d") == 0o2755


# ---- Times.


def times(atime, mtime):
    return struct.pack("<qqqq", *atime, *mtime)


def test_utimensat(calls, user):
    calls.make("/a")
    calls("symlink", "a", "/link")

    calls("utimensat", AT_FDCWD, "/link", times((1, 2), (3, 4)), 0)
    assert calls.stat("/a")[9:11] == ((1, 2), (3, 4))
    calls("utimensat", AT_FDCWD, "/a", times((0, UTIME_OMIT), (5, 6)), 0)
    assert calls.stat("/a")[9:11] == ((1, 2), (5, 6))
    calls("utimensat", AT_FDCWD, "/link", times((7, 8), (9, 10)), AT_SYMLINK_NOFOLLOW)
    assert calls.lstat("/link").mtime == (9, 10)
    calls("utimensat", calls.open("/a"), 0, times((0, UTIME_NOW), (0, UTIME_OMIT)), 0)
    st = calls.stat("/a")
    assert st.atime > (1_600_000_000, 0)
    assert st.mtime == (5, 6)
    assert st.ctime > (1_600_000_000, 0)


def test_utimensat_errors(calls, user):
    calls.make("/a")

    fails(EINVAL, calls, "utimensat", AT_FDCWD, "/a", times((0, 10**9), (0, 0)), 0)
    fails(EINVAL, calls, "utimensat", AT_FDCWD, "/a", times((0, 0), (0, -1)), 0)
    fails(EINVAL, calls, "utimensat", AT_FDCWD, "/a", 0, 1)
    fails(EPERM, user, "utimensat", AT_FDCWD, "/a", times((0, 0), (0, 0)), 0)
    fails(EPERM, user, "utimensat", AT_FDCWD, "/a", times((0, UTIME_NOW), (0, UTIME_OMIT)), 0)
    fails(EACCES, user, "utimensat", AT_FDCWD, "/a", 0, 0)
    assert user("utimensat", AT_FDCWD, "/missing", times((0, UTIME_OMIT), (0, UTIME_OMIT)), 0) == 0
    calls("chmod", "/a", 0o666)
    assert user("utimensat", AT_FDCWD, "/a", 0, 0) == 0


def test_older_ways_to_set_times(calls):
    calls.make("/a")

    calls("utime", "/a", struct.pack("<qq", 11, 12))
    assert calls.stat("/a")[9:11] == ((11, 0), (12, 0))
    calls("utimes", "/a", times((1, 500_000), (2, 1)))
    assert calls.stat("/a")[9:11] == ((1, 500_000_000), (2, 1000))
    fails(EINVAL, calls, "utimes", "/a", times((1, 1_000_000), (2, 1)))
    calls("futimesat", calls.open("/a"), 0, times((3, 0), (4, 0)))
    assert calls.stat("/a")[9:11] == ((3, 0), (4, 0))
    calls("utime", "/a", 0)
    assert calls.stat("/a").mtime > (1_600_000_000, 0)


def test_changes_are_stamped_in_their_order(calls):
    """A file touched explicitly must not look newer than one that is written afterwards."""
    calls.make("/touched")
    calls.make("/written")
    fd = calls.open("/written", O_WRONLY)
    stamps = []
    for _ in range(50):
        calls("utimensat", AT_FDCWD, "/touched", 0, 0)
        stamps.append(calls.stat("/touched").mtime)
        calls.write(fd, b"x")
        stamps.append(calls.fstat(fd).mtime)

    assert stamps == sorted(stamps)


# ---- Sizes.


def test_truncate(calls, user):
    calls.make("/a", b"0123456789", 0o666)
    calls("mkdir", "/d", 0o755)
    calls("mknod", "/fifo", 0o010666, 0)

    calls("truncate", "/a", 4)
    assert calls.contents("/a") == b"0123"
    fd = calls.open("/a", O_RDWR)
    calls("ftruncate", fd, 6)
    assert calls.contents("/a") == b"0123\0\0"
    fails(EINVAL, calls, "truncate", "/a", -1)
    fails(EISDIR, calls, "truncate", "/d", 0)
    fails(EINVAL, calls, "truncate", "/fifo", 0)
    fails(EINVAL, calls, "ftruncate", calls.open("/a", O_RDONLY), 0)
    fails(EINVAL, calls, "ftruncate", fd, -1)
    fails(EBADF, calls, "ftruncate", calls.open("/a", O_PATH), 0)
    calls("chmod", "/a", 0o4744)
    fails(EACCES, user, "truncate", "/a", 0)
    calls("chmod", "/a", 0o4766)
    user("truncate", "/a", 1)
    assert mode(calls, "/a") == 0o766


def test_fallocate(calls):
    calls.make("/a")
    fd = calls.open("/a", O_RDWR)

    calls("fallocate", fd, 0, 0, 10_000)
    assert calls.fstat(fd).size == 10_000
    calls("fallocate", fd, FALLOC_FL_KEEP_SIZE, 0, 20_000)
    assert calls.fstat(fd).size == 10_000
    calls("pwrite64", fd, b"x" * 8192, 8192, 0)
    calls("fallocate", fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)
    assert calls.pread(fd, 5000, 0) == bytes(4096) + b"x" * 904
    fails(EINVAL, calls, "fallocate", fd, 0, -1, 1)
    fails(EINVAL, calls, "fallocate", fd, 0, 0, 0)
    fails(EOPNOTSUPP, calls, "fallocate", fd, FALLOC_FL_PUNCH_HOLE, 0, 1)
    fails(EOPNOTSUPP, calls, "fallocate", fd, 0x8000, 0, 1)
    fails(EOPNOTSUPP, calls, "fallocate", fd, FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_PUNCH_HOLE, 0, 1)
    fails(EBADF, calls, "fallocate", calls.open("/a", O_RDONLY), 0, 0, 1)
    fails(EBADF, calls, "fallocate", calls.open("/"), 0, 0, 1)
    calls("mknod", "/fifo", 0o010666, 0)
    fails(ESPIPE, calls, "fallocate", calls.open("/fifo", O_RDWR), 0, 0, 1)


# ---- The rest.


def test_umask(calls):
    calls("umask", 0o7077)

    assert calls("umask", 0) == 0o077
    calls("close", calls.open("/a", O_CREAT | O_WRONLY, 0o666))
    assert mode(calls, "/a") == 0o666


def test_statfs(calls):
    buf = calls.t.mem.alloc(120)
    calls.t.fs.root.mount.flags |= MS_NOSUID

    calls("statfs", "/", buf)
    first = STATFS.unpack(calls.t.mem.read(buf, 120))
    calls("fstatfs", calls.open("/"), buf)

    again = STATFS.unpack(calls.t.mem.read(buf, 120))
    assert (first[:3], first[7:]) == (again[:3], again[7:])  # what is free changes
    assert first[0] == calls.t.fs.root.mount.fs.MAGIC
    assert first[1] == first[10] == 4096
    assert first[9] == 255
    assert first[11] & 0x22 == 0x22
    fails(ENOENT, calls, "statfs", "/missing", buf)
