"""Signals to processes: who gets them, who never does, stopping and continuing, what the parent hears."""

from __future__ import annotations

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN
from sentry.kernel.rlimits import RLIMIT_SIGPENDING
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import Task
from sentry.platform import Trap
from tests.fakes import Step
from tests.unit.kernel.world import DATA, World, call, context

HANDLER = 0x410000
RT = sig.SIGRTMIN + 1


def handle(t: Task, signo: int, flags: int = 0, handler: int = HANDLER) -> None:
    t.tg.handlers.set(signo, Action(handler, flags | sig.SA_RESTORER, 0x420000))


def block(t: Task, *signals: int) -> None:
    t.sigmask |= sum(sig.bit(signo) for signo in signals)


def pending(t: Task) -> set[int]:
    mask = t.pending.mask | t.tg.pending.mask
    return {signo for signo in range(1, 65) if mask & sig.bit(signo)}


# -- what becomes of a signal at once --


def test_an_ignored_signal_is_dropped_when_it_is_sent(world: World) -> None:
    t = world.process()
    t.tg.send_signal(SigInfo(sig.SIGWINCH))
    t.tg.handlers.set(sig.SIGTERM, Action(sig.SIG_IGN))
    t.tg.send_signal(SigInfo(sig.SIGTERM))
    assert pending(t) == set()
    assert not t.attention


def test_an_ignored_signal_that_is_blocked_stays_pending(world: World) -> None:
    """It may find a handler when it is unblocked, or a sigwait(3)."""
    t = world.process()
    block(t, sig.SIGCHLD)
    t.tg.send_signal(SigInfo(sig.SIGCHLD))
    assert pending(t) == {sig.SIGCHLD}


def test_a_blocked_signal_disturbs_nobody(world: World) -> None:
    t = world.process()
    world.run()
    block(t, sig.SIGTERM)
    t.tg.send_signal(SigInfo(sig.SIGTERM))
    world.run()
    assert pending(t) == {sig.SIGTERM} and not t.attention and not t.exiting


def test_a_signal_without_handler_ends_the_process(world: World) -> None:
    parent = world.process(call("wait4", -1, DATA, 0, 0))
    t = world.process(parent=parent)
    t.tg.send_signal(SigInfo(sig.SIGTERM))
    world.run()
    assert t.tg.dead and t.tg.exit_code == sig.SIGTERM
    assert parent.mem.read(DATA, 4) == b"\x0f\0\0\0"


def test_sigkill_ends_every_thread_even_blocked(world: World) -> None:
    t = world.process()
    threads = [world.thread(t) for _ in range(3)]
    world.run()
    block(t, sig.SIGKILL)
    t.tg.send_to(threads[1], SigInfo(sig.SIGKILL))
    world.run()
    assert t.tg.dead and t.tg.tasks == [] and t.tg.exit_code == sig.SIGKILL


def test_a_dead_process_takes_no_signal(world: World) -> None:
    parent = world.process()
    t = world.process(call("exit_group", 0), parent=parent)
    world.run()
    t.tg.send_signal(SigInfo(sig.SIGTERM))
    assert t.tg.pending.mask == 0


# -- pid 1 --


def test_pid_1_hears_only_what_it_handles(empty_world: World) -> None:
    """signal(7) for init: "only signals for which it has installed handlers", kill(2)."""
    world = empty_world
    init = world.process()
    handle(init, sig.SIGHUP)
    world.run()
    for signo in range(1, 65):
        if signo != sig.SIGHUP:
            init.tg.send_signal(SigInfo(signo))
    world.run()
    assert not init.exiting and pending(init) == set()
    init.tg.send_signal(SigInfo(sig.SIGHUP))
    world.run()
    assert context(init).entered == [HANDLER]


def test_pid_1_can_wait_for_what_it_blocks(empty_world: World) -> None:
    """tini, dumb-init and systemd block SIGTERM and fetch it with sigwait(3) or a signalfd."""
    world = empty_world
    init = world.process(call("rt_sigtimedwait", DATA, 0, 0, 8))
    init.mem.write(DATA, sig.bit(sig.SIGTERM).to_bytes(8, "little"))
    block(init, sig.SIGTERM, sig.SIGINT)
    init.tg.send_signal(SigInfo(sig.SIGINT))
    world.run()
    assert pending(init) == {sig.SIGINT}
    init.tg.send_signal(SigInfo(sig.SIGTERM))
    world.run()
    assert context(init).results == [sig.SIGTERM]


@pytest.mark.parametrize(("signo", "forced", "dies"), [(9, False, False), (9, True, True), (15, True, False)])
def test_pid_1_dies_only_by_sigkill_from_outside(empty_world: World, signo: int, forced: bool, dies: bool) -> None:
    world = empty_world
    init = world.process()
    world.run()
    init.tg.send_signal(SigInfo(signo), forced=forced)
    world.run()
    assert init.tg.dead is dies


def test_sigstop_from_outside_stops_pid_1(empty_world: World) -> None:
    world = empty_world
    init = world.process()
    world.run()
    init.tg.send_signal(SigInfo(sig.SIGSTOP))
    world.run()
    assert not init.tg.stopped
    init.tg.send_signal(SigInfo(sig.SIGSTOP), forced=True)
    world.run()
    assert init.tg.stopped


def test_a_fault_kills_even_pid_1(empty_world: World) -> None:
    world = empty_world
    init = world.process()
    world.run()
    init.force_signal(SigInfo(sig.SIGSEGV, 1))
    context(init).interrupt()
    world.run()
    assert init.tg.dead and init.tg.exit_code == sig.SIGSEGV


# -- which thread --


def test_a_signal_to_a_process_goes_to_a_thread_that_does_not_block_it(world: World) -> None:
    t = world.process()
    other = world.thread(t)
    world.run()
    handle(t, sig.SIGUSR1)
    block(t, sig.SIGUSR1)
    t.tg.send_signal(SigInfo(sig.SIGUSR1))
    world.run()
    assert (context(t).entered, context(other).entered) == ([], [HANDLER])


def test_a_signal_to_a_thread_waits_for_that_thread(world: World) -> None:
    t = world.process()
    other = world.thread(t)
    world.run()
    handle(t, sig.SIGUSR1)
    block(other, sig.SIGUSR1)
    t.tg.send_to(other, SigInfo(sig.SIGUSR1))
    world.run()
    assert (context(t).entered, context(other).entered, other.pending.mask) == ([], [], sig.bit(sig.SIGUSR1))


def test_a_signal_is_passed_on_when_its_thread_begins_to_block_it(world: World) -> None:
    """retarget_shared_pending(): else it would stay pending though another thread would take it."""
    mask = sig.bit(sig.SIGUSR1).to_bytes(8, "little")

    def meanwhile(_: object) -> Trap:
        t.tg.send_signal(SigInfo(sig.SIGUSR1))
        return call("rt_sigprocmask", sig.SIG_BLOCK, DATA, 0, 8)

    t = world.process(meanwhile)
    t.mem.write(DATA, mask)
    other = world.thread(t)
    handle(t, sig.SIGUSR1)
    world.run()
    assert (context(t).entered, context(other).entered) == ([], [HANDLER])
    assert pending(t) == set()


def test_a_signal_is_passed_on_when_its_thread_ends(world: World) -> None:
    def meanwhile(_: object) -> Trap:
        t.tg.send_signal(SigInfo(sig.SIGUSR1))
        return call("exit", 0)

    t = world.process(meanwhile)
    other = world.thread(t)
    handle(t, sig.SIGUSR1)
    world.run()
    assert context(other).entered == [HANDLER]


def test_queued_signals_of_a_process_are_limited(world: World) -> None:
    t = world.process()
    block(t, RT)
    t.tg.rlimits.set(RLIMIT_SIGPENDING, 2, 2)
    for _ in range(2):
        t.tg.send_signal(SigInfo(RT, sig.SI_QUEUE))
    with pytest.raises(EAGAIN):
        t.tg.send_signal(SigInfo(RT, sig.SI_QUEUE))
    with pytest.raises(EAGAIN):
        t.tg.send_signal(SigInfo(RT, sig.SI_TKILL))
    for _ in range(10):
        t.tg.send_signal(SigInfo(RT))
    t.tg.send_signal(SigInfo(RT, sig.SI_TIMER, timer=object()))
    assert t.tg.pending.count() == 3


# -- stop and continue --


def job(world: World, *parent_steps: Step) -> tuple[Task, Task]:
    """A shell and its job, in a group of its own."""
    shell = world.process(*parent_steps)
    t = world.process(call("setpgid", 0, 0), parent=shell)
    world.run()
    return shell, t


@pytest.mark.parametrize("signo", [sig.SIGSTOP, sig.SIGTSTP, sig.SIGTTIN, sig.SIGTTOU])
def test_a_stop_signal_stops_every_thread_and_tells_the_parent(world: World, signo: int) -> None:
    shell, t = job(world)
    other = world.thread(t)
    handle(shell, sig.SIGCHLD)
    block(shell, sig.SIGCHLD)
    t.tg.send_signal(SigInfo(signo))
    world.run()
    assert t.stopped and other.stopped and t.tg.stopped
    info = shell.tg.pending.take(~0)
    assert info is not None
    assert (info.code, info.pid, info.status) == (sig.CLD_STOPPED, t.tg.pid, signo)
    assert shell.tg.pending.take(~0) is None


def test_sigcont_continues_and_tells_the_parent(world: World) -> None:
    shell, t = job(world)
    block(shell, sig.SIGCHLD)
    t.tg.send_signal(SigInfo(sig.SIGSTOP))
    world.run()
    shell.tg.pending.take(~0)
    t.tg.send_signal(SigInfo(sig.SIGCONT))
    world.run()
    assert not t.stopped and not t.tg.stopped and context(t).running
    info = shell.tg.pending.take(~0)
    assert info is not None and (info.code, info.status) == (sig.CLD_CONTINUED, sig.SIGCONT)


@pytest.mark.parametrize("how", ["ignored", "blocked", "handled"])
def test_sigcont_continues_whatever_the_process_does_with_it(world: World, how: str) -> None:
    _, t = job(world)
    if how == "blocked":
        block(t, sig.SIGCONT)
    elif how == "ignored":
        t.tg.handlers.set(sig.SIGCONT, Action(sig.SIG_IGN))
    else:
        handle(t, sig.SIGCONT)
    t.tg.send_signal(SigInfo(sig.SIGSTOP))
    world.run()
    assert t.tg.stopped
    t.tg.send_signal(SigInfo(sig.SIGCONT))
    world.run()
    assert not t.tg.stopped and context(t).running
    assert context(t).entered == ([HANDLER] if how == "handled" else [])


def test_sigcont_forgets_stop_signals_and_these_forget_sigcont(world: World) -> None:
    _, t = job(world)
    block(t, sig.SIGTSTP, sig.SIGTTIN, sig.SIGCONT)
    t.tg.send_to(t, SigInfo(sig.SIGTTIN))
    t.tg.send_signal(SigInfo(sig.SIGTSTP))
    t.tg.send_signal(SigInfo(sig.SIGCONT))
    assert pending(t) == {sig.SIGCONT}
    t.tg.send_signal(SigInfo(sig.SIGTSTP))
    assert pending(t) == {sig.SIGTSTP}


def test_sigcont_to_a_running_process_tells_nobody(world: World) -> None:
    shell, t = job(world)
    block(shell, sig.SIGCHLD)
    t.tg.send_signal(SigInfo(sig.SIGCONT))
    world.run()
    assert pending(shell) == set() and not t.tg.cont_report


def test_a_parent_that_does_not_want_to_hear_of_stops(world: World) -> None:
    shell, t = job(world)
    handle(shell, sig.SIGCHLD, sig.SA_NOCLDSTOP)
    for signo in (sig.SIGSTOP, sig.SIGCONT):
        t.tg.send_signal(SigInfo(signo))
        world.run()
    assert context(shell).entered == []
    assert t.tg.cont_report


def test_no_signal_runs_a_handler_while_the_process_is_stopped(world: World) -> None:
    _, t = job(world)
    handle(t, sig.SIGUSR1)
    t.tg.send_signal(SigInfo(sig.SIGSTOP))
    world.run()
    t.tg.send_signal(SigInfo(sig.SIGUSR1))
    world.run()
    assert t.stopped and context(t).entered == []
    t.tg.send_signal(SigInfo(sig.SIGCONT))
    world.run()
    assert context(t).entered == [HANDLER]


def test_sigkill_ends_a_stopped_process(world: World) -> None:
    _, t = job(world)
    t.tg.send_signal(SigInfo(sig.SIGSTOP))
    world.run()
    t.tg.send_signal(SigInfo(sig.SIGKILL))
    world.run()
    assert t.tg.dead


def test_a_terminals_stop_signal_does_not_stop_an_orphaned_group(world: World) -> None:
    t = world.process()
    t.tg.send_signal(SigInfo(sig.SIGTSTP))
    world.run()
    assert not t.tg.stopped
    t.tg.send_signal(SigInfo(sig.SIGSTOP))
    world.run()
    assert t.tg.stopped


def kill_self(signo: int) -> Step:
    return lambda ctx: call("kill", ctx.owner.tg.pid, signo)


def test_a_stop_is_reported_though_the_last_thread_ends_instead(world: World) -> None:
    """Both trap at once: the first stops the process, the second was about to end."""
    shell = world.process()
    block(shell, sig.SIGCHLD)
    t = world.process(kill_self(sig.SIGSTOP), parent=shell)
    world.thread(t, call("exit", 0))
    world.run()
    assert len(t.tg.tasks) == 1 and t.tg.stopped
    info = shell.tg.pending.take(~0)
    assert info is not None and info.code == sig.CLD_STOPPED


def test_a_thread_born_during_a_stop_stops_too(world: World) -> None:
    shell = world.process()
    block(shell, sig.SIGCHLD)
    t = world.process(kill_self(sig.SIGSTOP), parent=shell)
    world.thread(t, call("clone", 0x10900, DATA, 0, 0, 0))  # CLONE_VM, SIGHAND, THREAD
    world.run()
    assert len(t.tg.tasks) == 3
    assert all(task.stopped for task in t.tg.tasks) and t.tg.stopped
    assert pending(shell) == {sig.SIGCHLD}


def test_an_exit_signal_of_nonsense_is_no_signal(world: World) -> None:
    """clone(2) takes any number up to 255 for it."""
    t = world.process(call("clone", 200), call("wait4", -1, 0, 0x40000000, 0))
    world.platform.script(call("exit", 0))
    world.run()
    assert context(t).results == [3, 3]
    assert pending(t) == set()
