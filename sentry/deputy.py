"""The deputy of a container (proto.control.DEPUTY): a process of the host's, outside of here, that ends as it ends."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

from sentry.wait import Loop

SETTLE_NS: Final = 20_000_000
"""From the container's end to the deputy's: what its terminal has still to show is shown."""


class Deputy:
    """The Sentry's end of the socket, which is this object's to close."""

    def __init__(self, loop: Loop, fd: int, signalled: Callable[[int], None], lost: Callable[[], None]) -> None:
        """signalled: to be called with the number of each signal that it gets; lost: once if somebody kills it."""
        self._loop = loop
        self._fd = fd
        self._signalled = signalled
        self._lost = lost
        loop.watch_fd(fd, select.EPOLLIN, self._readable)

    def end(self, status: int) -> None:
        """Let it end with the container's status, a moment later.  Idempotent."""
        if self._fd < 0:
            return
        try:
            os.write(self._fd, bytes([status & 0xFF]))
        except OSError:  # somebody has killed it
            self._close()
            return
        self._loop.call_at(self._loop.now_ns() + SETTLE_NS, self._close)

    def _readable(self, events: int) -> None:
        try:
            signals = os.read(self._fd, 64)
        except OSError:
            signals = b""
        for signo in signals:
            self._signalled(signo)
        if not signals:
            self._close()
            self._lost()

    def _close(self) -> None:
        if self._fd >= 0:
            self._loop.unwatch_fd(self._fd)
            os.close(self._fd)
            self._fd = -1
