"""Signal delivery: what happens between a trap and the next application instruction.

deliver() is get_signal() and handle_signal() of kernel/signal.c: it ends the task, stops it, or
builds a handler's frame; and it settles an interrupted call, because whether the call is issued
again depends on the handler that runs.  handle_attention() is the same for a coroutine, which can
wait: for the end of a stop, or for the thaw.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EFAULT
from sentry.abi.poll import ANY
from sentry.kernel import restart
from sentry.kernel.freeze import rest
from sentry.kernel.sigframe import push_frame
from sentry.kernel.signals import Action, SigInfo
from sentry.wait import Waiter, park

if TYPE_CHECKING:
    from sentry.kernel.task import Task

log = logging.getLogger(__name__)
CORE_FLAG: Final = 0x80  # in a wait status: a core was dumped.  Never set: none is.


def set_temporary_mask(t: Task, mask: int) -> None:
    """Block mask for one call only (sigsuspend, ppoll...): set_user_sigmask()."""
    if t.saved_sigmask is None:
        t.saved_sigmask = t.sigmask
    t.sigmask = mask & ~sig.UNBLOCKABLE
    t.attention = True


def restore_mask(t: Task) -> None:
    """The call ended without a signal: restore_saved_sigmask()."""
    if t.saved_sigmask is not None:
        t.sigmask, t.saved_sigmask = t.saved_sigmask, None
        t.attention = True


def set_mask(t: Task, mask: int) -> None:
    """sigprocmask: pending signals may become deliverable."""
    old, t.sigmask = t.sigmask, mask & ~sig.UNBLOCKABLE
    if t.tg.pending.mask:
        t.tg.retarget(t, t.sigmask & ~old)
    if (t.pending.mask | t.tg.pending.mask) & ~t.sigmask:
        t.attention = True


def dequeue(t: Task, allowed: int) -> SigInfo | None:
    """The next signal of allowed: the thread's own first, then the process's."""
    pending = t.pending
    if not pending.mask & allowed:
        pending = t.tg.pending
        if not pending.mask & allowed:
            return None
    info = pending.take(allowed)
    if info is not None and info.timer is not None:
        t.kernel.timer_signal_taken(info)
    return info


def deliver(t: Task) -> bool:
    """Deliver until the task may run application code.  False: it has to wait or to end, see handle_attention()."""
    tg = t.tg
    while True:
        t.attention = False
        if t.exiting or t.container.frozen or tg.stop_signal:
            t.attention = True
            return False
        allowed = ~t.sigmask
        info = dequeue(t, allowed) if (t.pending.mask | tg.pending.mask) & allowed else None
        if info is None:
            if t.restart is not None:
                restart.settle(t, None)
            if t.saved_sigmask is None:
                return True
            t.sigmask, t.saved_sigmask = t.saved_sigmask, None
            continue
        if t.kernel.strace is not None:
            t.kernel.strace.signal(t, info)
        action = tg.handlers.get(info.signo)
        if action.handler == sig.SIG_DFL:
            _default_action(t, info)
        elif action.handler != sig.SIG_IGN:
            _run_handler(t, info, action)


async def handle_attention(t: Task) -> None:
    """Deliver until the task may run application code, or t.exiting is set."""
    while not deliver(t):
        if t.exiting:
            return
        if t.container.frozen:
            await rest(t)
        else:
            await _group_stop(t)


def _default_action(t: Task, info: SigInfo) -> None:
    signo = info.signo
    bit = sig.bit(signo)
    tg = t.tg
    if bit & sig.DEFAULT_IGNORED:
        return
    if tg.unkillable and signo not in (sig.SIGKILL, sig.SIGSTOP):
        return
    if bit & sig.STOP_SIGNALS:
        # "a process group that is orphaned is not stopped by the terminal's signals" - POSIX
        if signo == sig.SIGSTOP or not tg.pgrp.is_orphaned():
            tg.begin_stop(signo)
        return
    if bit & sig.COREDUMP:
        log.debug("%s[%d] ended by signal %d at %#x", t.task_name, t.tid, signo, info.addr)
    tg.exit_group(signo)


def _run_handler(t: Task, info: SigInfo, action: Action) -> None:
    signo, flags = info.signo, action.flags
    if t.restart is not None:
        restart.settle(t, flags)
    if flags & sig.SA_RESETHAND:
        t.tg.handlers.reset(signo)
    mask = t.saved_sigmask if t.saved_sigmask is not None else t.sigmask
    try:
        push_frame(t, info, action, mask)
    except EFAULT:
        # force_sigsegv(): no room for the frame.  If it was SIGSEGV's own, nothing is left but death.
        if signo == sig.SIGSEGV:
            t.tg.handlers.reset(sig.SIGSEGV)
        t.force_signal(SigInfo(sig.SIGSEGV, sig.SI_KERNEL))
        return
    t.saved_sigmask = None
    blocked = t.sigmask | action.mask
    if not flags & sig.SA_NODEFER:
        blocked |= sig.bit(signo)
    t.sigmask = blocked & ~sig.UNBLOCKABLE


async def _group_stop(t: Task) -> None:
    """Park until SIGCONT or death; the last thread to stop tells the parent."""
    tg = t.tg
    loop = t.kernel.loop
    waiter = Waiter(ANY, lambda _events: loop.wake(t))
    tg.stop_queue.add(waiter)
    t.stopped = True
    tg.check_stopped()
    try:
        while tg.stop_signal and not t.exiting:
            await park()
    finally:
        t.stopped = False
        tg.stop_queue.remove(waiter)
