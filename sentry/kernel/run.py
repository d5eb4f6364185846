"""The life of a task: run application code, answer its trap, deliver its signals, again.

This is the whole trap path above the platform; tracing is the one hook in it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sentry.abi.errno import EIO, ENOSYS, LinuxError
from sentry.kernel.answers import keep_current
from sentry.kernel.delivery import handle_attention
from sentry.kernel.restart import Interrupted, Restart
from sentry.kernel.signals import SigInfo
from sentry.platform import ExitTrap, FaultTrap, InterruptTrap, SpaceGone, SyscallTrap, Trap

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.syscalls.registry import Syscall

log = logging.getLogger(__name__)


async def run(t: Task) -> None:
    """A task's coroutine, from its first instruction to its end."""
    kernel = t.kernel
    try:
        keep_current(t)
        while True:
            if t.attention:
                if not t.exiting:
                    await handle_attention(t)
                if t.exiting:
                    break
            trap = await t.context.switch()
            if type(trap) is SyscallTrap:
                await system_call(t, trap)
            elif trap is not None:
                other_trap(t, trap)
    except SpaceGone:
        # The stub was killed from outside (OOM killer, administrator): SIGKILL to the whole process.
        t.tg.exit_group(9)
    except Exception:
        log.exception("task %d: a bug of the kernel's; the process is killed", t.tid)
        kernel.count_bug()
        t.tg.exit_group(9)
    kernel.exit_task(t)


async def system_call(t: Task, trap: SyscallTrap) -> None:
    """Answer one system call: find the row, run the handler, put the result into the registers.

    Task.trapped does the same for calls that need no waiting; the handler of one that does has begun there.
    """
    kernel = t.kernel
    row = kernel.table.get(trap.number)
    if row is None or not trap.native:
        unknown_call(t, trap)
        return
    strace = kernel.strace
    if strace is not None:
        strace.enter(t, row, trap.args)
    try:
        answer, t.begun = t.begun, None
        if answer is None:
            answer = row.call(t, trap.args)
        result: int | None = answer if type(answer) is int or answer is None else await answer
        if result is not None:
            t.context.set_result(result)
        if strace is not None:
            strace.leave(t, row, trap.args, result)
    # The exceptions are not kept in a local: with their traceback they would make a cycle at each failed call.
    except LinuxError as e:
        t.context.set_result(-e.code)
        if strace is not None:
            strace.leave(t, row, trap.args, e)
    except Interrupted as e:
        t.restart = Restart(e.kind, trap.number, e.again)
        t.attention = True
        if strace is not None:
            strace.leave(t, row, trap.args, e)
    except SpaceGone:
        raise
    except Exception as e:
        failed(t, row, e)
        if strace is not None:
            strace.leave(t, row, trap.args, EIO("internal error"))


def failed(t: Task, row: Syscall, e: Exception) -> None:
    """An unexpected exception is one failed call (DESIGN §1.5)."""
    log.exception("%s[%d]: %s failed in the kernel: %r", t.task_name, t.tid, row.name, e)
    t.kernel.count_bug()
    t.context.set_result(-EIO.code)


def unknown_call(t: Task, trap: SyscallTrap) -> None:
    """A number Linux does not have, an x32 number, or int 0x80: ENOSYS, as without those ABIs."""
    t.kernel.note_unknown_call(trap)
    if t.kernel.strace is not None:
        t.kernel.strace.unknown(t, trap)
    t.context.set_result(-ENOSYS.code)


def other_trap(t: Task, trap: Trap | Exception) -> None:
    """Faults become signals; an interrupt only makes the task look at its signals.  Exceptions: Task.trapped's."""
    if isinstance(trap, FaultTrap):
        t.force_signal(SigInfo(trap.signo, trap.code, addr=trap.addr))
    elif isinstance(trap, InterruptTrap):
        t.attention = True
    elif isinstance(trap, ExitTrap):
        raise SpaceGone(f"stub ended by signal {trap.signo}")
    elif isinstance(trap, Exception):
        raise trap
