"""Waiting on behalf of a task: the only place where a task parks.

block_on() is the way every file operation waits: try, and if it would block, wait for the
file to become ready and try again.  There is no await between the failed try and the
queueing of the waiter, and the loop is single-threaded, so no wake-up falls between.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sentry.abi.errno import EAGAIN, EINTR, ETIMEDOUT
from sentry.abi.fcntl import O_NONBLOCK
from sentry.kernel.freeze import park_freezably
from sentry.kernel.restart import ERESTARTSYS, Interrupted
from sentry.vfs.file import File
from sentry.wait import READY, Waiter, WaitQueue

if TYPE_CHECKING:
    from sentry.kernel.task import Task

TIMED_OUT: Final = object()
T = TypeVar("T")


async def wait_any(
    t: Task,
    queues: Sequence[tuple[WaitQueue, int]],
    deadline_ns: int | None = None,
    kind: int = ERESTARTSYS,
) -> None:
    """Park until one of (queue, events) wakes it.

    Raises Interrupted(kind) for a signal, ETIMEDOUT at deadline_ns (loop clock).  May return
    spuriously; the caller tests its condition again.
    """
    if t.has_signal():
        raise Interrupted(kind)
    loop = t.kernel.loop
    waiters = [(queue, Waiter(events, lambda _events: loop.wake(t, READY))) for queue, events in queues]
    for queue, waiter in waiters:
        queue.add(waiter)
    timer = loop.call_at(deadline_ns, lambda: loop.wake(t, TIMED_OUT)) if deadline_ns is not None else None
    try:
        reason = await park_freezably(t)
    finally:
        for queue, waiter in waiters:
            queue.remove(waiter)
        if timer is not None:
            timer.cancel()
    # After a signal the caller tests its condition once more before it gives up: what it waits for may have
    # come with the signal (wait4 and SIGCHLD).  The next call then finds the signal at the top.
    if reason is TIMED_OUT:
        raise ETIMEDOUT


@types.coroutine
def wait_on(t: Task, queue: WaitQueue, events: int, deadline_ns: int | None = None) -> Generator[Any, Any, None]:
    """wait_any() for one queue.  For ever is the most frequent wait: the task keeps what that takes."""
    if deadline_ns is not None:
        yield from wait_any(t, ((queue, events),), deadline_ns).__await__()
        return
    if t.has_signal():
        raise Interrupted(ERESTARTSYS)
    waiter = t.waiter
    waiter.mask = events
    queue.add(waiter)
    try:
        yield from park_freezably(t)
    finally:
        queue.remove(waiter)


async def block_on(
    t: Task,
    file: File,
    events: int,
    op: Callable[[], T],
    deadline_ns: int | None = None,
    nonblock: bool = False,
    tried: bool = False,
) -> T:
    """Retry op until it does something other than raise EAGAIN.  tried: the caller has just done so, in vain.

    The file is held: another thread may close its last descriptor meanwhile, as fdget(9) allows.
    Raises EAGAIN for O_NONBLOCK (or `nonblock`), ETIMEDOUT at deadline_ns, Interrupted on a signal.

    If the file's own patience ends, EAGAIN.  "If a timeout ... has been set on the socket", a signal ends the call
    with EINTR and it is never restarted - signal(7).
    """
    patience_ns = file.patience_ns(events) if deadline_ns is None else None
    if patience_ns is not None:
        deadline_ns = t.kernel.loop.now_ns() + patience_ns
    file.hold()
    try:
        while True:
            if not tried:
                try:
                    return op()
                except EAGAIN:
                    if nonblock or file.flags & O_NONBLOCK:
                        raise
            tried = False
            try:
                await wait_on(t, file.queue, events, deadline_ns)
            except (ETIMEDOUT, Interrupted) as e:
                if patience_ns is None:
                    raise
                raise EAGAIN if isinstance(e, ETIMEDOUT) else EINTR from None
    finally:
        file.drop()


@contextmanager
def held(*files: File) -> Iterator[None]:
    """Keep files alive over a wait, whoever closes their descriptors meanwhile (fdget)."""
    for file in files:
        file.hold()
    try:
        yield
    finally:
        for file in files:
            file.drop()


async def sleep_until(t: Task, deadline_ns: int | None, kind: int) -> None:
    """Sleep until deadline_ns, for ever if None.  Raises Interrupted(kind) on a signal."""
    try:
        while True:
            await wait_any(t, (), deadline_ns, kind)
    except ETIMEDOUT:
        return
