"""eventfd(2) and eventfd2(2).  The counter is sentry/fs/eventfd.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi.errno import EINVAL
from sentry.abi.fcntl import O_CLOEXEC, O_NONBLOCK
from sentry.fs.eventfd import EventFile
from sentry.syscalls.args import U32, U32_DECODE, Arg, flags_of
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

EFD_SEMAPHORE: Final = 1
EventFlags = Annotated[
    int,
    Arg(U32_DECODE, flags_of({EFD_SEMAPHORE: "EFD_SEMAPHORE", O_CLOEXEC: "EFD_CLOEXEC", O_NONBLOCK: "EFD_NONBLOCK"})),
]


@syscall
def eventfd2(t: Task, count: U32, flags: EventFlags) -> int:
    """eventfd2(2): a new event counter.

    Linux: fs/eventfd.c:do_eventfd
    Errors: EINVAL unknown flags; EMFILE
    """
    if flags & ~(EFD_SEMAPHORE | O_CLOEXEC | O_NONBLOCK):
        raise EINVAL("unknown flags")
    return t.files.install(EventFile(count, bool(flags & EFD_SEMAPHORE), flags), bool(flags & O_CLOEXEC))


@syscall
def eventfd(t: Task, count: U32) -> int:
    """eventfd(2), the old form without flags."""
    return eventfd2(t, count, 0)
