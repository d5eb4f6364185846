"""The timer behind timerfd_create(2)."""

from __future__ import annotations

import struct
from typing import ClassVar, Final

from sentry.abi.errno import EAGAIN, EINVAL
from sentry.abi.fcntl import O_NONBLOCK, O_RDWR
from sentry.abi.poll import READABLE
from sentry.fs.anon import AnonFile
from sentry.kernel.clocks import HostClock
from sentry.kernel.timers import Countdown
from sentry.vfs.iov import Sink
from sentry.wait import Loop

U64: Final = struct.Struct("<Q")


class TimerFile(AnonFile):
    """A timer whose expirations are read.  The countdown stands still from its end to the next read."""

    __slots__ = ("_expired", "countdown", "settime_flags")

    KIND: ClassVar[str] = "[timerfd]"

    def __init__(self, loop: Loop, clock: HostClock, flags: int) -> None:
        super().__init__(O_RDWR | flags & O_NONBLOCK)
        self.countdown = Countdown(loop, clock, self._ended)
        self.settime_flags = 0
        self._expired = 0

    def set(self, value_ns: int, interval_ns: int, absolute: bool) -> None:
        """timerfd_settime(2): what has expired before is forgotten."""
        self._expired = 0
        self.countdown.set(value_ns, interval_ns, absolute)
        # Unlike other timers, a stopped one remembers its interval: fs/timerfd.c:timerfd_setup.
        self.countdown.interval_ns = interval_ns

    def _ended(self) -> None:
        self._expired = 1
        self.queue.wake(READABLE)

    def read(self, dst: Sink) -> int:
        """How often it has expired since the last read."""
        if dst.remaining < 8:
            raise EINVAL
        if not self._expired:
            raise EAGAIN
        count = max(self.countdown.forward(), 1)
        self._expired = 0
        return dst.put(U64.pack(count))

    def poll(self) -> int:
        return READABLE if self._expired else 0

    def release(self) -> None:
        self.countdown.stop()

    def fd_info(self) -> str:
        value_s, value_ns = divmod(self.countdown.left_ns(), 10**9)
        interval_s, interval_ns = divmod(self.countdown.interval_ns, 10**9)
        clock = self.countdown.clock
        assert isinstance(clock, HostClock)
        return (
            f"clockid: {clock.number}\nticks: {self._expired}\nsettime flags: 0{self.settime_flags:o}\n"
            f"it_value: ({value_s}, {value_ns})\nit_interval: ({interval_s}, {interval_ns})\n"
        )
