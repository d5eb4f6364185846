"""epoll(7): interest lists and ready lists.

Each registered (descriptor, file) is an Item with a Waiter in the file's queue.  A wake-up
only moves the item to the ready list and wakes the epoll's own queue; what is really ready is
asked of the file when somebody collects.  Level-triggered items go back to the end of the
ready list when they were delivered, so that many of them take turns; edge-triggered ones wait
for the next wake-up.

An epoll that watches another is woken through the inner one's queue in the same way.
"""

from __future__ import annotations

from typing import ClassVar, Final

from sentry.abi.errno import EEXIST, EINVAL, ELOOP, ENOENT
from sentry.abi.fcntl import O_RDWR
from sentry.abi.poll import (
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLONESHOT,
    EPOLLWAKEUP,
    POLLERR,
    POLLFREE,
    POLLHUP,
    POLLIN,
    POLLOUT,
    READABLE,
)
from sentry.fs.anon import AnonFile
from sentry.vfs.file import File
from sentry.wait import Waiter, WaitQueue

PRIVATE_BITS: Final = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE
EXCLUSIVE_OK: Final = POLLIN | POLLOUT | POLLERR | POLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE
POLL_MASK: Final = 0xFFFF
MAX_NESTS: Final = 4  # epolls within epolls: EP_MAX_NESTS


class Item:
    """One registration (struct epitem)."""

    __slots__ = ("data", "epoll", "events", "fd", "file", "queue", "waiter")

    def __init__(self, epoll: EpollFile, fd: int, file: File, events: int, data: int) -> None:
        self.epoll = epoll
        self.fd = fd
        self.file = file
        # Kept, because some files have another queue for each process that asks (signalfd).
        self.queue: WaitQueue = file.queue
        self.waiter = Waiter(0, self._woken)
        self.set_events(events, data)

    def set_events(self, events: int, data: int) -> None:
        self.events = events | POLLERR | POLLHUP
        self.data = data
        self.waiter.mask = self.events & POLL_MASK | POLLFREE

    def disarm(self) -> None:
        """EPOLLONESHOT: nothing more until EPOLL_CTL_MOD."""
        self.events &= PRIVATE_BITS
        self.waiter.mask = POLLFREE

    def ready_events(self) -> int:
        """What is to be reported now; 0 for a disarmed item."""
        events = self.events & POLL_MASK
        return self.file.poll() & events if events else 0

    def _woken(self, events: int) -> None:
        if self.file.refs <= 0:
            self.epoll.forget(self)
        elif self.waiter.mask & events & ~POLLFREE:
            self.epoll.make_ready(self)


class EpollFile(AnonFile):
    """An epoll instance (struct eventpoll)."""

    __slots__ = ("_items", "_ready")

    KIND: ClassVar[str] = "[eventpoll]"

    def __init__(self) -> None:
        super().__init__(O_RDWR)
        self._items: dict[tuple[int, File], Item] = {}
        self._ready: dict[Item, None] = {}  # in the order in which they became ready

    # -- epoll_ctl(2) --

    def add(self, fd: int, file: File, events: int, data: int) -> None:
        """EPOLL_CTL_ADD.  EEXIST; ELOOP: file is an epoll that watches this one, or nests too deep."""
        if isinstance(file, EpollFile):
            file.check_nesting(self, 0)
        if (fd, file) in self._items:
            raise EEXIST
        item = Item(self, fd, file, events, data)
        self._items[(fd, file)] = item
        item.queue.add(item.waiter)
        if item.ready_events():
            self.make_ready(item)

    def modify(self, fd: int, file: File, events: int, data: int) -> None:
        """EPOLL_CTL_MOD.  ENOENT; EINVAL: it was added with EPOLLEXCLUSIVE."""
        item = self._find(fd, file)
        if item.events & EPOLLEXCLUSIVE:
            raise EINVAL
        item.set_events(events, data)
        if item.ready_events():
            self.make_ready(item)

    def remove(self, fd: int, file: File) -> None:
        """EPOLL_CTL_DEL.  ENOENT."""
        self.forget(self._find(fd, file))

    def _find(self, fd: int, file: File) -> Item:
        item = self._items.get((fd, file))
        if item is None:
            raise ENOENT
        return item

    def forget(self, item: Item) -> None:
        """Take an item out: by request, or because its file is gone."""
        item.queue.remove(item.waiter)
        self._items.pop((item.fd, item.file), None)
        self._ready.pop(item, None)

    def check_nesting(self, outer: EpollFile, depth: int) -> None:
        """ELOOP if outer is this epoll or watched by it, or if this is too deep."""
        if self is outer or depth >= MAX_NESTS:
            raise ELOOP
        for item in self._items.values():
            if isinstance(item.file, EpollFile):
                item.file.check_nesting(outer, depth + 1)

    # -- the ready list --

    def make_ready(self, item: Item) -> None:
        self._ready[item] = None
        self.queue.wake(READABLE)

    def collect(self, limit: int) -> list[tuple[int, Item]]:
        """Up to limit (events, item) that are ready now; edges and one-shots are used up."""
        found: list[tuple[int, Item]] = []
        again: list[Item] = []
        ready = self._ready
        while ready and len(found) < limit:
            item = next(iter(ready))
            del ready[item]
            # Item.ready_events(), spelled out
            wanted = item.events
            events = item.file.poll() & wanted & POLL_MASK if wanted & POLL_MASK else 0
            if not events:
                continue
            found.append((events, item))
            if wanted & EPOLLONESHOT:
                item.disarm()
            elif not wanted & EPOLLET:
                again.append(item)
        for item in again:
            ready[item] = None
        return found

    def put_back(self, found: list[tuple[int, Item]]) -> None:
        """What collect() gave could not be delivered."""
        for _, item in found:
            self._ready[item] = None

    # -- as a file --

    def poll(self) -> int:
        """Readable when something it watches is ready; forgets what is not any more."""
        for item in list(self._ready):
            if item.ready_events():
                return READABLE
            del self._ready[item]
        return 0

    def release(self) -> None:
        for item in list(self._items.values()):
            self.forget(item)

    def fd_info(self) -> str:
        return "".join(
            f"tfd: {item.fd:8d} events: {item.events:8x} data: {item.data:16x}  pos:{item.file.offset}"
            f" ino:{item.file.inode.ino:x} sdev:{item.file.inode.fs.dev:x}\n"
            for item in self._items.values()
        )


def is_pollable(file: File) -> bool:
    """False for files without a poll operation, which are always ready: epoll refuses them."""
    return type(file).poll is not File.poll
