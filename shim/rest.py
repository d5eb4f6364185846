"""What a shim does when there is nothing to do: give back memory (sandbox/common_heap.py).

Most shims have nothing to do for almost all of their lives: their containers run, and nobody asks.
"""

import selectors
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sandbox import common_heap

P = ParamSpec("P")
T = TypeVar("T")


class Workers(ThreadPoolExecutor):
    """An executor that knows whether its threads have work."""

    def __init__(self, max_threads: int) -> None:
        super().__init__(max_threads)
        self._unfinished: set[Future[object]] = set()

    @property
    def are_idle(self) -> bool:
        """All threads wait for work, or are on their way there, which is a matter of microseconds."""
        return not self._unfinished

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        future = super().submit(fn, *args, **kwargs)
        self._unfinished.add(future)  # type: ignore[arg-type]
        future.add_done_callback(self._unfinished.discard)
        return future


class RestingSelector(selectors.EpollSelector):
    """Waits for what an event loop waits for, and goes back to the common pages when nothing has come for a while."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        patience_s = common_heap.PATIENCE_S
        if timeout is not None and timeout <= patience_s:
            return super().select(timeout)
        if ready := super().select(patience_s):
            return ready
        if self._workers.are_idle:  # an end of theirs would have been an event
            common_heap.go_back()
        return super().select(None if timeout is None else timeout - patience_s)
