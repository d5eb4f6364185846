"""Descriptors in flight: what becomes of them when nobody receives them."""

import gc
import struct
import weakref

import pytest

from sentry.abi.errno import ETOOMANYREFS
from sentry.abi.socket import SOCK_DGRAM, SOCK_STREAM
from sentry.kernel.creds import Creds
from sentry.kernel.rlimits import RLIMIT_NOFILE
from sentry.net.flight import COLLECT_FROM
from sentry.net.unix import UnixSocket
from sentry.net.unixnames import names_of
from tests.unit.syscalls.socketcalls import SocketCalls, abstract_address, rights


@pytest.fixture
def flights(guest):
    return names_of(guest.kernel, UnixSocket).flights


@pytest.fixture
def pipe(calls, t):
    """(the pipe, the descriptor of its write end): closed for good when it has no writers."""
    addr = t.mem.alloc(8)
    calls("pipe", addr)
    reader, writer = struct.unpack("<ii", t.mem.read(addr, 8))
    return t.files.get(reader).pipe, writer


def close(t, *fds):
    for fd in fds:
        t.files.close(fd)


def make_kernel_look(calls, t):
    """The end of any socket is a reason to collect."""
    close(t, *calls.pair())


def test_a_file_in_flight_stays_open(calls, t, pipe, flights):
    data, writer = pipe
    a, b = calls.pair()
    calls.sendmsg(a, control=rights(writer))
    close(t, writer, a)
    assert data.writers == 1
    assert flights.count_of(0) == 1

    (fd,) = calls.recvmsg(b).fds

    assert flights.count_of(0) == 0
    close(t, fd)
    assert data.writers == 0


def test_reading_without_room_closes_it(calls, t, pipe, flights):
    data, writer = pipe
    a, b = calls.pair()
    calls.sendmsg(a, control=rights(writer))
    close(t, writer)
    calls.read(b)
    assert data.writers == 0
    assert flights.count_of(0) == 0


def test_a_message_that_could_not_be_sent_closes_it(calls, t, pipe):
    data, writer = pipe
    a, b = calls.pair()
    close(t, b)
    with pytest.raises(Exception, match="EPIPE"):
        calls.sendmsg(a, control=rights(writer))
    close(t, writer)
    assert data.writers == 0


def test_nothing_sent_on_a_stream_closes_it(calls, t, pipe):
    data, writer = pipe
    a, _b = calls.pair()
    assert calls.sendmsg(a, b"", control=rights(writer)) == 0
    close(t, writer)
    assert data.writers == 0


def test_a_socket_closed_with_messages_closes_it(calls, t, pipe):
    data, writer = pipe
    a, b = calls.pair()
    calls.sendmsg(a, control=rights(writer))
    close(t, writer, b)
    assert data.writers == 0


def test_deep_nesting_unwinds(calls, t, pipe):
    """One socket in another's queue, a thousand deep."""
    data, writer = pipe
    inner = calls.pair(SOCK_DGRAM)
    calls.sendmsg(inner[0], control=rights(writer))
    close(t, writer)
    for _ in range(1000):
        outer = calls.pair(SOCK_DGRAM)
        calls.sendmsg(outer[0], control=rights(*inner))
        close(t, *inner)
        inner = outer
    assert data.writers == 1
    close(t, *inner)
    assert data.writers == 0


def test_a_cycle_of_two_is_found(calls, t, pipe, flights):
    data, writer = pipe
    a, b = calls.pair()
    calls.sendmsg(a, control=rights(writer))
    calls.sendmsg(a, control=rights(b))
    calls.sendmsg(b, control=rights(a))
    close(t, writer, a, b)
    make_kernel_look(calls, t)
    assert data.writers == 0
    assert flights.count_of(0) == 0


def test_a_socket_in_its_own_queue_is_found(calls, t, pipe):
    data, writer = pipe
    a = calls.bound(abstract_address("me"), SOCK_DGRAM)
    calls.connect(a, abstract_address("me"))
    calls.sendmsg(a, control=rights(writer, a, a))
    close(t, writer, a)
    make_kernel_look(calls, t)
    assert data.writers == 0


def test_a_listener_in_its_own_backlog_is_found(calls, t, pipe):
    data, writer = pipe
    fd = calls.listener(abstract_address("s"))
    client = calls.connected(abstract_address("s"))
    calls.sendmsg(client, control=rights(writer, fd))
    close(t, writer, client, fd)
    make_kernel_look(calls, t)
    assert data.writers == 0


def test_what_can_still_be_received_is_kept(calls, t, pipe):
    """A cycle with a way in: through a queue of a socket that is open."""
    data, writer = pipe
    a, b = calls.pair(SOCK_DGRAM)
    calls.sendmsg(a, control=rights(writer))
    calls.sendmsg(a, control=rights(b))
    calls.sendmsg(b, control=rights(a))
    keeper, receiver = calls.pair(SOCK_DGRAM)
    calls.sendmsg(keeper, control=rights(b))
    close(t, writer, a, b)
    make_kernel_look(calls, t)
    assert data.writers == 1

    (b,) = calls.recvmsg(receiver).fds
    (writer,) = calls.recvmsg(b).fds
    close(t, writer)
    assert data.writers == 0


def test_a_receiver_that_waits_keeps_its_socket(guest, calls, t, pipe):
    """It holds the file over the wait, so that the socket is no garbage although no descriptor is left."""
    data, writer = pipe
    a, b = calls.pair(SOCK_DGRAM)
    other = guest.thread(t)
    waiting = SocketCalls(guest, other).start("recvfrom", a, t.mem.alloc(10), 10, 0, 0, 0)
    guest.settle()
    calls.sendmsg(a, control=rights(writer, a))
    close(t, writer, a)
    make_kernel_look(calls, t)
    assert data.writers == 1
    calls.send(b, b"done")
    guest.settle()
    assert waiting.value() == 4


def test_many_cycles_do_not_pile_up(calls, t, flights):
    """Without any socket being closed for good, sending alone makes the kernel look."""
    for _ in range(4 * COLLECT_FROM):
        a, b = calls.pair()
        calls.sendmsg(a, control=rights(b))
        calls.sendmsg(b, control=rights(a))
        close(t, a, b)
    assert len(flights._sockets) <= 2 * COLLECT_FROM + 2


def test_the_limit_for_users(guest, t, flights):
    user = guest.process(creds=Creds(uid=1000, euid=1000, suid=1000, fsuid=1000))
    user.tg.rlimits.set(RLIMIT_NOFILE, 20, 20)
    calls = SocketCalls(guest, user)
    a, _b = calls.pair()
    for _ in range(21):
        calls.sendmsg(a, control=rights(a))
    with pytest.raises(ETOOMANYREFS):
        calls.sendmsg(a, control=rights(a))
    assert flights.count_of(1000) == 21
    root = SocketCalls(guest, t)
    assert root.sendmsg(root.pair()[0], control=rights(*[root.socket()] * 30)) == 1


def test_closed_sockets_are_gone_without_the_garbage_collector(calls, t):
    kept = []
    gc.disable()
    try:
        for kind in (SOCK_STREAM, SOCK_DGRAM):
            a, b = calls.pair(kind)
            calls.sendmsg(a, control=rights(b))
            kept += [weakref.ref(t.files.get(fd)) for fd in (a, b)]
            close(t, b, a)
        make_kernel_look(calls, t)
        assert [reference() for reference in kept] == [None] * 4
    finally:
        gc.enable()
