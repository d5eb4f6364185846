"""Clocks and sleeping."""

import struct
import time as host

import pytest

from sentry.abi.errno import EFAULT, EINVAL, EOPNOTSUPP, EPERM
from sentry.abi.signal import SIGUSR1
from sentry.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_COARSE,
    CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME,
    CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID,
    NSEC,
    TIMER_ABSTIME,
)
from sentry.kernel.restart import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, Interrupted
from sentry.kernel.signals import SigInfo
from sentry.syscalls import time as calls


def timespec(t, ns):
    return t.mem.put(struct.pack("<qq", *divmod(ns, NSEC)))


def read_ns(t, addr):
    seconds, ns = struct.unpack("<qq", t.mem.read(addr, 16))
    return seconds * NSEC + ns


def now(guest, t, clock):
    addr = t.mem.alloc(16)
    assert guest.call(t, calls.clock_gettime, clock, addr) == 0
    return read_ns(t, addr)


@pytest.mark.parametrize("clock", [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_TAI])
def test_clocks_are_the_hosts(guest, t, clock):
    before = host.clock_gettime_ns(clock)
    shown = now(guest, t, clock)
    assert before <= shown <= host.clock_gettime_ns(clock)


def test_cpu_clocks_of_the_caller_and_of_others(guest, t):
    other = guest.process()
    thread = guest.thread(t)
    t.context.used_ns, thread.context.used_ns, other.context.used_ns = 1000, 200, 7

    assert now(guest, t, CLOCK_THREAD_CPUTIME_ID) == 1000
    assert now(guest, t, CLOCK_PROCESS_CPUTIME_ID) == 1200
    assert now(guest, t, ~other.tid << 3 | 2) == 7  # clock_getcpuclockid(3)
    assert now(guest, t, ~thread.tid << 3 | 6) == 200  # pthread_getcpuclockid(3)
    assert now(guest, t, ~0 << 3 | 2) == 1200


@pytest.mark.parametrize("clock", [10, 12, 99, ~4000 << 3 | 2, ~1 << 3 | 3])
def test_unknown_clocks(guest, t, clock):
    with pytest.raises(EINVAL):
        now(guest, t, clock)


def test_the_cpu_clock_of_another_processs_thread_is_not_there(guest, t):
    with pytest.raises(EINVAL):
        now(guest, t, ~guest.process().tid << 3 | 6)


def test_resolution(guest, t):
    addr = t.mem.alloc(16)
    guest.call(t, calls.clock_getres, CLOCK_MONOTONIC, addr)
    assert read_ns(t, addr) == 1
    guest.call(t, calls.clock_getres, CLOCK_MONOTONIC_COARSE, addr)
    assert read_ns(t, addr) == 4_000_000
    assert guest.call(t, calls.clock_getres, CLOCK_MONOTONIC, 0) == 0


def test_old_forms(guest, t):
    addr, zone = t.mem.alloc(16), t.mem.alloc(8)
    guest.call(t, calls.gettimeofday, addr, zone)
    seconds, microseconds = struct.unpack("<qq", t.mem.read(addr, 16))
    assert abs(seconds - host.time()) < 2
    assert 0 <= microseconds < 10**6
    assert guest.call(t, calls.time, addr) == int.from_bytes(t.mem.read(addr, 8), "little")


def test_times_counts_ticks(guest, t):
    addr = t.mem.alloc(32)
    t.context.used_ns = 25_000_000
    t.tg.child_cpu_ns = (30_000_000, 10_000_000)

    guest.call(t, calls.times, addr)

    assert struct.unpack("<4q", t.mem.read(addr, 32)) == (2, 0, 3, 1)


def test_nobody_sets_the_clock(guest, t):
    with pytest.raises(EPERM):
        guest.call(t, calls.clock_settime, CLOCK_REALTIME, timespec(t, 5))
    with pytest.raises(EINVAL):
        guest.call(t, calls.clock_settime, CLOCK_MONOTONIC, timespec(t, 5))
    with pytest.raises(EPERM):
        guest.call(t, calls.settimeofday, timespec(t, 0), 0)
    with pytest.raises(EFAULT):
        guest.call(t, calls.settimeofday, 8, 0)


def test_adjtimex_reads_only(guest, t):
    addr = t.mem.alloc(208)
    assert guest.call(t, calls.adjtimex, addr) == 5
    assert int.from_bytes(t.mem.read(addr + 88, 8), "little") == 10_000  # tick
    t.mem.write(addr, b"\1")
    with pytest.raises(EPERM):
        guest.call(t, calls.adjtimex, addr)
    with pytest.raises(EOPNOTSUPP):
        guest.call(t, calls.clock_adjtime, CLOCK_MONOTONIC, addr)


class TestSleep:
    def test_takes_its_time(self, guest, t):
        start = host.monotonic_ns()
        assert guest.call(t, calls.nanosleep, timespec(t, 5_000_000), 0) == 0
        assert host.monotonic_ns() - start >= 5_000_000

    def test_absolute_time_in_the_past_is_no_sleep(self, guest, t):
        assert guest.call(t, calls.clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, timespec(t, 1), 0) == 0

    @pytest.mark.parametrize("clock", [CLOCK_REALTIME, CLOCK_BOOTTIME])
    def test_until_a_time(self, guest, t, clock):
        end = host.clock_gettime_ns(clock) + 3_000_000
        assert guest.call(t, calls.clock_nanosleep, clock, TIMER_ABSTIME, timespec(t, end), 0) == 0
        assert host.clock_gettime_ns(clock) >= end

    def test_a_signal_tells_the_rest_and_the_restart_keeps_the_end(self, guest, t):
        left = t.mem.alloc(16)
        sleeping = guest.start(t, calls.nanosleep, timespec(t, 20_000_000), left)
        guest.settle()
        t.tg.send_to(t, SigInfo(SIGUSR1))
        guest.settle()
        with pytest.raises(Interrupted) as interrupted:
            sleeping.value()
        assert interrupted.value.kind == ERESTART_RESTARTBLOCK
        assert 0 < read_ns(t, left) <= 20_000_000
        t.pending.discard(~0)

        again = interrupted.value.again
        assert again is not None
        assert guest.call(t, lambda t: again()) == 0

    def test_an_absolute_sleep_is_simply_issued_again(self, guest, t):
        end = host.monotonic_ns() + 60 * NSEC
        sleeping = guest.start(t, calls.clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, timespec(t, end), 0)
        guest.settle()
        t.tg.send_to(t, SigInfo(SIGUSR1))
        guest.settle()

        with pytest.raises(Interrupted) as interrupted:
            sleeping.value()
        assert interrupted.value.kind == ERESTARTNOHAND

    def test_errors(self, guest, t):
        with pytest.raises(EINVAL):
            guest.call(t, calls.nanosleep, t.mem.put(struct.pack("<qq", 0, NSEC)), 0)
        with pytest.raises(EFAULT):
            guest.call(t, calls.nanosleep, 8, 0)
        with pytest.raises(EINVAL):
            guest.call(t, calls.clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, timespec(t, 1), 0)
        with pytest.raises(EOPNOTSUPP):
            guest.call(t, calls.clock_nanosleep, CLOCK_MONOTONIC_RAW, 0, timespec(t, 1), 0)

    def test_on_a_cpu_clock(self, guest, t):
        other = guest.process()
        sleeping = guest.start(t, calls.clock_nanosleep, ~other.tid << 3 | 2, 0, timespec(t, 1000), 0)
        guest.settle()
        assert not sleeping.done
        other.context.used_ns = 1000

        assert guest.finish(sleeping) == 0
