"""timer_create(2) and its family, setitimer(2), alarm(2).  The timers are sentry/kernel/timers.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EFAULT, EINVAL, EOPNOTSUPP
from sentry.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_MONOTONIC,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME,
    CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID,
    ITIMER_REAL,
    ITIMERSPEC,
    ITIMERVAL,
    NSEC,
    SIGEV_NONE,
    SIGEV_SIGNAL,
    SIGEV_THREAD,
    SIGEV_THREAD_ID,
    SIGEVENT,
    TIMER_ABSTIME,
    USEC,
)
from sentry.kernel.clocks import find_clock
from sentry.kernel.timers import Countdown, PosixTimer, timers_of
from sentry.syscalls.args import I32, I32_DECODE, U32, Addr, Arg, flags_of, one_of
from sentry.syscalls.registry import syscall
from sentry.syscalls.time import ClockId
from sentry.syscalls.times import timespec_ns, timeval_ns

if TYPE_CHECKING:
    from sentry.kernel.task import Task

# Clocks with timers; the coarse and raw ones and those that wake the machine (it has no such device) have none.
TIMER_CLOCKS: Final = (
    CLOCK_REALTIME,
    CLOCK_MONOTONIC,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_THREAD_CPUTIME_ID,
    CLOCK_BOOTTIME,
    CLOCK_TAI,
)
INT_MAX: Final = 0x7FFFFFFF
Which = Annotated[int, Arg(I32_DECODE, one_of({0: "ITIMER_REAL", 1: "ITIMER_VIRTUAL", 2: "ITIMER_PROF"}))]
SetFlags = Annotated[int, Arg(I32_DECODE, flags_of({TIMER_ABSTIME: "TIMER_ABSTIME"}))]


# -- POSIX timers --


@syscall
def timer_create(t: Task, clock: ClockId, event_addr: Addr, id_addr: Addr) -> int:
    """timer_create(2): a timer that is not set yet.

    Linux: kernel/time/posix-timers.c:do_timer_create
    Errors: EFAULT; EINVAL no such clock, bad struct sigevent; EOPNOTSUPP; EAGAIN
    """
    event = SIGEVENT.unpack(t.mem.read(event_addr, SIGEVENT.size)) if event_addr else None
    chosen = find_clock(t, clock)
    if clock >= 0 and clock not in TIMER_CLOCKS:
        raise EOPNOTSUPP("no timers on this clock")
    if event is None:
        timer = PosixTimer(t.tg, chosen, SIGEV_SIGNAL, sig.SIGALRM, 0, None)
    else:
        value, signo, notify, tid = event
        timer = PosixTimer(t.tg, chosen, notify, signo, value, _check_event(t, signo, notify, tid))
    timers = timers_of(t.tg)
    timer_id = timers.add(timer)
    if event is None:
        timer.value = timer_id
    try:
        t.mem.write(id_addr, timer_id.to_bytes(4, "little"))
    except EFAULT:
        timers.delete(timer_id)
        raise
    return 0


def _check_event(t: Task, signo: int, notify: int, tid: int) -> Task | None:
    """good_sigevent(): the thread to be told, if one is named.  EINVAL."""
    target = None
    if notify == SIGEV_SIGNAL | SIGEV_THREAD_ID:
        target = t.pidns.find(tid)
        if target is None or target.tg is not t.tg:
            raise EINVAL("sigev_notify_thread_id")
    elif notify not in (SIGEV_SIGNAL, SIGEV_THREAD, SIGEV_NONE):
        raise EINVAL("sigev_notify")
    if notify != SIGEV_NONE and not 1 <= signo <= sig.NSIG:
        raise EINVAL("sigev_signo")
    return target


def pack_itimerspec(countdown: Countdown) -> bytes:
    """struct itimerspec: the interval, and what is left."""
    return ITIMERSPEC.pack(*divmod(countdown.interval_ns, NSEC), *divmod(countdown.left_ns(), NSEC))


def read_itimerspec(t: Task, addr: int) -> tuple[int, int]:
    """(value, interval) in ns.  EFAULT, EINVAL."""
    fields = ITIMERSPEC.unpack(t.mem.read(addr, ITIMERSPEC.size))
    return timespec_ns(*fields[2:]), timespec_ns(*fields[:2])


@syscall
def timer_settime(t: Task, timer_id: I32, flags: SetFlags, new_addr: Addr, old_addr: Addr) -> int:
    """timer_settime(2): set or (value 0) stop a timer.  Errors: EINVAL, EFAULT."""
    if not new_addr:
        raise EINVAL
    value_ns, interval_ns = read_itimerspec(t, new_addr)
    timer = timers_of(t.tg).get(timer_id)
    old = pack_itimerspec(timer.countdown)
    timer.set(value_ns, interval_ns, bool(flags & TIMER_ABSTIME))
    if old_addr:
        t.mem.write(old_addr, old)
    return 0


@syscall
def timer_gettime(t: Task, timer_id: I32, addr: Addr) -> int:
    """timer_gettime(2).  Errors: EINVAL, EFAULT."""
    t.mem.write(addr, pack_itimerspec(timers_of(t.tg).get(timer_id).countdown))
    return 0


@syscall
def timer_getoverrun(t: Task, timer_id: I32) -> int:
    """timer_getoverrun(2).  Errors: EINVAL."""
    return timers_of(t.tg).get(timer_id).overrun


@syscall
def timer_delete(t: Task, timer_id: I32) -> int:
    """timer_delete(2).  Errors: EINVAL."""
    timers_of(t.tg).delete(timer_id)
    return 0


# -- interval timers --


def _pack_itimerval(countdown: Countdown) -> bytes:
    interval_s, interval_rest = divmod(countdown.interval_ns, NSEC)
    # Less than a microsecond left is not "not set".
    left_ns = countdown.left_ns()
    left_s, left_rest = divmod(max(left_ns, 1000) if left_ns else 0, NSEC)
    return ITIMERVAL.pack(interval_s, interval_rest // 1000, left_s, left_rest // 1000)


@syscall
def getitimer(t: Task, which: Which, addr: Addr) -> int:
    """getitimer(2).  Errors: EINVAL, EFAULT."""
    t.mem.write(addr, _pack_itimerval(timers_of(t.tg).interval(which)))
    return 0


@syscall
def setitimer(t: Task, which: Which, new_addr: Addr, old_addr: Addr) -> int:
    """setitimer(2); no new value stops the timer.  Errors: EFAULT, EINVAL."""
    value_ns = interval_ns = 0
    if new_addr:
        fields = ITIMERVAL.unpack(t.mem.read(new_addr, ITIMERVAL.size))
        interval_ns, value_ns = timeval_ns(*fields[:2]), timeval_ns(*fields[2:])
    countdown = timers_of(t.tg).interval(which)
    old = _pack_itimerval(countdown)
    countdown.set(value_ns, interval_ns)
    if old_addr:
        t.mem.write(old_addr, old)
    return 0


@syscall
def alarm(t: Task, seconds: U32) -> int:
    """alarm(2): SIGALRM in that many seconds; returns what was left of the last one, rounded."""
    countdown = timers_of(t.tg).interval(ITIMER_REAL)
    left_ns = countdown.left_ns()
    countdown.set(min(seconds, INT_MAX) * NSEC, 0)
    left, rest = divmod(left_ns // 1000, USEC)
    return left + (rest >= USEC // 2 or (not left and rest > 0))
