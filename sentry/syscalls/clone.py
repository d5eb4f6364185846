"""clone(2), clone3(2), fork(2), vfork(2), unshare(2), setns(2).  The work is in kernel/clone.py."""

from __future__ import annotations

import struct
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import E2BIG, EINVAL, EPERM
from sentry.fs.pidfd import PidFd
from sentry.kernel import clone as k
from sentry.kernel.clone import CloneArgs
from sentry.kernel.creds import CAP_SYS_ADMIN
from sentry.syscalls.args import U64, Addr, CloneFlags, Fd, Flags, Size
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

CLONE_ARGS: Final = struct.Struct("<11Q")
CLONE_ARGS_V0: Final = 64
CLONE_ARGS_V2: Final = 88
Result = int | Awaitable[int]
SIGCHLD: Final = 17
MAX_SIGNAL: Final = 64
UNSHARE_FLAGS: Final = (
    k.CLONE_FS | k.CLONE_FILES | k.CLONE_SYSVSEM | k.CLONE_THREAD | k.CLONE_SIGHAND | k.CLONE_VM | k.NEW_NAMESPACES
)


@syscall(gaps="no new namespaces (CLONE_NEW*)")
def clone(t: Task, flags: CloneFlags, stack: Addr, parent_tid: Addr, child_tid: Addr, tls: U64) -> Result:
    """clone(2): make a thread or a process.

    Errors:
      EINVAL  a combination of flags that means nothing
      EAGAIN  RLIMIT_NPROC
      ENOMEM  the host has no memory for it
    """
    flags &= 0xFFFFFFFF
    args = CloneArgs(
        flags & ~k.CSIGNAL & ~k.CLONE_DETACHED, flags & k.CSIGNAL, stack, parent_tid, child_tid, tls, parent_tid, PidFd
    )
    if flags & k.CLONE_PIDFD and flags & k.CLONE_PARENT_SETTID:
        raise EINVAL
    return k.clone(t, args)


@syscall
def fork(t: Task) -> Result:
    """fork(2): a copy of the process."""
    return k.clone(t, CloneArgs(0, SIGCHLD))


@syscall
def vfork(t: Task) -> Result:
    """vfork(2): a child that borrows the memory until it execs or exits."""
    return k.clone(t, CloneArgs(k.CLONE_VFORK | k.CLONE_VM, SIGCHLD))


@syscall(gaps="no new namespaces, no set_tid, no CLONE_INTO_CGROUP")
def clone3(t: Task, args_addr: Addr, size: Size) -> Result:
    """clone3(2): clone with its arguments in a struct clone_args.

    Errors:
      E2BIG   the struct has nonzero fields this kernel does not know
      EINVAL  size below the first version's; stack without size; a bad exit signal
    """
    if size > 4096:
        raise E2BIG
    if size < CLONE_ARGS_V0:
        raise EINVAL
    data = t.mem.read(args_addr, size)
    if size > CLONE_ARGS_V2 and any(data[CLONE_ARGS_V2:]):
        raise E2BIG
    if size < CLONE_ARGS_V2:
        data = data.ljust(CLONE_ARGS_V2, b"\0")
    fields = CLONE_ARGS.unpack_from(data)
    flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, _ = fields
    if set_tid or set_tid_size:
        raise EPERM if not t.creds.has(CAP_SYS_ADMIN) else EINVAL
    if exit_signal > MAX_SIGNAL or bool(stack) != bool(stack_size):
        raise EINVAL
    if flags & (k.CLONE_DETACHED | k.CSIGNAL) or flags >> 34:
        raise EINVAL
    if flags & (k.CLONE_THREAD | k.CLONE_PARENT) and exit_signal:
        raise EINVAL
    return k.clone(t, CloneArgs(flags, exit_signal, stack + stack_size, parent_tid, child_tid, tls, pidfd, PidFd))


@syscall(gaps="no new namespaces")
def unshare(t: Task, flags: Flags) -> int:
    """unshare(2): stop sharing files, directories or descriptors with other tasks.

    Errors:
      EINVAL  an unknown flag; memory, handlers or threads that are in fact shared
      EPERM   a namespace without CAP_SYS_ADMIN
    """
    if flags & ~UNSHARE_FLAGS:
        raise EINVAL
    if flags & k.NEW_NAMESPACES:
        if not t.creds.has(CAP_SYS_ADMIN):
            raise EPERM
        raise EINVAL("namespaces can't be made inside the sandbox")
    if flags & (k.CLONE_THREAD | k.CLONE_SIGHAND | k.CLONE_VM) and len(t.tg.tasks) > 1:
        raise EINVAL
    if flags & k.CLONE_FS:
        t.fs = t.fs.copy()
    if flags & k.CLONE_FILES and t.files.refs > 1:
        shared, t.files = t.files, t.files.copy()
        shared.refs -= 1
    return 0


@syscall(gaps="no namespace can be entered")
def setns(t: Task, fd: Fd, nstype: Flags) -> int:
    """setns(2).

    Errors:
      EBADF   fd is not open
      EINVAL  fd is not a namespace that can be entered
    """
    t.files.get(fd)
    raise EINVAL
