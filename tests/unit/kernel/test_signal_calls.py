"""The signal calls: sigaction(2), masks, kill(2) and its kin, sigaltstack(2)."""

from __future__ import annotations

import struct

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN, EFAULT, EINTR, EINVAL, ENOMEM, EPERM, ESRCH, LinuxError
from sentry.kernel.rlimits import RLIMIT_SIGPENDING
from sentry.kernel.signals import SigInfo
from sentry.kernel.task import Task
from sentry.platform import SyscallTrap
from tests.unit.kernel.world import DATA, MASK64, STACK, World, call, context, user

NEW, OLD = DATA, DATA + 0x100
ACTION = struct.Struct("<QQQQ")
STACK_T = struct.Struct("<QixxxxQ")
RT = 40


def results(world: World, t: Task, *calls: SyscallTrap) -> list[int]:
    done = len(context(t).results)
    context(t).steps.extend(calls)
    context(t).interrupt()
    world.run()
    return context(t).results[done:]


def blocked(world: World, **fields: object) -> Task:
    """A process that blocks everything, so that what it is sent stays to be looked at."""
    t = world.process(**fields)  # type: ignore[arg-type]
    t.sigmask = MASK64 & ~sig.UNBLOCKABLE
    return t


def pending(t: Task) -> set[int]:
    mask = t.pending.mask | t.tg.pending.mask
    return {signo for signo in range(1, 65) if mask & sig.bit(signo)}


# -- actions --


def test_sigaction_returns_the_old_action(world: World) -> None:
    t = world.process()
    t.mem.write(NEW, ACTION.pack(0x1000, sig.SA_RESTART | sig.SA_RESTORER, 0x2000, MASK64))
    assert results(world, t, call("rt_sigaction", sig.SIGUSR1, NEW, OLD, 8)) == [0]
    assert ACTION.unpack(t.mem.read(OLD, 32)) == (0, 0, 0, 0)
    assert results(world, t, call("rt_sigaction", sig.SIGUSR1, 0, OLD, 8)) == [0]
    assert ACTION.unpack(t.mem.read(OLD, 32)) == (
        *(0x1000, sig.SA_RESTART | sig.SA_RESTORER, 0x2000),
        MASK64 & ~sig.UNBLOCKABLE,
    )


def test_flags_that_are_not_known_are_lost(world: World) -> None:
    """How a program finds out which flags the kernel knows: SA_UNSUPPORTED, sigaction(2)."""
    t = world.process()
    t.mem.write(NEW, ACTION.pack(0x1000, 0x400 | 0x800 | 0x20, 0, 0))
    results(world, t, call("rt_sigaction", sig.SIGUSR1, NEW, 0, 8))
    assert t.tg.handlers.get(sig.SIGUSR1).flags == 0x800


def test_to_ignore_a_signal_forgets_those_that_are_pending(world: World) -> None:
    t = blocked(world)
    other = world.thread(t)
    t.tg.send_signal(SigInfo(sig.SIGUSR1))
    t.tg.send_to(other, SigInfo(sig.SIGUSR1))
    other.sigmask = t.sigmask
    t.mem.write(NEW, ACTION.pack(sig.SIG_IGN, 0, 0, 0))
    results(world, t, call("rt_sigaction", sig.SIGUSR1, NEW, 0, 8))
    assert pending(t) == pending(other) == set()


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (call("rt_sigaction", 0, 0, OLD, 8), EINVAL),
        (call("rt_sigaction", 65, 0, OLD, 8), EINVAL),
        (call("rt_sigaction", sig.SIGKILL, NEW, 0, 8), EINVAL),
        (call("rt_sigaction", sig.SIGSTOP, NEW, 0, 8), EINVAL),
        (call("rt_sigaction", sig.SIGUSR1, NEW, 0, 16), EINVAL),
        (call("rt_sigaction", sig.SIGUSR1, 8, 0, 8), EFAULT),
        (call("rt_sigaction", sig.SIGUSR1, 0, 8, 8), EFAULT),
        (call("rt_sigprocmask", 3, NEW, 0, 8), EINVAL),
        (call("rt_sigprocmask", 0, NEW, 0, 4), EINVAL),
        (call("rt_sigprocmask", 0, 8, 0, 8), EFAULT),
        (call("rt_sigpending", OLD, 9), EINVAL),
        (call("rt_sigpending", 8, 8), EFAULT),
        (call("rt_sigsuspend", NEW, 4), EINVAL),
        (call("rt_sigsuspend", 8, 8), EFAULT),
        (call("rt_sigtimedwait", NEW, 0, 0, 4), EINVAL),
        (call("rt_sigtimedwait", 8, 0, 0, 8), EFAULT),
    ],
)
def test_errors(world: World, trap: SyscallTrap, error: type[LinuxError]) -> None:
    assert results(world, world.process(), trap) == [-error.code]


def test_the_action_of_sigkill_can_be_asked_for(world: World) -> None:
    assert results(world, world.process(), call("rt_sigaction", sig.SIGKILL, 0, OLD, 8)) == [0]


# -- masks --


def test_masks_are_added_removed_and_set(world: World) -> None:
    t = world.process()

    def change(how: int, *signals: int) -> set[int]:
        t.mem.write(NEW, sum(sig.bit(s) for s in signals).to_bytes(8, "little"))
        assert results(world, t, call("rt_sigprocmask", how, NEW, OLD, 8)) == [0]
        return {s for s in range(1, 65) if t.sigmask & sig.bit(s)}

    assert change(sig.SIG_BLOCK, 1, 2) == {1, 2}
    assert change(sig.SIG_BLOCK, 64, sig.SIGKILL, sig.SIGSTOP) == {1, 2, 64}
    assert change(sig.SIG_UNBLOCK, 2, 3) == {1, 64}
    assert change(sig.SIG_SETMASK, 5) == {5}
    assert t.mem.read(OLD, 8) == (sig.bit(1) | sig.bit(64)).to_bytes(8, "little")
    assert results(world, t, call("rt_sigprocmask", 99, 0, OLD, 8)) == [0]  # how says nothing without a new mask


def test_pending_signals_are_those_blocked(world: World) -> None:
    t = blocked(world)
    other = world.thread(t)
    other.sigmask = t.sigmask
    t.tg.send_signal(SigInfo(sig.SIGHUP))
    t.tg.send_to(t, SigInfo(sig.SIGINT))
    t.tg.send_to(other, SigInfo(sig.SIGTERM))
    assert results(world, t, call("rt_sigpending", OLD, 8)) == [0]
    assert t.mem.read(OLD, 8) == (sig.bit(sig.SIGHUP) | sig.bit(sig.SIGINT)).to_bytes(8, "little")
    assert results(world, t, call("rt_sigpending", OLD + 16, 4)) == [0]
    assert t.mem.read(OLD + 16, 8) == t.mem.read(OLD, 4) + bytes(4)


def test_sigtimedwait_is_interrupted_even_by_a_stop(world: World) -> None:
    """signal(7): one of the calls that fail with EINTR after SIGCONT, though no handler runs."""
    t = world.process(call("rt_sigtimedwait", NEW, 0, 0, 8))
    t.mem.write(NEW, sig.bit(sig.SIGUSR1).to_bytes(8, "little"))
    world.run()
    for signo in (sig.SIGSTOP, sig.SIGCONT):
        t.tg.send_signal(SigInfo(signo))
        world.run()
    assert context(t).results == [-EINTR.code]


# -- kill --


@pytest.mark.parametrize(
    ("pid", "reached"),
    [(3, {3}), (0, {2, 3}), (-2, {2, 3}), (-5, {5}), (-1, {3, 4, 5}), (6, {3})],
)
def test_whom_kill_reaches(world: World, pid: int, reached: set[int]) -> None:
    t = blocked(world)
    tasks = [t, blocked(world, parent=t), blocked(world), blocked(world, parent=t)]
    world.run()
    results(world, tasks[3], call("setpgid", 0, 0))
    thread = world.thread(tasks[1])
    thread.sigmask = t.sigmask
    world.run()
    assert [task.tid for task in (*tasks, thread)] == [2, 3, 4, 5, 6]
    assert results(world, t, call("kill", pid, sig.SIGTERM)) == [0]
    assert {task.tid for task in tasks if pending(task) & {sig.SIGTERM}} == reached


def test_a_signal_says_who_sent_it(world: World) -> None:
    t, target = world.process(creds=user()), blocked(world, creds=user())
    world.run()
    results(world, t, call("kill", 3, sig.SIGTERM), call("tgkill", 3, 3, sig.SIGINT))
    info, directed = target.tg.pending.take(MASK64), target.pending.take(MASK64)
    assert info is not None and (info.code, info.pid, info.uid) == (sig.SI_USER, 2, 1000)
    assert directed is not None and (directed.code, directed.pid) == (sig.SI_TKILL, 2)


def test_signal_0_only_asks(world: World) -> None:
    t, target = world.process(), blocked(world)
    world.run()
    traps = call("kill", 3, 0), call("kill", 99, 0), call("tkill", 3, 0), call("tgkill", 3, 3, 0)
    assert results(world, t, *traps) == [0, -ESRCH.code, 0, 0]
    assert pending(target) == set()


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (call("kill", 99, 1000), ESRCH),  # Linux looks for the process first
        (call("kill", 3, 65), EINVAL),
        (call("kill", 3, -1), EINVAL),
        (call("kill", -(1 << 31), 9), ESRCH),
        (call("kill", -99, 9), ESRCH),
        (call("tkill", 0, 9), EINVAL),
        (call("tkill", 99, 9), ESRCH),
        (call("tgkill", 0, 3, 9), EINVAL),
        (call("tgkill", 3, -1, 9), EINVAL),
        (call("tgkill", 2, 3, 9), ESRCH),  # a thread of another process
        (call("tgkill", 3, 3, 65), EINVAL),
    ],
)
def test_errors_of_sending(world: World, trap: SyscallTrap, error: type[LinuxError]) -> None:
    t = world.process()
    world.process()
    world.run()
    assert results(world, t, trap) == [-error.code]


def test_permission_to_kill(world: World) -> None:
    t = world.process(creds=user())
    own, others = blocked(world, creds=user()), blocked(world, creds=user(7))
    world.run()
    assert results(world, t, call("kill", 3, 15), call("kill", 4, 15), call("tgkill", 4, 4, 15)) == [
        0,
        -EPERM.code,
        -EPERM.code,
    ]
    assert results(world, t, call("kill", -1, 10)) == [0]  # those who may not be signalled are no failure
    assert pending(own) == {15, 10} and pending(others) == set()


def test_sigcont_may_be_sent_within_the_session(world: World) -> None:
    t = world.process(creds=user())
    inside, outside = blocked(world, parent=t, creds=user(7)), blocked(world, creds=user(7))
    world.run()
    traps = [call("kill", pid, signo) for pid in (3, 4) for signo in (sig.SIGCONT, sig.SIGTERM)]
    assert results(world, t, *traps) == [0, -EPERM.code, -EPERM.code, -EPERM.code]
    assert pending(inside) == {sig.SIGCONT} and pending(outside) == set()


def test_a_group_counts_as_reached_if_anyone_was(world: World) -> None:
    t = blocked(world, creds=user())
    child = blocked(world, parent=t, creds=user(7))
    world.run()
    assert results(world, t, call("kill", 0, 15)) == [0]
    assert pending(t) == {15} and pending(child) == set()


# -- with data --


def siginfo(code: int, value: int = 5, pid: int = 2) -> bytes:
    return struct.pack("<iiixxxxiIQ", 0, 0, code, pid, 1000, value).ljust(128, b"\0")


def test_a_value_is_queued_with_the_signal(world: World) -> None:
    t, target = world.process(), blocked(world)
    t.mem.write(NEW, siginfo(sig.SI_QUEUE, 77))
    world.run()
    traps = call("rt_sigqueueinfo", 3, RT, NEW), call("rt_tgsigqueueinfo", 3, 3, RT, NEW)
    assert results(world, t, *traps) == [0, 0]
    for queue in (target.tg.pending, target.pending):
        info = queue.take(MASK64)
        assert info is not None and (info.signo, info.code, info.value, info.pid) == (RT, sig.SI_QUEUE, 77, 2)
        assert struct.unpack_from("<i", info.pack()) == (RT,)


@pytest.mark.parametrize(
    ("code", "pid", "result"),
    [
        (sig.SI_QUEUE, 3, 0),
        (sig.SI_USER, 3, -EPERM.code),  # a lie
        (sig.SI_TKILL, 3, -EPERM.code),
        (sig.SI_KERNEL, 3, -EPERM.code),
        (sig.SI_USER, 2, 0),  # to oneself one may lie
        (sig.SI_QUEUE, 99, -ESRCH.code),
        (sig.SI_QUEUE, 0, -ESRCH.code),
    ],
)
def test_who_may_claim_what(world: World, code: int, pid: int, result: int) -> None:
    t = blocked(world)
    blocked(world)
    t.mem.write(NEW, siginfo(code))
    world.run()
    assert results(world, t, call("rt_sigqueueinfo", pid, RT, NEW)) == [result]


def test_too_many_queued_signals_are_eagain(world: World) -> None:
    t = blocked(world)
    t.tg.rlimits.set(RLIMIT_SIGPENDING, 1, 1)
    t.mem.write(NEW, siginfo(sig.SI_QUEUE))
    assert results(world, t, *[call("rt_sigqueueinfo", 2, RT, NEW)] * 2) == [0, -EAGAIN.code]


# -- the alternate stack --


def test_sigaltstack_sets_and_tells(world: World) -> None:
    t = world.process()
    t.mem.write(NEW, STACK_T.pack(DATA + 0x1000, 0, 0x4000))
    assert results(world, t, call("sigaltstack", NEW, OLD)) == [0]
    assert STACK_T.unpack(t.mem.read(OLD, 24)) == (0, sig.SS_DISABLE, 0)
    assert results(world, t, call("sigaltstack", 0, OLD)) == [0]
    assert STACK_T.unpack(t.mem.read(OLD, 24)) == (DATA + 0x1000, 0, 0x4000)


def test_a_stack_in_use_stays(world: World) -> None:
    t = world.process()
    t.altstack = (STACK - 0x2000, 0, 0x2000)
    t.mem.write(NEW, STACK_T.pack(DATA, sig.SS_DISABLE, 0))
    assert results(world, t, call("sigaltstack", NEW, 0), call("sigaltstack", 0, OLD)) == [-EPERM.code, 0]
    assert STACK_T.unpack(t.mem.read(OLD, 24))[1] == sig.SS_ONSTACK


def test_autodisarm_is_told(world: World) -> None:
    t = world.process()
    t.altstack = (DATA, sig.SS_AUTODISARM, 0x4000)
    assert results(world, t, call("sigaltstack", 0, OLD)) == [0]
    assert STACK_T.unpack(t.mem.read(OLD, 24))[1] & 0xFFFFFFFF == sig.SS_AUTODISARM


@pytest.mark.parametrize(
    ("flags", "size", "error"), [(0, 100, ENOMEM), (5, 0x4000, EINVAL), (sig.SS_ONSTACK | sig.SS_DISABLE, 0, EINVAL)]
)
def test_errors_of_sigaltstack(world: World, flags: int, size: int, error: type[LinuxError]) -> None:
    t = world.process()
    t.mem.write(NEW, STACK_T.pack(DATA, flags, size))
    assert results(world, t, call("sigaltstack", NEW, 0)) == [-error.code]
    assert t.altstack == (0, sig.SS_DISABLE, 0)
