"""wait4(2) and waitid(2): which children, which changes, what is reported."""

from __future__ import annotations

import struct

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import EBADF, ECHILD, EFAULT, EINTR, EINVAL, ESRCH
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import Task
from sentry.platform import SyscallTrap
from tests.fakes import Step
from tests.unit.kernel.world import DATA, World, call, context

WNOHANG, WSTOPPED, WEXITED, WCONTINUED, WNOWAIT, WALL, WCLONE = 1, 2, 4, 8, 0x1000000, 0x40000000, 0x80000000
P_ALL, P_PID, P_PGID, P_PIDFD = range(4)
STATUS, INFO, USAGE = DATA, DATA + 0x100, DATA + 0x200


def wait4(pid: int, options: int = 0, usage: int = 0) -> SyscallTrap:
    return call("wait4", pid, STATUS, options, usage)


def waitid(which: int, number: int, options: int) -> SyscallTrap:
    return call("waitid", which, number, INFO, options, 0)


def results(world: World, t: Task, *calls: Step) -> list[int]:
    done = len(context(t).results)
    context(t).steps.extend(calls)
    context(t).interrupt()
    world.run()
    return context(t).results[done:]


def status(t: Task) -> int:
    return int.from_bytes(t.mem.read(STATUS, 4), "little")


def info(t: Task) -> tuple[int, ...]:
    """signo, code, pid, uid, status."""
    signo, _, code, pid, uid, value = struct.unpack("<iii4xiIi", t.mem.read(INFO, 28))
    return signo, code, pid, uid, value


def signal(world: World, t: Task, signo: int) -> None:
    t.tg.send_signal(SigInfo(signo))
    world.run()


def family(world: World, count: int = 2) -> tuple[Task, list[Task]]:
    parent = world.process()
    parent.sigmask = sig.bit(sig.SIGCHLD) | sig.bit(sig.SIGHUP)
    children = [world.process(parent=parent) for _ in range(count)]
    world.run()
    return parent, children


# -- which children --


def test_without_children_there_is_nothing_to_wait_for(world: World) -> None:
    t = world.process(wait4(-1), waitid(P_ALL, 0, WEXITED), wait4(-1, WNOHANG))
    world.run()
    assert context(t).results == [-ECHILD.code] * 3


@pytest.mark.parametrize(
    ("pid", "result"),
    [
        (-1, 4),  # any
        (4, 4),  # this one
        (3, 0),  # one that lives
        (0, 4),  # any in the caller's group
        (-2, 4),  # any in group 2
        (5, 0),  # in another group, lives
        (-5, 0),
        (99, -ECHILD.code),
        (-99, -ECHILD.code),
        (2, -ECHILD.code),  # not a child
        (1, -ECHILD.code),
    ],
)
def test_whom_wait4_means(world: World, pid: int, result: int) -> None:
    parent, (_, b, c) = family(world, 3)
    results(world, c, call("setpgid", 0, 0))
    signal(world, b, sig.SIGKILL)
    assert results(world, parent, wait4(pid, WNOHANG)) == [result]


@pytest.mark.parametrize(
    ("which", "number", "pid"),
    [(P_ALL, 0, 3), (P_ALL, 77, 3), (P_PID, 4, 4), (P_PGID, 2, 3), (P_PGID, 5, 5), (P_PGID, 0, 3)],
)
def test_whom_waitid_means(world: World, which: int, number: int, pid: int) -> None:
    parent, children = family(world, 3)
    results(world, children[2], call("setpgid", 0, 0))
    for child in children:
        signal(world, child, sig.SIGKILL)
    assert results(world, parent, waitid(which, number, WEXITED)) == [0]
    assert info(parent)[2] == pid


@pytest.mark.parametrize(
    ("exit_signal", "options", "seen"),
    [
        (sig.SIGCHLD, 0, True),
        (sig.SIGCHLD, WCLONE, False),
        (sig.SIGCHLD, WALL, True),
        (sig.SIGHUP, 0, False),
        (sig.SIGHUP, WCLONE, True),
        (0, WCLONE, True),
        (0, 0, False),
        (0, WALL, True),
    ],
)
def test_clone_children_are_waited_for_by_their_own_option(
    world: World, exit_signal: int, options: int, seen: bool
) -> None:
    parent, (child,) = family(world, 1)
    child.tg.exit_signal = exit_signal
    signal(world, child, sig.SIGKILL)
    assert results(world, parent, wait4(-1, options)) == [3 if seen else -ECHILD.code]


def test_children_of_another_thread_count_too(world: World) -> None:
    parent, (child,) = family(world, 1)
    other = world.thread(parent, wait4(-1))
    world.run()
    signal(world, child, sig.SIGKILL)
    assert context(other).results == [3]


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (wait4(-1, 4), EINVAL),
        (wait4(-1, 0x10), EINVAL),
        (wait4(-1, WNOWAIT), EINVAL),
        (wait4(-(1 << 31)), ESRCH),
        (waitid(P_ALL, 0, 0), EINVAL),
        (waitid(P_ALL, 0, WNOHANG), EINVAL),
        (waitid(P_ALL, 0, WEXITED | 0x10), EINVAL),
        (waitid(9, 0, WEXITED), EINVAL),
        (waitid(P_PID, 0, WEXITED), EINVAL),
        (waitid(P_PID, -5, WEXITED), EINVAL),
        (waitid(P_PGID, -5, WEXITED), EINVAL),
        (waitid(P_PIDFD, -1, WEXITED), EINVAL),
        (waitid(P_PIDFD, 9, WEXITED), EBADF),
    ],
)
def test_wait_errors(world: World, trap: SyscallTrap, error: type[Exception]) -> None:
    parent, _ = family(world)
    assert results(world, parent, trap) == [-error.code]  # type: ignore[attr-defined]


# -- which changes --


@pytest.mark.parametrize(
    ("signo", "word", "code", "value"),
    [(0, 0x500, sig.CLD_EXITED, 5), (sig.SIGTERM, 15, sig.CLD_KILLED, 15), (sig.SIGSEGV, 11, sig.CLD_KILLED, 11)],
)
def test_an_end_is_reported(world: World, signo: int, word: int, code: int, value: int) -> None:
    parent, (a, b) = family(world)
    for child in (a, b):
        if signo:
            signal(world, child, signo)
        else:
            results(world, child, call("exit_group", 5))
    assert results(world, parent, wait4(3), waitid(P_PID, 4, WEXITED)) == [3, 0]
    assert status(parent) == word
    assert info(parent) == (sig.SIGCHLD, code, 4, 0, value)
    assert results(world, parent, wait4(-1)) == [-ECHILD.code]


def test_a_wait_ends_when_a_child_does(world: World) -> None:
    parent, (a, _) = family(world)
    assert results(world, parent, wait4(-1)) == []
    signal(world, a, sig.SIGKILL)
    assert context(parent).results == [3]


def test_nothing_to_report_yet(world: World) -> None:
    parent, _ = family(world)
    parent.mem.write(INFO, b"\xff" * 28)
    assert results(world, parent, wait4(-1, WNOHANG), waitid(P_ALL, 0, WEXITED | WNOHANG)) == [0, 0]
    assert info(parent) == (0, 0, 0, 0, 0)


def test_a_stop_is_reported_once_to_who_asks(world: World) -> None:
    parent, (a, _) = family(world)
    signal(world, a, sig.SIGSTOP)
    assert results(world, parent, wait4(-1, WNOHANG), wait4(-1, WNOHANG | WSTOPPED), wait4(-1, WNOHANG | WSTOPPED)) == [
        0,
        3,
        0,
    ]
    assert status(parent) == sig.SIGSTOP << 8 | 0x7F


def test_a_continuation_is_reported_once_to_who_asks(world: World) -> None:
    parent, (a, _) = family(world)
    signal(world, a, sig.SIGSTOP)
    signal(world, a, sig.SIGCONT)
    assert results(
        world,
        parent,
        wait4(-1, WNOHANG | WSTOPPED),
        waitid(P_ALL, 0, WCONTINUED | WNOWAIT),
        wait4(-1, WNOHANG | WCONTINUED),
        wait4(-1, WNOHANG | WCONTINUED),
    ) == [0, 0, 3, 0]
    assert status(parent) == 0xFFFF
    assert info(parent) == (sig.SIGCHLD, sig.CLD_CONTINUED, 3, 0, sig.SIGCONT)


def test_stops_are_reported_by_waitid(world: World) -> None:
    parent, (a, _) = family(world)
    signal(world, a, sig.SIGTSTP)
    assert results(world, parent, waitid(P_ALL, 0, WSTOPPED | WNOHANG)) == [0]
    assert info(parent)[2] == 0  # the group is orphaned: the terminal's signal did not stop it
    signal(world, a, sig.SIGSTOP)
    assert results(world, parent, waitid(P_ALL, 0, WSTOPPED)) == [0]
    assert info(parent) == (sig.SIGCHLD, sig.CLD_STOPPED, 3, 0, sig.SIGSTOP)


def test_nowait_leaves_the_child_to_be_waited_for(world: World) -> None:
    parent, (a, _) = family(world)
    signal(world, a, sig.SIGKILL)
    again = waitid(P_PID, 3, WEXITED | WNOWAIT)
    assert results(world, parent, again, again, wait4(3), wait4(3)) == [0, 0, 3, -ECHILD.code]


def test_two_waiters_get_one_child_each(world: World) -> None:
    parent, children = family(world)
    others = [world.thread(parent, wait4(-1)) for _ in range(2)]
    world.run()
    for child in children:
        signal(world, child, sig.SIGKILL)
    assert sorted(r for other in others for r in context(other).results) == [3, 4]


def test_a_handler_of_another_signal_ends_the_wait(world: World) -> None:
    parent, _ = family(world)
    parent.tg.handlers.set(sig.SIGUSR1, Action(0x410000, sig.SA_RESTORER, 0x420000))

    def sigreturn(ctx: object) -> SyscallTrap:
        context(parent).regs.rsp += 8
        return call("rt_sigreturn")

    context(parent).steps.extend([wait4(-1), sigreturn])
    context(parent).interrupt()
    world.run()
    signal(world, parent, sig.SIGUSR1)
    assert context(parent).results == [-EINTR.code]


def test_the_child_that_sent_sigchld_is_found_though_its_handler_runs(world: World) -> None:
    """wait4(2) returns the child, not EINTR, when both come at once."""
    parent, (a, _) = family(world)
    parent.sigmask = 0
    parent.tg.handlers.set(sig.SIGCHLD, Action(0x410000, sig.SA_RESTORER, 0x420000))

    def sigreturn(ctx: object) -> SyscallTrap:
        context(parent).regs.rsp += 8
        return call("rt_sigreturn")

    context(parent).steps.extend([wait4(-1), sigreturn])
    context(parent).interrupt()
    world.run()
    signal(world, a, sig.SIGKILL)
    assert context(parent).results == [3]


# -- results --


def test_results_need_not_be_asked_for(world: World) -> None:
    parent, (a, b) = family(world)
    for child in (a, b):
        signal(world, child, sig.SIGKILL)
    assert results(world, parent, call("wait4", 3, 0, 0, 0), call("waitid", P_ALL, 0, 0, WEXITED, 0)) == [3, 0]


def test_a_bad_pointer_is_efault_and_the_child_is_gone(world: World) -> None:
    parent, (a,) = family(world, 1)
    signal(world, a, sig.SIGKILL)
    assert results(world, parent, call("wait4", -1, 8, 0, 0), wait4(-1)) == [-EFAULT.code, -ECHILD.code]


def test_rusage_is_the_childs(world: World) -> None:
    parent, (a, _) = family(world)
    context(a).used_ns = 3_000_002_000
    signal(world, a, sig.SIGKILL)
    assert results(world, parent, wait4(3, 0, USAGE)) == [3]
    assert struct.unpack("<qq", parent.mem.read(USAGE, 16)) == (3, 2)
    assert parent.tg.child_cpu_ns[0] == 3_000_002_000


def test_the_uid_is_the_childs_real_one(world: World) -> None:
    parent, (a, _) = family(world)
    a.creds = a.creds.changed(uid=1234)
    signal(world, a, sig.SIGKILL)
    assert results(world, parent, waitid(P_PID, 3, WEXITED)) == [0]
    assert info(parent)[3] == 1234
