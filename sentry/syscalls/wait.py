"""wait4(2) and waitid(2)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EBADF, ECHILD, EINVAL, ESRCH
from sentry.abi.poll import ANY
from sentry.fs.pidfd import PidFd
from sentry.kernel.blocking import wait_on
from sentry.kernel.exit import reap
from sentry.syscalls.args import I32, Addr, Flags, Pid
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

WNOHANG: Final = 1
WUNTRACED: Final = 2
WEXITED: Final = 4
WCONTINUED: Final = 8
WNOWAIT: Final = 0x01000000
WNOTHREAD: Final = 0x20000000
WALL: Final = 0x40000000
WCLONE: Final = 0x80000000

P_ALL: Final = 0
P_PID: Final = 1
P_PGID: Final = 2
P_PIDFD: Final = 3
RUSAGE: Final = struct.Struct("<qqqq14q")


def _eligible(t: Task, child: ThreadGroup, which: int, number: int, options: int) -> bool:
    """eligible_child()."""
    ns = t.pidns
    if which == P_PID and child.pid_in(ns) != number:
        return False
    if which == P_PGID and child.pgrp.id(ns) != number:
        return False
    if options & WALL:
        return True
    return (child.exit_signal != sig.SIGCHLD) == bool(options & WCLONE)


class _Found:
    """A child with something to report: the wait status and the siginfo view of it."""

    __slots__ = ("child", "code", "status", "uid", "value")

    def __init__(self, child: ThreadGroup, status: int, code: int, value: int) -> None:
        self.child = child
        self.status = status
        self.code = code
        self.value = value
        self.uid = child.leader.creds.uid


def _report(child: ThreadGroup, options: int) -> _Found | None:
    """What child has to say under options."""
    if child.dead and options & WEXITED and not child.zombie_reaped:
        status = child.exit_code
        if status & 0x7F:
            return _Found(child, status, sig.CLD_KILLED, status & 0x7F)
        return _Found(child, status, sig.CLD_EXITED, status >> 8)
    if child.dead:
        return None
    if options & WUNTRACED and child.stop_report:
        return _Found(child, child.stop_report << 8 | 0x7F, sig.CLD_STOPPED, child.stop_report)
    if options & WCONTINUED and child.cont_report:
        return _Found(child, 0xFFFF, sig.CLD_CONTINUED, sig.SIGCONT)
    return None


def _consume(t: Task, found: _Found, options: int) -> None:
    if options & WNOWAIT:
        return
    child = found.child
    if found.code == sig.CLD_STOPPED:
        child.stop_report = 0
    elif found.code == sig.CLD_CONTINUED:
        child.cont_report = False
    else:
        own, theirs = t.tg.child_cpu_ns, child.cpu_ns()
        t.tg.child_cpu_ns = (
            own[0] + theirs[0] + child.child_cpu_ns[0],
            own[1] + theirs[1] + child.child_cpu_ns[1],
        )
        reap(child)


async def wait_for_child(t: Task, which: int, number: int, options: int) -> _Found | None:
    """do_wait(): None for WNOHANG with nothing to report.  ECHILD: no such child."""
    tg = t.tg
    while True:
        candidates = [child for child in tg.children if _eligible(t, child, which, number, options)]
        if not candidates:
            raise ECHILD
        for child in candidates:
            found = _report(child, options)
            if found is not None:
                return found
        if options & WNOHANG:
            return None
        await wait_on(t, tg.child_queue, ANY)


def pack_rusage(user_ns: int, system_ns: int, maxrss_kb: int = 0) -> bytes:
    """struct rusage with what is measured; the rest is 0, as Linux leaves most of it."""
    user, system = user_ns // 1000, system_ns // 1000
    return RUSAGE.pack(
        *(user // 1000000, user % 1000000, system // 1000000, system % 1000000),
        *(maxrss_kb, *([0] * 13)),
    )


@syscall(gaps="rusage has times only")
async def wait4(t: Task, pid: Pid, status_addr: Addr, options: Flags, rusage_addr: Addr) -> int:
    """wait4(2): wait for a child to change state.

    Errors:
      EINVAL  unknown options
      ECHILD  no child to wait for
      ESRCH   pid is the most negative number
    """
    if options & ~(WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE):
        raise EINVAL
    if pid == -(1 << 31):
        raise ESRCH
    if pid == -1:
        which, number = P_ALL, 0
    elif pid < 0:
        which, number = P_PGID, -pid
    elif pid == 0:
        which, number = P_PGID, t.tg.pgrp.id(t.pidns)
    else:
        which, number = P_PID, pid
    found = await wait_for_child(t, which, number, options | WEXITED)
    if found is None:
        return 0
    result = found.child.pid_in(t.pidns)
    usage = found.child.cpu_ns()
    _consume(t, found, options)
    if status_addr:
        t.mem.write(status_addr, struct.pack("<i", found.status if found.status < 1 << 31 else -1))
    if rusage_addr:
        t.mem.write(rusage_addr, pack_rusage(*usage))
    return result


def _pidfd_target(t: Task, fd: int) -> tuple[int, int]:
    """The process a pidfd stands for.  EINVAL: a bad descriptor.  EBADF: not a pidfd."""
    if fd < 0:
        raise EINVAL
    file = t.files.get(fd)
    if not isinstance(file, PidFd):
        raise EBADF
    return P_PID, file.tg.pid_in(t.pidns) or -1


@syscall(gaps="rusage has times only")
async def waitid(t: Task, which: I32, number: Pid, info_addr: Addr, options: Flags, rusage_addr: Addr) -> int:
    """waitid(2): wait4 with a siginfo_t.

    Errors:
      EINVAL  unknown options, none of WEXITED WSTOPPED WCONTINUED, a bad idtype or id
      ECHILD  no child to wait for
    """
    if options & ~(WNOHANG | WNOWAIT | WEXITED | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE):
        raise EINVAL
    if not options & (WEXITED | WUNTRACED | WCONTINUED):
        raise EINVAL
    if which == P_PIDFD:
        which, number = _pidfd_target(t, number)
    if which not in (P_ALL, P_PID, P_PGID) or (which == P_PID and number <= 0) or number < 0:
        raise EINVAL
    if which == P_PGID and number == 0:
        number = t.tg.pgrp.id(t.pidns)
    found = await wait_for_child(t, which, number, options)
    if found is None:
        if info_addr:
            t.mem.write(info_addr, bytes(28))
        return 0
    pid = found.child.pid_in(t.pidns)
    usage = found.child.cpu_ns()
    _consume(t, found, options)
    if rusage_addr:
        t.mem.write(rusage_addr, pack_rusage(*usage))
    if info_addr:
        info = struct.pack("<iiixxxxiIi", sig.SIGCHLD, 0, found.code, pid, found.uid, found.value)
        t.mem.write(info_addr, info)
    return 0
