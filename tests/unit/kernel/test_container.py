"""Containers: starting processes, who hears of their end, and what is left."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from sentry.abi import signal as sig
from sentry.kernel import container
from sentry.kernel.container import Process, ProcessSpec, StartError
from sentry.kernel.creds import CAP_KILL, CAP_SYS_ADMIN, Creds
from sentry.kernel.rlimits import Rlimits
from sentry.kernel.task import Task
from sentry.platform import SpaceGone
from sentry.wait import Event
from tests.elf import DATA as DATA_LOAD
from tests.elf import TEXT, elf
from tests.fakes import Step
from tests.unit.kernel.world import ROOT, World, call, context, user

PROGRAM = elf(TEXT, DATA_LOAD)


class Outcome:
    """What became of a coroutine that the loop ran."""

    result: Any = None
    error: BaseException | None = None
    done = False


def job(world: World, coro: Coroutine[Any, Any, Any]) -> Outcome:
    outcome = Outcome()

    async def body() -> None:
        try:
            outcome.result = await coro
        except StartError as e:
            outcome.error = e
        outcome.done = True

    world.loop.spawn(body(), "job")
    world.run()
    return outcome


def spec(*args: str, **fields: Any) -> ProcessSpec:
    values: dict[str, Any] = {"env": ["PATH=/"], "cwd": "/", "creds": ROOT, "umask": 0o22, "no_new_privs": False}
    return ProcessSpec(args=list(args), rlimits=Rlimits(), **(values | fields))


def start(world: World, process: ProcessSpec, *steps: Step, name: str = "") -> tuple[Process, Task]:
    started = Process(name, Event(world.loop))
    world.platform.script()  # of the space before the execve: nothing runs in it
    world.platform.script(*steps)
    outcome = job(world, world.container.start_process(started, process, [], None))
    if outcome.error is not None:
        raise outcome.error
    return started, outcome.result


@pytest.fixture
def world(empty_world: World) -> World:
    """Without processes, with a program."""
    empty_world.file("prog", PROGRAM)
    return empty_world


# -- starting --


def test_the_first_process_is_pid_1(world: World) -> None:
    given = spec("/prog", "arg", env=["A=b", "HOME=/h"], umask=0o77, no_new_privs=True, oom_score_adj=7)
    process, t = start(world, given)
    assert (t.tg.pid, t.tg.parent, t.tg.unkillable, t.tg.oom_score_adj) == (1, None, True, 7)
    assert world.container.pidns.init is t.tg and world.container.status == "running"
    assert t.tg.is_session_leader and t.fs.umask == 0o77 and t.no_new_privs and t.task_name == "prog"
    assert (t.mm.command_line(), t.mm.environment()) == (b"/prog\0arg\0", b"A=b\0HOME=/h\0")
    assert process.tg is t.tg and context(t).running


def test_a_name_without_slash_is_looked_up_in_path(world: World) -> None:
    _, t = start(world, spec("prog", env=["PATH=/nowhere:/"]))
    assert t.mm.command_line() == b"prog\0"


def test_an_execed_process_is_a_stranger_in_there(world: World) -> None:
    start(world, spec("/prog"))
    process, t = start(world, spec("/prog"), name="exec")
    assert (t.tg.pid, t.tg.parent, t.tg.unkillable) == (2, None, False)
    t.tg.send_kernel_signal(sig.SIGTERM)
    world.run()
    assert process.ended.is_set and process.status == 143
    assert world.container.pidns.find(2) is None


def test_no_process_joins_a_container_whose_init_has_ended(world: World) -> None:
    start(world, spec("/prog"), call("exit_group", 0))
    with pytest.raises(StartError, match="not running"):
        start(world, spec("/prog"), name="late")
    assert world.kernel.root_pidns.tasks == {}


@pytest.mark.parametrize(
    ("process", "code", "text"),
    [
        (spec("/missing"), 5, 'exec: "/missing": no such file or directory'),
        (spec("missing"), 5, 'exec: "missing": executable file not found in $PATH'),
        (spec("/plain"), 7, 'exec: "/plain": permission denied'),
        (spec("plain"), 7, 'exec: "plain": permission denied'),
        (spec("/"), 7, 'exec: "/": is a directory'),
        (spec("/text"), 3, 'exec: "/text": exec format error'),
        (spec("/prog/x"), 5, 'exec: "/prog/x": no such file or directory'),
        (
            spec("/prog", cwd="/missing"),
            3,
            "chdir to cwd ('/missing') set in config.json failed: no such file or directory",
        ),
        (spec("/prog", cwd="/prog"), 3, "chdir to cwd ('/prog') set in config.json failed: not a directory"),
        (spec("/private", creds=user()), 7, 'exec: "/private": permission denied'),
    ],
)
def test_what_cannot_be_started_says_why_as_other_engines_do(
    world: World, process: ProcessSpec, code: int, text: str
) -> None:
    world.file("plain", PROGRAM, 0o644)
    world.file("private", PROGRAM, 0o700)
    world.file("text", b"text\n")
    with pytest.raises(StartError) as raised:
        start(world, process)
    assert (raised.value.code, str(raised.value)) == (code, text)
    assert world.kernel.root_pidns.tasks == {} and world.container.pidns.init is None
    assert all(ctx.released for ctx in world.platform.contexts)


def test_a_stub_that_dies_while_a_process_is_started(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> int:
        raise SpaceGone("killed")

    monkeypatch.setattr("tests.fakes.ScriptedSpace.map", die)
    with pytest.raises(StartError, match="killed"):
        start(world, spec("/prog"))
    assert world.kernel.root_pidns.tasks == {}
    assert all(ctx.released for ctx in world.platform.contexts)


# -- credentials --


def test_root_has_what_the_bounding_set_holds(world: World) -> None:
    """As under runc: the configuration's other sets end with the execve."""
    creds = Creds(permitted=CAP_KILL, effective=0, bounding=CAP_KILL | CAP_SYS_ADMIN)
    _, t = start(world, spec("/prog", creds=creds))
    assert t.creds.permitted == t.creds.effective == CAP_KILL | CAP_SYS_ADMIN


def test_a_user_has_ambient_capabilities_only(world: World) -> None:
    creds = user().changed(permitted=3, effective=3, inheritable=2, ambient=2, bounding=3)
    _, t = start(world, spec("/prog", creds=creds))
    assert (t.creds.permitted, t.creds.effective, t.creds.ambient, t.creds.bounding) == (2, 2, 2, 3)
    assert t.creds.uid == 1000


# -- ends --


@pytest.mark.parametrize(
    ("step", "status"), [(call("exit_group", 3), 3), (call("exit_group", 300), 300 & 255), (call("exit", 2), 2)]
)
def test_the_end_is_told_with_its_status(world: World, step: Step, status: int) -> None:
    process, _ = start(world, spec("/prog"), step)
    assert process.ended.is_set and process.status == status and process.exited_at_ns > 0
    assert world.container.status == "stopped"


def test_names_of_execs_are_free_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once when somebody has heard of the end; else the oldest that nobody asks for, so that they never pile up."""
    monkeypatch.setattr(container, "MAX_UNCLAIMED", 2)
    first, _ = start(world, spec("/prog"))
    running = Process("running", Event(world.loop))
    world.container.processes["running"] = running
    ended = [Process(name, Event(world.loop)) for name in "abcd"]
    for process in ended:
        world.container.processes[process.name] = process
        world.container.end(process, 0)
    assert list(world.container.processes) == ["", "running", "c", "d"]
    for process in (first, *ended):
        world.container.forget(process)
    assert list(world.container.processes) == ["", "running"]


def test_a_killed_process_has_128_and_the_signal(world: World) -> None:
    process, _ = start(world, spec("/prog"))
    world.container.kill()
    world.run()
    assert process.status == 137


def test_signals_to_all_reach_everybody(world: World) -> None:
    _, init = start(world, spec("/prog"))
    other, _ = start(world, spec("/prog"), name="exec")
    world.container.signal_all(sig.SIGTERM)
    world.run()
    assert other.status == 143 and not init.tg.dead


def test_destroy_waits_for_everybody_and_gives_everything_back(world: World) -> None:
    start(world, spec("/prog"), call("fork"))
    outcome = job(world, world.container.destroy())
    assert outcome.done
    assert world.kernel.root_pidns.tasks == {} and world.kernel.containers == {}
    assert all(ctx.released for ctx in world.platform.contexts)
    assert world.container.template.closed  # type: ignore[attr-defined]


def test_destroy_of_a_container_that_was_never_started(world: World) -> None:
    assert job(world, world.container.destroy()).done
    assert world.kernel.containers == {}
