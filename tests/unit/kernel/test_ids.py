"""Process ids, process groups and sessions: setpgid(2), setsid(2), orphaned groups."""

from __future__ import annotations

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import EACCES, EINVAL, EPERM, ESRCH
from sentry.kernel.ids import PID_MAX, RESERVED_PIDS, PidNamespace
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import Task
from tests.fakes import Step
from tests.unit.kernel.world import World, call, context


def results(world: World, t: Task, *calls: Step) -> list[int]:
    done = len(context(t).results)
    context(t).steps.extend(calls)
    context(t).interrupt()
    world.run()
    return context(t).results[done:]


def family(world: World, count: int = 2) -> tuple[Task, list[Task]]:
    """A session leader and its children, all in its group."""
    shell = world.process()
    children = [world.process(parent=shell) for _ in range(count)]
    world.run()
    return shell, children


# -- numbers --


def test_numbers_are_given_in_order_and_not_reused_at_once() -> None:
    ns = PidNamespace(None)
    assert [ns.allocate() for _ in range(3)] == [1, 2, 3]


def test_numbers_start_again_above_the_reserved_ones() -> None:
    ns = PidNamespace(None)
    ns._last = PID_MAX - 2
    assert [ns.allocate(), ns.allocate()] == [PID_MAX - 1, RESERVED_PIDS]


def test_a_number_that_names_a_group_or_session_is_taken(world: World) -> None:
    shell, (a, _) = family(world)
    ns = world.container.pidns
    assert results(world, a, call("setpgid", 0, 0)) == [0]
    b = world.process(call("exit_group", 0), parent=shell)
    world.run()
    group = ns.find_pgrp(a.tg.pid)
    assert group is not None
    group.adopt(b.tg)  # keeps the group after its founder
    pid = a.tg.pid
    a.tg.send_signal(SigInfo(sig.SIGKILL))
    world.run()
    assert results(world, shell, call("wait4", pid, 0, 0, 0)) == [pid]
    assert ns.find(pid) is None
    ns._last = pid - 1
    assert ns.allocate() != pid


def test_a_process_has_a_number_in_every_namespace_above(world: World) -> None:
    t = world.process()
    assert t.tid == 2 and t.tid_in(world.kernel.root_pidns) == 2
    other = PidNamespace(world.kernel.root_pidns)
    assert t.tid_in(other) == 0 and other.chain == (other, world.kernel.root_pidns)


# -- setpgid --


def test_a_child_may_be_moved_to_a_group_of_its_own(world: World) -> None:
    shell, (a, b) = family(world)
    pid = a.tg.pid
    assert results(world, shell, call("setpgid", pid, 0), call("getpgid", pid), call("getpgrp")) == [0, pid, 2]
    assert results(world, shell, call("setpgid", b.tg.pid, pid), call("getpgid", b.tg.pid)) == [0, pid]
    assert results(world, a, call("setpgid", 0, 0), call("getpgid", 0), call("getsid", 0)) == [0, pid, 2]


def test_who_comes_back_joins_the_group_that_it_founded(world: World) -> None:
    """It was left to others meanwhile: there must not be two groups of one number."""
    shell, (a, b) = family(world)
    pid = a.tg.pid
    assert results(world, shell, call("setpgid", pid, pid), call("setpgid", b.tg.pid, pid)) == [0, 0]
    founded = a.tg.pgrp
    assert results(world, a, call("setpgid", 0, 2), call("setpgid", 0, 0)) == [0, 0]
    assert a.tg.pgrp is founded is b.tg.pgrp
    assert world.container.pidns.find_pgrp(pid) is founded


@pytest.mark.parametrize(
    ("who", "args", "error"),
    [
        ("shell", (0, 0), EPERM),  # a session leader stays
        ("shell", (0, -1), EINVAL),
        ("shell", (-1, 0), EINVAL),
        ("shell", (99, 0), ESRCH),
        ("a", (2, 0), ESRCH),  # not the caller's child
        ("shell", (3, 99), EPERM),  # no such group
        ("shell", (3, 5), EPERM),  # a group of another session
        ("a", (0, 1), EPERM),
        ("shell", (6, 0), EINVAL),  # a thread that is not a process
    ],
)
def test_setpgid_errors(world: World, who: str, args: tuple[int, int], error: type[Exception]) -> None:
    shell, (a, _) = family(world)
    world.process()  # pid 5, a session of its own
    world.thread(a)  # tid 6
    world.run()
    assert results(world, shell if who == "shell" else a, call("setpgid", *args)) == [-error.code]  # type: ignore[attr-defined]


def test_a_child_that_has_execed_or_left_the_session_stays(world: World) -> None:
    shell, (a, b) = family(world)
    a.tg.did_exec = True
    assert results(world, b, call("setsid")) == [4]
    assert results(world, shell, call("setpgid", 3, 0), call("setpgid", 4, 0)) == [-EACCES.code, -EPERM.code]


def test_a_group_ends_with_its_last_member(world: World) -> None:
    shell, (a, _) = family(world)
    ns = world.container.pidns
    results(world, a, call("setpgid", 0, 0))
    assert ns.find_pgrp(3) is a.tg.pgrp
    results(world, a, call("setpgid", 0, 2))
    assert ns.find_pgrp(3) is None
    assert shell.tg.session.pgrps == {shell.tg.pgrp}


# -- sessions --


def test_setsid_makes_a_session_with_one_group(world: World) -> None:
    _, (a, _) = family(world)
    assert results(world, a, call("setsid"), call("getsid", 0), call("getpgrp"), call("setsid")) == [
        3,
        3,
        3,
        -EPERM.code,
    ]
    assert a.tg.is_session_leader and a.tg.session.pgrps == {a.tg.pgrp}


def test_a_group_leader_can_not_leave_its_group_by_setsid(world: World) -> None:
    _, (a, _) = family(world)
    assert results(world, a, call("setpgid", 0, 0), call("setsid")) == [0, -EPERM.code]


def test_a_session_ends_with_its_last_group(world: World) -> None:
    shell, (a, _) = family(world)
    results(world, a, call("setsid"))
    assert 3 in world.container.pidns.sessions
    context(a).steps.append(call("exit_group", 0))
    context(a).interrupt()
    world.run()
    results(world, shell, call("wait4", 3, 0, 0, 0))
    assert 3 not in world.container.pidns.sessions


def test_ids_of_others(world: World) -> None:
    shell, (a, _) = family(world)
    thread = world.thread(a)
    assert (
        results(world, shell, call("getpgid", 99), call("getsid", 99), call("getpgid", -1), call("getsid", -1))
        == [-ESRCH.code] * 4
    )
    assert results(world, shell, call("getpgid", thread.tid), call("getsid", thread.tid)) == [2, 2]


def test_a_childs_parent_is_seen_from_its_own_namespace(world: World) -> None:
    shell, (a, _) = family(world)
    assert results(world, a, call("getppid")) == [2]
    assert results(world, shell, call("getppid")) == [0]


# -- orphaned groups --


def test_a_job_of_a_shell_is_not_orphaned_until_the_shell_ends(world: World) -> None:
    shell, (a, _) = family(world)
    results(world, a, call("setpgid", 0, 0))
    assert not a.tg.pgrp.is_orphaned()
    assert shell.tg.pgrp.is_orphaned()
    assert a.tg.pgrp.is_orphaned(but_for=a.tg)


def test_the_job_of_a_shell_that_is_pid_1_is_not_orphaned(empty_world: World) -> None:
    """`docker run -it image sh`: Ctrl-Z must stop its jobs."""
    world = empty_world
    shell, (a, _) = family(world)
    assert shell.tg.pid == 1
    results(world, a, call("setpgid", 0, 0))
    assert not a.tg.pgrp.is_orphaned()


@pytest.mark.parametrize("stopped", [True, False])
def test_a_group_with_stopped_members_that_becomes_orphaned_is_hung_up_and_continued(
    world: World, stopped: bool
) -> None:
    shell, (a, b) = family(world)
    results(world, shell, call("setpgid", 3, 3), call("setpgid", 4, 3))
    for t in (a, b):
        t.tg.handlers.set(sig.SIGHUP, Action(0x410000, sig.SA_RESTORER, 0x420000))
    if stopped:
        a.tg.send_signal(SigInfo(sig.SIGSTOP))
        world.run()
    shell.tg.send_signal(SigInfo(sig.SIGKILL))
    world.run()
    assert not a.tg.stopped
    assert [context(t).entered for t in (a, b)] == ([[0x410000]] * 2 if stopped else [[], []])


def test_the_end_of_the_last_link_to_the_session_hangs_up_too(world: World) -> None:
    """The group's only member with a parent in the session ends itself."""
    shell, (a, _) = family(world)
    results(world, a, call("setpgid", 0, 0))
    grandchild = world.process(parent=a)
    world.run()
    grandchild.tg.send_signal(SigInfo(sig.SIGSTOP))
    world.run()
    assert grandchild.tg.stopped
    a.tg.send_signal(SigInfo(sig.SIGKILL))
    world.run()
    assert grandchild.tg.dead and grandchild.tg.exit_code == sig.SIGHUP
    assert not shell.tg.dead
