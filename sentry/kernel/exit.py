"""The end of a task, and what it leaves: kernel/exit.c."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sentry.abi import signal as sig
from sentry.abi.errno import LinuxError
from sentry.abi.poll import ANY
from sentry.kernel.answers import keep_current
from sentry.kernel.signals import SigInfo
from sentry.platform import SpaceGone

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

ROBUST_LIST_HEAD: Final = struct.Struct("<QqQ")
ROBUST_LIST_LIMIT: Final = 2048
FUTEX_WAITERS: Final = 0x80000000
FUTEX_OWNER_DIED: Final = 0x40000000
FUTEX_TID_MASK: Final = 0x3FFFFFFF


def exit_task(t: Task) -> None:
    """do_exit(): give everything back; the last thread ends the process."""
    tg = t.tg
    kernel = t.kernel
    t.container.freezer.forget(t)
    if not tg.exiting and len(tg.tasks) == 1:
        tg.exit_code = t.exit_code
    leave_memory(t)
    files = t.files
    files.refs -= 1
    if files.refs == 0:
        for file in files.clear():
            file.flush()
            file.drop()
    if len(tg.tasks) == 1:
        tg.ended_cpu_ns += t.context.process_cpu_ns()
    t.context.release()
    t.mm.release()
    tg.tasks.remove(t)
    if kernel.strace is not None:
        kernel.strace.exit(t, tg.exit_code if tg.exiting else t.exit_code)
    if tg.exec_waiter is not None:
        kernel.loop.wake(tg.exec_waiter)
    if tg.tasks:
        if t is not tg.leader:
            kernel.unnumber_task(t)
        tg.check_stopped()
        tg.retarget(t, ~t.sigmask)
        return
    if t is not tg.leader:
        kernel.unnumber_task(t)
    end_process(tg)


def leave_memory(t: Task) -> None:
    """mm_release(): robust futexes, the tid word, a waiting vfork parent.  Also at execve."""
    try:
        if t.robust_list:
            walk_robust_list(t)
        if t.clear_child_tid:
            addr, t.clear_child_tid = t.clear_child_tid, 0
            if t.mm.users > 1:
                t.mem.write(addr, bytes(4))
                t.kernel.futexes.wake_address(t, addr, 1)
    except (LinuxError, SpaceGone):
        pass
    t.robust_list = 0
    if t.vfork_done is not None:
        t.vfork_done.set()
        t.vfork_done = None


def walk_robust_list(t: Task) -> None:
    """exit_robust_list(): mark the futexes this thread still owns.  EFAULT ends the walk."""
    head = t.robust_list
    entry, offset, pending = ROBUST_LIST_HEAD.unpack(t.mem.read(head, ROBUST_LIST_HEAD.size))
    for _ in range(ROBUST_LIST_LIMIT):
        # Bit 0 of a pointer marks a priority-inheriting futex.
        entry &= ~1
        if entry == head:
            break
        following = int.from_bytes(t.mem.read(entry, 8), "little")
        if entry != pending & ~1:
            _futex_death(t, entry + offset)
        entry = following
    if pending:
        _futex_death(t, (pending & ~1) + offset, unlocking=not pending & 1)


def _futex_death(t: Task, addr: int, unlocking: bool = False) -> None:
    """handle_futex_death().  unlocking: the thread may have been about to wake a waiter of a word that is 0."""
    word = int.from_bytes(t.mem.read(addr, 4), "little")
    if unlocking and not word:
        t.kernel.futexes.wake_address(t, addr, 1)
    while word & FUTEX_TID_MASK == t.tid:
        found = t.mem.cmpxchg32(addr, word, (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED)
        if found == word:
            if word & FUTEX_WAITERS:
                t.kernel.futexes.wake_address(t, addr, 1)
            break
        word = found


def end_process(tg: ThreadGroup) -> None:
    """exit_notify(): children find a new parent, the parent hears of it, the rest is a zombie."""
    kernel = tg.kernel
    tg.dead = True
    tg.pending.discard(~0)
    kernel.process_ended(tg)
    tg.end_queue.wake(ANY)
    if tg.unkillable or tg.pidns.init is tg:
        kernel.namespace_ended(tg)
    _reparent_children(tg)
    _leave_session(tg)
    _hang_up_orphans(tg, tg)
    parent = tg.parent
    if parent is None:
        reap(tg)
        return
    _announce(tg, parent)


def _announce(tg: ThreadGroup, parent: ThreadGroup) -> None:
    """do_notify_parent(); a parent that ignores SIGCHLD never waits: there is no zombie then."""
    action = parent.handlers.get(sig.SIGCHLD)
    code = tg.exit_code
    if code & 0x7F:
        tg.tell_parent(sig.CLD_KILLED, code & 0x7F)
    else:
        tg.tell_parent(sig.CLD_EXITED, code >> 8)
    if tg.exit_signal == sig.SIGCHLD and (action.handler == sig.SIG_IGN or action.flags & sig.SA_NOCLDWAIT):
        reap(tg)


def reap(tg: ThreadGroup) -> None:
    """release_task(): the zombie is gone, its numbers are free."""
    if tg.zombie_reaped:
        return
    tg.zombie_reaped = True
    parent = tg.parent
    if parent is not None and tg in parent.children:
        parent.children.remove(tg)
    tg.pgrp.leave(tg)
    tg.kernel.unnumber_task(tg.leader)


def _reparent_children(tg: ThreadGroup) -> None:
    """find_new_reaper(): the nearest subreaper among the ancestors, else the namespace's init."""
    for child in list(tg.children):
        reaper = _new_reaper(tg)
        tg.children.remove(child)
        child.parent = reaper
        for task in child.tasks:
            keep_current(task)
        if child.leader.parent_death_signal and not child.dead:
            child.send_signal(SigInfo(child.leader.parent_death_signal))
        if reaper is None:
            if child.dead:
                reap(child)
            continue
        reaper.children.append(child)
        child.exit_signal = sig.SIGCHLD
        if child.dead:
            _announce(child, reaper)
        else:
            _hang_up_orphans(child, tg)


def _new_reaper(tg: ThreadGroup) -> ThreadGroup | None:
    ancestor = tg.parent
    while ancestor is not None and ancestor.pidns is tg.pidns:
        if ancestor.child_subreaper and not ancestor.dead:
            return ancestor
        ancestor = ancestor.parent
    init = tg.pidns.init
    return init if init is not None and not init.dead and init is not tg else None


def _hang_up_orphans(tg: ThreadGroup, exiting: ThreadGroup) -> None:
    """kill_orphaned_pgrp(): a group that becomes orphaned with stopped members gets SIGHUP and SIGCONT.

    Looked at for the group of the process that ends, and for those of its children.
    """
    parent = exiting.parent if tg is exiting else exiting
    pgrp = tg.pgrp
    if parent is None or parent.pgrp is pgrp or parent.pgrp.session is not pgrp.session:
        return
    if pgrp.is_orphaned(but_for=exiting) and pgrp.has_stopped():
        pgrp.signal(sig.SIGHUP)
        pgrp.signal(sig.SIGCONT)


def _leave_session(tg: ThreadGroup) -> None:
    """A session leader's end takes the controlling terminal away: disassociate_ctty()."""
    session = tg.session
    if session.leader_tg is not tg:
        return
    session.leader_tg = None
    tty = session.tty
    if tty is not None:
        tty.leader_exited(session)
