"""The life of a task: traps answered, bugs contained, ends from outside."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import EIO, ENOSYS
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import current
from sentry.platform import ExitTrap, InterruptTrap, SpaceGone, SyscallTrap
from tests.fakes import ScriptedContext
from tests.unit.kernel.world import NUMBERS, World, call, context

NONE = (0, 0, 0, 0, 0, 0)


def test_calls_are_answered_one_after_another(world: World) -> None:
    t = world.process(call("getpid"), InterruptTrap(), call("gettid"), call("getppid"))
    world.run()
    assert context(t).results == [2, 2, 0]
    assert world.kernel.statistics()["tasks"] == 2


@pytest.mark.parametrize(
    "trap",
    [
        SyscallTrap(5000, NONE),
        SyscallTrap(-1, NONE),
        SyscallTrap((1 << 64) - 1, NONE),
        SyscallTrap(0x40000000 | NUMBERS["getpid"], NONE),  # x32
        SyscallTrap(NUMBERS["getpid"], NONE, native=False),  # int 0x80
    ],
)
def test_what_is_no_call_of_this_abi_is_enosys(world: World, trap: SyscallTrap) -> None:
    t = world.process(trap, trap, call("getpid"))
    world.run()
    assert context(t).results == [-ENOSYS.code, -ENOSYS.code, 2]


def test_an_unknown_call_is_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.process(*[SyscallTrap(5000, NONE)] * 3, SyscallTrap(5001, NONE))
    world.run()
    assert caplog.text.count("unknown system call") == 2


def replace(world: World, name: str, handler: Callable[[Any, tuple[int, ...]], Any]) -> None:
    """Put another handler into this kernel's table."""
    row = world.kernel.table[NUMBERS[name]] = copy(world.kernel.table[NUMBERS[name]])
    row.call = handler


def test_a_bug_in_a_handler_is_one_failed_call(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """DESIGN §1.5.  The traceback is in the log."""

    def buggy(t: object, a: tuple[int, ...]) -> int:
        raise ZeroDivisionError("on purpose")

    async def waits(t: object, a: tuple[int, ...]) -> int:
        raise IndexError("on purpose, later")

    replace(world, "getpid", buggy)
    replace(world, "gettid", waits)
    t = world.process(call("getpid"), call("gettid"), call("getppid"))
    world.loop._stopping = False
    world.loop.run()
    assert context(t).results == [-EIO.code, -EIO.code, 0]
    assert world.kernel.bugs == 2
    assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text


def test_a_stub_that_dies_in_a_handler_kills_the_process(world: World) -> None:
    def gone(t: object, a: tuple[int, ...]) -> int:
        raise SpaceGone("killed")

    replace(world, "getpid", gone)
    t = world.process(call("getpid"))
    other = world.process(call("gettid"))
    world.run()
    assert t.tg.dead and t.tg.exit_code == 9
    assert context(other).results == [3] and world.kernel.bugs == 0


def test_a_stub_that_dies_while_its_task_waits_kills_the_process(world: World) -> None:
    t = world.process(call("pause"))
    world.run()

    class Late(ScriptedContext):
        """Trapped though it does not run: its host process was killed."""

        def next_trap(self) -> ExitTrap:
            return ExitTrap(9, running=False)

    context(t).__class__ = Late
    world.platform.running.append(context(t))
    world.run()
    assert t.tg.dead and t.tg.exit_code == 9


@pytest.mark.parametrize(("error", "bugs"), [(SpaceGone("killed"), 0), (ZeroDivisionError("on purpose"), 1)])
def test_what_goes_wrong_while_a_signal_is_delivered_kills_the_process(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, bugs: int
) -> None:
    """Be it on the way back from the call that sent it, or from another trap."""

    def fail(self: ScriptedContext) -> bytes:
        raise error

    monkeypatch.setattr(ScriptedContext, "read_xstate", fail)
    by_itself = world.process(call("kill", 2, sig.SIGUSR1))
    by_another = world.process(InterruptTrap())
    for t in by_itself, by_another:
        t.tg.handlers.set(sig.SIGUSR1, Action(0x410000, sig.SA_RESTORER, 0x420000))
    by_another.tg.send_signal(SigInfo(sig.SIGUSR1))
    world.loop._stopping = False
    world.loop.run()
    assert [(t.tg.dead, t.tg.exit_code) for t in (by_itself, by_another)] == [(True, 9)] * 2
    assert world.kernel.bugs == 2 * bugs


def test_no_call_keeps_its_exception(world: World) -> None:
    """A traceback keeps the frame, and that the task: each failed call would make a cycle of garbage."""
    t = world.process(call("close", 99))
    world.run()
    assert context(t).results == [-9]
    assert t.restart is None and t.begun is None


def test_the_current_task_is_known_in_its_handlers(world: World) -> None:
    seen = []

    def look(t: object, a: tuple[int, ...]) -> int:
        seen.append(current())
        return 0

    replace(world, "getpid", look)
    t = world.process(call("getpid"))
    world.run()
    assert seen == [t] and current() is None
