"""POSIX timers, interval timers, alarm, timerfd."""

import struct

import pytest

from sentry.abi.errno import EAGAIN, EBADF, EFAULT, EINVAL, EOPNOTSUPP
from sentry.abi.fcntl import O_NONBLOCK
from sentry.abi.poll import POLLIN
from sentry.abi.signal import SI_TIMER, SIGALRM, SIGKILL, SIGRTMIN, SIGVTALRM, SIGXCPU, bit
from sentry.abi.time import (
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME,
    ITIMER_REAL,
    ITIMER_VIRTUAL,
    NSEC,
    SIGEV_NONE,
    SIGEV_SIGNAL,
    SIGEV_THREAD_ID,
    TIMER_ABSTIME,
)
from sentry.kernel.delivery import dequeue
from sentry.kernel.rlimits import RLIM_INFINITY, RLIMIT_CPU
from sentry.syscalls import timer as calls
from sentry.syscalls.pipe import pipe2
from sentry.syscalls.read_write import read
from sentry.syscalls.rlimit import setrlimit
from sentry.syscalls.time import nanosleep
from sentry.syscalls.timerfd import timerfd_create, timerfd_gettime, timerfd_settime

MS = 1_000_000


def spec(t, value_ns, interval_ns=0):
    return t.mem.put(struct.pack("<4q", *divmod(interval_ns, NSEC), *divmod(value_ns, NSEC)))


def unpack_spec(t, addr):
    """(value, interval) in ns."""
    fields = struct.unpack("<4q", t.mem.read(addr, 32))
    return fields[2] * NSEC + fields[3], fields[0] * NSEC + fields[1]


def sleep(guest, t, ns):
    """Real time passes: in a thread that takes no signals."""
    sleeper = guest.process()
    guest.call(sleeper, nanosleep, sleeper.mem.put(struct.pack("<qq", *divmod(ns, NSEC))), 0)


def taken(t):
    """The signal that was pending."""
    info = dequeue(t, ~0)
    assert info is not None
    return info


def create(guest, t, clock=CLOCK_MONOTONIC, notify=SIGEV_SIGNAL, signo=SIGRTMIN, value=0, tid=0):
    event = t.mem.put(struct.pack("<Qiii44x", value, signo, notify, tid))
    addr = t.mem.alloc(4)
    assert guest.call(t, calls.timer_create, clock, event, addr) == 0
    return int.from_bytes(t.mem.read(addr, 4), "little")


class TestPosixTimers:
    def test_a_signal_carries_the_value(self, guest, t):
        timer = create(guest, t, value=99)
        t.sigmask = bit(SIGRTMIN)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, 2 * MS), 0)

        sleep(guest, t, 6 * MS)

        info = taken(t)
        assert (info.signo, info.code, info.value, info.timer_id, info.overrun) == (SIGRTMIN, SI_TIMER, 99, timer, 0)

    def test_without_sigevent_it_is_sigalrm_with_the_id(self, guest, t):
        addr = t.mem.alloc(4)
        guest.call(t, calls.timer_create, CLOCK_MONOTONIC, 0, addr)
        t.sigmask = bit(SIGALRM)
        guest.call(t, calls.timer_settime, 0, 0, spec(t, 1), 0)

        sleep(guest, t, 2 * MS)

        info = taken(t)
        assert (info.signo, info.value) == (SIGALRM, 0)

    def test_overruns_are_counted_until_the_signal_is_taken(self, guest, t):
        timer = create(guest, t)
        t.sigmask = bit(SIGRTMIN)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, MS, MS), 0)

        sleep(guest, t, 10 * MS)

        info = taken(t)
        assert info.overrun >= 5
        assert guest.call(t, calls.timer_getoverrun, timer) == info.overrun
        assert t.tg.pending.mask == 0  # one signal, however many expirations

    def test_it_goes_on_after_the_signal_was_taken(self, guest, t):
        timer = create(guest, t)
        t.sigmask = bit(SIGRTMIN)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, MS, 2 * MS), 0)
        for _ in range(3):
            sleep(guest, t, 6 * MS)
            assert dequeue(t, ~0) is not None

    def test_a_thread_is_told_if_named(self, guest, t):
        thread = guest.thread(t)
        thread.sigmask = bit(SIGRTMIN)
        timer = create(guest, t, notify=SIGEV_SIGNAL | SIGEV_THREAD_ID, tid=thread.tid)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, 1), 0)
        sleep(guest, t, 2 * MS)

        assert thread.pending.mask == bit(SIGRTMIN)
        assert t.pending.mask == t.tg.pending.mask == 0

    def test_an_ignored_signal_does_not_stop_the_timer(self, guest, t):
        timer = create(guest, t, signo=17)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, MS, MS), 0)
        sleep(guest, t, 3 * MS)
        t.sigmask = bit(17)
        sleep(guest, t, 5 * MS)

        assert taken(t).signo == 17

    def test_without_notification_it_only_counts_down(self, guest, t):
        timer = create(guest, t, notify=SIGEV_NONE)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, 100 * NSEC, 5 * NSEC), 0)
        addr = t.mem.alloc(32)
        guest.call(t, calls.timer_gettime, timer, addr)

        left, interval = unpack_spec(t, addr)
        assert 99 * NSEC < left <= 100 * NSEC
        assert interval == 5 * NSEC

    def test_setting_returns_the_old_setting_and_zero_stops(self, guest, t):
        timer = create(guest, t)
        old = t.mem.alloc(32)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, 100 * NSEC), 0)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, 0), old)
        assert unpack_spec(t, old)[0] > 99 * NSEC

        guest.call(t, calls.timer_gettime, timer, old)
        assert unpack_spec(t, old) == (0, 0)

    def test_an_absolute_time_that_is_past_fires_at_once(self, guest, t):
        timer = create(guest, t, clock=CLOCK_REALTIME)
        t.sigmask = bit(SIGRTMIN)
        guest.call(t, calls.timer_settime, timer, TIMER_ABSTIME, spec(t, 1), 0)
        sleep(guest, t, MS)
        assert dequeue(t, ~0) is not None

    def test_on_cpu_time(self, guest, t):
        timer = create(guest, t, clock=CLOCK_PROCESS_CPUTIME_ID)
        t.sigmask = bit(SIGRTMIN)
        guest.call(t, calls.timer_settime, timer, 0, spec(t, 5 * MS), 0)
        sleep(guest, t, 8 * MS)
        assert dequeue(t, ~0) is None
        t.context.used_ns = 5 * MS
        sleep(guest, t, 8 * MS)
        assert dequeue(t, ~0) is not None

    def test_execve_deletes_them(self, guest, t):
        timer = create(guest, t)
        t.tg.timers.on_exec()
        with pytest.raises(EINVAL):
            guest.call(t, calls.timer_delete, timer)

    def test_errors(self, guest, t):
        with pytest.raises(EINVAL):
            create(guest, t, clock=77)
        with pytest.raises(EOPNOTSUPP):
            create(guest, t, clock=CLOCK_MONOTONIC_RAW)
        with pytest.raises(EINVAL):
            create(guest, t, notify=99)
        with pytest.raises(EINVAL):
            create(guest, t, signo=65)
        with pytest.raises(EINVAL):
            create(guest, t, notify=SIGEV_SIGNAL | SIGEV_THREAD_ID, tid=12345)
        with pytest.raises(EFAULT):
            guest.call(t, calls.timer_create, CLOCK_MONOTONIC, 0, 8)
        with pytest.raises(EINVAL):
            guest.call(t, calls.timer_delete, 0)


class TestIntervalTimers:
    def test_repeats(self, guest, t):
        t.sigmask = bit(SIGALRM)
        values = t.mem.put(struct.pack("<4q", 0, 2000, 0, 1000))
        guest.call(t, calls.setitimer, ITIMER_REAL, values, 0)
        for _ in range(2):
            sleep(guest, t, 5 * MS)
            assert taken(t).signo == SIGALRM

    def test_returns_the_old_one(self, guest, t):
        old = t.mem.alloc(32)
        guest.call(t, calls.setitimer, ITIMER_REAL, t.mem.put(struct.pack("<4q", 7, 0, 100, 0)), 0)
        guest.call(t, calls.setitimer, ITIMER_REAL, 0, old)
        assert struct.unpack("<4q", t.mem.read(old, 32))[:3] == (7, 0, 99)
        guest.call(t, calls.getitimer, ITIMER_REAL, old)
        assert t.mem.read(old, 32) == bytes(32)

    def test_virtual_time_is_cpu_time(self, guest, t):
        t.sigmask = bit(SIGVTALRM)
        guest.call(t, calls.setitimer, ITIMER_VIRTUAL, t.mem.put(struct.pack("<4q", 0, 0, 0, 5000)), 0)
        sleep(guest, t, 8 * MS)
        assert not t.tg.pending.mask
        t.context.used_ns = 5 * MS
        sleep(guest, t, 8 * MS)
        assert t.tg.pending.mask == bit(SIGVTALRM)

    def test_a_tiny_interval_does_not_hang_the_kernel(self, guest, t):
        t.sigmask = bit(SIGALRM)
        guest.call(t, calls.setitimer, ITIMER_REAL, t.mem.put(struct.pack("<4q", 0, 1, 0, 1)), 0)
        sleep(guest, t, 3 * MS)
        assert t.tg.pending.mask == bit(SIGALRM)

    def test_alarm_rounds_what_was_left(self, guest, t):
        assert guest.call(t, calls.alarm, 100) == 0
        assert guest.call(t, calls.alarm, 50) == 100
        assert guest.call(t, calls.alarm, 0) == 50
        assert guest.call(t, calls.alarm, 0) == 0

    def test_errors(self, guest, t):
        with pytest.raises(EINVAL):
            guest.call(t, calls.setitimer, 3, 0, 0)
        with pytest.raises(EINVAL):
            guest.call(t, calls.setitimer, ITIMER_REAL, t.mem.put(struct.pack("<4q", 0, 0, 0, 1000000)), 0)
        with pytest.raises(EFAULT):
            guest.call(t, calls.getitimer, ITIMER_REAL, 8)

    def test_they_end_with_the_process(self, guest, t):
        guest.call(t, calls.alarm, 1)
        t.tg.timers.on_exit()
        assert t.tg.timers.interval(ITIMER_REAL).left_ns() == 0


def test_the_cpu_limit_warns_then_kills(guest, t):
    t.sigmask = bit(SIGXCPU)
    guest.call(t, setrlimit, RLIMIT_CPU, t.mem.put(struct.pack("<QQ", 1, 2)))
    t.context.used_ns = NSEC
    sleep(guest, t, 3 * MS)
    # The countdown looks again when the time could be over; do not wait for it.
    t.tg.timers._cpu_limit._look()
    assert t.tg.pending.mask & bit(SIGXCPU)
    t.context.used_ns = 2 * NSEC
    t.tg.timers._cpu_limit._look()
    assert t.tg.exiting and t.tg.exit_code == SIGKILL
    assert RLIM_INFINITY not in t.tg.rlimits.get(RLIMIT_CPU)


class TestTimerfd:
    def test_a_stopped_one_remembers_its_interval(self, guest, t):
        fd = self.make(guest, t)
        guest.call(t, timerfd_settime, fd, 0, spec(t, 0, MS), 0)
        old = t.mem.alloc(32)
        guest.call(t, timerfd_gettime, fd, old)
        assert unpack_spec(t, old) == (0, MS)

    def make(self, guest, t, flags=0, clock=CLOCK_MONOTONIC):
        return guest.call(t, timerfd_create, clock, flags)

    def take(self, guest, t, fd):
        addr = t.mem.alloc(8)
        assert guest.call(t, read, fd, addr, 8) == 8
        return int.from_bytes(t.mem.read(addr, 8), "little")

    def test_a_read_waits_and_counts(self, guest, t):
        fd = self.make(guest, t)
        guest.call(t, timerfd_settime, fd, 0, spec(t, 2 * MS, MS), 0)
        assert self.take(guest, t, fd) >= 1
        sleep(guest, t, 6 * MS)
        assert self.take(guest, t, fd) >= 4

    def test_it_is_readable_when_it_has_expired(self, guest, t):
        fd = self.make(guest, t, O_NONBLOCK)
        file = t.files.get(fd)
        with pytest.raises(EAGAIN):
            self.take(guest, t, fd)
        guest.call(t, timerfd_settime, fd, 0, spec(t, MS), 0)
        assert file.poll() == 0
        sleep(guest, t, 3 * MS)
        assert file.poll() & POLLIN
        assert self.take(guest, t, fd) == 1
        assert file.poll() == 0

    def test_setting_forgets_what_has_expired(self, guest, t):
        fd = self.make(guest, t, O_NONBLOCK)
        guest.call(t, timerfd_settime, fd, 0, spec(t, 1), 0)
        sleep(guest, t, MS)
        old = t.mem.alloc(32)
        guest.call(t, timerfd_settime, fd, 0, spec(t, 100 * NSEC, 3), old)
        assert unpack_spec(t, old) == (0, 0)
        with pytest.raises(EAGAIN):
            self.take(guest, t, fd)
        guest.call(t, timerfd_gettime, fd, old)
        assert unpack_spec(t, old)[1] == 3

    def test_errors(self, guest, t):
        with pytest.raises(EINVAL):
            self.make(guest, t, clock=CLOCK_PROCESS_CPUTIME_ID)
        with pytest.raises(EINVAL):
            self.make(guest, t, flags=1 << 30)
        fd = self.make(guest, t)
        with pytest.raises(EINVAL):
            guest.call(t, timerfd_settime, fd, 64, spec(t, 1), 0)
        with pytest.raises(EBADF):
            guest.call(t, timerfd_gettime, 99, t.mem.alloc(32))
        pipe_addr = t.mem.alloc(8)
        guest.call(t, pipe2, pipe_addr, 0)
        with pytest.raises(EINVAL):
            guest.call(t, timerfd_gettime, fd + 1, t.mem.alloc(32))
