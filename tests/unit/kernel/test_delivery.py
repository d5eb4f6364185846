"""Signals on their way to the application: handlers, masks, interrupted calls, death."""

from __future__ import annotations

import struct

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN, EINTR, ETIMEDOUT
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import Task
from sentry.platform import FaultTrap, Trap
from tests.fakes import ScriptedContext, Step
from tests.unit.kernel.world import DATA, World, call, context

HANDLER, RESTORER = 0x410000, 0x420000
MASK_AT, INFO_AT, TIME_AT, FDS_AT = DATA, DATA + 0x100, DATA + 0x200, DATA + 0x300


def handle(t: Task, signo: int, flags: int = 0, mask: int = 0, handler: int = HANDLER) -> None:
    t.tg.handlers.set(signo, Action(handler, flags | sig.SA_RESTORER, RESTORER, mask))


def put_mask(t: Task, *signals: int) -> None:
    t.mem.write(MASK_AT, sum(sig.bit(signo) for signo in signals).to_bytes(8, "little"))


def RETURN(ctx: ScriptedContext) -> Trap:
    """The handler's end, as a step: `ret` into the restorer."""
    ctx.regs.rsp += 8
    return call("rt_sigreturn")


def signal(t: Task, signo: int, pid: int = 0, uid: int = 0) -> None:
    t.tg.send_signal(SigInfo(signo, pid=pid, uid=uid))


# -- handlers --


def test_a_handler_runs_and_returns_to_where_the_code_was(world: World) -> None:
    t = world.process()
    handle(t, sig.SIGUSR1)
    world.run()
    before = context(t).regs.all()
    context(t).steps.append(RETURN)
    signal(t, sig.SIGUSR1)
    world.run()
    assert context(t).entered == [HANDLER]
    assert context(t).regs.all() == before


def test_the_signal_is_blocked_while_its_handler_runs(world: World) -> None:
    t = world.process()
    handle(t, sig.SIGUSR1, mask=sig.bit(sig.SIGHUP) | sig.bit(sig.SIGKILL))
    world.run()
    signal(t, sig.SIGUSR1)
    world.run()
    assert t.sigmask == sig.bit(sig.SIGUSR1) | sig.bit(sig.SIGHUP)
    context(t).steps.append(RETURN)
    context(t).interrupt()
    world.run()
    assert t.sigmask == 0


def test_nodefer_leaves_it_unblocked(world: World) -> None:
    t = world.process()
    handle(t, sig.SIGUSR1, sig.SA_NODEFER)
    world.run()
    signal(t, sig.SIGUSR1)
    world.run()
    assert t.sigmask == 0


def test_resethand_runs_the_handler_once(world: World) -> None:
    t = world.process()
    handle(t, sig.SIGUSR1, sig.SA_RESETHAND | sig.SA_NODEFER)
    world.run()
    signal(t, sig.SIGUSR1)
    world.run()
    assert t.tg.handlers.get(sig.SIGUSR1).handler == sig.SIG_DFL and not t.exiting
    signal(t, sig.SIGUSR1)
    world.run()
    assert t.tg.dead


def test_several_signals_build_frames_on_top_of_each_other(world: World) -> None:
    """The last one to be delivered runs first, as on Linux."""
    t = world.process()
    handle(t, sig.SIGUSR1, handler=HANDLER)
    handle(t, sig.SIGUSR2, handler=HANDLER + 0x100)
    t.sigmask = sig.bit(sig.SIGUSR1) | sig.bit(sig.SIGUSR2)
    signal(t, sig.SIGUSR2)
    signal(t, sig.SIGUSR1)
    world.run()
    context(t).steps.extend([call("rt_sigprocmask", sig.SIG_UNBLOCK, MASK_AT, 0, 8), RETURN, RETURN])
    put_mask(t, sig.SIGUSR1, sig.SIGUSR2)
    context(t).interrupt()
    world.run()
    assert context(t).entered == [HANDLER + 0x100, HANDLER]
    assert context(t).results == [0] and t.sigmask == 0


def test_an_unblocked_signal_is_delivered_before_the_call_returns(world: World) -> None:
    """sigprocmask(2): "at least one of those signals is delivered before sigprocmask() returns"."""
    t = world.process(call("rt_sigprocmask", sig.SIG_UNBLOCK, MASK_AT, 0, 8), RETURN, call("getpid"))
    handle(t, sig.SIGUSR1)
    put_mask(t, sig.SIGUSR1)
    t.sigmask = sig.bit(sig.SIGUSR1)
    signal(t, sig.SIGUSR1)
    world.run()
    assert context(t).entered == [HANDLER]
    assert context(t).results == [0, 2]  # rt_sigreturn restored the call's own result


def test_a_fault_is_a_signal_with_its_address(world: World) -> None:
    t = world.process(FaultTrap(sig.SIGSEGV, sig.SEGV_ACCERR, 0xABC000))
    handle(t, sig.SIGSEGV, sig.SA_SIGINFO)
    world.run()
    info = t.mem.read(context(t).regs.rsi, 24)
    assert struct.unpack("<iiixxxxQ", info) == (sig.SIGSEGV, 0, sig.SEGV_ACCERR, 0xABC000)
    assert context(t).entered == [HANDLER]


@pytest.mark.parametrize("how", ["blocked", "ignored", "default"])
def test_a_fault_that_nobody_may_handle_kills(world: World, how: str) -> None:
    t = world.process(FaultTrap(sig.SIGSEGV, sig.SEGV_MAPERR, 0))
    if how == "blocked":
        handle(t, sig.SIGSEGV)
        t.sigmask = sig.bit(sig.SIGSEGV)
    elif how == "ignored":
        t.tg.handlers.set(sig.SIGSEGV, Action(sig.SIG_IGN))
    world.run()
    assert t.tg.dead and t.tg.exit_code == sig.SIGSEGV


def test_no_room_for_a_frame_is_a_sigsegv_which_may_be_handled_on_another_stack(world: World) -> None:
    t = world.process()
    handle(t, sig.SIGUSR1)
    handle(t, sig.SIGSEGV, sig.SA_ONSTACK, handler=HANDLER + 0x100)
    t.altstack = (DATA + 0x1000, 0, 0x4000)
    context(t).regs.rsp = 0x1000
    world.run()
    signal(t, sig.SIGUSR1)
    world.run()
    assert context(t).entered == [HANDLER + 0x100]


def test_no_room_for_a_frame_at_all_kills(world: World) -> None:
    t = world.process()
    for signo in (sig.SIGUSR1, sig.SIGSEGV):
        handle(t, signo)
    context(t).regs.rsp = 0x1000
    world.run()
    signal(t, sig.SIGUSR1)
    world.run()
    assert t.tg.dead and t.tg.exit_code == sig.SIGSEGV


def test_a_bad_frame_kills(world: World) -> None:
    t = world.process(call("rt_sigreturn"))
    context(t).regs.rsp = 0x1000
    world.run()
    assert t.tg.dead and t.tg.exit_code == sig.SIGSEGV


# -- interrupted calls --


def sleeping(world: World, *steps: Step) -> Task:
    """A process that waits in pause(2)."""
    t = world.process(*steps)
    world.run()
    assert t.interruptible
    return t


def test_pause_ends_with_eintr_after_a_handler(world: World) -> None:
    t = sleeping(world, call("pause"), RETURN, call("getpid"))
    handle(t, sig.SIGUSR1, sig.SA_RESTART)
    signal(t, sig.SIGUSR1)
    world.run()
    assert context(t).entered == [HANDLER]
    assert context(t).results == [-EINTR.code, 2]


def test_an_ignored_signal_does_not_end_a_call(world: World) -> None:
    t = sleeping(world, call("pause"))
    signal(t, sig.SIGWINCH)
    world.run()
    assert t.interruptible and context(t).results == []


def test_a_stop_and_a_continuation_do_not_end_a_call(world: World) -> None:
    t = sleeping(world, call("pause"))
    signal(t, sig.SIGSTOP)
    world.run()
    assert t.stopped
    signal(t, sig.SIGCONT)
    world.run()
    assert t.interruptible and context(t).results == []


@pytest.mark.parametrize(("flags", "result"), [(0, -EINTR.code), (sig.SA_RESTART, 1)])
def test_a_read_is_restarted_if_the_handler_wants_it(world: World, flags: int, result: int) -> None:
    steps = (call("pipe2", FDS_AT, 0), call("read", 0, INFO_AT, 1), RETURN)
    t = sleeping(world, *steps)
    handle(t, sig.SIGUSR1, flags)
    signal(t, sig.SIGUSR1)
    world.run()
    if flags:
        assert t.interruptible
        world.thread(t, call("write", 1, MASK_AT, 1))
        world.run()
    assert context(t).results[1:] == [result]


def test_a_wait_with_a_timeout_goes_on_after_a_stop_with_the_time_that_was_left(world: World) -> None:
    t = world.process(call("futex", DATA + 0x800, 128, 0, TIME_AT))
    t.mem.write(TIME_AT, struct.pack("<qq", 10, 0))
    start = world.platform.now
    world.loop.call_at(start + 3_000_000_000, lambda: signal(t, sig.SIGSTOP))
    world.loop.call_at(start + 5_000_000_000, lambda: signal(t, sig.SIGCONT))
    world.run()
    assert context(t).results == [-ETIMEDOUT.code]
    assert world.platform.now - start == 10_000_000_000


def test_a_wait_with_a_timeout_is_not_restarted_after_a_handler(world: World) -> None:
    t = world.process(call("futex", DATA + 0x800, 128, 0, TIME_AT), RETURN)
    t.mem.write(TIME_AT, struct.pack("<qq", 10, 0))
    handle(t, sig.SIGUSR1, sig.SA_RESTART)
    world.loop.call_at(world.platform.now + 3_000_000_000, lambda: signal(t, sig.SIGUSR1))
    world.run()
    assert context(t).results == [-EINTR.code]


def test_restart_syscall_with_nothing_to_go_on_is_eintr(world: World) -> None:
    t = world.process(call("restart_syscall"))
    world.run()
    assert context(t).results == [-EINTR.code]


# -- masks for one call --


def test_sigsuspend_waits_with_its_mask_and_restores_the_old_one(world: World) -> None:
    t = world.process(call("rt_sigsuspend", MASK_AT, 8), RETURN, RETURN, call("getpid"))
    put_mask(t, sig.SIGUSR2)
    handle(t, sig.SIGUSR1)
    handle(t, sig.SIGUSR2)
    t.sigmask = sig.bit(sig.SIGUSR1)
    world.run()
    signal(t, sig.SIGUSR2)
    world.run()
    assert t.interruptible and t.sigmask == sig.bit(sig.SIGUSR2)
    signal(t, sig.SIGUSR1)
    world.run()
    # First SIGUSR1's handler, by the call's mask; then the old mask lets SIGUSR2 in.
    assert len(context(t).entered) == 2
    assert context(t).results == [-EINTR.code, 2]
    assert t.sigmask == sig.bit(sig.SIGUSR1)


def test_a_signal_that_was_pending_already_ends_sigsuspend_at_once(world: World) -> None:
    t = world.process(call("rt_sigsuspend", MASK_AT, 8), RETURN)
    put_mask(t)
    handle(t, sig.SIGUSR1)
    t.sigmask = sig.bit(sig.SIGUSR1)
    signal(t, sig.SIGUSR1)
    world.run()
    assert context(t).results == [-EINTR.code] and t.sigmask == sig.bit(sig.SIGUSR1)


def test_a_stop_in_sigsuspend_leaves_it_waiting_with_its_mask(world: World) -> None:
    t = world.process(call("rt_sigsuspend", MASK_AT, 8))
    put_mask(t, sig.SIGUSR2)
    handle(t, sig.SIGUSR2)
    world.run()
    signal(t, sig.SIGSTOP)
    signal(t, sig.SIGCONT)
    world.run()
    signal(t, sig.SIGUSR2)
    world.run()
    assert t.interruptible and context(t).entered == []


def test_a_failed_frame_does_not_keep_the_temporary_mask(world: World) -> None:
    t = world.process(call("rt_sigsuspend", MASK_AT, 8), RETURN)
    put_mask(t, sig.SIGHUP)
    handle(t, sig.SIGUSR1)
    handle(t, sig.SIGSEGV, sig.SA_ONSTACK)
    t.altstack = (DATA + 0x1000, 0, 0x4000)
    context(t).regs.rsp = 0x1000
    t.sigmask = sig.bit(sig.SIGTERM)
    world.run()
    signal(t, sig.SIGUSR1)
    world.run()
    assert t.sigmask == sig.bit(sig.SIGTERM)


# -- sigtimedwait --


def test_sigtimedwait_takes_a_pending_signal(world: World) -> None:
    t = world.process(call("rt_sigtimedwait", MASK_AT, INFO_AT, 0, 8))
    put_mask(t, sig.SIGUSR1, sig.SIGUSR2)
    t.sigmask = sig.bit(sig.SIGUSR1) | sig.bit(sig.SIGUSR2)
    signal(t, sig.SIGUSR2, pid=9, uid=10)
    world.run()
    assert context(t).results == [sig.SIGUSR2]
    assert t.mem.read(INFO_AT, 128) == SigInfo(sig.SIGUSR2, pid=9, uid=10).pack()
    assert t.tg.pending.mask == 0


def test_sigtimedwait_takes_even_what_would_be_ignored(world: World) -> None:
    t = world.process(call("rt_sigtimedwait", MASK_AT, 0, 0, 8), call("getpid"))
    put_mask(t, sig.SIGCHLD)
    t.sigmask = sig.bit(sig.SIGCHLD)
    world.run()
    signal(t, sig.SIGCHLD)
    world.run()
    assert context(t).results == [sig.SIGCHLD, 2]
    assert t.sigmask == sig.bit(sig.SIGCHLD)


def test_sigtimedwait_ends_at_its_timeout(world: World) -> None:
    t = world.process(call("rt_sigtimedwait", MASK_AT, 0, TIME_AT, 8))
    put_mask(t, sig.SIGUSR1)
    t.mem.write(TIME_AT, struct.pack("<qq", 2, 5))
    start = world.platform.now
    world.run()
    assert context(t).results == [-EAGAIN.code]
    assert world.platform.now - start == 2_000_000_005


def test_another_signals_handler_ends_sigtimedwait(world: World) -> None:
    t = world.process(call("rt_sigtimedwait", MASK_AT, 0, 0, 8), RETURN)
    put_mask(t, sig.SIGUSR1)
    handle(t, sig.SIGUSR2, sig.SA_RESTART)
    world.run()
    signal(t, sig.SIGUSR2)
    world.run()
    assert context(t).entered == [HANDLER] and context(t).results == [-EINTR.code]


def test_one_of_two_waiters_gets_the_signal(world: World) -> None:
    t = world.process(call("rt_sigtimedwait", MASK_AT, 0, 0, 8))
    other = world.thread(t, call("rt_sigtimedwait", MASK_AT, 0, 0, 8))
    put_mask(t, sig.SIGUSR1)
    t.sigmask = other.sigmask = sig.bit(sig.SIGUSR1)
    world.run()
    signal(t, sig.SIGUSR1)
    world.run()
    assert sorted(context(t).results + context(other).results) == [sig.SIGUSR1]


# -- ends --


def test_a_bug_in_delivery_ends_the_process_and_nothing_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    t, other = world.process(), world.process(call("getpid"))
    handle(t, sig.SIGUSR1)
    world.run()
    context(t).xstate = b""  # no platform says so
    signal(t, sig.SIGUSR1)
    context(other).interrupt()
    context(other).steps.append(call("getpid"))
    world.loop._stopping = False
    world.loop.run()
    assert t.tg.dead and t.tg.exit_code == sig.SIGKILL
    assert context(other).results == [3, 3]
    assert world.kernel.bugs == 1 and "a bug of the kernel's" in caplog.text
