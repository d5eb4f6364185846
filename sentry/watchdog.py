"""The watchdog: says where the Sentry hangs when its loop has not come round for long.

The Sentry is one thread, and nothing in it may take long.  If a handler does all the same (a bug: a host call that
sleeps, a loop without end), every process of the sandbox stands still, and nobody could be told why.

The loop is not asked for anything.  A timer of the host's, one of the descriptors that it looks at anyway, becomes
readable every now and then; being called for that is the sign of life.  Each sign winds up faulthandler's alarm again:
a thread of C code that needs no Python, and writes the stack of the thread that hangs when it was not wound up in time.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import select
import struct
from typing import Final

from sentry.abi.errno import from_host
from sentry.wait import Loop

log = logging.getLogger(__name__)

CLOCK_MONOTONIC: Final = 1
TFD_NONBLOCK_CLOEXEC: Final = 0o4000 | 0o2000000
_ITIMERSPEC: Final = struct.Struct("@qqqq")
"""struct itimerspec: interval, then first expiration, each in s and ns - timerfd_create(2)"""

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Watchdog:
    """Watches one loop, from start() to the end of the process.

    A loop that does not come round for timeout_s is noticed after that time, or half as much more.  From then on its
    stack is written to log_fd every so often; or, if it kills, once, and the process ends with status 1.
    """

    def __init__(self, loop: Loop, timeout_s: float, kills: bool, log_fd: int) -> None:
        self._loop = loop
        self._period_s = timeout_s / 2
        self._timeout_s = timeout_s
        self._kills = kills
        self._log_fd = log_fd
        self._timer_fd = -1
        self._seen_ns = 0

    def start(self) -> None:
        """Begin to watch.  Raises LinuxError if the host has no timer for us."""
        self._timer_fd = _periodic_timer(self._period_s)
        self._loop.watch_fd(self._timer_fd, select.EPOLLIN, self._alive)
        self._wind_up()

    def stop(self) -> None:
        """No longer watch; for tests, which go on."""
        faulthandler.cancel_dump_traceback_later()
        self._loop.unwatch_fd(self._timer_fd)
        os.close(self._timer_fd)

    def _wind_up(self) -> None:
        self._seen_ns = self._loop.now_ns()
        limit_s = self._timeout_s + self._period_s  # since the last sign of life, after which it may have run on
        faulthandler.dump_traceback_later(limit_s, repeat=True, file=self._log_fd, exit=self._kills)

    def _alive(self, events: int) -> None:
        """The loop came round."""
        os.read(self._timer_fd, 8)
        away_s = (self._loop.now_ns() - self._seen_ns) / 1e9
        self._wind_up()
        if away_s > self._timeout_s + self._period_s:
            log.error("the loop did not come round for up to %.1f s: where it hung is above, if it did", away_s)


def _periodic_timer(period_s: float) -> int:
    """A descriptor that becomes readable every period_s.  Raises LinuxError."""
    fd: int = _libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK_CLOEXEC)
    if fd < 0:
        raise from_host(OSError(ctypes.get_errno(), "timerfd_create"))
    seconds, ns = divmod(round(period_s * 1e9), 1_000_000_000)
    if _libc.timerfd_settime(fd, 0, _ITIMERSPEC.pack(seconds, ns, seconds, ns), None) < 0:
        code = ctypes.get_errno()
        os.close(fd)
        raise from_host(OSError(code, "timerfd_settime"))
    return fd
