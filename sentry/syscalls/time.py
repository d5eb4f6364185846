"""Clocks and sleeping: clock_gettime(2), clock_nanosleep(2), gettimeofday(2), times(2) and their relatives."""

from __future__ import annotations

import struct
import time as host_time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

from sentry.abi.errno import EINVAL, EOPNOTSUPP, EPERM
from sentry.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_MONOTONIC,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME,
    CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID,
    FOREVER_NS,
    NSEC,
    TIMER_ABSTIME,
)
from sentry.kernel.blocking import sleep_until
from sentry.kernel.clocks import Clock, HostClock, clock_ticks, find_clock
from sentry.kernel.creds import CAP_SYS_TIME
from sentry.kernel.restart import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, Interrupted
from sentry.syscalls.args import I32_DECODE, Addr, Arg, flags_of, one_of
from sentry.syscalls.registry import syscall
from sentry.syscalls.times import pack_timespec, pack_timeval, read_timespec, read_timeval

if TYPE_CHECKING:
    from sentry.kernel.task import Task

CLOCK_NAMES: Final = {
    0: "CLOCK_REALTIME",
    1: "CLOCK_MONOTONIC",
    2: "CLOCK_PROCESS_CPUTIME_ID",
    3: "CLOCK_THREAD_CPUTIME_ID",
    4: "CLOCK_MONOTONIC_RAW",
    5: "CLOCK_REALTIME_COARSE",
    6: "CLOCK_MONOTONIC_COARSE",
    7: "CLOCK_BOOTTIME",
    8: "CLOCK_REALTIME_ALARM",
    9: "CLOCK_BOOTTIME_ALARM",
    11: "CLOCK_TAI",
}
ClockId = Annotated[int, Arg(I32_DECODE, one_of(CLOCK_NAMES))]
SleepFlags = Annotated[int, Arg(I32_DECODE, flags_of({TIMER_ABSTIME: "TIMER_ABSTIME"}))]

# clock_nanosleep(2) takes these; a thread's own CPU clock would never end.
SLEEPABLE: Final = (CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI, 8, 9)
SLEEP_SLICE_NS: Final = NSEC  # how often an absolute sleep on a clock that can be set looks at it

TIMEZONE: Final = struct.Struct("<ii")
TMS: Final = struct.Struct("<qqqq")
# struct timex: modes offset freq maxerror esterror status constant precision tolerance time tick ... tai
TIMEX: Final = struct.Struct("<IxxxxqqqqixxxxqqqqqqqqixxxxqqqqqI44x")
STA_UNSYNC: Final = 0x40
TIME_ERROR: Final = 5
ADJ_OFFSET_SS_READ: Final = 0xA001


# -- what time is it --


@syscall
def clock_gettime(t: Task, clock: ClockId, addr: Addr) -> int:
    """clock_gettime(2).  Errors: EINVAL, EFAULT."""
    t.mem.write(addr, pack_timespec(find_clock(t, clock).now_ns()))
    return 0


@syscall
def clock_getres(t: Task, clock: ClockId, addr: Addr) -> int:
    """clock_getres(2).  Errors: EINVAL, EFAULT."""
    resolution_ns = find_clock(t, clock).resolution_ns
    if addr:
        t.mem.write(addr, pack_timespec(resolution_ns))
    return 0


@syscall
def gettimeofday(t: Task, addr: Addr, zone_addr: Addr) -> int:
    """gettimeofday(2); the kernel's time zone is UTC."""
    if addr:
        t.mem.write(addr, pack_timeval(host_time.time_ns()))
    if zone_addr:
        t.mem.write(zone_addr, TIMEZONE.pack(0, 0))
    return 0


@syscall
def time(t: Task, addr: Addr) -> int:
    """time(2)."""
    now = host_time.time_ns() // NSEC
    if addr:
        t.mem.write(addr, now.to_bytes(8, "little"))
    return now


@syscall
def times(t: Task, addr: Addr) -> int:
    """times(2): CPU times in clock ticks; returns the ticks since boot."""
    if addr:
        user_ns, system_ns = t.tg.cpu_ns()
        child_user_ns, child_system_ns = t.tg.child_cpu_ns
        ticks = (clock_ticks(ns) for ns in (user_ns, system_ns, child_user_ns, child_system_ns))
        t.mem.write(addr, TMS.pack(*ticks))
    return clock_ticks(t.kernel.loop.now_ns())


# -- setting: nobody may --


def _refuse_to_set(t: Task) -> int:
    """EPERM: even with CAP_SYS_TIME, for the clock is the host's."""
    raise EPERM("the clocks are the host's" if t.creds.has(CAP_SYS_TIME) else "")


@syscall(gaps="always EPERM: the clocks are the host's")
def clock_settime(t: Task, clock: ClockId, addr: Addr) -> int:
    """clock_settime(2).  Errors: EINVAL, EFAULT, EPERM."""
    if clock != CLOCK_REALTIME:
        find_clock(t, clock)
        raise EINVAL("not a clock that can be set")
    read_timespec(t, addr)
    return _refuse_to_set(t)


@syscall(gaps="always EPERM: the clocks are the host's")
def settimeofday(t: Task, addr: Addr, zone_addr: Addr) -> int:
    """settimeofday(2).  Errors: EFAULT, EINVAL, EPERM."""
    if addr:
        read_timeval(t, addr)
    if zone_addr:
        t.mem.read(zone_addr, TIMEZONE.size)
    return _refuse_to_set(t)


@syscall(gaps="reads only: adjusting fails with EPERM")
def adjtimex(t: Task, addr: Addr) -> int:
    """adjtimex(2).  The state told is that of a clock nobody disciplines.  Errors: EFAULT, EPERM."""
    modes = TIMEX.unpack(t.mem.read(addr, TIMEX.size))[0]
    if modes and modes != ADJ_OFFSET_SS_READ:
        raise EPERM("the clocks are the host's")
    seconds, rest = divmod(host_time.time_ns(), NSEC)
    state = (0, 0, 0, 16_000_000, 16_000_000, STA_UNSYNC, 2, 1, 32_768_000, seconds, rest // 1000, 10_000)
    t.mem.write(addr, TIMEX.pack(*state, *[0] * 9))
    return TIME_ERROR


@syscall(gaps="reads only: adjusting fails with EPERM")
def clock_adjtime(t: Task, clock: ClockId, addr: Addr) -> int:
    """clock_adjtime(2).  Errors: EINVAL, EOPNOTSUPP, as adjtimex(2)."""
    find_clock(t, clock)
    if clock != CLOCK_REALTIME:
        raise EOPNOTSUPP
    return adjtimex(t, addr)


# -- sleeping --


async def _sleep(t: Task, clock: Clock, end_ns: int, left_addr: int) -> int:
    """Until end_ns on clock, relative form: tells what is left, and goes on after a stop."""
    try:
        await _sleep_on(t, clock, end_ns, ERESTART_RESTARTBLOCK)
    except Interrupted:
        if left_addr:
            t.mem.write(left_addr, pack_timespec(max(end_ns - clock.now_ns(), 0)))
        raise Interrupted(ERESTART_RESTARTBLOCK, lambda: _sleep(t, clock, end_ns, left_addr)) from None
    return 0


async def _sleep_absolute(t: Task, clock: Clock, end_ns: int) -> int:
    await _sleep_on(t, clock, end_ns, ERESTARTNOHAND)
    return 0


async def _sleep_on(t: Task, clock: Clock, end_ns: int, kind: int) -> None:
    """In slices if the clock may do anything else than run at the loop's pace."""
    loop = t.kernel.loop
    steady = isinstance(clock, HostClock) and clock.number == CLOCK_MONOTONIC
    while True:
        left_ns = end_ns - clock.now_ns()
        if left_ns <= 0:
            return
        wait_ns = clock.wait_ns(left_ns)
        await sleep_until(t, loop.now_ns() + (wait_ns if steady else min(wait_ns, SLEEP_SLICE_NS)), kind)


@syscall
def nanosleep(t: Task, addr: Addr, left_addr: Addr) -> Coroutine[Any, Any, int]:
    """nanosleep(2).

    Linux: kernel/time/hrtimer.c:hrtimer_nanosleep
    Blocks: until the time is over or a signal comes; left_addr then gets the rest
    Errors: EFAULT, EINVAL, EINTR
    """
    return _relative(t, find_clock(t, CLOCK_MONOTONIC), read_timespec(t, addr), left_addr)


def _relative(t: Task, clock: Clock, duration_ns: int, left_addr: int) -> Coroutine[Any, Any, int]:
    return _sleep(t, clock, min(clock.now_ns() + duration_ns, FOREVER_NS), left_addr)


@syscall
def clock_nanosleep(
    t: Task, clock: ClockId, flags: SleepFlags, addr: Addr, left_addr: Addr
) -> Coroutine[Any, Any, int]:
    """clock_nanosleep(2): sleep on a clock, for a while or (TIMER_ABSTIME) until a time.

    Errors: EINVAL no such clock, or the own thread's CPU clock; EOPNOTSUPP; EFAULT; EINTR
    """
    chosen = find_clock(t, clock)
    if clock == CLOCK_THREAD_CPUTIME_ID:
        raise EINVAL("the own CPU clock stands still")
    if clock >= 0 and clock != CLOCK_PROCESS_CPUTIME_ID and clock not in SLEEPABLE:
        raise EOPNOTSUPP("not a clock to sleep on")
    request_ns = read_timespec(t, addr)
    if flags & TIMER_ABSTIME:
        return _sleep_absolute(t, chosen, request_ns)
    # A relative sleep is not affected by setting the clock.
    if clock in SLEEPABLE:
        chosen = find_clock(t, CLOCK_MONOTONIC)
    return _relative(t, chosen, request_ns, left_addr)
