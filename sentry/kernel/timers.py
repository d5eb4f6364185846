"""Timers of a process: timer_create(2), setitimer(2), alarm(2); and what timerfd(2) is made of.

Countdown is the one mechanism: a deadline on a clock, an interval, and a callback through the
loop's timers.  After it ran down it stands still until forward() counts the intervals that
have passed and winds it up again, so that a timer nobody looks at costs nothing (Linux does
the same: kernel/time/posix-timers.c:posixtimer_rearm).

On a CPU clock a countdown can only look again when the time could be over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN, EINVAL
from sentry.abi.time import (
    CLOCK_MONOTONIC,
    FOREVER_NS,
    ITIMER_PROF,
    ITIMER_REAL,
    ITIMER_VIRTUAL,
    NSEC,
    SIGEV_NONE,
)
from sentry.kernel.clocks import HOST_CLOCKS, Clock, ProcessClock
from sentry.kernel.rlimits import RLIM_INFINITY, RLIMIT_CPU, RLIMIT_SIGPENDING
from sentry.kernel.signals import SigInfo
from sentry.wait import Loop, Timer

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

OVERRUN_MAX: Final = 0x7FFFFFFF
# A timer whose signal nobody takes does not come round more often than this.
UNHEARD_INTERVAL_NS: Final = 1_000_000
SHORTEST_INTERVAL_NS: Final = 50_000

# which -> signal
ITIMER_SIGNALS: Final = {
    ITIMER_REAL: sig.SIGALRM,
    ITIMER_VIRTUAL: sig.SIGVTALRM,
    ITIMER_PROF: sig.SIGPROF,
}


class Countdown:
    """deadline_ns is 0 when it is not set; on_end runs each time it has run down."""

    __slots__ = ("_loop", "_timer", "clock", "deadline_ns", "interval_ns", "on_end")

    def __init__(self, loop: Loop, clock: Clock, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._timer: Timer | None = None
        self.clock = clock
        self.deadline_ns = 0
        self.interval_ns = 0
        self.on_end = on_end

    def set(self, value_ns: int, interval_ns: int, absolute: bool = False) -> None:
        """Run down in value_ns, or at that time; 0 stops it."""
        self.stop()
        if value_ns:
            self.interval_ns = interval_ns
            deadline_ns = value_ns if absolute else self.clock.now_ns() + value_ns
            self.deadline_ns = max(min(deadline_ns, FOREVER_NS), 1)
            self._wind()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.deadline_ns = self.interval_ns = 0

    def _wind(self, at_least_ns: int = 0) -> None:
        left_ns = max(self.deadline_ns - self.clock.now_ns(), 0)
        wait_ns = max(self.clock.wait_ns(left_ns), at_least_ns) if left_ns else at_least_ns
        self._timer = self._loop.call_at(self._loop.now_ns() + wait_ns, self._look)

    def _look(self) -> None:
        """The loop's timer fired; the clock may have another opinion (it was set, or counts CPU time)."""
        self._timer = None
        if self.clock.now_ns() < self.deadline_ns:
            self._wind()
            return
        if not self.interval_ns:
            self.deadline_ns = 0
        self.on_end()

    def forward(self, at_least_ns: int = 0) -> int:
        """Past its deadline: wind up for the next one that is to come; how many were passed.

        at_least_ns: not before that much real time.
        """
        if not self.interval_ns or self._timer is not None:
            return 0
        late_ns = self.clock.now_ns() - self.deadline_ns
        if late_ns < 0:
            self._wind(at_least_ns)
            return 0
        passed = 1 + late_ns // self.interval_ns
        self.deadline_ns = min(self.deadline_ns + passed * self.interval_ns, FOREVER_NS)
        self._wind(at_least_ns)
        return passed

    def left_ns(self) -> int:
        """Time to the (next) end; 0 if it is not set."""
        if not self.deadline_ns:
            return 0
        late_ns = self.clock.now_ns() - self.deadline_ns
        if late_ns < 0:
            return -late_ns
        # Due but not seen yet: 1, so as not to look like a timer that is not set.
        return self.interval_ns - late_ns % self.interval_ns if self.interval_ns else 1


class PosixTimer:
    """A timer of timer_create(2).

    overrun       of the last signal that was taken: timer_getoverrun(2)
    _sent         its signal, until that is taken
    """

    __slots__ = ("_sent", "countdown", "id", "notify", "overrun", "signo", "target", "tg", "value")

    def __init__(self, tg: ThreadGroup, clock: Clock, notify: int, signo: int, value: int, target: Task | None) -> None:
        self.tg = tg
        self.id = -1
        self.notify = notify
        self.signo = signo
        self.value = value
        self.target = target  # SIGEV_THREAD_ID
        self.overrun = 0
        self._sent: SigInfo | None = None
        self.countdown = Countdown(tg.kernel.loop, clock, self._ended)

    def set(self, value_ns: int, interval_ns: int, absolute: bool) -> None:
        self._sent = None
        self.overrun = 0
        self.countdown.set(value_ns, interval_ns, absolute)

    def _ended(self) -> None:
        if self.notify == SIGEV_NONE:
            return
        info = SigInfo(self.signo, sig.SI_TIMER, value=self.value, timer_id=self.id, timer=self)
        target = self.target
        if target is None:
            self.tg.send_signal(info)
            pending = self.tg.pending
        elif target.exiting or target not in self.tg.tasks:
            return
        else:
            self.tg.send_to(target, info)
            pending = target.pending
        if pending.holds(info):
            self._sent = info
        else:
            # Ignored, or lost among others of its number: nobody will ask for the next one.
            self.countdown.forward(UNHEARD_INTERVAL_NS)

    def signal_taken(self, info: SigInfo) -> None:
        """Its signal is about to be delivered: count what was missed meanwhile, and go on."""
        if info is not self._sent:
            return
        self._sent = None
        passed = self.countdown.forward()
        self.overrun = info.overrun = min(max(passed - 1, 0), OVERRUN_MAX)


class ProcessTimers:
    """All timers of one process.  They are not inherited by its children."""

    __slots__ = ("_cpu_limit", "_intervals", "_next_id", "_posix", "tg")

    def __init__(self, tg: ThreadGroup) -> None:
        self.tg = tg
        self._posix: dict[int, PosixTimer] = {}
        self._next_id = 0
        self._intervals: dict[int, Countdown] = {}
        self._cpu_limit: Countdown | None = None

    # -- timer_create(2) --

    def add(self, timer: PosixTimer) -> int:
        """EAGAIN: too many; each one may need a place among the pending signals."""
        if len(self._posix) >= self.tg.rlimits.get(RLIMIT_SIGPENDING)[0]:
            raise EAGAIN
        timer.id = self._next_id
        self._next_id += 1
        self._posix[timer.id] = timer
        return timer.id

    def get(self, timer_id: int) -> PosixTimer:
        """EINVAL: there is none."""
        timer = self._posix.get(timer_id)
        if timer is None:
            raise EINVAL("no such timer")
        return timer

    def delete(self, timer_id: int) -> None:
        """EINVAL: there is none."""
        self.get(timer_id).set(0, 0, False)
        del self._posix[timer_id]

    # -- setitimer(2) --

    def interval(self, which: int) -> Countdown:
        """ITIMER_*.  EINVAL: there is no such timer."""
        countdown = self._intervals.get(which)
        if countdown is None:
            countdown = Countdown(self.tg.kernel.loop, self._interval_clock(which), lambda: self._interval_ended(which))
            self._intervals[which] = countdown
        return countdown

    def _interval_clock(self, which: int) -> Clock:
        if which == ITIMER_REAL:
            return HOST_CLOCKS[CLOCK_MONOTONIC]
        if which not in ITIMER_SIGNALS:
            raise EINVAL("no such timer")
        return ProcessClock(self.tg, user_only=which == ITIMER_VIRTUAL)

    def _interval_ended(self, which: int) -> None:
        signo = ITIMER_SIGNALS[which]
        unheard = self.tg.pending.mask & sig.bit(signo)
        self.tg.send_kernel_signal(signo)
        self._intervals[which].forward(UNHEARD_INTERVAL_NS if unheard else SHORTEST_INTERVAL_NS)

    # -- RLIMIT_CPU --

    def watch_cpu_limit(self) -> None:
        """SIGXCPU each second from the soft limit on, SIGKILL at the hard one: setrlimit(2)."""
        soft_s = self.tg.rlimits.get(RLIMIT_CPU)[0]
        if self._cpu_limit is None:
            self._cpu_limit = Countdown(self.tg.kernel.loop, ProcessClock(self.tg), self._cpu_limit_reached)
        if soft_s == RLIM_INFINITY:
            self._cpu_limit.stop()
        else:
            self._cpu_limit.set(max(soft_s, 1) * NSEC, NSEC, absolute=True)

    def _cpu_limit_reached(self) -> None:
        countdown = self._cpu_limit
        assert countdown is not None
        if countdown.clock.now_ns() >= self.tg.rlimits.get(RLIMIT_CPU)[1] * NSEC:
            self.tg.send_kernel_signal(sig.SIGKILL)
            return
        self.tg.send_kernel_signal(sig.SIGXCPU)
        countdown.forward()

    # -- the process's life --

    def on_exec(self) -> None:
        """execve(2): POSIX timers are gone; interval timers stay."""
        for timer_id in list(self._posix):
            self.delete(timer_id)

    def on_exit(self) -> None:
        self.on_exec()
        for countdown in self._intervals.values():
            countdown.stop()
        if self._cpu_limit is not None:
            self._cpu_limit.stop()


def timers_of(tg: ThreadGroup) -> ProcessTimers:
    """The timers of a process, made when they are first asked for."""
    if tg.timers is None:
        tg.timers = ProcessTimers(tg)
    return tg.timers


def watch_inherited_limit(tg: ThreadGroup) -> None:
    """For a new process: its CPU limit, unlike its parent's timers, is its own from the start."""
    if tg.rlimits.get(RLIMIT_CPU)[0] != RLIM_INFINITY:
        timers_of(tg).watch_cpu_limit()
