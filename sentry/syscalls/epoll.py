"""epoll_create(2), epoll_ctl(2), epoll_wait(2).  The instance is sentry/fs/epoll.py."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

from sentry.abi.errno import EFAULT, EINTR, EINVAL, EPERM, ETIMEDOUT
from sentry.abi.poll import (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLL_EVENT,
    EPOLLEXCLUSIVE,
    EPOLLWAKEUP,
    POLLIN,
)
from sentry.fs.epoll import EXCLUSIVE_OK, EpollFile, is_pollable
from sentry.kernel.blocking import wait_on
from sentry.kernel.restart import Interrupted
from sentry.syscalls.args import I32, I32_DECODE, U32_DECODE, Addr, Arg, Fd, Size, flags_of, one_of
from sentry.syscalls.registry import syscall
from sentry.syscalls.sigmask import with_mask
from sentry.syscalls.times import milliseconds_deadline, timeout_deadline
from sentry.vfs.file import File

if TYPE_CHECKING:
    from sentry.kernel.task import Task

MAX_EVENTS: Final = 0x7FFFFFFF // EPOLL_EVENT.size
pack_event: Final = EPOLL_EVENT.pack
CTL_NAMES: Final = {
    EPOLL_CTL_ADD: "EPOLL_CTL_ADD",
    EPOLL_CTL_DEL: "EPOLL_CTL_DEL",
    EPOLL_CTL_MOD: "EPOLL_CTL_MOD",
}
CtlOp = Annotated[int, Arg(I32_DECODE, one_of(CTL_NAMES))]
CreateFlags = Annotated[int, Arg(U32_DECODE, flags_of({EPOLL_CLOEXEC: "EPOLL_CLOEXEC"}))]
Answer = int | Coroutine[Any, Any, int]


@syscall
def epoll_create1(t: Task, flags: CreateFlags) -> int:
    """epoll_create1(2).  Errors: EINVAL, EMFILE."""
    if flags & ~EPOLL_CLOEXEC:
        raise EINVAL("unknown flags")
    return t.files.install(EpollFile(), bool(flags & EPOLL_CLOEXEC))


@syscall
def epoll_create(t: Task, size: I32) -> int:
    """epoll_create(2): size means nothing but must be positive."""
    if size <= 0:
        raise EINVAL
    return epoll_create1(t, 0)


@syscall
def epoll_ctl(t: Task, epfd: Fd, op: CtlOp, fd: Fd, event_addr: Addr) -> int:
    """epoll_ctl(2): change what an epoll watches.

    Linux: fs/eventpoll.c:do_epoll_ctl
    Errors: EFAULT; EBADF; EPERM fd can't be watched; EINVAL; ELOOP; EEXIST; ENOENT
    """
    events, data = EPOLL_EVENT.unpack(t.mem.read(event_addr, EPOLL_EVENT.size)) if op != EPOLL_CTL_DEL else (0, 0)
    epoll = t.files.get(epfd)
    file = t.files.get(fd)
    if not is_pollable(file):
        raise EPERM("no poll operation")
    if file is epoll or not isinstance(epoll, EpollFile):
        raise EINVAL
    if events & EPOLLEXCLUSIVE and op != EPOLL_CTL_DEL:
        _check_exclusive(op, events, file)
    events &= ~EPOLLWAKEUP
    if op == EPOLL_CTL_ADD:
        epoll.add(fd, file, events, data)
    elif op == EPOLL_CTL_MOD:
        epoll.modify(fd, file, events, data)
    elif op == EPOLL_CTL_DEL:
        epoll.remove(fd, file)
    else:
        raise EINVAL("unknown operation")
    return 0


def _check_exclusive(op: int, events: int, file: File) -> None:
    """EINVAL: "EPOLLEXCLUSIVE ... in conjunction with" what it does not go with - epoll_ctl(2)."""
    if op == EPOLL_CTL_MOD or isinstance(file, EpollFile) or events & ~EXCLUSIVE_OK:
        raise EINVAL("EPOLLEXCLUSIVE")


def _epoll_of(t: Task, epfd: int, max_events: int) -> EpollFile:
    """EINVAL, EBADF."""
    if not 0 < max_events <= MAX_EVENTS:
        raise EINVAL("maxevents")
    epoll = t.files.get(epfd)
    if not isinstance(epoll, EpollFile):
        raise EINVAL("not an epoll")
    return epoll


def _deliver(t: Task, epoll: EpollFile, events_addr: int, max_events: int) -> int:
    """Write what is ready; the count."""
    found = epoll.collect(max_events)
    if not found:
        return 0
    events, item = found[0]
    data = pack_event(events, item.data)
    if len(found) > 1:
        data += b"".join([pack_event(events, item.data) for events, item in found[1:]])
    try:
        t.mem.write(events_addr, data)
    except EFAULT:
        epoll.put_back(found)
        raise
    return len(found)


async def _wait(t: Task, epoll: EpollFile, events_addr: int, max_events: int, deadline_ns: int | None) -> int:
    """Until something can be delivered.  EINTR, never restarted: signal(7) lists epoll_wait among those."""
    epoll.hold()
    try:
        while True:
            await wait_on(t, epoll.queue, POLLIN, deadline_ns)
            n = _deliver(t, epoll, events_addr, max_events)
            if n:
                return n
    except ETIMEDOUT:
        return 0
    except Interrupted:
        raise EINTR from None
    finally:
        epoll.drop()


def _epoll_wait(t: Task, epoll: EpollFile, events_addr: int, max_events: int, deadline_ns: int | None) -> Answer:
    """At once if something is ready or the deadline is now."""
    n = _deliver(t, epoll, events_addr, max_events)
    if n or (deadline_ns is not None and deadline_ns <= t.kernel.loop.now_ns()):
        return n
    return _wait(t, epoll, events_addr, max_events, deadline_ns)


@syscall
def epoll_wait(t: Task, epfd: Fd, events_addr: Addr, max_events: I32, timeout_ms: I32) -> Answer:
    """epoll_wait(2).

    Blocks: until an event, a signal or the timeout
    Errors: EINVAL, EBADF, EFAULT, EINTR
    """
    epoll = _epoll_of(t, epfd, max_events)
    n = _deliver(t, epoll, events_addr, max_events)
    if n or not timeout_ms:
        return n
    return _wait(t, epoll, events_addr, max_events, milliseconds_deadline(t, timeout_ms))


@syscall
def epoll_pwait(
    t: Task, epfd: Fd, events_addr: Addr, max_events: I32, timeout_ms: I32, mask_addr: Addr, mask_size: Size
) -> Answer:
    """epoll_pwait(2): epoll_wait(2) with another signal mask.  Errors: also EINVAL for the mask's size."""
    return with_mask(t, mask_addr, mask_size, lambda: epoll_wait(t, epfd, events_addr, max_events, timeout_ms))


@syscall
def epoll_pwait2(
    t: Task, epfd: Fd, events_addr: Addr, max_events: I32, timeout_addr: Addr, mask_addr: Addr, mask_size: Size
) -> Answer:
    """epoll_pwait2(2): the timeout is a struct timespec."""
    deadline_ns = timeout_deadline(t, timeout_addr)
    return with_mask(
        t,
        mask_addr,
        mask_size,
        lambda: _epoll_wait(t, _epoll_of(t, epfd, max_events), events_addr, max_events, deadline_ns),
    )
