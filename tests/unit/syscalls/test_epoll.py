"""epoll(7)."""

import itertools
import struct

import pytest

from sentry.abi.errno import EBADF, EEXIST, EFAULT, EINTR, EINVAL, ELOOP, ENOENT, EPERM
from sentry.abi.poll import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLL_EVENT,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLONESHOT,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLPRI,
)
from sentry.abi.signal import SIGUSR1, bit
from sentry.kernel.signals import SigInfo
from sentry.syscalls.epoll import epoll_create, epoll_create1, epoll_ctl, epoll_pwait, epoll_pwait2, epoll_wait
from sentry.syscalls.eventfd import eventfd2
from sentry.syscalls.fcntl import dup
from sentry.syscalls.pipe import pipe2
from sentry.syscalls.read_write import read, write
from sentry.vfs.file import File


class Epoll:
    """One epoll, and the words to speak to it."""

    def __init__(self, guest, t):
        self.guest, self.t = guest, t
        self.fd = guest.call(t, epoll_create1, 0)
        self.file = t.files.get(self.fd)
        self.buffer = t.mem.alloc(12 * 16)

    def ctl(self, op, fd, events=0, data=0):
        return self.guest.call(self.t, epoll_ctl, self.fd, op, fd, self.t.mem.put(EPOLL_EVENT.pack(events, data)))

    def add(self, fd, events, data=0):
        return self.ctl(EPOLL_CTL_ADD, fd, events, data)

    def ready(self, limit=16):
        n = self.guest.call(self.t, epoll_wait, self.fd, self.buffer, limit, 0)
        return list(EPOLL_EVENT.iter_unpack(self.t.mem.read(self.buffer, 12 * n)))


@pytest.fixture
def ep(guest, t):
    return Epoll(guest, t)


@pytest.fixture
def ends(guest, t):
    addr = t.mem.alloc(8)
    guest.call(t, pipe2, addr, 0)
    return struct.unpack("<ii", t.mem.read(addr, 8))


def put(guest, t, fd, data=b"x"):
    return guest.call(t, write, fd, t.mem.put(data), len(data))


def get(guest, t, fd, size=1):
    return guest.call(t, read, fd, t.mem.alloc(size), size)


def test_level_triggered_reports_as_long_as_it_holds(guest, t, ep, ends):
    ep.add(ends[0], POLLIN, 0x123456789ABCDEF0)
    assert ep.ready() == []
    put(guest, t, ends[1], b"xy")
    assert ep.ready() == [(POLLIN, 0x123456789ABCDEF0)]
    get(guest, t, ends[0])
    assert ep.ready() == [(POLLIN, 0x123456789ABCDEF0)]
    get(guest, t, ends[0])
    assert ep.ready() == []
    t.files.close(ends[1])
    assert ep.ready() == [(POLLHUP, 0x123456789ABCDEF0)]


def test_edge_triggered_reports_each_change_once(guest, t, ep, ends):
    put(guest, t, ends[1])
    ep.add(ends[0], POLLIN | EPOLLET, 1)
    assert ep.ready() == [(POLLIN, 1)]
    assert ep.ready() == []
    put(guest, t, ends[1])
    assert ep.ready() == [(POLLIN, 1)]
    get(guest, t, ends[0])
    assert ep.ready() == []
    ep.ctl(EPOLL_CTL_MOD, ends[0], POLLIN | EPOLLET, 2)
    assert ep.ready() == [(POLLIN, 2)]


def test_one_shot_is_silent_until_modified(guest, t, ep, ends):
    ep.add(ends[0], POLLIN | EPOLLONESHOT)
    put(guest, t, ends[1])
    assert ep.ready() == [(POLLIN, 0)]
    put(guest, t, ends[1])
    assert ep.ready() == []
    ep.ctl(EPOLL_CTL_MOD, ends[0], POLLIN | EPOLLONESHOT)
    assert ep.ready() == [(POLLIN, 0)]


def test_errors_of_ctl(guest, t, ep, ends):
    with pytest.raises(ENOENT):
        ep.ctl(EPOLL_CTL_MOD, ends[0], POLLIN)
    with pytest.raises(ENOENT):
        ep.ctl(EPOLL_CTL_DEL, ends[0])
    ep.add(ends[0], POLLIN)
    with pytest.raises(EEXIST):
        ep.add(ends[0], POLLIN)
    with pytest.raises(EBADF):
        ep.add(999, POLLIN)
    with pytest.raises(EINVAL):
        ep.add(ep.fd, POLLIN)
    with pytest.raises(EINVAL):
        ep.ctl(9, ends[1])
    with pytest.raises(EFAULT):
        guest.call(t, epoll_ctl, ep.fd, EPOLL_CTL_ADD, ends[1], 8)
    with pytest.raises(EINVAL):
        guest.call(t, epoll_ctl, ends[0], EPOLL_CTL_ADD, ends[1], ep.buffer)


def test_files_without_poll_operation_are_refused(guest, t, ep):
    fd = t.files.install(File(guest.root.inode, guest.root, 0))
    with pytest.raises(EPERM):
        ep.add(fd, POLLIN)


def test_exclusive_goes_with_few_events_and_is_never_modified(guest, t, ep, ends):
    with pytest.raises(EINVAL):
        ep.add(ends[0], POLLPRI | EPOLLEXCLUSIVE)
    ep.add(ends[0], POLLIN | EPOLLEXCLUSIVE)
    with pytest.raises(EINVAL):
        ep.ctl(EPOLL_CTL_MOD, ends[0], POLLIN)
    ep.ctl(EPOLL_CTL_DEL, ends[0])


def test_a_copy_of_a_descriptor_is_registered_by_itself(guest, t, ep, ends):
    copy = guest.call(t, dup, ends[0])
    ep.add(ends[0], POLLIN, 1)
    ep.add(copy, POLLIN, 2)
    put(guest, t, ends[1])

    assert sorted(ep.ready()) == [(POLLIN, 1), (POLLIN, 2)]


def test_a_file_leaves_with_its_last_descriptor(guest, t, ep, ends):
    put(guest, t, ends[1])
    ep.add(ends[0], POLLIN)
    copy = guest.call(t, dup, ends[0])
    t.files.close(ends[0])
    assert ep.ready() == [(POLLIN, 0)]

    t.files.close(copy)

    assert ep.ready() == []
    assert ep.file._items == {}


def test_a_closed_epoll_leaves_no_waiter(guest, t, ep, ends):
    queue = t.files.get(ends[0]).queue
    ep.add(ends[0], POLLIN)
    assert queue

    t.files.close(ep.fd)

    assert not queue


def test_many_ready_descriptors_take_turns(guest, t, ep):
    fds = [guest.call(t, eventfd2, 1, 0) for _ in range(6)]
    for fd in fds:
        ep.add(fd, POLLIN, fd)

    seen = [data for _ in range(3) for _, data in ep.ready(limit=2)]

    assert sorted(seen) == sorted(fds)


def test_an_epoll_wakes_the_one_that_watches_it(guest, t, ep, ends):
    outer = Epoll(guest, t)
    ep.add(ends[0], POLLIN, 1)
    outer.add(ep.fd, POLLIN, 2)
    assert outer.ready() == []

    put(guest, t, ends[1])

    assert outer.ready() == [(POLLIN, 2)]
    get(guest, t, ends[0])
    assert outer.ready() == []


def test_loops_and_deep_nests_are_refused(guest, t):
    nest = [Epoll(guest, t) for _ in range(6)]
    for inner, outer in itertools.pairwise(nest[:5]):
        outer.add(inner.fd, POLLIN)
    with pytest.raises(ELOOP):
        nest[0].add(nest[1].fd, POLLIN)
    with pytest.raises(ELOOP):
        nest[0].add(nest[4].fd, POLLIN)
    with pytest.raises(ELOOP):
        nest[5].add(nest[4].fd, POLLIN)


def test_wait_is_woken(guest, t, ep, ends):
    other = guest.thread(t)
    ep.add(ends[0], POLLIN, 5)
    waiting = guest.start(t, epoll_wait, ep.fd, ep.buffer, 4, -1)
    guest.settle()
    assert not waiting.done

    put(guest, other, ends[1])
    guest.settle()

    assert waiting.value() == 1


def test_a_waiter_wakes_when_a_ready_file_is_added(guest, t, ep, ends):
    other = guest.thread(t)
    waiting = guest.start(t, epoll_wait, ep.fd, ep.buffer, 4, -1)
    guest.settle()

    ctl = t.mem.put(EPOLL_EVENT.pack(POLLOUT, 0))
    guest.call(other, epoll_ctl, ep.fd, EPOLL_CTL_ADD, ends[1], ctl)
    guest.settle()

    assert waiting.value() == 1


def test_wait_times_out(guest, t, ep):
    assert guest.call(t, epoll_wait, ep.fd, ep.buffer, 4, 5) == 0
    timeout = t.mem.put(struct.pack("<qq", 0, 5_000_000))
    assert guest.call(t, epoll_pwait2, ep.fd, ep.buffer, 4, timeout, 0, 0) == 0


def test_a_signal_is_always_eintr(guest, t, ep):
    waiting = guest.start(t, epoll_wait, ep.fd, ep.buffer, 4, -1)
    guest.settle()
    t.tg.send_to(t, SigInfo(SIGUSR1))
    guest.settle()

    with pytest.raises(EINTR):
        waiting.value()


def test_pwait_lets_a_blocked_signal_in(guest, t, ep):
    t.sigmask = bit(SIGUSR1)
    t.tg.send_to(t, SigInfo(SIGUSR1))
    nothing = t.mem.put(bytes(8))

    with pytest.raises(EINTR):
        guest.call(t, epoll_pwait, ep.fd, ep.buffer, 4, -1, nothing, 8)

    # Delivery, which chooses the signal by the temporary mask, restores this one.
    assert t.saved_sigmask == bit(SIGUSR1)


def test_pwait_restores_the_mask_when_it_succeeds(guest, t, ep, ends):
    ep.add(ends[1], POLLOUT)
    t.sigmask = bit(SIGUSR1)

    assert guest.call(t, epoll_pwait, ep.fd, ep.buffer, 4, -1, t.mem.put(bytes(8)), 8) == 1

    assert (t.sigmask, t.saved_sigmask) == (bit(SIGUSR1), None)


def test_a_fault_loses_no_event(guest, t, ep, ends):
    ep.add(ends[1], POLLOUT | EPOLLET, 3)
    with pytest.raises(EFAULT):
        guest.call(t, epoll_wait, ep.fd, 8, 4, 0)

    assert ep.ready() == [(POLLOUT, 3)]


def test_bad_arguments(guest, t, ep, ends):
    with pytest.raises(EINVAL):
        guest.call(t, epoll_create, 0)
    with pytest.raises(EINVAL):
        guest.call(t, epoll_create1, 1)
    with pytest.raises(EINVAL):
        guest.call(t, epoll_wait, ep.fd, ep.buffer, 0, 0)
    with pytest.raises(EINVAL):
        guest.call(t, epoll_wait, ends[0], ep.buffer, 1, 0)
    with pytest.raises(EINVAL):
        guest.call(t, epoll_pwait, ep.fd, ep.buffer, 1, 0, t.mem.alloc(8), 4)


def test_closing_the_epoll_does_not_end_a_wait_on_it(guest, t, ep, ends):
    other = guest.thread(t)
    ep.add(ends[0], POLLIN, 5)
    waiting = guest.start(t, epoll_wait, ep.fd, ep.buffer, 4, -1)
    guest.settle()
    other.files.close(ep.fd)

    put(guest, other, ends[1])
    guest.settle()

    assert waiting.value() == 1
    assert ep.file.refs == 0
