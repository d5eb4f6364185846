"""Extended attributes, on memory and on a gofer; what only a host with user xattrs can show is skipped without."""

import os
import struct

import pytest

from sentry.abi.errno import (
    E2BIG,
    EEXIST,
    EINVAL,
    ENODATA,
    ENOENT,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    EROFS,
)
from sentry.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, O_PATH
from sentry.vfs.dentry import MS_RDONLY


@pytest.fixture(autouse=True)
def host_has_xattrs(tmp_path):
    try:
        os.setxattr(tmp_path, "user.probe", b"")
        os.removexattr(tmp_path, "user.probe")
    except OSError:
        pytest.skip("the host's file system has no user xattrs")


def get(calls, name, attribute, size=100, call="getxattr"):
    buf = calls.t.mem.alloc(size or 1)
    n = calls(call, name, attribute, buf, size)
    return calls.t.mem.read(buf, n) if size else n


def put(calls, name, attribute, value, flags=0, call="setxattr"):
    return calls(call, name, attribute, value, len(value), flags)


def names(calls, name, call="listxattr"):
    buf = calls.t.mem.alloc(1000)
    n = calls(call, name, buf, 1000)
    return sorted(calls.t.mem.read(buf, n).decode().split("\0")[:-1])


def fails(error, call, *args):
    with pytest.raises(error):
        call(*args)


def test_set_get_list_remove(calls):
    calls.make("/a")
    fd = calls.open("/a")

    put(calls, "/a", "user.one", b"1")
    put(calls, fd, "user.two", b"22", call="fsetxattr")

    assert get(calls, "/a", "user.two") == b"22"
    assert get(calls, fd, "user.one", call="fgetxattr") == b"1"
    assert get(calls, "/a", "user.two", 0) == 2
    assert names(calls, "/a") == names(calls, fd, "flistxattr") == ["user.one", "user.two"]
    calls("removexattr", "/a", "user.one")
    calls("fremovexattr", fd, "user.two")
    assert names(calls, "/a") == []
    fails(ENODATA, get, calls, "/a", "user.one")
    fails(ENODATA, calls, "removexattr", "/a", "user.one")


def test_create_and_replace(calls):
    calls.make("/a")

    fails(ENODATA, put, calls, "/a", "user.x", b"1", 2)
    put(calls, "/a", "user.x", b"1", 1)
    fails(EEXIST, put, calls, "/a", "user.x", b"1", 1)
    put(calls, "/a", "user.x", b"", 2)
    assert get(calls, "/a", "user.x") == b""
    fails(EINVAL, put, calls, "/a", "user.x", b"1", 4)


def test_sizes_and_names(calls):
    calls.make("/a")
    put(calls, "/a", "user.x", b"12345")

    fails(ERANGE, get, calls, "/a", "user.x", 4)
    fails(ERANGE, get, calls, "/a", "")
    fails(ERANGE, get, calls, "/a", "user." + "x" * 255)
    fails(E2BIG, calls, "setxattr", "/a", "user.x", 0, 65537, 0)
    fails(ERANGE, calls, "listxattr", "/a", calls.t.mem.alloc(3), 3)
    assert calls("listxattr", "/a", 0, 0) == 7
    fails(EOPNOTSUPP, put, calls, "/a", "other.x", b"")
    fails(ENOENT, get, calls, "/missing", "user.x")


def test_who_may(calls, user):
    calls.make("/a", mode=0o644)
    calls("symlink", "a", "/link")
    calls("mknod", "/fifo", 0o010666, 0)
    put(calls, "/link", "user.x", b"1")

    assert get(user, "/a", "user.x") == b"1"
    fails(Exception, put, user, "/a", "user.x", b"2")
    fails(EPERM, put, user, "/a", "trusted.x", b"2")
    fails(ENODATA, get, user, "/a", "trusted.x")
    fails(EPERM, put, user, "/a", "security.capability", b"2")
    fails(EPERM, put, calls, "/link", "user.x", b"", 0, "lsetxattr")
    fails(ENODATA, get, calls, "/link", "user.x", 100, "lgetxattr")
    fails(EPERM, put, calls, "/fifo", "user.x", b"")
    calls.t.fs.root.mount.flags |= MS_RDONLY
    fails(EROFS, put, calls, "/a", "user.x", b"2")
    fails(EROFS, calls, "removexattr", "/a", "user.x")


def test_forms_relative_to_a_directory(calls):
    calls.make("/a")
    fd = calls.open("/a", O_PATH)
    value, buf = calls.t.mem.put(b"val"), calls.t.mem.alloc(10)

    calls("setxattrat", fd, "", AT_EMPTY_PATH, "user.x", struct.pack("<QII", value, 3, 0), 16)
    n = calls("getxattrat", AT_FDCWD, "/a", 0, "user.x", struct.pack("<QII", buf, 10, 0), 16)
    assert calls.t.mem.read(buf, n) == b"val"
    assert calls("listxattrat", AT_FDCWD, "/a", 0, buf, 10) == 7
    calls("removexattrat", AT_FDCWD, "/a", 0, "user.x")
    assert calls("listxattrat", AT_FDCWD, "/a", 0, 0, 0) == 0
    fails(EINVAL, calls, "setxattrat", AT_FDCWD, "/a", 0, "user.x", struct.pack("<QII", value, 3, 0), 12)
    fails(EINVAL, calls, "listxattrat", AT_FDCWD, "/a", 1, 0, 0)
