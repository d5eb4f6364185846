"""flock(2).  Record locks are fcntl(2)'s; the locks themselves are sentry/vfs/locks.py."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from sentry.abi.errno import EAGAIN, EINVAL
from sentry.abi.fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN
from sentry.kernel.blocking import wait_on
from sentry.syscalls.args import U32, Fd
from sentry.syscalls.registry import syscall
from sentry.vfs.locks import LOCK_FREED

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.vfs.file import File


@syscall
def flock(t: Task, fd: Fd, operation: U32) -> int | Awaitable[int]:
    """flock(2): lock or unlock a whole file.

    Linux: fs/locks.c:SYSCALL_DEFINE2(flock)
    Blocks: until no other open file description holds a lock that conflicts
    Errors: EINVAL, EBADF, EWOULDBLOCK
    """
    wanted = operation & ~LOCK_NB
    if wanted not in (LOCK_SH, LOCK_EX, LOCK_UN):
        raise EINVAL("operation")
    file = t.files.get(fd)
    try:
        file.inode.locks().flock(file, wanted)
        return 0
    except EAGAIN:
        if operation & LOCK_NB:
            raise
    return _wait(t, file, wanted)


async def _wait(t: Task, file: File, operation: int) -> int:
    locks = file.inode.locks()
    file.hold()  # another thread may close the descriptor meanwhile
    try:
        while True:
            await wait_on(t, locks.queue, LOCK_FREED)
            try:
                locks.flock(file, operation)
                return 0
            except EAGAIN:
                continue
    finally:
        file.drop()
