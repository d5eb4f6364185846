"""--strace of socket calls."""

import struct

import pytest

from sentry.abi.errno import ECONNREFUSED
from sentry.abi.fcntl import O_CLOEXEC
from sentry.abi.socket import AF_UNIX, INT, MSG_CMSG_CLOEXEC, MSG_NOSIGNAL, MSG_PEEK, SO_TYPE, SOCK_STREAM, SOL_SOCKET
from sentry.strace import Strace
from sentry.syscalls.registry import HANDLERS
from tests.unit.syscalls.socketcalls import SocketCalls, abstract_address, credentials, path_address, rights


class Trace:
    def __init__(self, calls):
        self.lines: list[str] = []
        self.t = calls.t
        self.put = calls.t.mem.put
        self.strace = Strace(self.lines.append)

    def __call__(self, name, *args, result=0):
        """The one line of a call, without the process."""
        args += (0,) * (6 - len(args))
        self.strace.enter(self.t, HANDLERS[name], args)
        self.strace.leave(self.t, HANDLERS[name], args, result)
        return " ".join(self.lines.pop().split("] ", 1)[1].split())


@pytest.fixture
def calls(guest, t):
    return SocketCalls(guest, t)


@pytest.fixture
def trace(calls):
    return Trace(calls)


def test_constants(trace):
    assert trace("socket", AF_UNIX, SOCK_STREAM | O_CLOEXEC, 0, result=3) == (
        "socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0) = 3"
    )
    assert trace("socketpair", AF_UNIX, 5, 0, trace.put(struct.pack("<ii", 4, 5))) == (
        "socketpair(AF_UNIX, SOCK_SEQPACKET, 0, [4, 5]) = 0"
    )
    assert trace("shutdown", 3, 2) == "shutdown(3, SHUT_RDWR) = 0"


def test_addresses(trace):
    address = path_address("/run/x")
    assert trace("bind", 3, trace.put(address), len(address)) == (
        'bind(3, {sa_family=AF_UNIX, sun_path="/run/x"}, 9) = 0'
    )
    address = abstract_address("a")
    line = trace("connect", 3, trace.put(address), len(address), result=ECONNREFUSED())
    assert line == 'connect(3, {sa_family=AF_UNIX, sun_path=@"a"}, 4) = -1 ECONNREFUSED (Connection refused)'
    length = trace.put(INT.pack(2))
    assert trace("accept4", 3, trace.put(address), length, O_CLOEXEC, result=4) == (
        "accept4(3, {sa_family=AF_UNIX}, [2], SOCK_CLOEXEC) = 4"
    )
    assert trace("connect", 3, trace.put(b"\x02\0abcdef"), 8) == (
        'connect(3, {sa_family=AF_INET, sa_data="abcdef"}, 8) = 0'
    )
    assert trace("connect", 3, 8, 110) == "connect(3, 0x8, 110) = 0"


def test_messages(trace, calls):
    assert trace("sendto", 3, trace.put(b"hello"), 5, MSG_NOSIGNAL, 0, 0, result=5) == (
        'sendto(3, "hello", 5, MSG_NOSIGNAL, NULL, 0) = 5'
    )
    assert trace("recvfrom", 3, trace.put(b"hello"), 100, MSG_PEEK, 0, 0, result=2) == (
        'recvfrom(3, "he", 100, MSG_PEEK, NULL, NULL) = 2'
    )
    header = calls.header((b"hi",), rights(5, 6) + credentials(1, 2, 3))
    assert trace("sendmsg", 3, header, 0, result=2) == (
        'sendmsg(3, {msg_name=NULL, msg_namelen=0, msg_iov=[{iov_base="hi", iov_len=2}], msg_iovlen=1, msg_control='
        "[{cmsg_len=24, cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, cmsg_data=[5, 6]}, "
        "{cmsg_len=28, cmsg_level=SOL_SOCKET, cmsg_type=SCM_CREDENTIALS, cmsg_data={pid=1, uid=2, gid=3}}], "
        "msg_controllen=56, msg_flags=0}, 0) = 2"
    )
    assert trace("recvmsg", 3, calls.header((b"hi",)), MSG_CMSG_CLOEXEC, result=1).startswith(
        'recvmsg(3, {msg_name=NULL, msg_namelen=0, msg_iov=[{iov_base="h", iov_len=2}], msg_iovlen=1,'
    )


def test_options(trace):
    value, length = trace.put(INT.pack(1)), trace.put(INT.pack(4))
    assert trace("getsockopt", 3, SOL_SOCKET, SO_TYPE, value, length) == (
        "getsockopt(3, SOL_SOCKET, SO_TYPE, [1], [4]) = 0"
    )
    assert trace("setsockopt", 3, 6, 1, value, 4) == "setsockopt(3, SOL_TCP, 1, [1], 4) = 0"
