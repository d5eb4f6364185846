"""getsockopt(2), setsockopt(2)."""

import struct

import pytest

from sentry.abi import socket as s
from sentry.abi.errno import (
    EACCES,
    EDOM,
    EFAULT,
    EINVAL,
    ENODATA,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    ESRCH,
)
from sentry.fs.pidfd import PidFd
from sentry.kernel.creds import Creds
from tests.unit.syscalls.socketcalls import SocketCalls, abstract_address

USER = Creds(uid=1000, euid=1001, suid=1002, fsuid=1001, gid=2000, egid=2001, sgid=2002, fsgid=2001, groups=(9, 5))
SOL_TCP = 6


@pytest.fixture
def sockets(guest, t):
    return SocketCalls(guest, t)


@pytest.fixture
def fd(sockets):
    return sockets.socket()


@pytest.fixture
def user(guest):
    return SocketCalls(guest, guest.process(creds=USER))


def test_what_it_is(sockets, fd):
    assert sockets.option(fd, s.SO_TYPE) == s.SOCK_STREAM
    assert sockets.option(fd, s.SO_DOMAIN) == s.AF_UNIX
    assert sockets.option(fd, s.SO_PROTOCOL) == 0
    assert sockets.option(fd, s.SO_ACCEPTCONN) == 0
    assert sockets.option(sockets.listener(abstract_address("s")), s.SO_ACCEPTCONN) == 1
    assert sockets.option(sockets.socket(s.SOCK_RAW), s.SO_TYPE) == s.SOCK_DGRAM


@pytest.mark.parametrize("name", [s.SO_KEEPALIVE, s.SO_REUSEADDR, s.SO_BROADCAST, s.SO_PASSCRED, s.SO_OOBINLINE])
def test_switches_are_kept(sockets, fd, name):
    assert sockets.option(fd, name) == 0
    sockets.set_option(fd, name, 7)
    assert sockets.option(fd, name) == 1
    sockets.set_option(fd, name, 0)
    assert sockets.option(fd, name) == 0


def test_buffers_are_doubled_and_bounded(sockets, fd):
    assert sockets.option(fd, s.SO_SNDBUF) == 212992
    for name in (s.SO_SNDBUF, s.SO_RCVBUF):
        sockets.set_option(fd, name, 10_000)
        assert sockets.option(fd, name) == 20_000
        sockets.set_option(fd, name, -1)
        assert sockets.option(fd, name) == 425984
        sockets.set_option(fd, name, 0)
        assert 2000 < sockets.option(fd, name) < 5000


def test_forced_buffers_need_a_capability(sockets, fd, user):
    sockets.set_option(fd, s.SO_SNDBUFFORCE, 1_000_000)
    assert sockets.option(fd, s.SO_SNDBUF) == 2_000_000
    with pytest.raises(EPERM):
        user.set_option(user.socket(), s.SO_RCVBUFFORCE, 1_000_000)


def test_privileged_values(user):
    fd = user.socket()
    user.set_option(fd, s.SO_PRIORITY, 6)
    assert user.option(fd, s.SO_PRIORITY) == 6
    for name, value, error in ((s.SO_PRIORITY, 7, EPERM), (s.SO_MARK, 1, EPERM), (s.SO_DEBUG, 1, EACCES)):
        with pytest.raises(error):
            user.set_option(fd, name, value)


@pytest.mark.parametrize("name", [s.SO_RCVTIMEO, s.SO_SNDTIMEO, s.SO_RCVTIMEO_NEW])
def test_timeouts(sockets, fd, name):
    def ask():
        return s.TIMEVAL.unpack(sockets.get_option(fd, name, 16))

    assert ask() == (0, 0)
    sockets.set_option(fd, name, s.TIMEVAL.pack(3, 250_000))
    assert ask() == (3, 250_000)
    sockets.set_option(fd, name, s.TIMEVAL.pack(0, 0))
    assert ask() == (0, 0)
    with pytest.raises(EDOM):
        sockets.set_option(fd, name, s.TIMEVAL.pack(0, 1_000_000))
    with pytest.raises(EINVAL):
        sockets.set_option(fd, name, 1)
    sockets.set_option(fd, name, s.TIMEVAL.pack(1 << 60, 0))  # beyond the end of time
    assert ask() == (0, 0)


def test_linger(sockets, fd):
    sockets.set_option(fd, s.SO_LINGER, s.LINGER.pack(1, 5))
    assert s.LINGER.unpack(sockets.get_option(fd, s.SO_LINGER, 8)) == (1, 5)
    with pytest.raises(EINVAL):
        sockets.set_option(fd, s.SO_LINGER, 1)


def test_the_pending_error_is_told_once(sockets, t):
    a, b = sockets.pair()
    sockets.write(a, b"unread")
    t.files.close(b)
    assert sockets.option(a, s.SO_ERROR) == 104
    assert sockets.option(a, s.SO_ERROR) == 0


def test_lengths(sockets, fd, t):
    assert sockets.get_option(fd, s.SO_TYPE, 2) == b"\1\0"
    assert sockets.get_option(fd, s.SO_TYPE, 100) == b"\1\0\0\0"
    with pytest.raises(EINVAL):
        sockets.set_option(fd, s.SO_KEEPALIVE, b"\1\0")
    with pytest.raises(EINVAL):
        sockets("setsockopt", fd, s.SOL_SOCKET, s.SO_KEEPALIVE, 8, -1)
    with pytest.raises(EFAULT):
        sockets("setsockopt", fd, s.SOL_SOCKET, s.SO_KEEPALIVE, 8, 4)
    with pytest.raises(EFAULT):
        sockets("getsockopt", fd, s.SOL_SOCKET, s.SO_TYPE, 8, t.mem.put(s.INT.pack(4)))
    with pytest.raises(EINVAL):
        sockets("getsockopt", fd, s.SOL_SOCKET, s.SO_TYPE, 8, t.mem.put(s.INT.pack(-1)))


def test_unknown_ones(sockets, fd):
    for name in (999, s.SO_PEERSEC):
        with pytest.raises(ENOPROTOOPT):
            sockets.option(fd, name)
        with pytest.raises(ENOPROTOOPT):
            sockets.set_option(fd, name, 1)
    for name in (s.SO_TYPE, s.SO_ERROR, s.SO_DOMAIN, s.SO_PEERCRED, s.SO_ACCEPTCONN):
        with pytest.raises(ENOPROTOOPT):
            sockets.set_option(fd, name, 1)
    with pytest.raises(EOPNOTSUPP):
        sockets.option(fd, s.SO_PEEK_OFF)
    with pytest.raises(EOPNOTSUPP):
        sockets.set_option(fd, 1, 1, level=SOL_TCP)
    with pytest.raises(EOPNOTSUPP):
        sockets.get_option(fd, 1, level=SOL_TCP)


class TestPeers:
    def connection(self, sockets, user):
        """(the listener's end, the user's end)"""
        listener = sockets.listener(abstract_address("s"))
        client = user.connected(abstract_address("s"))
        return sockets.accept(listener), client

    def test_credentials(self, sockets, user, t):
        server, client = self.connection(sockets, user)
        assert s.UCRED.unpack(sockets.get_option(server, s.SO_PEERCRED, 12)) == (user.t.tid, 1001, 2001)
        assert s.UCRED.unpack(user.get_option(client, s.SO_PEERCRED, 12)) == (t.tid, 0, 0)

    def test_of_nobody(self, sockets, fd):
        nobody = struct.pack("<iII", 0, 0xFFFFFFFF, 0xFFFFFFFF)
        assert sockets.get_option(fd, s.SO_PEERCRED, 12) == nobody
        for name in (s.SO_PEERGROUPS, s.SO_PEERPIDFD):
            with pytest.raises(ENODATA):
                sockets.get_option(fd, name)

    def test_groups(self, sockets, user, t):
        server, _ = self.connection(sockets, user)
        assert sockets.get_option(server, s.SO_PEERGROUPS, 100) == struct.pack("<II", 5, 9)
        length = t.mem.put(s.INT.pack(4))
        with pytest.raises(ERANGE):
            sockets("getsockopt", server, s.SOL_SOCKET, s.SO_PEERGROUPS, t.mem.alloc(4), length)
        assert s.INT.unpack(t.mem.read(length, 4)) == (8,)

    def test_pidfd(self, sockets, user, t):
        server, _ = self.connection(sockets, user)
        fd = sockets.option(server, s.SO_PEERPIDFD)
        file = t.files.get(fd)
        assert isinstance(file, PidFd)
        assert file.tg is user.t.tg
        assert t.files.cloexec(fd)
        user.t.tg.dead = True
        with pytest.raises(ESRCH):
            sockets.option(server, s.SO_PEERPIDFD)
