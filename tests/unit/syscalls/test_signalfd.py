"""signalfd(2)."""

import struct

import pytest

from sentry.abi.errno import EAGAIN, EBADF, EINVAL
from sentry.abi.fcntl import O_NONBLOCK
from sentry.abi.poll import EPOLL_EVENT, POLLIN
from sentry.abi.signal import SI_QUEUE, SIGKILL, SIGRTMIN, SIGUSR1, SIGUSR2, bit
from sentry.fs.signalfd import SIGINFO
from sentry.kernel.signals import SigInfo
from sentry.syscalls.epoll import epoll_create1, epoll_ctl, epoll_wait
from sentry.syscalls.eventfd import eventfd2
from sentry.syscalls.poll import poll
from sentry.syscalls.read_write import read
from sentry.syscalls.signalfd import signalfd4


@pytest.fixture
def fd(guest, t):
    t.sigmask = bit(SIGUSR1) | bit(SIGRTMIN) | bit(SIGUSR2)
    return make(guest, t, bit(SIGUSR1) | bit(SIGRTMIN))


def make(guest, t, mask, fd=-1, flags=O_NONBLOCK):
    return guest.call(t, signalfd4, fd & 0xFFFFFFFF if fd >= 0 else -1, t.mem.put(struct.pack("<Q", mask)), 8, flags)


def take(guest, t, fd, count=4):
    addr = t.mem.alloc(SIGINFO.size * count)
    n = guest.call(t, read, fd, addr, SIGINFO.size * count)
    return list(SIGINFO.iter_unpack(t.mem.read(addr, n)))


def test_signals_are_read_with_their_information(guest, t, fd):
    t.tg.send_signal(SigInfo(SIGUSR1, pid=5, uid=6))
    t.tg.send_signal(SigInfo(SIGRTMIN, SI_QUEUE, value=321))

    one, two = take(guest, t, fd)

    assert one[0] == SIGUSR1 and one[3:5] == (5, 6)
    assert two[0] == SIGRTMIN and two[2] == SI_QUEUE and two[11] == 321
    with pytest.raises(EAGAIN):
        take(guest, t, fd)


def test_what_is_not_in_the_mask_stays(guest, t, fd):
    t.tg.send_signal(SigInfo(SIGUSR2))
    with pytest.raises(EAGAIN):
        take(guest, t, fd)
    assert make(guest, t, bit(SIGUSR2), fd) == fd
    assert [info[0] for info in take(guest, t, fd)] == [SIGUSR2]


def test_a_read_is_woken(guest, t):
    t.sigmask = bit(SIGUSR1)
    fd = make(guest, t, bit(SIGUSR1), flags=0)
    reading = guest.start(t, read, fd, t.mem.alloc(128), 128)
    guest.settle()
    assert not reading.done

    t.tg.send_signal(SigInfo(SIGUSR1))
    guest.settle()

    assert reading.value() == 128


def test_poll_and_epoll_are_woken(guest, t, fd):
    other = guest.thread(t)
    other.sigmask = t.sigmask
    ep = guest.call(t, epoll_create1, 0)
    guest.call(t, epoll_ctl, ep, 1, fd, t.mem.put(EPOLL_EVENT.pack(POLLIN, 9)))
    polling = guest.start(t, poll, t.mem.put(struct.pack("<ihh", fd, POLLIN, 0)), 1, -1)
    waiting = guest.start(other, epoll_wait, ep, t.mem.alloc(24), 2, -1)
    guest.settle()

    t.tg.send_signal(SigInfo(SIGUSR1))
    guest.settle()

    assert polling.value() == 1
    assert waiting.value() == 1


def test_a_child_reads_its_own_signals(guest, t, fd):
    child = guest.process(t.tg)
    child.sigmask = t.sigmask
    child.files = t.files.copy()
    t.tg.send_signal(SigInfo(SIGUSR1, pid=1))

    with pytest.raises(EAGAIN):
        take(guest, child, fd)
    child.tg.send_signal(SigInfo(SIGUSR1, pid=2))
    assert take(guest, child, fd)[0][3] == 2


def test_errors(guest, t, fd):
    with pytest.raises(EINVAL):
        guest.call(t, signalfd4, -1, t.mem.alloc(8), 4, 0)
    with pytest.raises(EINVAL):
        make(guest, t, 0, flags=1 << 30)
    with pytest.raises(EBADF):
        make(guest, t, 0, fd=99)
    event = guest.call(t, eventfd2, 0, 0)
    with pytest.raises(EINVAL):
        make(guest, t, 0, fd=event)
    with pytest.raises(EINVAL):
        guest.call(t, read, fd, t.mem.alloc(10), 10)


def test_kill_cannot_be_read(guest, t):
    fd = make(guest, t, bit(SIGKILL) | bit(SIGUSR1))
    assert t.files.get(fd).mask == bit(SIGUSR1)
