"""Socket calls as a test wants to write them.

calls = SocketCalls(guest, t)
a, b = calls.pair()
calls.send(a, b"text")
assert calls.recv(b) == b"text"
"""

import struct
from typing import NamedTuple

from sentry.abi.socket import (
    AF_UNIX,
    CMSGHDR,
    INT,
    MSGHDR,
    SCM_CREDENTIALS,
    SCM_RIGHTS,
    SOCK_STREAM,
    SOL_SOCKET,
    UCRED,
    UNIX_FAMILY,
    cmsg_align,
)
from tests.unit.syscalls.filecalls import FileCalls


def path_address(path):
    return UNIX_FAMILY + path.encode() + b"\0"


def abstract_address(name):
    return UNIX_FAMILY + b"\0" + name.encode()


def cmsg(kind, data, level=SOL_SOCKET):
    """One struct cmsghdr, padded."""
    length = CMSGHDR.size + len(data)
    return CMSGHDR.pack(length, level, kind) + data + bytes(cmsg_align(length) - length)


def rights(*fds):
    return cmsg(SCM_RIGHTS, b"".join(INT.pack(fd) for fd in fds))


def credentials(pid, uid, gid):
    return cmsg(SCM_CREDENTIALS, UCRED.pack(pid, uid, gid))


class Message(NamedTuple):
    data: bytes
    name: bytes
    control: bytes
    flags: int

    def parts(self):
        """{type: data} of the control messages."""
        found = {}
        at = 0
        while at + CMSGHDR.size <= len(self.control):
            length, level, kind = CMSGHDR.unpack_from(self.control, at)
            assert level == SOL_SOCKET
            found[kind] = self.control[at + CMSGHDR.size : at + length]
            at += cmsg_align(length)
        return found

    @property
    def fds(self):
        return [fd for (fd,) in INT.iter_unpack(self.parts().get(SCM_RIGHTS, b""))]

    @property
    def creds(self):
        return UCRED.unpack(self.parts()[SCM_CREDENTIALS])


class SocketCalls(FileCalls):
    """The calls of one task."""

    def socket(self, kind=SOCK_STREAM):
        return self("socket", AF_UNIX, kind, 0)

    def pair(self, kind=SOCK_STREAM):
        fds = self.t.mem.alloc(8)
        self("socketpair", AF_UNIX, kind, 0, fds)
        return struct.unpack("<ii", self.t.mem.read(fds, 8))

    def bind(self, fd, address):
        return self("bind", fd, address, len(address))

    def bound(self, address, kind=SOCK_STREAM):
        fd = self.socket(kind)
        self.bind(fd, address)
        return fd

    def listener(self, address, kind=SOCK_STREAM, backlog=5):
        fd = self.bound(address, kind)
        self("listen", fd, backlog)
        return fd

    def connect(self, fd, address):
        return self("connect", fd, address, len(address))

    def connected(self, address, kind=SOCK_STREAM):
        fd = self.socket(kind)
        self.connect(fd, address)
        return fd

    def accept(self, fd):
        return self("accept", fd, 0, 0)

    def name_of(self, fd, call="getsockname"):
        addr, length = self.t.mem.alloc(128), self.t.mem.put(INT.pack(128))
        self(call, fd, addr, length)
        return self.t.mem.read(addr, INT.unpack(self.t.mem.read(length, 4))[0])

    def send(self, fd, data, flags=0, to=None):
        return self("sendto", fd, data or 0, len(data), flags, to or 0, len(to or b""))

    def recv(self, fd, size=65536, flags=0):
        buf = self.t.mem.alloc(size)
        return self.t.mem.read(buf, self("recvfrom", fd, buf, size, flags, 0, 0))

    def header(self, parts=(b"x",), control=b"", name=b""):
        """The address of a struct msghdr."""
        put = self.t.mem.put
        fields = (put(name) if name else 0, len(name), self.iov(*parts), len(parts))
        return put(MSGHDR.pack(*fields, put(control) if control else 0, len(control), 0))

    def sendmsg(self, fd, data=b"x", control=b"", flags=0, name=b""):
        return self("sendmsg", fd, self.header((data,), control, name), flags)

    def recvmsg(self, fd, size=1000, room=1000, flags=0):
        header = self.header((bytes(size),), bytes(room), bytes(128))
        return self.message(header, self("recvmsg", fd, header, flags))

    def message(self, header, count):
        """What recvmsg(2) left at header."""
        read = self.t.mem.read
        name, name_length, iov, _, control, control_length, flags = MSGHDR.unpack(read(header, MSGHDR.size))
        base, size = struct.unpack("<QQ", read(iov, 16))
        got = read(control, control_length) if control_length else b""
        return Message(read(base, min(count, size)), read(name, name_length), got, flags)

    def get_option(self, fd, name, size=4, level=SOL_SOCKET):
        value, length = self.t.mem.alloc(max(size, 1)), self.t.mem.put(INT.pack(size))
        self("getsockopt", fd, level, name, value, length)
        return self.t.mem.read(value, INT.unpack(self.t.mem.read(length, 4))[0])

    def option(self, fd, name):
        return INT.unpack(self.get_option(fd, name))[0]

    def set_option(self, fd, name, value, level=SOL_SOCKET):
        data = value if isinstance(value, bytes) else INT.pack(value)
        return self("setsockopt", fd, level, name, data, len(data))

    def poll_now(self, fd):
        """Every event that holds."""
        return self.t.files.get(fd).poll()
