"""File system calls as a test wants to write them: names and bytes instead of addresses.

calls = FileCalls(guest, t)
fd = calls.open("/a", O_CREAT | O_RDWR)
calls.write(fd, b"text")
"""

import struct
from typing import NamedTuple

from sentry.abi.errno import ENOENT
from sentry.abi.fcntl import AT_FDCWD, O_RDONLY
from sentry.abi.stat import STAT
from sentry.syscalls.paths import NO_SUCH_FILE
from sentry.syscalls.registry import HANDLERS, build_table

build_table()


class Stat(NamedTuple):
    dev: int
    ino: int
    nlink: int
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime: tuple[int, ...]
    mtime: tuple[int, ...]
    ctime: tuple[int, ...]


class FileCalls:
    """The calls of one task."""

    def __init__(self, guest, t):
        self.guest = guest
        self.t = t

    def __call__(self, name, *args):
        """The system call itself: str and bytes become addresses, missing arguments 0."""
        registers = tuple(self._register(arg) for arg in args) + (0,) * (6 - len(args))
        row = HANDLERS[name]
        result = self.guest.call(self.t, lambda t: row.call(t, registers))
        if result == NO_SUCH_FILE and name != "fcntl":  # F_GETOWN's may be any
            raise ENOENT
        return result

    def start(self, name, *args):
        """The same for a call that waits; see Guest.start."""
        registers = tuple(self._register(arg) for arg in args) + (0,) * (6 - len(args))
        row = HANDLERS[name]
        return self.guest.start(self.t, lambda t: row.call(t, registers))

    def _register(self, arg):
        if isinstance(arg, str):
            arg = arg.encode("utf-8", "surrogateescape") + b"\0"
        if isinstance(arg, bytes):
            return self.t.mem.put(arg)
        return arg & 0xFFFFFFFFFFFFFFFF

    # -- with results other than a number --

    def open(self, name, flags=O_RDONLY, mode=0o644, dirfd=AT_FDCWD):
        return self("openat", dirfd, name, flags, mode)

    def write(self, fd, data):
        return self("write", fd, data, len(data))

    def read(self, fd, size=65536):
        buf = self.t.mem.alloc(size)
        return self.t.mem.read(buf, self("read", fd, buf, size))

    def pread(self, fd, size, offset):
        buf = self.t.mem.alloc(size)
        return self.t.mem.read(buf, self("pread64", fd, buf, size, offset))

    def iov(self, *parts):
        """The address of a struct iovec[] whose buffers hold parts."""
        return self.t.mem.put(b"".join(struct.pack("<QQ", self.t.mem.put(part), len(part)) for part in parts))

    def make(self, name, data=b"", mode=0o644):
        """A file with that content, closed."""
        fd = self("creat", name, mode)
        if data:
            self.write(fd, data)
        self("close", fd)

    def contents(self, name):
        fd = self.open(name)
        try:
            return self.read(fd)
        finally:
            self("close", fd)

    def _stat(self, name, *args):
        buf = self.t.mem.alloc(STAT.size)
        self(name, *args, buf)
        v = STAT.unpack(self.t.mem.read(buf, STAT.size))
        return Stat(v[0], v[1], v[2], v[3], v[4], v[5], v[7], v[8], v[10], v[11:13], v[13:15], v[15:17])

    def stat(self, name):
        return self._stat("stat", name)

    def lstat(self, name):
        return self._stat("lstat", name)

    def fstat(self, fd):
        return self._stat("fstat", fd)

    def readlink(self, name, size=4096):
        buf = self.t.mem.alloc(size)
        return self.t.mem.read(buf, self("readlink", name, buf, size)).decode()

    def getcwd(self):
        buf = self.t.mem.alloc(4096)
        return self.t.mem.read(buf, self("getcwd", buf, 4096)).rstrip(b"\0").decode()

    def listdir(self, name):
        """The names in a directory, sorted, without dots."""
        fd = self.open(name)
        try:
            return sorted(entry for entry, _, _ in self.entries(fd) if entry not in (".", ".."))
        finally:
            self("close", fd)

    def entries(self, fd, size=4096):
        """(name, inode number, type) of all the rest of a directory, read in pieces of that size."""
        found = []
        buf = self.t.mem.alloc(size)
        while n := self("getdents64", fd, buf, size):
            data = self.t.mem.read(buf, n)
            at = 0
            while at < n:
                ino, _, length, kind = struct.unpack_from("<QqHB", data, at)
                found.append((data[at + 19 : at + length].split(b"\0")[0].decode(), ino, kind))
                at += length
        return found

    def flock(self, kind, start=0, length=0, whence=0, pid=0):
        """The address of a struct flock."""
        return self.t.mem.put(struct.pack("<hh4xqqi4x", kind, whence, start, length, pid))
