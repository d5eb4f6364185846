"""The counter behind eventfd(2)."""

from __future__ import annotations

import struct
from typing import ClassVar, Final

from sentry.abi.errno import EAGAIN, EINVAL
from sentry.abi.fcntl import O_NONBLOCK, O_RDWR
from sentry.abi.poll import POLLERR, POLLIN, POLLOUT, READABLE, WRITABLE
from sentry.fs.anon import AnonFile
from sentry.vfs.iov import Sink, Source

U64: Final = struct.Struct("<Q")
MAX: Final = (1 << 64) - 1  # one more than the largest count a write can make


class EventFile(AnonFile):
    """A count that reads take and writes add to; readable when it is not 0."""

    __slots__ = ("count", "semaphore")

    KIND: ClassVar[str] = "[eventfd]"

    def __init__(self, count: int, semaphore: bool, flags: int) -> None:
        super().__init__(O_RDWR | flags & O_NONBLOCK)
        self.count = count
        self.semaphore = semaphore

    def read(self, dst: Sink) -> int:
        """The count, which becomes 0; of a semaphore 1, and it goes down by 1."""
        if dst.remaining < 8:
            raise EINVAL
        count = self.count
        if not count:
            raise EAGAIN
        value = 1 if self.semaphore else count
        self.count = count - value
        self.queue.wake(WRITABLE)
        return dst.put(U64.pack(value))

    def write(self, src: Source) -> int:
        if src.remaining < 8:
            raise EINVAL
        data = src.take(8)
        if len(data) < 8:
            raise EINVAL
        value: int = U64.unpack(data)[0]
        if value == MAX:
            raise EINVAL
        if self.count + value >= MAX:
            src.give_back(8)
            raise EAGAIN
        self.count += value
        self.queue.wake(READABLE)
        return 8

    def add(self, value: int) -> None:
        """eventfd_signal(): stops short of the overflow that poll(2) would report."""
        self.count = min(self.count + value, MAX)
        self.queue.wake(READABLE)

    def poll(self) -> int:
        count = self.count
        events = POLLIN if count else 0
        if count == MAX:
            events |= POLLERR
        if count < MAX - 1:
            events |= POLLOUT
        return events

    def fd_info(self) -> str:
        return f"eventfd-count: {self.count:16x}\neventfd-semaphore: {int(self.semaphore)}\n"
