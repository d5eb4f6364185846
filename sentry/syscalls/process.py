"""Process identity and attributes: ids, groups, sessions, prctl, arch_prctl, tid words."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EACCES, EFAULT, EINVAL, EPERM, ESRCH
from sentry.abi.fcntl import MAX_RW_COUNT, UIO_MAXIOV
from sentry.arch.x86_64 import TASK_SIZE_MAX
from sentry.kernel import creds as cr
from sentry.kernel.ids import ProcessGroup, Session
from sentry.syscalls.args import I32, U64, Addr, Flags, Pid, Size
from sentry.syscalls.registry import NO_RESULT, syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

PR_SET_PDEATHSIG: Final = 1
PR_GET_PDEATHSIG: Final = 2
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_GET_KEEPCAPS: Final = 7
PR_SET_KEEPCAPS: Final = 8
PR_GET_TIMING: Final = 13
PR_SET_NAME: Final = 15
PR_GET_NAME: Final = 16
PR_GET_SECCOMP: Final = 21
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_GET_SECUREBITS: Final = 27
PR_SET_SECUREBITS: Final = 28
PR_SET_TIMERSLACK: Final = 29
PR_GET_TIMERSLACK: Final = 30
PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_CHILD_SUBREAPER: Final = 37
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
PR_GET_TID_ADDRESS: Final = 40
PR_SET_THP_DISABLE: Final = 41
PR_GET_THP_DISABLE: Final = 42
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_IS_SET: Final = 1
PR_CAP_AMBIENT_RAISE: Final = 2
PR_CAP_AMBIENT_LOWER: Final = 3
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
PR_SET_VMA: Final = 0x53564D41

ARCH_SET_GS: Final = 0x1001
ARCH_SET_FS: Final = 0x1002
ARCH_GET_FS: Final = 0x1003
ARCH_GET_GS: Final = 0x1004

DEFAULT_TIMERSLACK_NS: Final = 50000


@syscall
def getpid(t: Task) -> int:
    """getpid(2)."""
    return t.tg.pid


@syscall
def gettid(t: Task) -> int:
    """gettid(2)."""
    return t.tid


@syscall
def getppid(t: Task) -> int:
    """getppid(2): 0 if the parent is not in this PID namespace."""
    parent = t.tg.parent
    return parent.pid_in(t.pidns) if parent is not None else 0


@syscall
def set_tid_address(t: Task, addr: Addr) -> int:
    """set_tid_address(2)."""
    t.clear_child_tid = addr
    return t.tid


def _target(t: Task, pid: int) -> ThreadGroup:
    """The process that pid, or the thread with that number, belongs to; 0: the caller's.  ESRCH."""
    target = t if pid == 0 else t.pidns.find(pid)
    if target is None:
        raise ESRCH
    return target.tg


@syscall
def setpgid(t: Task, pid: Pid, pgid: Pid) -> int:
    """setpgid(2): move a process to a group.

    Errors:
      EINVAL  pgid is negative; pid is a thread's that is no process
      ESRCH   pid is neither the caller nor a child of it
      EACCES  the child has exec'ed already
      EPERM   a session leader, another session, or no such group
    """
    if (pgid or pid) < 0:
        raise EINVAL
    tg = _target(t, pid)
    if pid and tg.pid_in(t.pidns) != pid:
        raise EINVAL
    if tg is not t.tg:
        if tg.parent is not t.tg:
            raise ESRCH
        if tg.session is not t.tg.session:
            raise EPERM
        if tg.did_exec:
            raise EACCES
    if tg.is_session_leader:
        raise EPERM
    own = tg.pid_in(t.pidns)
    group = t.pidns.find_pgrp(pgid or own)
    if group is None and pgid in (0, own):
        group = ProcessGroup(tg, tg.session)
    if group is None or group.session is not t.tg.session:
        raise EPERM
    group.join(tg)
    return 0


@syscall
def getpgid(t: Task, pid: Pid) -> int:
    """getpgid(2).  ESRCH."""
    if pid < 0:
        raise ESRCH
    return _target(t, pid).pgrp.id(t.pidns)


@syscall
def getpgrp(t: Task) -> int:
    """getpgrp(2)."""
    return t.tg.pgrp.id(t.pidns)


@syscall
def setsid(t: Task) -> int:
    """setsid(2): a new session with one group.  EPERM: the caller leads a group."""
    tg = t.tg
    if tg.is_session_leader or t.pidns.find_pgrp(tg.pid) is not None:
        raise EPERM
    ProcessGroup(tg, Session(tg)).join(tg)
    return tg.pid


@syscall
def getsid(t: Task, pid: Pid) -> int:
    """getsid(2).  ESRCH."""
    if pid < 0:
        raise ESRCH
    return _target(t, pid).session.id(t.pidns)


@syscall(gaps="of the x86-64 codes, FS and GS bases only")
def arch_prctl(t: Task, code: I32, addr: U64) -> int | None:
    """arch_prctl(2).

    Errors:
      EPERM   an address past the end of the address space
      EINVAL  another code
      EFAULT  a bad pointer
    """
    if code in (ARCH_SET_FS, ARCH_SET_GS):
        if addr >= TASK_SIZE_MAX:
            raise EPERM
        if t.context.let_through("arch_prctl", (code, addr)):
            return NO_RESULT
        if code == ARCH_SET_FS:
            t.context.regs.fs_base = addr
        else:
            t.context.regs.gs_base = addr
        return 0
    if code in (ARCH_GET_FS, ARCH_GET_GS):
        regs = t.context.regs
        value = regs.fs_base if code == ARCH_GET_FS else regs.gs_base
        t.mem.write(addr, value.to_bytes(8, "little"))
        return 0
    raise EINVAL


# -- prctl --


def _flag(value: int) -> bool:
    if value not in (0, 1):
        raise EINVAL
    return bool(value)


def _no_more(*args: int) -> None:
    if any(args):
        raise EINVAL


@syscall(gaps="per-process attributes that Linux programs use; no PR_SET_MM, PR_SET_SECCOMP, scheduling or speculation")
def prctl(t: Task, option: I32, a2: U64, a3: U64, a4: U64, a5: U64) -> int:
    """prctl(2).

    Errors:
      EINVAL  an unknown option or argument
      EPERM   a capability is missing, or a securebit is locked
      EFAULT  a bad pointer
    """
    handler = _PRCTL.get(option)
    if handler is None:
        raise EINVAL
    return handler(t, a2, a3, a4, a5)


def _set_pdeathsig(t: Task, a2: int, *rest: int) -> int:
    if not 0 <= a2 <= 64:
        raise EINVAL
    t.parent_death_signal = a2
    return 0


def _get_pdeathsig(t: Task, a2: int, *rest: int) -> int:
    t.mem.write(a2, t.parent_death_signal.to_bytes(4, "little"))
    return 0


def _set_dumpable(t: Task, a2: int, *rest: int) -> int:
    t.tg.dumpable = int(_flag(a2))
    return 0


def _set_keepcaps(t: Task, a2: int, *rest: int) -> int:
    if t.creds.securebits & cr.SECBIT_KEEP_CAPS_LOCKED:
        raise EPERM
    bits = t.creds.securebits & ~cr.SECBIT_KEEP_CAPS
    t.creds = t.creds.changed(securebits=bits | (cr.SECBIT_KEEP_CAPS if _flag(a2) else 0))
    return 0


def _set_name(t: Task, a2: int, *rest: int) -> int:
    raw = t.mem.read_some(a2, 16)
    t.task_name = os.fsdecode(raw.split(b"\0")[0][:15])
    return 0


def _get_name(t: Task, a2: int, *rest: int) -> int:
    t.mem.write(a2, os.fsencode(t.task_name)[:15].ljust(16, b"\0"))
    return 0


def _capbset_read(t: Task, a2: int, *rest: int) -> int:
    if a2 > cr.CAP_LAST:
        raise EINVAL
    return t.creds.bounding >> a2 & 1


def _capbset_drop(t: Task, a2: int, *rest: int) -> int:
    if not t.creds.has(cr.CAP_SETPCAP):
        raise EPERM
    if a2 > cr.CAP_LAST:
        raise EINVAL
    t.creds = t.creds.changed(bounding=t.creds.bounding & ~(1 << a2))
    return 0


def _set_securebits(t: Task, a2: int, *rest: int) -> int:
    old = t.creds.securebits
    locked = (old & cr.SECURE_ALL_LOCKS) >> 1
    if a2 & ~0xFF or (old ^ a2) & locked or old & cr.SECURE_ALL_LOCKS & ~a2 or not t.creds.has(cr.CAP_SETPCAP):
        raise EPERM
    t.creds = t.creds.changed(securebits=a2)
    return 0


def _set_subreaper(t: Task, a2: int, *rest: int) -> int:
    t.tg.child_subreaper = bool(a2)
    return 0


def _get_subreaper(t: Task, a2: int, *rest: int) -> int:
    t.mem.write(a2, int(t.tg.child_subreaper).to_bytes(4, "little"))
    return 0


def _set_no_new_privs(t: Task, a2: int, *rest: int) -> int:
    _no_more(*rest)
    if a2 != 1:
        raise EINVAL
    t.no_new_privs = True
    return 0


def _get_no_new_privs(t: Task, *rest: int) -> int:
    _no_more(*rest)
    return int(t.no_new_privs)


def _get_tid_address(t: Task, a2: int, *rest: int) -> int:
    t.mem.write(a2, t.clear_child_tid.to_bytes(8, "little"))
    return 0


def _cap_ambient(t: Task, a2: int, a3: int, a4: int, a5: int) -> int:
    _no_more(a4, a5)
    creds = t.creds
    if a2 == PR_CAP_AMBIENT_CLEAR_ALL:
        _no_more(a3)
        t.creds = creds.changed(ambient=0)
        return 0
    if a3 > cr.CAP_LAST:
        raise EINVAL
    bit = 1 << a3
    if a2 == PR_CAP_AMBIENT_IS_SET:
        return int(bool(creds.ambient & bit))
    if a2 == PR_CAP_AMBIENT_RAISE:
        if not creds.permitted & creds.inheritable & bit or creds.securebits & cr.SECBIT_NO_CAP_AMBIENT_RAISE:
            raise EPERM
        t.creds = creds.changed(ambient=creds.ambient | bit)
        return 0
    if a2 == PR_CAP_AMBIENT_LOWER:
        t.creds = creds.changed(ambient=creds.ambient & ~bit)
        return 0
    raise EINVAL


def _set_vma(t: Task, *rest: int) -> int:
    """PR_SET_VMA_ANON_NAME: as a kernel without CONFIG_ANON_VMA_NAME."""
    raise EINVAL


_PRCTL: Final[dict[int, Callable[..., int]]] = {
    PR_SET_PDEATHSIG: _set_pdeathsig,
    PR_GET_PDEATHSIG: _get_pdeathsig,
    PR_GET_DUMPABLE: lambda t, *rest: t.tg.dumpable,
    PR_SET_DUMPABLE: _set_dumpable,
    PR_GET_KEEPCAPS: lambda t, *rest: int(bool(t.creds.securebits & cr.SECBIT_KEEP_CAPS)),
    PR_SET_KEEPCAPS: _set_keepcaps,
    PR_GET_TIMING: lambda t, *rest: 0,
    PR_SET_NAME: _set_name,
    PR_GET_NAME: _get_name,
    PR_GET_SECCOMP: lambda t, *rest: 0,
    PR_CAPBSET_READ: _capbset_read,
    PR_CAPBSET_DROP: _capbset_drop,
    PR_GET_SECUREBITS: lambda t, *rest: t.creds.securebits,
    PR_SET_SECUREBITS: _set_securebits,
    PR_GET_TIMERSLACK: lambda t, *rest: DEFAULT_TIMERSLACK_NS,
    PR_SET_CHILD_SUBREAPER: _set_subreaper,
    PR_GET_CHILD_SUBREAPER: _get_subreaper,
    PR_SET_NO_NEW_PRIVS: _set_no_new_privs,
    PR_GET_NO_NEW_PRIVS: _get_no_new_privs,
    PR_GET_TID_ADDRESS: _get_tid_address,
    PR_GET_THP_DISABLE: lambda t, *rest: 0,
    PR_CAP_AMBIENT: _cap_ambient,
    PR_SET_VMA: _set_vma,
}


# -- robust lists --

ROBUST_HEAD_SIZE: Final = 24


@syscall
def set_robust_list(t: Task, head: Addr, size: Size) -> int:
    """set_robust_list(2).  EINVAL: a wrong size."""
    if size != ROBUST_HEAD_SIZE:
        raise EINVAL
    t.robust_list = head
    return 0


@syscall
def get_robust_list(t: Task, pid: Pid, head_addr: Addr, size_addr: Addr) -> int:
    """get_robust_list(2).  ESRCH, EPERM, EFAULT."""
    target = t if pid == 0 else t.pidns.find(pid)
    if target is None:
        raise ESRCH
    if target.tg is not t.tg and not t.creds.has(cr.CAP_SYS_PTRACE):
        raise EPERM
    t.mem.write(size_addr, struct.pack("<Q", ROBUST_HEAD_SIZE))
    t.mem.write(head_addr, struct.pack("<Q", target.robust_list))
    return 0


@syscall(gaps="KCMP_IO, KCMP_SYSVSEM and KCMP_EPOLL_TFD are refused")
def kcmp(t: Task, pid1: Pid, pid2: Pid, kind: I32, index1: U64, index2: U64) -> int:
    """kcmp(2): do two processes share a resource?  ESRCH, EPERM, EINVAL, EBADF."""
    one, two = t.pidns.find(pid1), t.pidns.find(pid2)
    if one is None or two is None:
        raise ESRCH
    if not (_may_access(t, one) and _may_access(t, two)):
        raise EPERM
    pairs: dict[int, Callable[[], tuple[object, object]]] = {
        0: lambda: (one.files.get_any(index1), two.files.get_any(index2)),
        1: lambda: (one.mm, two.mm),
        2: lambda: (one.files, two.files),
        3: lambda: (one.fs, two.fs),
        4: lambda: (one.tg.handlers, two.tg.handlers),
    }
    if kind not in pairs:
        raise EINVAL
    a, b = pairs[kind]()
    return 0 if a is b else 1 if id(a) < id(b) else 2


@syscall
def process_vm_readv(t: Task, pid: Pid, local: Addr, n_local: U64, remote: Addr, n_remote: U64, flags: Flags) -> int:
    """process_vm_readv(2): read another process's memory.  EINVAL, ESRCH, EPERM, EFAULT."""
    return _vm_copy(t, pid, local, n_local, remote, n_remote, flags, write=False)


@syscall
def process_vm_writev(t: Task, pid: Pid, local: Addr, n_local: U64, remote: Addr, n_remote: U64, flags: Flags) -> int:
    """process_vm_writev(2): write another process's memory.  EINVAL, ESRCH, EPERM, EFAULT."""
    return _vm_copy(t, pid, local, n_local, remote, n_remote, flags, write=True)


def _read_iov(t: Task, addr: int, count: int) -> list[tuple[int, int]]:
    """iovec_from_user().  EINVAL: too many, or a length that is negative.  EFAULT."""
    if count > UIO_MAXIOV:
        raise EINVAL
    raw = t.mem.read(addr, count * 16)
    vector = [(a, n) for a, n in struct.iter_unpack("<QQ", raw)]
    if any(n >> 63 for _, n in vector):
        raise EINVAL
    return vector


def _vm_copy(t: Task, pid: int, local: int, n_local: int, remote: int, n_remote: int, flags: int, write: bool) -> int:
    if flags:
        raise EINVAL
    ours, theirs = _read_iov(t, local, n_local), _read_iov(t, remote, n_remote)
    target = t.pidns.find(pid)
    if target is None or target.tg.dead:
        raise ESRCH
    if not _may_access(t, target):
        raise EPERM
    done = 0
    for mine, other, size in _pair(ours, theirs):
        try:
            if write:
                done += target.mem.write_some(other, t.mem.read(mine, size))
            else:
                data = target.mem.read_some(other, size)
                t.mem.write(mine, data)
                done += len(data)
        except EFAULT:
            if not done:
                raise
            break
    return done


def _may_access(t: Task, target: Task) -> bool:
    """__ptrace_may_access(): the same user in every respect, without more capabilities."""
    if target.tg is t.tg or t.creds.has(cr.CAP_SYS_PTRACE):
        return True
    a, b = t.creds, target.creds
    same = (a.uid, a.uid, a.uid, a.gid, a.gid, a.gid) == (b.euid, b.suid, b.uid, b.egid, b.sgid, b.gid)
    return same and target.tg.dumpable == 1 and not b.permitted & ~a.permitted


def _pair(ours: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Pieces (our address, their address, size) of at most 64 KiB that walk both vectors in step."""
    i = j = 0
    a, b = list(ours), list(theirs)
    left = MAX_RW_COUNT
    while i < len(a) and j < len(b) and left:
        size = min(a[i][1], b[j][1], 65536, left)
        if size:
            yield a[i][0], b[j][0], size
        left -= size
        a[i], b[j] = (a[i][0] + size, a[i][1] - size), (b[j][0] + size, b[j][1] - size)
        i += not a[i][1]
        j += not b[j][1]
