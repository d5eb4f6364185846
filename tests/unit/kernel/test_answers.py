"""About which calls a platform need not ask, and that what it answers by itself is what the kernel would answer."""

from __future__ import annotations

import struct

import pytest

from sentry.kernel.answers import CONSTANT, approve_memory
from sentry.kernel.rlimits import RLIM_INFINITY, RLIMIT_AS
from sentry.kernel.task import Task
from sentry.strace import Strace
from tests.unit.kernel.world import DATA, World, call, context

IDS = ("getuid", "geteuid", "getgid", "getegid")


def answers(t: Task) -> tuple[int, ...]:
    return tuple(context(t).answers[name] for name in CONSTANT)


def test_answers_are_what_the_calls_return(world: World) -> None:
    t = world.process(*(call(name) for name in CONSTANT))
    world.run()
    assert context(t).results == list(answers(t))
    assert set(context(t).answers) == set(CONSTANT)


def test_a_thread_and_a_child_have_their_own(world: World) -> None:
    parent = world.process()
    thread = world.thread(parent)
    child = world.process(parent=parent)
    world.run()
    assert [context(t).answers["getpid"] for t in (parent, thread, child)] == [2, 2, 4]
    assert [context(t).answers["gettid"] for t in (parent, thread, child)] == [2, 3, 4]
    assert context(child).answers["getppid"] == 2


def test_new_credentials_are_answered_from_then_on(world: World) -> None:
    t = world.process(call("setresgid", 7, 8, 7), call("setresuid", 5, 6, 5), *(call(name) for name in IDS))
    world.run()
    assert [context(t).answers[name] for name in IDS] == [5, 6, 7, 8] == context(t).results[2:]


def test_a_new_parent_is_answered_to_every_thread(world: World) -> None:
    parent = world.process(call("exit_group", 0))
    child = world.process(parent=parent)
    thread = world.thread(child)
    world.run()
    assert [context(t).answers["getppid"] for t in (child, thread)] == [1, 1]


def test_nothing_is_answered_while_calls_are_traced(world: World) -> None:
    lines: list[str] = []
    world.kernel.strace = Strace(lines.append)
    t = world.process(call("getpid"), call("setuid", 5), call("getuid"))
    world.run()
    assert context(t).answers == {}
    assert sum("getuid" in line for line in lines) == 1


@pytest.mark.parametrize(("soft", "approved"), [(1 << 30, False), (RLIM_INFINITY, True)])
def test_memory_calls_ask_under_a_limit_of_the_address_space(world: World, soft: int, approved: bool) -> None:
    t = world.process(call("setrlimit", RLIMIT_AS, DATA))
    thread = world.thread(t)
    context(t).space.write(DATA, struct.pack("<QQ", soft, RLIM_INFINITY))
    for task in (t, thread):
        context(task).approve_memory(not approved)
    world.run()
    assert context(t).results == [0]
    assert [context(task).approved for task in (t, thread)] == [approved, approved]


def test_memory_calls_ask_while_calls_are_traced_or_counted(world: World) -> None:
    t = world.process()
    world.kernel.profiled = True
    approve_memory(t)
    assert not context(t).approved
    world.kernel.profiled = False
    approve_memory(t)
    assert context(t).approved
    lines: list[str] = []
    world.kernel.strace = Strace(lines.append)
    approve_memory(t)
    assert not context(t).approved
