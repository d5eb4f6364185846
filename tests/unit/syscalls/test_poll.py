"""poll(2), select(2) and their variants."""

import struct

import pytest

from sentry.abi.errno import EBADF, EFAULT, EINTR, EINVAL
from sentry.abi.poll import POLLFD, POLLHUP, POLLIN, POLLNVAL, POLLOUT
from sentry.abi.signal import SIGUSR1, bit
from sentry.kernel.restart import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, Interrupted
from sentry.kernel.signals import SigInfo
from sentry.syscalls.pipe import pipe2
from sentry.syscalls.poll import poll, ppoll, pselect6, select
from sentry.syscalls.read_write import write


@pytest.fixture
def ends(guest, t):
    addr = t.mem.alloc(8)
    guest.call(t, pipe2, addr, 0)
    return struct.unpack("<ii", t.mem.read(addr, 8))


def put(guest, t, fd):
    guest.call(t, write, fd, t.mem.put(b"x"), 1)


def pollfds(t, *entries):
    return t.mem.put(b"".join(POLLFD.pack(fd, events, 0x55) for fd, events in entries))


def found(t, addr, count):
    return [revents for _, _, revents in POLLFD.iter_unpack(t.mem.read(addr, 8 * count))]


def fd_set(t, *fds):
    return t.mem.put(sum(1 << fd for fd in fds).to_bytes(8, "little"))


def bits(t, addr):
    value = int.from_bytes(t.mem.read(addr, 8), "little")
    return [fd for fd in range(64) if value >> fd & 1]


def timespec(t, ns):
    return t.mem.put(struct.pack("<qq", *divmod(ns, 10**9)))


class TestPoll:
    def test_counts_and_marks_the_ready_ones(self, guest, t, ends):
        put(guest, t, ends[1])
        addr = pollfds(t, (ends[0], POLLIN), (ends[1], POLLIN), (ends[1], POLLOUT), (-5, POLLIN), (99, POLLIN))

        assert guest.call(t, poll, addr, 5, -1) == 3
        assert found(t, addr, 5) == [POLLIN, 0, POLLOUT, 0, POLLNVAL]

    def test_hangup_is_reported_unasked(self, guest, t, ends):
        t.files.close(ends[1])
        addr = pollfds(t, (ends[0], 0))

        assert guest.call(t, poll, addr, 1, -1) == 1
        assert found(t, addr, 1) == [POLLHUP]

    def test_is_woken(self, guest, t, ends):
        other = guest.thread(t)
        addr = pollfds(t, (ends[0], POLLIN))
        polling = guest.start(t, poll, addr, 1, -1)
        guest.settle()
        assert not polling.done

        put(guest, other, ends[1])
        guest.settle()

        assert polling.value() == 1
        assert found(t, addr, 1) == [POLLIN]

    def test_times_out(self, guest, t, ends):
        addr = pollfds(t, (ends[0], POLLIN))

        assert guest.call(t, poll, addr, 1, 5) == 0
        assert found(t, addr, 1) == [0]

    def test_an_interrupted_one_goes_on_with_the_same_deadline(self, guest, t, ends):
        addr = pollfds(t, (ends[0], POLLIN))
        polling = guest.start(t, poll, addr, 1, 60_000)
        guest.settle()
        t.tg.send_to(t, SigInfo(SIGUSR1))
        guest.settle()
        with pytest.raises(Interrupted) as interrupted:
            polling.value()
        assert interrupted.value.kind == ERESTART_RESTARTBLOCK
        t.pending.discard(~0)

        put(guest, guest.thread(t), ends[1])

        again = interrupted.value.again
        assert again is not None
        assert guest.call(t, lambda t: again()) == 1

    def test_a_pending_signal_beats_a_zero_timeout(self, guest, t):
        t.tg.send_to(t, SigInfo(SIGUSR1))
        with pytest.raises(Interrupted):
            guest.call(t, poll, 0, 0, 0)

    def test_errors(self, guest, t):
        with pytest.raises(EFAULT):
            guest.call(t, poll, 8, 1, 0)
        with pytest.raises(EINVAL):
            guest.call(t, poll, 0, 1 << 30, 0)


class TestPpoll:
    def test_tells_what_is_left_of_the_timeout(self, guest, t, ends):
        put(guest, t, ends[1])
        timeout = timespec(t, 100 * 10**9)

        assert guest.call(t, ppoll, pollfds(t, (ends[0], POLLIN)), 1, timeout, 0, 0) == 1

        seconds, _ = struct.unpack("<qq", t.mem.read(timeout, 16))
        assert seconds == 99

    def test_lets_a_blocked_signal_in(self, guest, t):
        t.sigmask = bit(SIGUSR1)
        t.tg.send_to(t, SigInfo(SIGUSR1))

        with pytest.raises(Interrupted) as interrupted:
            guest.call(t, ppoll, 0, 0, 0, t.mem.put(bytes(8)), 8)

        assert interrupted.value.kind == ERESTARTNOHAND
        assert t.saved_sigmask == bit(SIGUSR1)

    def test_a_bad_timeout(self, guest, t):
        with pytest.raises(EINVAL):
            guest.call(t, ppoll, 0, 0, t.mem.put(struct.pack("<qq", 0, -1)), 0, 0)

    def test_errors_restore_the_mask(self, guest, t):
        t.sigmask = bit(SIGUSR1)
        with pytest.raises(EFAULT):
            guest.call(t, ppoll, 8, 1, 0, t.mem.put(bytes(8)), 8)

        assert (t.sigmask, t.saved_sigmask) == (bit(SIGUSR1), None)


class TestSelect:
    def test_keeps_only_the_ready_bits(self, guest, t, ends):
        reader, writer = ends
        in_addr, out_addr = fd_set(t, reader), fd_set(t, writer)

        assert guest.call(t, select, writer + 1, in_addr, out_addr, 0, 0) == 1
        assert (bits(t, in_addr), bits(t, out_addr)) == ([], [writer])

    def test_counts_a_descriptor_once_per_set(self, guest, t, ends):
        put(guest, t, ends[1])
        assert guest.call(t, select, 10, fd_set(t, ends[0]), fd_set(t, ends[1]), 0, 0) == 2

    def test_end_of_file_is_readable(self, guest, t, ends):
        t.files.close(ends[1])
        assert guest.call(t, select, 10, fd_set(t, ends[0]), 0, 0, 0) == 1

    def test_times_out_and_clears_the_sets(self, guest, t, ends):
        in_addr = fd_set(t, ends[0])
        timeout = t.mem.put(struct.pack("<qq", 0, 5000))

        assert guest.call(t, select, 10, in_addr, 0, 0, timeout) == 0
        assert bits(t, in_addr) == []
        assert t.mem.read(timeout, 16) == bytes(16)

    def test_is_woken(self, guest, t, ends):
        other = guest.thread(t)
        in_addr = fd_set(t, ends[0])
        selecting = guest.start(t, select, 10, in_addr, 0, 0, 0)
        guest.settle()
        put(guest, other, ends[1])
        guest.settle()

        assert selecting.value() == 1
        assert bits(t, in_addr) == [ends[0]]

    def test_errors(self, guest, t):
        with pytest.raises(EBADF):
            guest.call(t, select, 21, fd_set(t, 20), 0, 0, 0)
        with pytest.raises(EINVAL):
            guest.call(t, select, -1, 0, 0, 0, 0)
        with pytest.raises(EINVAL):
            guest.call(t, select, 0, 0, 0, 0, t.mem.put(struct.pack("<qq", -1, 0)))
        with pytest.raises(EFAULT):
            guest.call(t, select, 1, 8, 0, 0, 0)

    def test_a_timeout_that_cannot_be_updated_is_not_restarted(self, guest, t):
        end = t.mem.end
        t.mem.write(end - 16, struct.pack("<qq", 60, 0))
        writable = t.mem.write_some
        t.mem.write_some = lambda addr, data: _fault() if addr >= end - 16 else writable(addr, data)
        selecting = guest.start(t, select, 0, 0, 0, 0, end - 16)
        guest.settle()
        t.tg.send_to(t, SigInfo(SIGUSR1))
        guest.settle()

        with pytest.raises(EINTR):
            selecting.value()


def _fault():
    raise EFAULT


class TestPselect:
    def test_takes_the_mask_and_its_size_from_memory(self, guest, t):
        t.sigmask = bit(SIGUSR1)
        t.tg.send_to(t, SigInfo(SIGUSR1))
        packed = t.mem.put(struct.pack("<QQ", t.mem.put(bytes(8)), 8))

        with pytest.raises(Interrupted) as interrupted:
            guest.call(t, pselect6, 0, 0, 0, 0, timespec(t, 10**11), packed)

        assert interrupted.value.kind == ERESTARTNOHAND

    def test_a_null_mask_changes_nothing(self, guest, t):
        packed = t.mem.put(struct.pack("<QQ", 0, 8))
        assert guest.call(t, pselect6, 0, 0, 0, 0, timespec(t, 1000), packed) == 0
        assert t.saved_sigmask is None
