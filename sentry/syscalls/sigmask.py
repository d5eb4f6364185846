"""Calls that wait with another signal mask: ppoll, pselect6, epoll_pwait."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from sentry.abi.errno import EINTR, EINVAL, LinuxError
from sentry.kernel.delivery import restore_mask, set_temporary_mask
from sentry.kernel.restart import Interrupted

if TYPE_CHECKING:
    from sentry.kernel.task import Task

SIGSET_SIZE = 8


def read_mask(t: Task, addr: int, size: int) -> int:
    """set_user_sigmask()'s argument.  EINVAL: not the size of a sigset_t; EFAULT."""
    if size != SIGSET_SIZE:
        raise EINVAL("sigset size")
    return int.from_bytes(t.mem.read(addr, SIGSET_SIZE), "little")


async def _finish(t: Task, waiting: Coroutine[Any, Any, int]) -> int:
    try:
        result = await waiting
    except (Interrupted, EINTR):
        # Delivery restores the mask, after it chose the signal by the temporary one.
        raise
    except LinuxError:
        restore_mask(t)
        raise
    restore_mask(t)
    return result


def with_mask(
    t: Task, mask_addr: int, size: int, call: Callable[[], int | Coroutine[Any, Any, int]]
) -> int | Coroutine[Any, Any, int]:
    """call() with the mask at mask_addr, if there is one."""
    if not mask_addr:
        return call()
    set_temporary_mask(t, read_mask(t, mask_addr, size))
    try:
        answer = call()
    except LinuxError:
        restore_mask(t)
        raise
    if isinstance(answer, int):
        restore_mask(t)
        return answer
    return _finish(t, answer)
