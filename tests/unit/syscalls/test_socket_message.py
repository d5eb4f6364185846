"""sendmsg(2), recvmsg(2) and their like, on AF_UNIX."""

import struct

import pytest

from sentry.abi.errno import (
    EAGAIN,
    EBADF,
    ECONNREFUSED,
    ECONNRESET,
    EFAULT,
    EINVAL,
    EISCONN,
    EMSGSIZE,
    ENOBUFS,
    ENOENT,
    ENOTCONN,
    ENOTTY,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    ESRCH,
)
from sentry.abi.fcntl import O_NONBLOCK
from sentry.abi.poll import POLLHUP, POLLIN, POLLOUT, POLLRDHUP
from sentry.abi.signal import SIGPIPE, SIGTERM, bit
from sentry.abi.socket import (
    FIONREAD,
    INT,
    MMSGHDR_SIZE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    MSG_WAITFORONE,
    MSGHDR,
    SCM_PIDFD,
    SCM_RIGHTS,
    SIOCOUTQ,
    SO_PASSCRED,
    SO_PASSPIDFD,
    SO_RCVTIMEO,
    SO_SNDBUF,
    SO_TIMESTAMP,
    SO_TIMESTAMPNS,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    TIMEVAL,
    UNIX_FAMILY,
)
from sentry.abi.time import TIMESPEC
from sentry.fs.pidfd import PidFd
from sentry.kernel.creds import Creds
from sentry.kernel.restart import Interrupted
from sentry.kernel.signals import SigInfo
from tests.unit.syscalls.socketcalls import SocketCalls, abstract_address, cmsg, credentials, path_address, rights

KINDS = (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET)
PACKETS = (SOCK_DGRAM, SOCK_SEQPACKET)
SHUT_WR = 1
USER = Creds(uid=1000, euid=1001, suid=1002, fsuid=1001, gid=2000, egid=2001, sgid=2002, fsgid=2001)


@pytest.fixture
def sockets(guest, t):
    return SocketCalls(guest, t)


@pytest.fixture
def other(guest, sockets):
    """A second thread."""
    return SocketCalls(guest, guest.thread(sockets.t))


def started_recv(guest, calls, fd, size=100, flags=0):
    buf = calls.t.mem.alloc(size)
    call = calls.start("recvfrom", fd, buf, size, flags, 0, 0)
    guest.settle()
    return call, buf


class TestStreams:
    def test_messages_run_together(self, sockets):
        a, b = sockets.pair()
        for part in (b"ab", b"cd", b"ef"):
            sockets.write(a, part)
        assert sockets.read(b, 3) == b"abc"
        assert sockets.read(b, 1) == b"d"
        assert sockets.read(b) == b"ef"

    def test_reads_wait_for_writes(self, guest, sockets, other):
        a, b = sockets.pair()
        call, buf = started_recv(guest, other, b)
        assert not call.done
        sockets.write(a, b"late")
        guest.settle()
        assert call.value() == 4
        assert other.t.mem.read(buf, 4) == b"late"

    def test_a_writer_waits_for_room_and_writes_all(self, guest, sockets, other):
        a, b = sockets.pair()
        data = bytes(range(256)) * 2000
        call = other.start("write", a, other.t.mem.put(data), len(data))
        guest.settle()
        assert not call.done
        assert not sockets.poll_now(a) & POLLOUT
        got = b""
        while len(got) < len(data):
            got += sockets.read(b, 100_000)
            guest.settle()
        assert got == data
        assert call.value() == len(data)
        assert sockets.poll_now(a) & POLLOUT

    def test_a_nonblocking_writer_gets_as_far_as_on_linux(self, sockets):
        a, b = sockets.pair(SOCK_STREAM | O_NONBLOCK)
        assert sockets.write(a, bytes(400_000)) == 219264
        with pytest.raises(EAGAIN):
            sockets.write(a, b"x")
        assert len(sockets.read(b, 400_000)) == 219264

    def test_small_writes_cost_more_than_their_bytes(self, sockets):
        """What lies in queues is bounded, however small the pieces."""
        a, _b = sockets.pair(SOCK_STREAM | O_NONBLOCK)
        count = 0
        with pytest.raises(EAGAIN):
            while True:
                count += sockets.write(a, b"x")
        assert count < 1000

    def test_the_end_leaves_a_writer_with_what_it_wrote(self, guest, sockets, other, t):
        a, b = sockets.pair()
        call = other.start("sendto", a, other.t.mem.put(bytes(500_000)), 500_000, 0, 0, 0)
        guest.settle()
        t.files.close(b)
        guest.settle()
        assert 0 < call.value() < 500_000

    def test_a_signal_leaves_a_reader_with_what_it_read(self, guest, sockets, other, t):
        a, b = sockets.pair()
        sockets.write(a, b"part")
        call, _ = started_recv(guest, other, b, 100, MSG_WAITALL)
        assert not call.done
        t.tg.send_to(other.t, SigInfo(SIGTERM))
        guest.settle()
        assert call.value() == 4

    def test_waiting_for_all_ends_at_the_end(self, guest, sockets, other, t):
        a, b = sockets.pair()
        call, buf = started_recv(guest, other, b, 100, MSG_WAITALL)
        sockets.write(a, b"one ")
        sockets.write(a, b"two")
        guest.settle()
        assert not call.done
        t.files.close(a)
        guest.settle()
        assert other.t.mem.read(buf, call.value()) == b"one two"

    def test_unreadable_memory(self, sockets, t):
        a, b = sockets.pair()
        with pytest.raises(EFAULT):
            sockets("write", a, 8, 4)
        half = t.mem.end - 2
        t.mem.write(half, b"ok")
        assert sockets("write", a, half, 4) == 2
        with pytest.raises(EFAULT):
            sockets("read", b, 8, 4)
        assert sockets("read", b, t.mem.end - 1, 4) == 1
        assert sockets.read(b) == b"k"

    def test_not_connected(self, sockets):
        fd = sockets.socket()
        with pytest.raises(ENOTCONN):
            sockets.send(fd, b"x")
        with pytest.raises(EINVAL):
            sockets.recv(fd)
        with pytest.raises(EOPNOTSUPP):
            sockets.send(fd, b"x", to=abstract_address("a"))
        a, _b = sockets.pair()
        with pytest.raises(EISCONN):
            sockets.send(a, b"x", to=abstract_address("a"))
        for call in (sockets.send, lambda fd, *_, flags: sockets.recv(fd, flags=flags)):
            with pytest.raises(EOPNOTSUPP):
                call(a, b"x", flags=MSG_OOB)

    def test_broken_pipes(self, sockets, t):
        a, b = sockets.pair()
        t.files.close(b)
        with pytest.raises(EPIPE):
            sockets.send(a, b"x", flags=MSG_NOSIGNAL)
        assert not t.pending.mask
        with pytest.raises(EPIPE):
            sockets.send(a, b"x")
        assert t.pending.mask == bit(SIGPIPE)

    def test_unread_data_resets_the_other_end(self, sockets, t):
        a, b = sockets.pair()
        sockets.write(a, b"unread")
        sockets.write(b, b"last words")
        t.files.close(b)
        assert sockets.recv(a) == b"last words"
        with pytest.raises(ECONNRESET):
            sockets.recv(a)
        assert sockets.recv(a) == b""

    def test_half_closed(self, sockets):
        a, b = sockets.pair()
        sockets.write(a, b"x")
        sockets("shutdown", a, SHUT_WR)
        assert sockets.poll_now(b) & (POLLIN | POLLRDHUP | POLLHUP) == POLLIN | POLLRDHUP
        assert sockets.read(b) == b"x"
        assert sockets.read(b) == b""
        sockets.write(b, b"y")
        assert sockets.read(a) == b"y"


class TestPackets:
    @pytest.mark.parametrize("kind", PACKETS)
    def test_boundaries(self, sockets, kind):
        a, b = sockets.pair(kind)
        for part in (b"first", b"", b"third"):
            sockets.send(a, part)
        assert sockets.recv(b, 2, MSG_PEEK) == b"fi"
        assert sockets.recv(b) == b"first"
        assert sockets.recv(b) == b""
        message = sockets.recvmsg(b, 2)
        assert (message.data, message.flags) == (b"th", MSG_TRUNC)
        with pytest.raises(EAGAIN):
            sockets.recv(b, flags=MSG_DONTWAIT)

    def test_reading_nothing_leaves_the_message(self, sockets):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.send(a, b"x")
        assert sockets.read(b, 0) == b""
        assert sockets.read(b) == b"x"

    def test_too_long(self, sockets):
        a, b = sockets.pair(SOCK_DGRAM)
        with pytest.raises(EMSGSIZE):
            sockets.send(a, bytes(212992))
        sockets.send(a, bytes(200_000))
        assert len(sockets.recv(b, 300_000)) == 200_000
        sockets.set_option(a, SO_SNDBUF, 5000)
        with pytest.raises(EMSGSIZE):
            sockets.send(a, bytes(10_000))

    def test_nobody_hears_of_sigpipe(self, sockets, t):
        for kind, error in ((SOCK_SEQPACKET, EPIPE), (SOCK_DGRAM, ECONNREFUSED)):
            a, b = sockets.pair(kind)
            t.files.close(b)
            with pytest.raises(error):
                sockets.write(a, b"x")
        assert not t.pending.mask

    def test_a_closed_peer_is_forgotten(self, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        t.files.close(b)
        with pytest.raises(ECONNREFUSED):
            sockets.send(a, b"x")
        with pytest.raises(ENOTCONN):
            sockets.send(a, b"x")

    def test_names_of_senders(self, sockets, t):
        sockets.bound(abstract_address("a"), SOCK_DGRAM)
        to = sockets.bound(abstract_address("to"), SOCK_DGRAM)
        sender = sockets.bound(path_address("/from"), SOCK_DGRAM)
        sockets.send(sender, b"x", to=abstract_address("to"))
        t.files.close(sender)
        assert sockets.recvmsg(to).name == path_address("/from")
        sockets.send(sockets.socket(SOCK_DGRAM), b"x", to=abstract_address("to"))
        assert sockets.recvmsg(to).name == b""
        sockets.sendmsg(sockets.socket(SOCK_DGRAM), b"by name", name=abstract_address("to"))
        assert sockets.recv(to) == b"by name"

    def test_only_the_peer_may_send(self, sockets):
        a, b, c = (sockets.bound(abstract_address(name), SOCK_DGRAM) for name in "abc")
        sockets.connect(a, abstract_address("b"))
        with pytest.raises(EPERM):
            sockets.send(c, b"x", to=abstract_address("a"))
        with pytest.raises(EPERM):
            sockets.connect(c, abstract_address("a"))
        sockets.send(b, b"x", to=abstract_address("a"))
        assert sockets.recv(a) == b"x"

    def test_a_new_peer_clears_the_queue_and_tells_the_old_one(self, sockets):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.bound(abstract_address("c"), SOCK_DGRAM)
        sockets.send(b, b"old")
        sockets.connect(a, abstract_address("c"))
        with pytest.raises(EAGAIN):
            sockets.recv(a, flags=MSG_DONTWAIT)
        with pytest.raises(ECONNRESET):
            sockets.recv(b)

    def test_an_empty_queue_is_no_loss_to_tell_of(self, sockets):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.bound(abstract_address("c"), SOCK_DGRAM)
        sockets.connect(a, abstract_address("c"))
        with pytest.raises(EAGAIN):
            sockets.recv(b, flags=MSG_DONTWAIT)

    def test_an_empty_message_is_not_missed(self, sockets, t):
        a, b = sockets.pair(SOCK_SEQPACKET)
        sockets.send(a, b"")
        t.files.close(b)
        assert sockets.recv(a) == b""

    def test_what_is_wrong_here_comes_before_who_is_there(self, sockets, t):
        fd = sockets.socket(SOCK_DGRAM)
        with pytest.raises(EMSGSIZE):
            sockets.send(fd, bytes(300_000), to=path_address("/nobody"))
        with pytest.raises(ENOENT):
            sockets.send(fd, b"x", to=path_address("/nobody"))
        sockets("shutdown", fd, SHUT_WR)
        for to in (None, path_address("/nobody")):
            with pytest.raises(EPIPE):
                sockets.send(fd, b"x", to=to)

    def test_the_end_has_no_sender(self, sockets, t):
        a, b = sockets.pair(SOCK_SEQPACKET)
        sockets.set_option(b, SO_PASSCRED, 1)
        t.files.close(a)
        message = sockets.recvmsg(b)
        assert (message.data, message.control, message.flags) == (b"", b"", 0)

    def test_who_wants_credentials_gets_a_name(self, sockets):
        fd = sockets.socket(SOCK_DGRAM)
        sockets.set_option(fd, SO_PASSCRED, 1)
        with pytest.raises(ENOENT):
            sockets.send(fd, b"x", to=path_address("/nobody"))
        assert len(sockets.name_of(fd)) == 8

    def test_a_long_queue_makes_senders_wait(self, guest, sockets, other):
        receiver = sockets.bound(abstract_address("r"), SOCK_DGRAM)
        sender = sockets.socket(SOCK_DGRAM | O_NONBLOCK)
        sockets.connect(sender, abstract_address("r"))
        for _ in range(11):
            sockets.send(sender, b"x")
        with pytest.raises(EAGAIN):
            sockets.send(sender, b"x")
        assert not sockets.poll_now(sender) & POLLOUT
        address = abstract_address("r")
        waiting = other.start("sendto", sockets.socket(SOCK_DGRAM), b"late", 4, 0, address, len(address))
        guest.settle()
        assert not waiting.done
        sockets.recv(receiver)
        guest.settle()
        assert waiting.value() == 4
        sockets.recv(receiver)
        assert sockets.poll_now(sender) & POLLOUT

    def test_the_end_of_a_pair(self, guest, sockets, other, t):
        a, b = sockets.pair(SOCK_SEQPACKET)
        call, _ = started_recv(guest, other, a)
        t.files.close(b)
        guest.settle()
        assert call.value() == 0
        assert sockets.recv(a, flags=MSG_DONTWAIT) == b""

    def test_no_memory_to_store_it_loses_it(self, sockets):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.send(a, b"lost")
        with pytest.raises(EFAULT):
            sockets("recvfrom", b, 8, 100, 0, 0, 0)
        with pytest.raises(EAGAIN):
            sockets.recv(b, flags=MSG_DONTWAIT)


class TestDescriptors:
    @pytest.mark.parametrize("kind", KINDS)
    def test_they_arrive(self, sockets, t, kind):
        a, b = sockets.pair(kind)
        passed = t.files.get(a)
        sockets.sendmsg(a, b"x", rights(a, b))
        message = sockets.recvmsg(b, flags=MSG_CMSG_CLOEXEC)
        assert message.flags == MSG_CMSG_CLOEXEC
        assert t.files.get(message.fds[0]) is passed
        assert all(t.files.cloexec(fd) for fd in message.fds)

    def test_a_stream_is_not_read_past_them(self, sockets, t):
        a, b = sockets.pair()
        sockets.write(a, b"plain ")
        sockets.sendmsg(a, b"first ", rights(a))
        sockets.sendmsg(a, b"second ", rights(a))
        sockets.write(a, b"plain")
        peeked = sockets.recvmsg(b, flags=MSG_PEEK)
        message = sockets.recvmsg(b)
        assert peeked.data == message.data == b"plain first "
        assert len(peeked.fds) == len(message.fds) == 1
        assert peeked.fds != message.fds
        assert sockets.recvmsg(b, 3).fds != []
        assert sockets.recvmsg(b).data == b"ond plain"

    def test_what_does_not_fit_is_closed(self, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        held = t.files.get(a).refs
        sockets.sendmsg(a, b"x", rights(a, a, a))
        message = sockets.recvmsg(b, room=16 + 8)
        assert len(message.fds) == 2
        assert message.flags == MSG_CTRUNC
        assert t.files.get(a).refs == held + 2
        sockets.sendmsg(a, b"x", rights(a))
        message = sockets.recvmsg(b, room=0)
        assert (message.control, message.flags) == (b"", MSG_CTRUNC)

    def test_a_full_table(self, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.sendmsg(a, b"x", rights(a, a))
        t.files.limit = 3
        message = sockets.recvmsg(b)
        assert message.fds == [2]
        assert message.flags == MSG_CTRUNC

    def test_no_memory_for_them(self, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        held = t.files.get(a).refs
        sockets.sendmsg(a, b"x", rights(a))
        header = t.mem.put(MSGHDR.pack(0, 0, sockets.iov(b"x"), 1, 8, 100, 0))
        with pytest.raises(EFAULT):
            sockets("recvmsg", b, header, 0)
        assert t.files.get(a).refs == held

    @pytest.mark.parametrize(
        ("control", "error"),
        [
            (rights(77), EBADF),
            (rights(*[0] * 254), EINVAL),
            (rights(*[0] * 200) + rights(*[0] * 54), EINVAL),
            (cmsg(99, b"1234"), EINVAL),
            (struct.pack("<Qii", 15, 1, SCM_RIGHTS), EINVAL),
            (struct.pack("<Qii", 17, 1, SCM_RIGHTS), EINVAL),
            (cmsg(2, b"short"), EINVAL),
        ],
    )
    def test_bad_ancillary_data(self, sockets, control, error):
        a, b = sockets.pair(SOCK_DGRAM)
        with pytest.raises(error):
            sockets.sendmsg(a, b"x", control)
        with pytest.raises(EAGAIN):
            sockets.recv(b, flags=MSG_DONTWAIT)

    def test_other_levels_are_not_ours(self, sockets):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.sendmsg(a, b"x", cmsg(1, b"1234", level=77) + b"rest")
        assert sockets.recvmsg(b).control == b""

    def test_bad_headers(self, sockets, t):
        a, _b = sockets.pair(SOCK_DGRAM)
        iov = sockets.iov(b"x")
        for fields, error in (
            ((0, 0, iov, 1025, 0, 0, 0), EMSGSIZE),
            ((1, -1, iov, 1, 0, 0, 0), EINVAL),
            ((0, 0, iov, 1, 8, 1 << 20, 0), ENOBUFS),
            ((0, 0, iov, 1, 8, 20, 0), EFAULT),
            ((0, 0, 8, 1, 0, 0, 0), EFAULT),
        ):
            with pytest.raises(error):
                sockets("sendmsg", a, t.mem.put(MSGHDR.pack(*fields)), 0)
        with pytest.raises(EFAULT):
            sockets("sendmsg", a, 8, 0)


class TestCredentials:
    def test_of_the_sender(self, guest, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        user = SocketCalls(guest, guest.process(creds=USER))
        fd = user.t.files.install(t.files.get(a))
        sockets.set_option(b, SO_PASSCRED, 1)
        user.send(fd, b"x")
        assert sockets.recvmsg(b).creds == (user.t.tid, 1000, 2000)

    def test_not_asked_for_in_time(self, sockets):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.send(a, b"x")
        sockets.set_option(b, SO_PASSCRED, 1)
        assert sockets.recvmsg(b).creds == (0, 65534, 65534)
        sockets.send(a, b"x")
        assert sockets.recvmsg(b, room=0).flags == MSG_CTRUNC

    def test_writers_are_not_mixed(self, guest, sockets, t):
        a, b = sockets.pair()
        sockets.set_option(b, SO_PASSCRED, 1)
        user = SocketCalls(guest, guest.process(creds=USER))
        fd = user.t.files.install(t.files.get(a))
        sockets.send(a, b"mine")
        sockets.send(a, b" too")
        user.send(fd, b"theirs")
        assert sockets.recvmsg(b).data == b"mine too"
        message = sockets.recvmsg(b)
        assert (message.data, message.creds[1]) == (b"theirs", 1000)

    def test_before_accept_they_are_kept(self, sockets, t):
        listener = sockets.listener(abstract_address("s"))
        client = sockets.connected(abstract_address("s"))
        sockets.send(client, b"x")
        server = sockets.accept(listener)
        sockets.set_option(server, SO_PASSCRED, 1)
        assert sockets.recvmsg(server).creds[0] == t.tid

    def test_given_by_the_sender(self, guest, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.set_option(b, SO_PASSCRED, 1)
        sockets.sendmsg(a, b"x", credentials(1, 7, 8))
        assert sockets.recvmsg(b).creds == (1, 7, 8)
        with pytest.raises(ESRCH):
            sockets.sendmsg(a, b"x", credentials(4711, 0, 0))
        user = SocketCalls(guest, guest.process(creds=USER))
        fd = user.t.files.install(t.files.get(a))
        for uid, gid in ((1000, 2000), (1001, 2001), (1002, 2002)):
            user.sendmsg(fd, b"x", credentials(user.t.tid, uid, gid))
            assert sockets.recvmsg(b).creds == (user.t.tid, uid, gid)
        for pid, uid, gid in ((t.tid, 1000, 2000), (user.t.tid, 0, 2000), (user.t.tid, 1000, 0)):
            with pytest.raises(EPERM):
                user.sendmsg(fd, b"x", credentials(pid, uid, gid))

    def test_as_a_pidfd(self, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.set_option(b, SO_PASSPIDFD, 1)
        sockets.send(a, b"x")
        (fd,) = INT.unpack(sockets.recvmsg(b).parts()[SCM_PIDFD])
        file = t.files.get(fd)
        assert isinstance(file, PidFd)
        assert file.tg is t.tg


class TestTimestamps:
    @pytest.mark.parametrize(("option", "layout"), [(SO_TIMESTAMP, TIMEVAL), (SO_TIMESTAMPNS, TIMESPEC)])
    def test_of_datagrams(self, sockets, option, layout):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.set_option(b, option, 1)
        assert sockets.option(b, option) == 1
        sockets.send(a, b"x")
        seconds, _ = layout.unpack(sockets.recvmsg(b).parts()[option])
        assert seconds > 1_600_000_000
        sockets.set_option(b, option, 0)
        sockets.send(a, b"x")
        assert sockets.recvmsg(b).control == b""


class TestSeveral:
    def headers(self, calls, *parts):
        """The address of a struct mmsghdr[]."""
        entries = [calls.t.mem.read(calls.header((part,)), MSGHDR.size) + bytes(8) for part in parts]
        return calls.t.mem.put(b"".join(entries))

    def lengths(self, calls, addr, count):
        data = calls.t.mem.read(addr, count * MMSGHDR_SIZE)
        return [INT.unpack_from(data, MMSGHDR_SIZE * i + MSGHDR.size)[0] for i in range(count)]

    def test_there_and_back(self, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        out = self.headers(sockets, b"one", b"three")
        assert sockets("sendmmsg", a, out, 2, 0) == 2
        assert self.lengths(sockets, out, 2) == [3, 5]
        into = self.headers(sockets, bytes(9), bytes(9), bytes(9))
        assert sockets("recvmmsg", b, into, 3, MSG_WAITFORONE, 0) == 2
        assert self.lengths(sockets, into, 2) == [3, 5]
        with pytest.raises(EAGAIN):
            sockets("recvmmsg", b, into, 3, MSG_DONTWAIT, 0)

    def test_the_first_failure_counts_the_rest_ends_it(self, sockets, t):
        a, _b = sockets.pair(SOCK_DGRAM)
        out = self.headers(sockets, b"one", bytes(300_000))
        assert sockets("sendmmsg", a, out, 2, 0) == 1
        with pytest.raises(EMSGSIZE):
            sockets("sendmmsg", a, out + MMSGHDR_SIZE, 1, 0)

    def test_the_timeout_is_looked_at_after_each(self, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.send(a, b"x")
        sockets.send(a, b"x")
        timeout = t.mem.put(TIMESPEC.pack(0, 0))
        into = self.headers(sockets, bytes(9), bytes(9))
        assert sockets("recvmmsg", b, into, 2, 0, timeout) == 1
        with pytest.raises(EINVAL):
            sockets("recvmmsg", b, into, 2, 0, t.mem.put(TIMESPEC.pack(0, 1 << 40)))

    def test_a_later_error_is_for_the_next_call(self, sockets, t):
        a, b = sockets.pair(SOCK_DGRAM)
        sockets.send(a, b"x")
        sockets.send(a, b"x")
        into = self.headers(sockets, bytes(9), bytes(9))
        t.mem.write(into + MMSGHDR_SIZE + 16, struct.pack("<Q", 8))
        assert sockets("recvmmsg", b, into, 2, 0, 0) == 1
        with pytest.raises(EFAULT):
            sockets("recvmmsg", b, into, 2, 0, 0)


class TestWaiting:
    def test_a_timeout(self, sockets):
        _a, b = sockets.pair()
        sockets.set_option(b, SO_RCVTIMEO, TIMEVAL.pack(0, 5000))
        for call in (sockets.read, sockets.recv, sockets.recvmsg):
            with pytest.raises(EAGAIN):
                call(b)

    def test_a_signal(self, guest, sockets, other, t):
        _a, b = sockets.pair(SOCK_DGRAM)
        call, _ = started_recv(guest, other, b)
        t.tg.send_to(other.t, SigInfo(SIGTERM))
        guest.settle()
        with pytest.raises(Interrupted):
            call.value()

    def test_closed_by_another_thread(self, guest, sockets, other, t):
        """The call that waits goes on with the file that it began with."""
        a, b = sockets.pair()
        call, buf = started_recv(guest, other, b)
        t.files.close(b)
        guest.settle()
        assert not call.done
        sockets.write(a, b"still")
        guest.settle()
        assert other.t.mem.read(buf, call.value()) == b"still"
        with pytest.raises(EPIPE):
            sockets.send(a, b"x", flags=MSG_NOSIGNAL)


class TestIoctl:
    def ask(self, calls, fd, request):
        addr = calls.t.mem.alloc(4)
        calls("ioctl", fd, request, addr)
        return INT.unpack(calls.t.mem.read(addr, 4))[0]

    def test_what_lies_in_the_queue(self, sockets):
        for kind, first in ((SOCK_STREAM, 7), (SOCK_SEQPACKET, 7), (SOCK_DGRAM, 3)):
            a, b = sockets.pair(kind)
            assert self.ask(sockets, b, FIONREAD) == 0
            sockets.send(a, b"one")
            sockets.send(a, b"four")
            assert self.ask(sockets, b, FIONREAD) == first
            assert self.ask(sockets, a, SIOCOUTQ) > 7
            sockets.recv(b)
            if kind != SOCK_STREAM:
                sockets.recv(b)
            assert self.ask(sockets, a, SIOCOUTQ) == 0

    def test_refusals(self, sockets):
        fd = sockets.listener(UNIX_FAMILY)
        for request in (FIONREAD, SIOCOUTQ):
            with pytest.raises(EINVAL):
                self.ask(sockets, fd, request)
        with pytest.raises(ENOTTY):
            self.ask(sockets, fd, 0x5401)
