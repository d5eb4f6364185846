"""pidfds: a process as a descriptor, pidfd_open(2).  Readable once the process has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sentry.abi.fcntl import O_RDWR
from sentry.abi.poll import READABLE
from sentry.fs.anon import AnonFile

if TYPE_CHECKING:
    from sentry.kernel.threadgroup import ThreadGroup


class PidFd(AnonFile):
    """Refers to a process for ever, whatever becomes of its number."""

    __slots__ = ("tg",)

    KIND: ClassVar[str] = "[pidfd]"

    def __init__(self, tg: ThreadGroup, flags: int = 0) -> None:
        super().__init__(O_RDWR | flags)
        self.tg = tg
        self.queue = tg.end_queue

    def poll(self) -> int:
        return READABLE if self.tg.dead else 0

    def fd_info(self) -> str:
        pid = -1 if self.tg.zombie_reaped else self.tg.pid
        return f"Pid:\t{pid}\nNSpid:\t{pid}\n"
