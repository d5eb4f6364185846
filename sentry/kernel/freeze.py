"""Freezing the tasks of a container: what the cgroup freezer does, with its rules (kernel/cgroup/freezer.c).

A frozen task runs no application code and gets no call answered.  Tasks freeze where they can be left for as long as
it takes: on the way back to application code (delivery.handle_attention), and in waits that a signal may end.  One
that is in any other wait, for the gofer say, goes on until that is over, as Linux lets a task in uninterruptible sleep;
so it never holds a lock of the kernel's while it is frozen.

Time goes on.  What a task waited for may happen and its timers expire, but it hears of that when it is thawed; signals
stay pending.  Death is the exception: a task that must end leaves the freezer for that.
"""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from sentry.wait import Event

if TYPE_CHECKING:
    from sentry.kernel.container import Container
    from sentry.kernel.task import Task
    from sentry.wait import Loop

PATIENCE_NS: Final = 5_000_000_000


class Freezer:
    """The freezer of one container.

    moving    tasks that are yet to come to rest, while the container is being frozen
    held      tasks at rest that have something to do when they are thawed
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._loop: Loop = container.kernel.loop
        self._moving: set[Task] = set()
        self._held: set[Task] = set()
        self._settled = Event(self._loop)

    async def freeze(self, patience_ns: int = PATIENCE_NS) -> bool:
        """Freeze every task; False, and all run again, if one does not come to rest in time or resume() came first."""
        self._container.frozen = True
        settled = self._settled = Event(self._loop)
        for t in self._container.tasks():
            if not t.exiting:
                self._halt(t)
        if not self._moving:
            return True
        timer = self._loop.call_at(self._loop.now_ns() + patience_ns, settled.set)
        await settled.wait()
        timer.cancel()
        if settled is not self._settled:
            return False  # thawed, and frozen again by somebody else
        if self._moving:
            self.thaw()
        return self._container.frozen

    def thaw(self) -> None:
        """Let them run on; nothing if they do."""
        self._container.frozen = False
        self._moving.clear()
        self._settled.set()
        held, self._held = self._held, set()
        for t in held:
            self._loop.wake(t)

    def _halt(self, t: Task) -> None:
        t.attention = True
        if t.parked and not t.queued and (t.interruptible or t.killable or t.stopped):
            return
        self._moving.add(t)
        t.context.interrupt()

    # -- what tasks tell --

    def began(self, t: Task) -> None:
        """A task was made although the container is being frozen."""
        self._moving.add(t)
        t.attention = True

    def at_rest(self, t: Task) -> None:
        """t is where it can be left, or is gone."""
        if self._moving:
            self._moving.discard(t)
            if not self._moving:
                self._settled.set()

    def hold(self, t: Task) -> None:
        """t is at rest and wants to be woken when it may go on."""
        self._held.add(t)
        self.at_rest(t)

    def forget(self, t: Task) -> None:
        """t has ended."""
        self._held.discard(t)
        self.at_rest(t)


@types.coroutine
def park_freezably(t: Task) -> Generator[Any, Any, Any]:
    """park() in a wait that a signal may end: returns what the task was woken with, when it is not frozen."""
    container = t.container
    t.interruptible = True
    try:
        if container.frozen:
            container.freezer.at_rest(t)
        reason = yield None
        while container.frozen and not t.exiting:
            container.freezer.hold(t)
            yield None
        return reason
    finally:
        t.interruptible = False


@types.coroutine
def rest(t: Task) -> Generator[Any, Any, None]:
    """Stay, on the way to application code, until the container is thawed or the task must end."""
    container = t.container
    t.interruptible = True
    while container.frozen and not t.exiting:
        container.freezer.hold(t)
        yield None
    t.interruptible = False
