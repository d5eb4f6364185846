"""Waiting: the loop, jobs that it runs, wait queues, timers and the one place that parks.

The Sentry is one thread.  Everything that can wait is a coroutine run by a Job; a job
gives up the thread only in park(), and runs again after Loop.wake(job).  Code between two
awaits is atomic: a condition tested, and the waiter queued right after, cannot miss a
wake-up that falls between.

WaitQueue is Linux's wait_queue_head: whoever changes a state calls wake(events) with the
poll(2) events that became true; each Waiter whose mask has one of them is called back.
"""

from __future__ import annotations

import heapq
import logging
import select
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Final

from sentry.platform import Platform, Trap

log = logging.getLogger(__name__)

NEVER: Final = -1
READY: Final = object()  # what a job is woken with that waits in a queue
RUNNING: Final = object()  # Job.trapped: the trap was answered, the context runs on


class Waiter:
    """One interest in a wait queue: callback(events) for wake-ups that match mask."""

    __slots__ = ("callback", "mask")

    def __init__(self, mask: int, callback: Callable[[int], None]) -> None:
        self.mask = mask
        self.callback = callback


class WaitQueue:
    """Those who wait for a change of one object."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[Waiter] | None = None

    def add(self, waiter: Waiter) -> None:
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)

    def remove(self, waiter: Waiter) -> None:
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)

    def wake(self, events: int) -> None:
        waiters = self._waiters
        if not waiters:
            return
        if len(waiters) == 1:
            waiter = waiters[0]
            if waiter.mask & events:
                waiter.callback(events)
            return
        for waiter in waiters[:]:  # who is called may come and go
            if waiter.mask & events:
                waiter.callback(events)

    def __bool__(self) -> bool:
        """True if anybody waits."""
        return bool(self._waiters)


class Timer:
    """A callback at a time of the loop's monotonic clock, in ns.  Made by Loop.call_at."""

    __slots__ = ("callback", "deadline_ns")

    def __init__(self, deadline_ns: int, callback: Callable[[], None] | None) -> None:
        self.deadline_ns = deadline_ns
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None


class Job:
    """A coroutine that the loop runs.  `parked` is true while it waits for Loop.wake."""

    __slots__ = ("coro", "done", "name", "parked", "queued")

    def __init__(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        self.coro = coro
        self.name = name
        self.parked = False
        self.queued = False
        self.done = False

    def trapped(self, trap: Trap) -> Any:
        """Its context trapped: what the coroutine is to be resumed with, or RUNNING if that is to stay where it is."""
        return trap


@types.coroutine
def park() -> Generator[Any, Any, Any]:
    """Give up the thread until Loop.wake(job, value); returns value."""
    return (yield None)


async def breathe(loop: Loop) -> None:
    """Let everybody else run once, whoever trapped meanwhile included: for long work that is done in slices."""
    loop.resting.append(loop.current_job())
    await park()


class Event:
    """Something that happens once; any number of jobs may wait for it."""

    __slots__ = ("_jobs", "_loop", "is_set")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._jobs: list[Job] = []
        self.is_set = False

    def set(self) -> None:
        self.is_set = True
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            self._loop.wake(job)

    async def wait(self) -> None:
        """Wait until set() was called."""
        while not self.is_set:
            await self.wait_once()

    async def wait_once(self) -> None:
        """Wait until set() was called or something else wakes the job."""
        job = self._loop.current_job()
        self._jobs.append(job)
        try:
            await park()
        finally:
            if job in self._jobs:
                self._jobs.remove(job)


class Mutex:
    """Held by one job at a time, over its waits; the others are let in in the order in which they came.

    No signal ends the wait for it, so what is done under it must end by itself.
    """

    __slots__ = ("_loop", "_waiting", "held")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: deque[Job] = deque()
        self.held = False

    async def acquire(self) -> None:
        if not self.held:
            self.held = True
            return
        job = self._loop.current_job()
        self._waiting.append(job)
        while job in self._waiting:
            await park()

    def take(self) -> None:
        """acquire() for who knows that nobody holds it."""
        self.held = True

    def release(self) -> None:
        """Hand it to the next in line: it stays held until nobody waits."""
        if self._waiting:
            self._loop.wake(self._waiting.popleft())
        else:
            self.held = False

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


class Loop:
    """Runs jobs; between them, waits for traps, host descriptors and timers."""

    # After this many turns without looking at host descriptors, look.
    IO_EVERY: Final = 16

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        # The loop's clock, CLOCK_MONOTONIC.  A test may put another one here.
        self.now_ns: Callable[[], int] = time.monotonic_ns
        self.current: Job | None = None
        self._ready: deque[tuple[Job, Any]] = deque()
        self._timers: list[tuple[int, int, Timer]] = []
        self._timer_sequence = 0
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._stopping = False
        self._when_idle: Callable[[], object] = int
        self._idle_after_ns = NEVER
        self._idle_at_ns = 0
        self._patience_ns = NEVER  # how long to wait for something to happen; NEVER: no matter how long
        self.resting: list[Job] = []  # woken after the next look for traps: breathe()
        self.likely: Callable[[], bool] | None = None
        """What somebody waits for that will come soon: asked, when something came, before it is looked up what.

        True: this was it.  Whoever put it here takes it out.
        """
        platform.watch(self._epoll.fileno())

    # -- jobs --

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> Job:
        job = Job(coro, name)
        job.parked = True
        self.wake(job)
        return job

    def current_job(self) -> Job:
        assert self.current is not None, "only a job can wait"
        return self.current

    def wake(self, job: Job, value: Any = None) -> None:
        """Let a parked job run on; nothing if it runs or was woken already."""
        if job.parked and not job.queued and not job.done:
            job.queued = True
            self._ready.append((job, value))

    def _step(self, job: Job, value: Any) -> None:
        job.parked = job.queued = False
        self.current = job
        try:
            job.coro.send(value)
            job.parked = True
        except StopIteration:
            job.done = True
        except Exception:
            job.done = True
            log.exception("job %s died of a bug", job.name)
        finally:
            self.current = None

    # -- timers --

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        timer = Timer(deadline_ns, callback)
        self._timer_sequence += 1
        heapq.heappush(self._timers, (deadline_ns, self._timer_sequence, timer))
        return timer

    def _run_timers(self) -> int:
        """Run what is due; returns ns to the next timer, or as many as there is patience for."""
        timers = self._timers
        while timers:
            deadline, _, timer = timers[0]
            if timer.callback is None:
                heapq.heappop(timers)
                continue
            wait_ns = deadline - self.now_ns()
            if wait_ns > 0:
                return wait_ns if self._patience_ns == NEVER else min(wait_ns, self._patience_ns)
            heapq.heappop(timers)
            callback, timer.callback = timer.callback, None
            self._call(callback)
        return self._patience_ns

    # -- host descriptors --

    def watch_fd(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call handler(events) when the host descriptor has one of events (select.EPOLL*)."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def unwatch_fd(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _poll_fds(self) -> bool:
        """Whether there were any that have something to say."""
        ready = self._epoll.poll(0)
        for fd, events in ready:
            handler = self._handlers.get(fd)
            if handler is not None:
                self._call(handler, events)
        return bool(ready)

    # -- the loop itself --

    def _call(self, callback: Callable[..., object], *args: int) -> None:
        try:
            callback(*args)
        except Exception:
            log.exception("a callback failed: a bug")

    def stop(self) -> None:
        self._stopping = True

    def rest(self, after_ns: int, when_idle: Callable[[], object]) -> None:
        """Call when_idle whenever nothing has happened for so long; again, when some more has happened since."""
        self._idle_after_ns = self._patience_ns = after_ns
        self._idle_at_ns = self.now_ns() + after_ns
        self._when_idle = when_idle

    def _look_around(self, waited_ns: int, busy: bool) -> None:
        """Every now and then, and when there was no trap: at descriptors, and at whether anything happens at all."""
        if self._poll_fds() or busy:
            self._patience_ns = self._idle_after_ns
            self._idle_at_ns = self.now_ns() + self._idle_after_ns
        elif waited_ns == self._patience_ns != NEVER and self.now_ns() >= self._idle_at_ns:  # it may wake for nothing
            self._patience_ns = NEVER
            self._call(self._when_idle)

    def run(self) -> None:
        ready, timers, platform = self._ready, self._timers, self.platform
        before_io = self.IO_EVERY
        while not self._stopping:
            while ready:
                job, value = ready.popleft()
                self._step(job, value)
            timeout_ns = patience_ns = self._patience_ns
            if timers:
                deadline_ns, _, timer = timers[0]
                timeout_ns = deadline_ns - self.now_ns()
                if timeout_ns <= 0 or timer.callback is None:
                    timeout_ns = self._run_timers()
                elif timeout_ns > patience_ns != NEVER:
                    timeout_ns = patience_ns
            if ready or self._stopping:
                continue
            resting: Sequence[Job] = ()
            if self.resting:
                resting, self.resting, timeout_ns = self.resting, [], 0
            traps = platform.wait(timeout_ns)
            for context, trap in traps:
                job = context.owner
                if job is None:
                    continue
                self.current = job
                value = job.trapped(trap)
                self.current = None
                if value is not RUNNING:
                    self._step(job, value)
            if resting:
                for job in resting:
                    self.wake(job)
            before_io -= 1
            if not before_io or not (traps or (self.likely is not None and self.likely())):
                before_io = self.IO_EVERY
                self._look_around(timeout_ns, bool(traps))
