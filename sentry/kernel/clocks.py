"""Clocks by number, clock_gettime(2): those of the host, and CPU clocks of tasks and processes.

A CPU clock of somebody else has a negative number that holds his pid, as
clock_getcpuclockid(3) makes it: include/linux/posix-timers.h, CPUCLOCK.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from sentry.abi.errno import EINVAL
from sentry.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_COARSE,
    CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
    CLOCK_REALTIME_COARSE,
    CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID,
    COARSE_NS,
    NSEC,
)

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

CPU_TICK_NS: Final = 1_000_000  # how finely timers on CPU clocks are looked at

# Number -> the host clock that shows it.  The alarm clocks differ only in waking a sleeping machine.
_HOST: Final = {
    CLOCK_REALTIME: CLOCK_REALTIME,
    CLOCK_MONOTONIC: CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_RAW: CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME_COARSE: CLOCK_REALTIME_COARSE,
    CLOCK_MONOTONIC_COARSE: CLOCK_MONOTONIC_COARSE,
    CLOCK_BOOTTIME: CLOCK_BOOTTIME,
    CLOCK_REALTIME_ALARM: CLOCK_REALTIME,
    CLOCK_BOOTTIME_ALARM: CLOCK_BOOTTIME,
    CLOCK_TAI: CLOCK_TAI,
}
_COARSE: Final = (CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE)

_CPU_PER_THREAD: Final = 4
_CPU_PROF, _CPU_VIRT, _CPU_SCHED = range(3)


class Clock(Protocol):
    """Something that says how late it is."""

    def now_ns(self) -> int: ...

    def wait_ns(self, left_ns: int) -> int:
        """How long at least it takes, in real time, until left_ns have passed on this clock."""

    @property
    def resolution_ns(self) -> int: ...


class HostClock:
    """One of the host's clocks; the vDSO in application memory shows the same."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def now_ns(self) -> int:
        return time.clock_gettime_ns(_HOST[self.number])

    def wait_ns(self, left_ns: int) -> int:
        return left_ns

    @property
    def resolution_ns(self) -> int:
        return COARSE_NS if self.number in _COARSE else 1


class ThreadClock:
    """CPU time of one thread."""

    __slots__ = ("t",)

    resolution_ns = 1

    def __init__(self, t: Task) -> None:
        self.t = t

    def now_ns(self) -> int:
        return self.t.cpu_ns

    def wait_ns(self, left_ns: int) -> int:
        return max(left_ns, CPU_TICK_NS)


class ProcessClock:
    """CPU time of a process: user and system time, or (user_only) user time alone."""

    __slots__ = ("tg", "user_only")

    resolution_ns = 1

    def __init__(self, tg: ThreadGroup, user_only: bool = False) -> None:
        self.tg = tg
        self.user_only = user_only

    def now_ns(self) -> int:
        user_ns, system_ns = self.tg.cpu_ns()
        return user_ns if self.user_only else user_ns + system_ns

    def wait_ns(self, left_ns: int) -> int:
        # With several threads it may run as many times faster than real time.
        return max(left_ns // max(len(self.tg.tasks), 1), CPU_TICK_NS)


HOST_CLOCKS: Final = {number: HostClock(number) for number in _HOST}


def find_clock(t: Task, number: int) -> Clock:
    """The clock with this number, as t sees it.  EINVAL."""
    host = HOST_CLOCKS.get(number)
    if host is not None:
        return host
    if number == CLOCK_PROCESS_CPUTIME_ID:
        return ProcessClock(t.tg)
    if number == CLOCK_THREAD_CPUTIME_ID:
        return ThreadClock(t)
    if number < 0:
        return _cpu_clock(t, number)
    raise EINVAL("no such clock")


def _cpu_clock(t: Task, number: int) -> Clock:
    """pid_for_clock(): a pid's clock; threads only of the own process.  EINVAL."""
    kind = number & 3
    pid = ~(number >> 3)
    if kind > _CPU_SCHED:
        raise EINVAL("clock of a device")
    if number & _CPU_PER_THREAD:
        thread = t.pidns.find(pid) if pid else t
        if thread is None or thread.tg is not t.tg:
            raise EINVAL("no such thread")
        return ThreadClock(thread)
    tg = t.pidns.find_tg(pid) if pid else t.tg
    if tg is None and pid == t.tid:
        tg = t.tg
    if tg is None:
        raise EINVAL("no such process")
    return ProcessClock(tg, kind == _CPU_VIRT)


def clock_ticks(ns: int) -> int:
    """In units of USER_HZ: times(2), /proc/PID/stat."""
    return ns // (NSEC // 100)
