"""File locks of one inode: flock(2), POSIX record locks and open file description locks (fcntl(2)).

POSIX and OFD locks are byte ranges and exclude each other; they differ in whose they are: an
OFD lock's owner is the File, a POSIX lock's is whatever stands for the process (its FdTable).
flock locks cover the file, belong to the File, and neither see the others nor are seen.

Nothing here waits.  A request that conflicts raises EAGAIN; whoever wants to wait sleeps on
`queue`, which is woken by everything that may let a request through, and tries again:

    while True:
        try:
            return locks.set(owner, F_WRLCK, start, end, pid)
        except EAGAIN:
            with locks.waiting(owner, F_WRLCK, start, end):     # EDEADLK
                await t.wait(locks.queue, LOCK_FREED)

OFD and flock requests sleep without waiting(): no process owns them, so Linux looks for no
deadlocks among them either.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from proto.slotted import slotted
from sentry.abi.errno import EAGAIN, EDEADLK, EINVAL, EOVERFLOW
from sentry.abi.fcntl import F_UNLCK, F_WRLCK, LOCK_EX, LOCK_SH, LOCK_UN
from sentry.abi.poll import POLLIN
from sentry.wait import WaitQueue

OFFSET_MAX: Final = (1 << 63) - 1
LOCK_FREED: Final = POLLIN  # the event that `queue` is woken with

# Which owners each waiting owner waits for, over all inodes; an owner with several threads may wait several times.
_waits_for: dict[Hashable, list[frozenset[Hashable]]] = {}


@slotted
class Lock:
    """One record lock.  start and end are both inside; pid is the kernel's, passed through for F_GETLK."""

    owner: Hashable
    kind: int
    start: int
    end: int
    pid: Any

    def overlaps(self, start: int, end: int) -> bool:
        return self.start <= end and start <= self.end


def resolve_range(base: int, start: int, length: int) -> tuple[int, int]:
    """(first, last) byte of a struct flock whose l_whence means position base: flock64_to_posix_lock().

    Length 0 reaches to the end of all files, a negative one lies before start.  EINVAL, EOVERFLOW.
    """
    if base > OFFSET_MAX - start:
        raise EOVERFLOW
    start += base
    if start < 0:
        raise EINVAL
    if length > 0:
        if length - 1 > OFFSET_MAX - start:
            raise EOVERFLOW
        return start, start + length - 1
    if length < 0:
        if start + length < 0:
            raise EINVAL
        return start + length, start - 1
    return start, OFFSET_MAX


class FileLocks:
    """All locks of one inode, and who waits for them."""

    __slots__ = ("__weakref__", "_flocks", "_records", "queue")

    def __init__(self) -> None:
        self.queue = WaitQueue()
        self._flocks: dict[Hashable, int] = {}
        # Per owner, in ascending order and disjoint.  Owners in order of their first lock, as F_GETLK looks.
        self._records: dict[Hashable, list[Lock]] = {}

    # -- flock(2) --

    def flock(self, file: Hashable, operation: int) -> None:
        """flock(2) without LOCK_NB.  EAGAIN: somebody else's lock conflicts.

        "Converting a lock ... is not guaranteed to be atomic: the existing lock is first removed,
        and then a new lock is established." - flock(2).  So after EAGAIN the old one is gone.
        """
        held = self._flocks.get(file)
        if held == operation:
            return
        if held is not None:
            del self._flocks[file]
            self.queue.wake(LOCK_FREED)
        if operation == LOCK_UN:
            return
        if self._flocks and (operation == LOCK_EX or LOCK_EX in self._flocks.values()):
            raise EAGAIN
        assert operation in (LOCK_SH, LOCK_EX)
        self._flocks[file] = operation

    # -- record locks --

    def _conflicts(self, owner: Hashable, kind: int, start: int, end: int) -> Iterator[Lock]:
        for other, locks in self._records.items():
            if other is owner or other == owner:
                continue
            for lock in locks:
                if lock.overlaps(start, end) and F_WRLCK in (kind, lock.kind):
                    yield lock

    def test(self, owner: Hashable, kind: int, start: int, end: int) -> Lock | None:
        """F_GETLK: the first lock that would keep owner from setting this one."""
        return next(self._conflicts(owner, kind, start, end), None)

    def set(self, owner: Hashable, kind: int, start: int, end: int, pid: Any = None) -> None:
        """F_SETLK: set, change or (F_UNLCK) remove owner's lock on the range.  EAGAIN: a conflict; nothing changed."""
        if kind != F_UNLCK and self.test(owner, kind, start, end) is not None:
            raise EAGAIN
        before = self._records.get(owner, [])
        after = _cut(before, start, end)
        freed = any(lock.overlaps(start, end) and lock.kind != kind for lock in before)
        if kind != F_UNLCK:
            _insert(after, Lock(owner, kind, start, end, pid))
        if after:
            self._records[owner] = after
        else:
            self._records.pop(owner, None)
        if freed:
            self.queue.wake(LOCK_FREED)

    @contextmanager
    def waiting(self, owner: Hashable, kind: int, start: int, end: int) -> Iterator[None]:
        """Around a POSIX lock's wait.  EDEADLK: those who hold the range wait for owner, directly or not."""
        holders = frozenset(lock.owner for lock in self._conflicts(owner, kind, start, end))
        if _reaches(holders, owner):
            raise EDEADLK
        waits = _waits_for.setdefault(owner, [])
        waits.append(holders)
        try:
            yield
        finally:
            waits.remove(holders)
            if not waits:
                _waits_for.pop(owner, None)

    # -- the end of owners --

    def release_owner(self, owner: Hashable) -> None:
        """Drop owner's record locks: its process closed a descriptor of the file, or ended."""
        if self._records.pop(owner, None):
            self.queue.wake(LOCK_FREED)

    def release_file(self, file: Hashable) -> None:
        """The open file description is gone, and with it its flock and OFD locks."""
        had_flock = self._flocks.pop(file, None)
        if self._records.pop(file, None) or had_flock:
            self.queue.wake(LOCK_FREED)

    # -- for /proc/PID/fdinfo --

    def held(self, owner: Hashable) -> list[Lock]:
        """owner's record locks, in ascending order."""
        return list(self._records.get(owner, ()))

    def flock_held(self, file: Hashable) -> int | None:
        """LOCK_SH, LOCK_EX; None: file has no flock."""
        return self._flocks.get(file)


def _cut(locks: list[Lock], start: int, end: int) -> list[Lock]:
    """locks without the range; what reaches over its ends keeps the parts outside."""
    rest: list[Lock] = []
    for lock in locks:
        if not lock.overlaps(start, end):
            rest.append(lock)
            continue
        if lock.start < start:
            rest.append(Lock(lock.owner, lock.kind, lock.start, start - 1, lock.pid))
        if lock.end > end:
            rest.append(Lock(lock.owner, lock.kind, end + 1, lock.end, lock.pid))
    return rest


def _insert(locks: list[Lock], new: Lock) -> None:
    """Put new, which overlaps none of locks, in its place; neighbours of its kind that touch it melt into it."""
    at = 0
    while at < len(locks) and locks[at].start < new.start:
        at += 1
    if at < len(locks) and locks[at].kind == new.kind and locks[at].start == new.end + 1:
        new.end = locks.pop(at).end
    if at and locks[at - 1].kind == new.kind and locks[at - 1].end + 1 == new.start:
        locks[at - 1].end = new.end
    else:
        locks.insert(at, new)


def _reaches(owners: frozenset[Hashable], target: Hashable) -> bool:
    """True if one of owners waits, over any number of steps, for target: posix_locks_deadlock()."""
    todo = list(owners)
    seen: set[Hashable] = set()
    while todo:
        owner = todo.pop()
        if owner == target:
            return True
        if owner not in seen:
            seen.add(owner)
            for holders in _waits_for.get(owner, ()):
                todo.extend(holders)
    return False
