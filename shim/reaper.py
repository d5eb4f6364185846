"""Collects the exit status of the shim's children, its own and those it inherits as a subreaper.

The `sandbox` package waits for the processes it forks while it makes or destroys a sandbox (OCI hooks, for instance); a
reaper that came first would take their status away.  Hence hold(): while any holder is inside, nothing is reaped.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Reaper:
    """Reaps on SIGCHLD.  Make it inside the running loop."""

    def __init__(self) -> None:
        self._holders = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Reap nothing until the block is left."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._reap()

    def watch(self, pid: int) -> asyncio.Future[None]:
        """A future that is resolved when the child has been reaped.  Call it right after the fork."""
        return self._waiting.setdefault(pid, asyncio.get_running_loop().create_future())

    def _reap(self) -> None:
        while not self._holders:
            try:
                pid, _status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self._waiting.pop(pid, None)
            if ended is not None and not ended.done():
                ended.set_result(None)
