"""Work that must go on when nobody waits for it any more.

asyncio keeps only weak references to tasks; this keeps the strong ones.  A handler is cancelled when containerd's
connection ends (containerd restarts, for instance), but a container must not stay half made for that.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class Background:
    """The tasks of one shim that belong to no single request."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that lives until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def uninterrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work, which goes on to its end even if the waiter is cancelled."""
        return await asyncio.shield(self.spawn(work))

    async def settle(self, timeout_s: float) -> None:
        """Give the running tasks some time to end; the rest is cancelled."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waited has it too; if nobody did, this is the only trace.
            log.debug("background task: %r", error)
