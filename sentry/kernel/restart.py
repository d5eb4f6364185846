"""What becomes of an interrupted system call: signal(7), "Interruption of system calls".

A wait that a signal ends raises Interrupted with one of Linux's four restart kinds
(include/linux/errno.h).  The run loop records it in Task.restart; when signals are
delivered, settle() decides in one place between EINTR and issuing the call again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proto.slotted import slotted
from sentry.abi.errno import EINTR
from sentry.abi.signal import SA_RESTART

if TYPE_CHECKING:
    from sentry.kernel.task import Task

ERESTARTSYS: Final = 512  # again if no handler runs, or it has SA_RESTART
ERESTARTNOINTR: Final = 513  # always again
ERESTARTNOHAND: Final = 514  # again only if no handler runs
ERESTART_RESTARTBLOCK: Final = 516  # restart_syscall(2) if no handler runs, so that deadlines stay

NR_RESTART_SYSCALL: Final = 219
SYSCALL_INSTRUCTION_SIZE: Final = 2


class Interrupted(Exception):
    """A signal ended a wait.  `again`, for ERESTART_RESTARTBLOCK, is what restart_syscall(2) runs."""

    def __init__(self, kind: int, again: Callable[[], Any] | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.again = again


@slotted
class Restart:
    """A call that was interrupted and not yet settled."""

    kind: int
    number: int
    again: Callable[[], Any] | None


def settle(t: Task, handler_flags: int | None) -> None:
    """Decide an interrupted call.  handler_flags: the sa_flags of the handler about to run, None if none runs."""
    restart, t.restart = t.restart, None
    if restart is None:
        return
    kind = restart.kind
    if handler_flags is None:
        again = True
    elif kind == ERESTARTSYS:
        again = bool(handler_flags & SA_RESTART)
    else:
        again = kind == ERESTARTNOINTR
    if not again:
        t.context.set_result(-EINTR.code)
        return
    regs = t.context.regs
    regs.rip -= SYSCALL_INSTRUCTION_SIZE
    if kind == ERESTART_RESTARTBLOCK:
        t.tg.kernel.restart_blocks[t] = restart.again
        regs.rax = NR_RESTART_SYSCALL
    else:
        regs.rax = restart.number
