"""Futexes: futex(2), kernel/futex/.

The application changes the word itself; we only compare and queue.  A wait compares and
queues without an await in between, and a wake comes as a later system call, so none is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EAGAIN, EFAULT, EINVAL, ETIMEDOUT
from sentry.kernel.blocking import TIMED_OUT
from sentry.kernel.freeze import park_freezably
from sentry.kernel.restart import ERESTARTSYS, Interrupted
from sentry.kernel.signals import INTERRUPTED
from sentry.wait import READY

if TYPE_CHECKING:
    from sentry.kernel.task import Task

MATCH_ANY: Final = 0xFFFFFFFF
Key = tuple[int, int]


class FutexWaiter:
    """A task in a queue; requeueing changes key."""

    __slots__ = ("bitset", "key", "task", "woken")

    def __init__(self, task: Task, key: Key, bitset: int) -> None:
        self.task = task
        self.key = key
        self.bitset = bitset
        self.woken = False


class Futexes:
    """All wait queues, by key: (id of the memory, address) or (device and inode, offset)."""

    def __init__(self) -> None:
        self._queues: dict[Key, list[FutexWaiter]] = {}

    def key(self, t: Task, addr: int, private: bool, reads: bool = False) -> Key:
        """What identifies the word.  EINVAL: not aligned.  EFAULT: past the end.

        reads: the caller is to read the word, and finds out by itself if there is none.
        """
        if addr & 3:
            raise EINVAL
        if addr >= t.mem.end:
            raise EFAULT
        if private:
            return (id(t.mm), addr)
        if not t.mm.may_be_shared(addr):
            if not reads:
                t.mem.read(addr, 4)  # EFAULT if there is nothing
            return (id(t.mm), addr)
        for mapping in t.mem.mappings():
            if mapping.start <= addr < mapping.end:
                if mapping.perms[3] == "s":
                    return (-1 - (mapping.dev << 64 | mapping.ino), mapping.offset + addr - mapping.start)
                return (id(t.mm), addr)
        raise EFAULT

    def waiting(self, key: Key) -> list[FutexWaiter]:
        return self._queues.get(key, [])

    def _add(self, waiter: FutexWaiter) -> None:
        queue = self._queues.get(waiter.key)
        if queue is None:
            self._queues[waiter.key] = [waiter]
        else:
            queue.append(waiter)

    def _remove(self, waiter: FutexWaiter) -> None:
        queue = self._queues.get(waiter.key)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._queues[waiter.key]

    async def wait(self, t: Task, key: Key, addr: int, expected: int, bitset: int, deadline_ns: int | None) -> int:
        """FUTEX_WAIT; returns 0.  EAGAIN: the word differs.  ETIMEDOUT.  Interrupted."""
        if int.from_bytes(t.mem.read(addr, 4), "little") != expected:
            raise EAGAIN
        waiter = FutexWaiter(t, key, bitset)
        self._add(waiter)
        try:
            # For ever is the most frequent wait: then nothing else is needed.
            reason = await (
                self._park(t, deadline_ns) if deadline_ns is not None or t.has_signal() else park_freezably(t)
            )
        finally:
            if not waiter.woken:
                self._remove(waiter)
        if waiter.woken:
            return 0
        if reason is TIMED_OUT:
            raise ETIMEDOUT
        raise Interrupted(ERESTARTSYS)

    async def _park(self, t: Task, deadline_ns: int | None) -> object:
        if t.has_signal():
            return INTERRUPTED
        loop = t.kernel.loop
        timer = None
        if deadline_ns is not None:
            timer = loop.call_at(deadline_ns, _waker(t))
        try:
            return await park_freezably(t)
        finally:
            if timer is not None:
                timer.cancel()

    async def wait_many(self, t: Task, words: list[tuple[Key, int, int]], deadline_ns: int | None) -> int:
        """futex_waitv(2): words are (key, addr, expected); returns the index of one that was woken."""
        for _, addr, expected in words:
            if int.from_bytes(t.mem.read(addr, 4), "little") != expected:
                raise EAGAIN
        waiters = [FutexWaiter(t, key, MATCH_ANY) for key, _, _ in words]
        for waiter in waiters:
            self._add(waiter)
        try:
            reason = await self._park(t, deadline_ns)
        finally:
            for waiter in waiters:
                self._remove(waiter)
        for index, waiter in enumerate(waiters):
            if waiter.woken:
                return index
        if reason is TIMED_OUT:
            raise ETIMEDOUT
        raise Interrupted(ERESTARTSYS)

    def wake(self, key: Key, count: int, bitset: int = MATCH_ANY) -> int:
        """FUTEX_WAKE: up to count waiters, first come first served; returns how many."""
        queue = self._queues.get(key)
        if not queue:
            return 0
        woken = 0
        for waiter in list(queue):
            if woken >= count:
                break
            if waiter.bitset & bitset:
                self._wake_one(waiter)
                woken += 1
        return woken

    def _wake_one(self, waiter: FutexWaiter) -> None:
        waiter.woken = True
        self._remove(waiter)
        waiter.task.kernel.loop.wake(waiter.task, READY)

    def requeue(self, source: Key, target: Key, wake: int, requeue: int) -> int:
        """FUTEX_REQUEUE: wake some, move others; returns how many of both."""
        woken = self.wake(source, wake)
        moving = self.waiting(source)[:requeue]
        for waiter in moving if source != target else ():
            self._remove(waiter)
            waiter.key = target
            self._add(waiter)
        return woken + len(moving)

    def wake_address(self, t: Task, addr: int, count: int) -> None:
        """A wake by the kernel itself (thread exit): private and shared waiters alike."""
        if addr & 3:
            return
        if not self.wake((id(t.mm), addr), count):
            key = self.key(t, addr, private=False)
            self.wake(key, count)


def _waker(t: Task) -> Callable[[], None]:
    return lambda: t.kernel.loop.wake(t, TIMED_OUT)
