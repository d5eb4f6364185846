"""EINTR or once more: signal(7), "Interruption of system calls and library functions by signal handlers"."""

from __future__ import annotations

import pytest

from sentry.abi.errno import EINTR
from sentry.abi.nr_x86_64 import NAMES
from sentry.abi.signal import SA_NODEFER, SA_RESTART
from sentry.kernel.restart import (
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
    Restart,
    settle,
)
from sentry.kernel.task import Task
from tests.unit.kernel.world import World, context

NUMBER, RIP = 230, 0x401002
NO_HANDLER = None


@pytest.fixture
def t(world: World) -> Task:
    t = world.process()
    context(t).regs.rip = RIP
    context(t).regs.rax = NUMBER
    return t


@pytest.mark.parametrize(
    ("kind", "handler_flags", "again"),
    [
        (ERESTARTSYS, NO_HANDLER, True),
        (ERESTARTSYS, SA_NODEFER, False),
        (ERESTARTSYS, SA_RESTART, True),
        (ERESTARTNOINTR, NO_HANDLER, True),
        (ERESTARTNOINTR, 0, True),
        (ERESTARTNOINTR, SA_RESTART, True),
        (ERESTARTNOHAND, NO_HANDLER, True),
        (ERESTARTNOHAND, 0, False),
        (ERESTARTNOHAND, SA_RESTART, False),
        (ERESTART_RESTARTBLOCK, NO_HANDLER, True),
        (ERESTART_RESTARTBLOCK, 0, False),
        (ERESTART_RESTARTBLOCK, SA_RESTART, False),
    ],
)
def test_which_calls_are_issued_again(t: Task, kind: int, handler_flags: int | None, again: bool) -> None:
    t.restart = Restart(kind, NUMBER, None)
    settle(t, handler_flags)
    regs = context(t).regs
    if again:
        number = 219 if kind == ERESTART_RESTARTBLOCK else NUMBER
        assert (regs.rip, regs.rax) == (RIP - 2, number)
    else:
        assert (regs.rip, regs.rax) == (RIP, -EINTR.code & (1 << 64) - 1)
    assert t.restart is None


def test_restart_syscall_is_number_219() -> None:
    assert NAMES[219] == "restart_syscall"


def test_a_call_is_settled_once(t: Task) -> None:
    t.restart = Restart(ERESTARTSYS, NUMBER, None)
    settle(t, SA_RESTART)
    settle(t, None)
    assert context(t).regs.rip == RIP - 2


def test_nothing_interrupted_is_nothing_to_settle(t: Task) -> None:
    settle(t, None)
    settle(t, 0)
    assert (context(t).regs.rip, context(t).regs.rax) == (RIP, NUMBER)


def test_what_is_to_go_on_is_kept_for_restart_syscall(t: Task, world: World) -> None:
    async def again() -> int:
        return 5

    t.restart = Restart(ERESTART_RESTARTBLOCK, NUMBER, again)
    settle(t, None)
    assert world.kernel.restart_blocks[t] is again
