"""Signals: sigaction, masks, sending, waiting, rt_sigreturn, sigaltstack."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN, EFAULT, EINTR, EINVAL, EPERM, ESRCH, ETIMEDOUT
from sentry.kernel.blocking import sleep_until, wait_any
from sentry.kernel.creds import CAP_KILL
from sentry.kernel.delivery import dequeue, set_mask, set_temporary_mask
from sentry.kernel.restart import ERESTARTNOHAND, Interrupted
from sentry.kernel.sigframe import altstack_flags, checked_altstack, on_altstack, pop_frame
from sentry.kernel.signals import Action, SigInfo, may_signal
from sentry.syscalls.args import I32, Addr, Pid, Signo, Size
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

SIGSET_SIZE = 8
NS_PER_S = 1_000_000_000


def read_sigset(t: Task, addr: int, size: int) -> int:
    """A sigset_t.  EINVAL: not of the kernel's size.  EFAULT."""
    if size != SIGSET_SIZE:
        raise EINVAL
    return int.from_bytes(t.mem.read(addr, SIGSET_SIZE), "little")


@syscall
def rt_sigaction(t: Task, signo: Signo, new_addr: Addr, old_addr: Addr, size: Size) -> int:
    """sigaction(2): read and change a signal's action.

    Errors:
      EINVAL  no such signal; SIGKILL or SIGSTOP; a wrong sigset size
      EFAULT  a bad pointer
    """
    if size != SIGSET_SIZE:
        raise EINVAL
    new = sig.SIGACTION.unpack(t.mem.read(new_addr, sig.SIGACTION.size)) if new_addr else None
    if not 1 <= signo <= sig.NSIG or (new is not None and sig.bit(signo) & sig.UNBLOCKABLE):
        raise EINVAL
    handlers = t.tg.handlers
    old = handlers.get(signo)
    if new is not None:
        handler, flags, restorer, mask = new
        handlers.set(signo, Action(handler, flags & sig.SA_MASK, restorer, mask & ~sig.UNBLOCKABLE))
        if handlers.is_ignored(signo):
            t.tg.discard(sig.bit(signo))
    if old_addr:
        t.mem.write(old_addr, sig.SIGACTION.pack(old.handler, old.flags, old.restorer, old.mask))
    return 0


@syscall
def rt_sigprocmask(t: Task, how: I32, new_addr: Addr, old_addr: Addr, size: Size) -> int:
    """sigprocmask(2): read and change the signal mask.

    Errors:
      EINVAL  how is none of SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK; a wrong sigset size
      EFAULT  a bad pointer
    """
    if size != SIGSET_SIZE:
        raise EINVAL
    old = t.sigmask
    if new_addr:
        new = int.from_bytes(t.mem.read(new_addr, SIGSET_SIZE), "little")
        if how == sig.SIG_BLOCK:
            set_mask(t, old | new)
        elif how == sig.SIG_UNBLOCK:
            set_mask(t, old & ~new)
        elif how == sig.SIG_SETMASK:
            set_mask(t, new)
        else:
            raise EINVAL
    if old_addr:
        t.mem.write(old_addr, old.to_bytes(SIGSET_SIZE, "little"))
    return 0


@syscall
def rt_sigpending(t: Task, set_addr: Addr, size: Size) -> int:
    """sigpending(2): blocked signals that are pending.  EINVAL, EFAULT."""
    if size > SIGSET_SIZE:
        raise EINVAL
    pending = (t.pending.mask | t.tg.pending.mask) & t.sigmask
    t.mem.write(set_addr, pending.to_bytes(SIGSET_SIZE, "little")[:size])
    return 0


@syscall
async def rt_sigsuspend(t: Task, mask_addr: Addr, size: Size) -> int:
    """sigsuspend(2): wait with another mask until a handler ran.  EINVAL, EFAULT, EINTR always in the end."""
    mask = read_sigset(t, mask_addr, size)
    set_temporary_mask(t, mask)
    await sleep_until(t, None, ERESTARTNOHAND)
    raise Interrupted(ERESTARTNOHAND)


@syscall
async def pause(t: Task) -> int:
    """pause(2): wait until a handler ran."""
    await sleep_until(t, None, ERESTARTNOHAND)
    raise Interrupted(ERESTARTNOHAND)


@syscall
async def rt_sigtimedwait(t: Task, set_addr: Addr, info_addr: Addr, timeout_addr: Addr, size: Size) -> int:
    """sigtimedwait(2): take a pending signal of the set, or wait for one.

    Errors:
      EINVAL  a wrong sigset size or a malformed timeout
      EAGAIN  none came in time
      EINTR   another signal's handler ran
    """
    wanted = read_sigset(t, set_addr, size) & ~sig.UNBLOCKABLE
    deadline = None
    if timeout_addr:
        seconds, nanoseconds = struct.unpack("<qq", t.mem.read(timeout_addr, 16))
        if seconds < 0 or not 0 <= nanoseconds < NS_PER_S:
            raise EINVAL
        deadline = t.kernel.loop.now_ns() + seconds * NS_PER_S + nanoseconds
    info = await _take_signal(t, wanted, deadline)
    if info_addr:
        t.mem.write(info_addr, info.pack())
    return info.signo


async def _take_signal(t: Task, wanted: int, deadline: int | None) -> SigInfo:
    info = dequeue(t, wanted)
    if info is not None:
        return info
    # While waiting, the wanted signals are not blocked, so that their arrival ends the wait.
    saved = t.sigmask
    t.sigmask, t.sigwait_set = saved & ~wanted, wanted
    try:
        while info is None:
            await wait_any(t, (), deadline)
            info = dequeue(t, wanted)
        return info
    except ETIMEDOUT:
        raise EAGAIN from None
    except Interrupted:
        raise EINTR from None  # even if no handler runs: signal(7)
    finally:
        t.sigmask, t.sigwait_set = saved, 0
        t.attention = True


@syscall
def rt_sigreturn(t: Task) -> None:
    """sigreturn(2): leave a handler.  A bad frame is a SIGSEGV."""
    try:
        pop_frame(t)
    except EFAULT:
        t.force_signal(SigInfo(sig.SIGSEGV, sig.SI_KERNEL))


@syscall
def sigaltstack(t: Task, new_addr: Addr, old_addr: Addr) -> int:
    """sigaltstack(2): read and change the alternate signal stack.

    Errors:
      EPERM   it is in use
      EINVAL  bad flags
      ENOMEM  smaller than MINSIGSTKSZ
      EFAULT  a bad pointer
    """
    sp = t.context.regs.rsp
    old = t.altstack
    if new_addr:
        base, flags, size = sig.STACK_T.unpack(t.mem.read(new_addr, sig.STACK_T.size))
        if on_altstack(t, sp):
            raise EPERM
        t.altstack = checked_altstack(base, flags & 0xFFFFFFFF, size)
    if old_addr:
        base, mode, size = old
        flags = altstack_flags(t, sp) if t.altstack is old else (sig.SS_DISABLE if not size else 0)
        flags |= mode & sig.SS_AUTODISARM
        t.mem.write(old_addr, sig.STACK_T.pack(base, flags if flags < 1 << 31 else flags - (1 << 32), size))
    return 0


# -- sending --


def check_permission(t: Task, tg: ThreadGroup, signo: int) -> None:
    """check_kill_permission().  EINVAL: no such signal, which is looked at only now.  EPERM."""
    if not 0 <= signo <= sig.NSIG:
        raise EINVAL
    if tg is t.tg or may_signal(t.creds, tg.leader.creds, CAP_KILL):
        return
    if signo == sig.SIGCONT and tg.session is t.tg.session:
        return
    raise EPERM


def own_info(t: Task, signo: int, code: int = sig.SI_USER) -> SigInfo:
    return SigInfo(signo, code, pid=t.tg.pid, uid=t.creds.uid)


def _kill_process(t: Task, tg: ThreadGroup, signo: int) -> None:
    check_permission(t, tg, signo)
    if signo:
        tg.send_signal(own_info(t, signo))


def _kill_group(t: Task, members: list[ThreadGroup], signo: int) -> int:
    """Success if it reached anyone; else the last error.  ESRCH: nobody there."""
    reached, refused = False, False
    for tg in members:
        try:
            _kill_process(t, tg, signo)
            reached = True
        except EPERM:
            refused = True
    if reached:
        return 0
    raise EPERM if refused else ESRCH


def _kill_everyone(t: Task, signo: int) -> int:
    """All but pid 1 and the caller.  Those who may not be signalled don't count as a failure."""
    everyone = [tg for tg in t.pidns.thread_groups() if tg is not t.tg and tg.pid != 1]
    if not everyone:
        raise ESRCH
    for tg in everyone:
        with suppress(EPERM):
            _kill_process(t, tg, signo)
    return 0


@syscall
def kill(t: Task, pid: Pid, signo: Signo) -> int:
    """kill(2): send a signal to a process, a group, or everyone.

    Errors:
      ESRCH   nobody has that id
      EINVAL  no such signal
      EPERM   none of them may be signalled
    """
    ns = t.pidns
    if pid > 0:
        target = ns.find(pid)
        if target is None:
            raise ESRCH
        _kill_process(t, target.tg, signo)
        return 0
    if pid == -1:
        return _kill_everyone(t, signo)
    pgrp = t.tg.pgrp if pid == 0 else ns.find_pgrp(-pid)
    if pgrp is None:
        raise ESRCH
    return _kill_group(t, list(pgrp.members), signo)


def _send_to_thread(t: Task, tgid: int | None, tid: int, signo: int, info: SigInfo) -> int:
    target = t.pidns.find(tid)
    if target is None or (tgid is not None and target.tg.pid_in(t.pidns) != tgid):
        raise ESRCH
    check_permission(t, target.tg, signo)
    if signo:
        target.tg.send_to(target, info)
    return 0


@syscall
def tgkill(t: Task, tgid: Pid, tid: Pid, signo: Signo) -> int:
    """tgkill(2): send a signal to one thread of a process.  EINVAL, ESRCH, EPERM."""
    if tgid <= 0 or tid <= 0:
        raise EINVAL
    return _send_to_thread(t, tgid, tid, signo, own_info(t, signo, sig.SI_TKILL))


@syscall
def tkill(t: Task, tid: Pid, signo: Signo) -> int:
    """tkill(2): send a signal to one thread.  EINVAL, ESRCH, EPERM."""
    if tid <= 0:
        raise EINVAL
    return _send_to_thread(t, None, tid, signo, own_info(t, signo, sig.SI_TKILL))


def read_info(t: Task, addr: int, number: int, signo: int) -> SigInfo:
    """A siginfo_t that a program made.  EPERM: it pretends to come from the kernel or from kill()."""
    raw = bytearray(t.mem.read(addr, sig.SIGINFO_SIZE))
    _, errno, code = struct.unpack_from("<iii", raw)
    if (code >= 0 or code == sig.SI_TKILL) and number != t.tid:
        raise EPERM
    struct.pack_into("<i", raw, 0, signo)
    sender, uid, value = struct.unpack_from("<iIQ", raw, 16)
    return SigInfo(signo, code, errno, pid=sender, uid=uid, value=value, raw=bytes(raw))


@syscall
def rt_sigqueueinfo(t: Task, pid: Pid, signo: Signo, info_addr: Addr) -> int:
    """rt_sigqueueinfo(2): sigqueue(3)'s call.  EINVAL, ESRCH, EPERM, EAGAIN (RLIMIT_SIGPENDING), EFAULT."""
    info = read_info(t, info_addr, pid, signo)
    target = t.pidns.find(pid) if pid > 0 else None
    if target is None:
        raise ESRCH
    check_permission(t, target.tg, signo)
    if signo:
        target.tg.send_signal(info)
    return 0


@syscall
def rt_tgsigqueueinfo(t: Task, tgid: Pid, tid: Pid, signo: Signo, info_addr: Addr) -> int:
    """rt_tgsigqueueinfo(2).  EINVAL, ESRCH, EPERM, EAGAIN, EFAULT."""
    if tgid <= 0 or tid <= 0:
        raise EINVAL
    info = read_info(t, info_addr, tid, signo)
    return _send_to_thread(t, tgid, tid, signo, info)


@syscall
async def restart_syscall(t: Task) -> int:
    """restart_syscall(2): go on with what a stop or a signal without handler interrupted.  EINTR: nothing to go on."""
    again = t.kernel.restart_blocks.pop(t, None)
    if again is None:
        raise EINTR
    result: int = await again()
    return result
