"""pidfd_open(2) and pidfd_send_signal(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EBADF, EINVAL, EPERM, ESRCH
from sentry.abi.fcntl import O_NONBLOCK
from sentry.fs.pidfd import PidFd
from sentry.syscalls.args import Addr, Fd, Flags, Pid, Signo
from sentry.syscalls.registry import syscall
from sentry.syscalls.signal import check_permission, own_info, read_info

if TYPE_CHECKING:
    from sentry.kernel.task import Task

PIDFD_NONBLOCK: Final = O_NONBLOCK


@syscall(gaps="no PIDFD_THREAD")
def pidfd_open(t: Task, pid: Pid, flags: Flags) -> int:
    """pidfd_open(2): a descriptor for a process.

    Errors:
      EINVAL  unknown flags, pid <= 0, or a thread that leads no process
      ESRCH   no such process
      EMFILE  the descriptor table is full
    """
    if flags & ~PIDFD_NONBLOCK or pid <= 0:
        raise EINVAL
    target = t.pidns.find(pid)
    if target is None:
        raise ESRCH
    if target.tg.leader is not target:
        raise EINVAL
    return t.files.install(PidFd(target.tg, flags), cloexec=True)


@syscall
def pidfd_send_signal(t: Task, pidfd: Fd, signo: Signo, info_addr: Addr, flags: Flags) -> int:
    """pidfd_send_signal(2): kill(2) for a descriptor.

    Errors:
      EINVAL  unknown flags, no such signal, or an info for another signal
      EBADF   not a pidfd
      ESRCH   the process has ended and was waited for
      EPERM   not allowed
    """
    if flags:
        raise EINVAL
    file = t.files.get(pidfd)
    if not isinstance(file, PidFd):
        raise EBADF
    tg = file.tg
    if info_addr:
        info = read_info(t, info_addr, tg.pid, signo)
        if tg is not t.tg and (info.code >= 0):
            raise EPERM
    else:
        info = own_info(t, signo)
    if tg.zombie_reaped:
        raise ESRCH
    check_permission(t, tg, signo)
    if signo:
        tg.send_signal(info)
    return 0
