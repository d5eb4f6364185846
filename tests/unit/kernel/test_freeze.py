"""Freezing a container: who comes to rest where, what happens to it meanwhile, and what gets through."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

import pytest

from sentry.abi import signal as sig
from sentry.kernel.freeze import PATIENCE_NS
from sentry.kernel.signals import SigInfo
from sentry.platform import ExitTrap
from sentry.wait import Event
from tests.unit.kernel.world import DATA, World, call, context

SECOND = 1_000_000_000
WRITE = 1


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def freeze(world: World, patience_ns: int = PATIENCE_NS, after_ns: int = 0) -> list[bool]:
    """Freeze the container, after a while, and let everything settle; what freeze() said."""
    outcome: list[bool] = []

    async def body() -> None:
        if after_ns:
            later = Event(world.loop)
            world.loop.call_at(world.platform.now + after_ns, later.set)
            await later.wait()
        outcome.append(await world.container.freezer.freeze(patience_ns))

    world.loop.spawn(body(), "freeze")
    world.run()
    return outcome


def thaw(world: World) -> None:
    world.container.freezer.thaw()
    world.run()


def test_running_code_is_stopped_and_runs_on(world: World) -> None:
    t = world.process()
    world.run()
    assert context(t).running
    assert freeze(world) == [True]
    assert not context(t).running
    thaw(world)
    assert context(t).running


def test_call_that_is_made_while_freezing_ends_but_the_next_is_not_answered(world: World) -> None:
    t = world.process(call("getpid"), call("getppid"))
    outcome = freeze(world)  # before the process has begun
    assert outcome == [True]
    assert context(t).results == []
    thaw(world)
    assert context(t).results == [1, 0]


def test_all_threads_of_all_processes_rest(world: World) -> None:
    first = world.process()
    tasks = [first, world.thread(first), world.process(parent=first)]
    world.run()
    assert freeze(world) == [True]
    assert [context(t).running for t in tasks] == [False, False, False]
    thaw(world)
    assert [context(t).running for t in tasks] == [True, True, True]


def test_timer_that_expires_meanwhile_is_seen_afterwards(world: World) -> None:
    """The sleep's time passes; the sleeper hears of it when it is thawed, and is not interrupted."""
    t = world.process(lambda c: sleep_of(c, 10), call("getpid"))
    nearly_until = world.platform.now + 9 * SECOND
    assert freeze(world, after_ns=SECOND) == [True]
    assert world.platform.now > nearly_until
    assert context(t).results == []
    thaw(world)
    assert context(t).results == [0, 1]


def sleep_of(c: object, seconds: int):  # type: ignore[no-untyped-def]
    c.space.write(DATA, seconds.to_bytes(8, "little") + bytes(8))  # type: ignore[attr-defined]
    return call("nanosleep", DATA, 0)


def test_data_that_comes_meanwhile_is_read_afterwards(world: World) -> None:
    reader = world.process(call("pipe2", DATA, 0), call("read", 0, DATA + 64, 8))
    world.run()
    assert freeze(world) == [True]
    reader.files.get(WRITE).queue.wake(~0)  # as a writer outside the container would
    world.run()
    assert context(reader).results == [0]
    thaw(world)
    assert context(reader).results == [0]  # it was told for nothing, and waits again
    reader.tg.send_signal(SigInfo(sig.SIGKILL), forced=True)
    world.run()
    assert reader.tg.dead


def test_futex_that_is_woken_meanwhile_is_not_interrupted(world: World) -> None:
    t = world.process(call("futex", DATA, 0, 0, 0, 0, 0), call("getpid"))
    world.run()
    assert freeze(world) == [True]
    world.kernel.futexes.wake_address(t, DATA, 1)
    world.run()
    assert context(t).results == []
    thaw(world)
    assert context(t).results == [0, 1]


def test_futex_nobody_woke_waits_on_after_the_thaw(world: World) -> None:
    t = world.process(call("futex", DATA, 0, 0, 0, 0, 0))
    world.run()
    assert freeze(world) == [True]
    thaw(world)
    assert context(t).results == []
    assert t.interruptible


def test_signal_stays_pending_until_the_thaw(world: World) -> None:
    init = world.process()
    t = world.process(parent=init)
    world.run()
    assert freeze(world) == [True]
    t.tg.send_signal(SigInfo(sig.SIGTERM))
    world.run()
    assert not t.tg.dead
    thaw(world)
    assert t.tg.dead
    assert t.tg.exit_code == sig.SIGTERM


@pytest.mark.parametrize("steps", [(), (call("pause"),)], ids=["running code", "waiting"])
def test_kill_gets_through_and_leaves_the_others_frozen(world: World, steps: tuple[object, ...]) -> None:
    init = world.process()
    t = world.process(*steps, parent=init)  # type: ignore[arg-type]
    world.run()
    assert freeze(world) == [True]
    t.tg.send_signal(SigInfo(sig.SIGKILL))
    world.run()
    assert t.tg.dead
    assert not context(init).running
    thaw(world)
    assert context(init).running


def test_kill_of_the_first_process_ends_all(world: World) -> None:
    init = world.process()
    t = world.process(parent=init)
    world.run()
    assert freeze(world) == [True]
    init.tg.send_signal(SigInfo(sig.SIGKILL), forced=True)
    world.run()
    assert init.tg.dead
    assert t.tg.dead


def test_task_whose_host_process_is_killed_leaves_the_freezer(world: World) -> None:
    """As the host's OOM killer would."""
    init = world.process()
    t = world.process(parent=init)
    world.run()
    assert freeze(world) == [True]
    t.trapped(ExitTrap(9, running=False))
    world.run()
    assert t.tg.dead


def test_stopped_process_that_is_continued_meanwhile_stays_frozen(world: World) -> None:
    init = world.process()
    t = world.process(parent=init)
    world.run()
    t.tg.send_signal(SigInfo(sig.SIGSTOP))
    world.run()
    assert t.stopped
    assert freeze(world) == [True]
    t.tg.send_signal(SigInfo(sig.SIGCONT))
    world.run()
    assert not t.stopped
    assert not context(t).running
    thaw(world)
    assert context(t).running


def test_vfork_parent_and_child_rest(world: World) -> None:
    parent = world.process(call("vfork"), call("getpid"))
    world.platform.script()  # of the child, which runs on
    world.run()
    [child] = [tg.leader for tg in parent.tg.children]
    assert freeze(world) == [True]
    assert not context(child).running
    thaw(world)
    assert context(child).running
    child.tg.send_signal(SigInfo(sig.SIGKILL))
    world.run()
    assert context(parent).results == [2, 1]


def test_child_that_is_made_while_freezing_is_frozen_too(world: World) -> None:
    """The fork was under way when the freezer came: the stub answers the interrupt by its call."""
    parent = world.process()
    world.run()
    forking = context(parent)
    forking.steps.append(call("fork"))
    world.platform.script()
    forking.interrupt = lambda: None  # type: ignore[method-assign]
    assert freeze(world) == [True]
    [child] = [tg.leader for tg in parent.tg.children]
    assert not context(child).running
    assert not forking.running
    thaw(world)
    assert context(child).running


def test_task_in_a_wait_that_no_signal_ends_is_waited_for(world: World) -> None:
    """Such as one for the gofer; it goes on until that is over."""
    t = world.process()
    world.run()
    over = Event(world.loop)
    interrupted_until(world, t, over)
    outcome = freeze(world, patience_ns=SECOND)
    assert outcome == [False]
    assert not world.container.frozen
    over.set()
    world.run()
    assert context(t).running
    assert freeze(world) == [True]


def interrupted_until(world: World, t, over: Event) -> None:  # type: ignore[no-untyped-def]
    """Make t's next call one that waits for `over`, whatever comes."""

    async def wait_for_it(*_: object) -> int:
        await over.wait()
        return 0

    row = world.kernel.table[39]
    waiting = world.kernel.table[39] = copy(row)
    waiting.call = wait_for_it
    context(t).steps.append(call("getpid"))
    world.run()
    world.kernel.table[39] = row


def test_thaw_while_freezing(world: World) -> None:
    t = world.process()
    world.run()
    over = Event(world.loop)
    interrupted_until(world, t, over)
    outcome: list[bool] = []

    async def body() -> None:
        outcome.append(await world.container.freezer.freeze())

    world.loop.spawn(body(), "freeze")
    world.loop.call_at(world.platform.now + SECOND, world.container.freezer.thaw)
    world.run()
    assert outcome == [False]
    over.set()
    world.run()
    assert context(t).running
