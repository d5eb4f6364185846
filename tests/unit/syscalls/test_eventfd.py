"""eventfd(2)."""

import pytest

from sentry.abi.errno import EAGAIN, EINVAL
from sentry.abi.fcntl import O_CLOEXEC, O_NONBLOCK
from sentry.abi.poll import POLLERR, POLLIN, POLLOUT
from sentry.fs.eventfd import MAX
from sentry.syscalls.eventfd import EFD_SEMAPHORE, eventfd2
from sentry.syscalls.read_write import read, write


def add(guest, t, fd, value):
    return guest.call(t, write, fd, t.mem.put(value.to_bytes(8, "little")), 8)


def take(guest, t, fd):
    buf = t.mem.alloc(8)
    assert guest.call(t, read, fd, buf, 8) == 8
    return int.from_bytes(t.mem.read(buf, 8), "little")


def test_a_read_takes_the_whole_count(guest, t):
    fd = guest.call(t, eventfd2, 3, O_NONBLOCK)
    add(guest, t, fd, 4)

    assert take(guest, t, fd) == 7
    with pytest.raises(EAGAIN):
        take(guest, t, fd)


def test_a_semaphore_gives_ones(guest, t):
    fd = guest.call(t, eventfd2, 2, EFD_SEMAPHORE | O_NONBLOCK)

    assert [take(guest, t, fd), take(guest, t, fd)] == [1, 1]
    with pytest.raises(EAGAIN):
        take(guest, t, fd)


def test_a_read_waits_for_a_write(guest, t):
    fd = guest.call(t, eventfd2, 0, 0)
    other = guest.thread(t)
    buf = t.mem.alloc(8)
    reading = guest.start(t, read, fd, buf, 8)
    guest.settle()
    assert not reading.done

    add(guest, other, fd, 12)
    guest.settle()

    assert reading.value() == 8


def test_a_write_that_would_overflow_waits_and_keeps_its_value(guest, t):
    fd = guest.call(t, eventfd2, 0, 0)
    other = guest.thread(t)
    add(guest, t, fd, MAX - 1)
    writing = guest.start(t, write, fd, t.mem.put((5).to_bytes(8, "little")), 8)
    guest.settle()
    assert not writing.done

    assert take(guest, other, fd) == MAX - 1
    guest.settle()

    assert writing.value() == 8
    assert take(guest, other, fd) == 5


def test_bad_sizes_and_values(guest, t):
    fd = guest.call(t, eventfd2, 0, O_NONBLOCK)
    with pytest.raises(EINVAL):
        guest.call(t, write, fd, t.mem.alloc(8), 7)
    with pytest.raises(EINVAL):
        guest.call(t, read, fd, t.mem.alloc(8), 7)
    with pytest.raises(EINVAL):
        add(guest, t, fd, MAX)
    with pytest.raises(EINVAL):
        guest.call(t, eventfd2, 0, 1 << 30)


def test_a_long_write_adds_once(guest, t):
    fd = guest.call(t, eventfd2, 0, 0)
    value = (2).to_bytes(8, "little")

    assert guest.call(t, write, fd, t.mem.put(value * 2), 16) == 8
    assert take(guest, t, fd) == 2


def test_poll_states(guest, t):
    fd = guest.call(t, eventfd2, 0, O_CLOEXEC)
    file = t.files.get(fd)
    assert t.files.cloexec(fd)
    assert file.poll() == POLLOUT
    add(guest, t, fd, MAX - 1)
    assert file.poll() == POLLIN
    file.add(1)
    assert file.poll() == POLLIN | POLLERR


def test_it_has_no_name(guest, t):
    file = t.files.get(guest.call(t, eventfd2, 10, 0))
    assert file.describe() == "anon_inode:[eventfd]"
    assert "eventfd-count:                a" in file.fd_info()
