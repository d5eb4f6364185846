"""getrlimit(2), setrlimit(2), prlimit(2) and getrusage(2).  The limits are sentry/kernel/rlimits.py."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi.errno import EINVAL, EPERM, ESRCH
from sentry.kernel.answers import approve_memory
from sentry.kernel.creds import CAP_SYS_RESOURCE
from sentry.kernel.rlimits import NAMES, RLIMIT_AS, RLIMIT_CPU, RLIMIT_NOFILE
from sentry.kernel.timers import timers_of
from sentry.platform import PAGE_SIZE
from sentry.syscalls.args import I32_DECODE, Addr, Arg, Pid, one_of
from sentry.syscalls.registry import syscall
from sentry.syscalls.wait import pack_rusage

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

RLIMIT: Final = struct.Struct("<QQ")
RUSAGE_SELF: Final = 0
RUSAGE_CHILDREN: Final = -1
RUSAGE_THREAD: Final = 1

Resource = Annotated[int, Arg(I32_DECODE, one_of(dict(enumerate(NAMES))))]
Who = Annotated[
    int,
    Arg(
        I32_DECODE,
        one_of({RUSAGE_SELF: "RUSAGE_SELF", RUSAGE_CHILDREN: "RUSAGE_CHILDREN", RUSAGE_THREAD: "RUSAGE_THREAD"}),
    ),
]


@syscall
def getrlimit(t: Task, resource: Resource, addr: Addr) -> int:
    """getrlimit(2).  Errors: EINVAL, EFAULT."""
    t.mem.write(addr, RLIMIT.pack(*t.tg.rlimits.get(resource)))
    return 0


@syscall
def setrlimit(t: Task, resource: Resource, addr: Addr) -> int:
    """setrlimit(2).  Errors: EFAULT, EINVAL, EPERM."""
    _set(t, t.tg, resource, *RLIMIT.unpack(t.mem.read(addr, RLIMIT.size)))
    return 0


@syscall
def prlimit64(t: Task, pid: Pid, resource: Resource, new_addr: Addr, old_addr: Addr) -> int:
    """prlimit(2): read and set the limits of any process with the same ids.

    Linux: kernel/sys.c:sys_prlimit64
    Errors: EFAULT, ESRCH, EPERM, EINVAL
    """
    new = RLIMIT.unpack(t.mem.read(new_addr, RLIMIT.size)) if new_addr else None
    target = t.pidns.find(pid) if pid else t
    if target is None:
        raise ESRCH
    if target.tg is not t.tg:
        _check_may_limit(t, target)
    old = target.tg.rlimits.get(resource)
    if new is not None:
        _set(t, target.tg, resource, *new)
    if old_addr:
        t.mem.write(old_addr, RLIMIT.pack(*old))
    return 0


def _check_may_limit(t: Task, target: Task) -> None:
    """check_prlimit_permission(): all of the target's ids are the caller's real ones, or CAP_SYS_RESOURCE."""
    mine, theirs = t.creds, target.creds
    same_user = mine.uid == theirs.uid == theirs.euid == theirs.suid
    same_group = mine.gid == theirs.gid == theirs.egid == theirs.sgid
    if not (same_user and same_group) and not mine.has(CAP_SYS_RESOURCE):
        raise EPERM


def _set(t: Task, tg: ThreadGroup, resource: int, soft: int, hard: int) -> None:
    tg.rlimits.set(resource, soft, hard, t.creds.has(CAP_SYS_RESOURCE))
    if resource == RLIMIT_NOFILE:
        for task in tg.tasks:
            task.files.limit = soft
    elif resource == RLIMIT_CPU:
        timers_of(tg).watch_cpu_limit()
    elif resource == RLIMIT_AS:
        for task in tg.tasks:
            approve_memory(task)


@syscall(gaps="times, and ru_maxrss as the size now; the rest is 0")
def getrusage(t: Task, who: Who, addr: Addr) -> int:
    """getrusage(2).  Errors: EINVAL, EFAULT."""
    tg = t.tg
    if who == RUSAGE_CHILDREN:
        usage = pack_rusage(*tg.child_cpu_ns, tg.child_maxrss_kb)
    elif who == RUSAGE_SELF:
        usage = pack_rusage(*tg.cpu_ns(), _resident_kb(t))
    elif who == RUSAGE_THREAD:
        usage = pack_rusage(t.cpu_ns, 0, _resident_kb(t))
    else:
        raise EINVAL
    t.mem.write(addr, usage)
    return 0


def _resident_kb(t: Task) -> int:
    return t.mem.resident_pages()[1] * (PAGE_SIZE // 1024)
