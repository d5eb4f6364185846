"""Scheduling calls.  The host schedules; policy and priority are kept as state and answered truthfully."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import E2BIG, EACCES, EINVAL, EPERM, ESRCH, LinuxError
from sentry.kernel.creds import CAP_SYS_NICE
from sentry.syscalls.args import I32, Addr, Flags, Pid, Size
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

SCHED_OTHER: Final = 0
SCHED_FIFO: Final = 1
SCHED_RR: Final = 2
SCHED_BATCH: Final = 3
SCHED_IDLE: Final = 5
SCHED_RESET_ON_FORK: Final = 0x40000000
PRIO_PROCESS: Final = 0
PRIO_PGRP: Final = 1
PRIO_USER: Final = 2
SCHED_ATTR: Final = struct.Struct("<IIQiIQQQ")
RLIMIT_NICE: Final = 13


def _target(t: Task, pid: int) -> Task:
    if pid < 0:
        raise EINVAL
    return _find(t, pid)


def _find(t: Task, pid: int) -> Task:
    target = t if pid == 0 else t.pidns.find(pid)
    if target is None:
        raise ESRCH
    return target


def _may_change(t: Task, target: Task) -> bool:
    return t.creds.has(CAP_SYS_NICE) or t.creds.euid in (target.creds.euid, target.creds.uid)


@syscall
def sched_yield(t: Task) -> int:
    """sched_yield(2): the host has scheduled already by the time this is answered."""
    return 0


@syscall(gaps="the mask is kept and returned, the host schedules as it likes")
def sched_setaffinity(t: Task, pid: Pid, size: Size, mask_addr: Addr) -> int:
    """sched_setaffinity(2).  ESRCH, EPERM, EFAULT; EINVAL: no CPU that exists."""
    target = _find(t, pid)
    if not _may_change(t, target):
        raise EPERM
    mask = int.from_bytes(t.mem.read(mask_addr, min(size, 128)), "little") & _all_cpus(t)
    if not mask:
        raise EINVAL
    target.affinity = mask
    return 0


def _all_cpus(t: Task) -> int:
    return (1 << t.container.facts.ncpus) - 1


@syscall
def sched_getaffinity(t: Task, pid: Pid, size: Size, mask_addr: Addr) -> int:
    """sched_getaffinity(2): returns how many bytes were stored.  ESRCH, EFAULT; EINVAL: size."""
    if size * 8 < t.container.facts.ncpus or size % 8:
        raise EINVAL
    target = _find(t, pid)
    length = min(size, 8 * ((t.container.facts.ncpus + 63) // 64))
    mask = (target.affinity or _all_cpus(t)) & _all_cpus(t)
    t.mem.write(mask_addr, mask.to_bytes(length, "little"))
    return length


@syscall
def sched_getscheduler(t: Task, pid: Pid) -> int:
    """sched_getscheduler(2).  ESRCH, EINVAL."""
    return _target(t, pid).sched_policy


def _check_policy(policy: int, priority: int) -> None:
    if policy not in (SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, SCHED_FIFO, SCHED_RR):
        raise EINVAL
    if policy in (SCHED_FIFO, SCHED_RR) and not 1 <= priority <= 99:
        raise EINVAL
    if policy not in (SCHED_FIFO, SCHED_RR) and priority:
        raise EINVAL


def _set_policy(t: Task, target: Task, policy: int, priority: int) -> int:
    policy &= ~SCHED_RESET_ON_FORK
    _check_policy(policy, priority)
    if not _may_change(t, target):
        raise EPERM
    if policy in (SCHED_FIFO, SCHED_RR):
        raise EPERM("real-time scheduling belongs to the host")
    target.sched_policy = policy
    return 0


@syscall(gaps="SCHED_FIFO and SCHED_RR are refused with EPERM")
def sched_setscheduler(t: Task, pid: Pid, policy: I32, param: Addr) -> int:
    """sched_setscheduler(2).  EINVAL, ESRCH, EPERM, EFAULT."""
    if not param or policy < 0:
        raise EINVAL
    (priority,) = struct.unpack("<i", t.mem.read(param, 4))
    return _set_policy(t, _target(t, pid), policy, priority)


@syscall
def sched_setparam(t: Task, pid: Pid, param: Addr) -> int:
    """sched_setparam(2).  EINVAL, ESRCH, EPERM, EFAULT."""
    if not param:
        raise EINVAL
    (priority,) = struct.unpack("<i", t.mem.read(param, 4))
    target = _target(t, pid)
    return _set_policy(t, target, target.sched_policy, priority)


@syscall
def sched_getparam(t: Task, pid: Pid, param: Addr) -> int:
    """sched_getparam(2): 0, since nothing here is real-time.  EINVAL, ESRCH, EFAULT."""
    if not param:
        raise EINVAL
    _target(t, pid)
    t.mem.write(param, bytes(4))
    return 0


@syscall
def sched_get_priority_max(t: Task, policy: I32) -> int:
    """sched_get_priority_max(2).  EINVAL."""
    if policy in (SCHED_FIFO, SCHED_RR):
        return 99
    if policy in (SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, 6):
        return 0
    raise EINVAL


@syscall
def sched_get_priority_min(t: Task, policy: I32) -> int:
    """sched_get_priority_min(2).  EINVAL."""
    return min(sched_get_priority_max(t, policy), 1)


@syscall
def sched_rr_get_interval(t: Task, pid: Pid, interval: Addr) -> int:
    """sched_rr_get_interval(2): of SCHED_OTHER tasks, the host's default slice.  EINVAL, ESRCH, EFAULT."""
    _target(t, pid)
    t.mem.write(interval, struct.pack("<qq", 0, 4_000_000))
    return 0


@syscall
def sched_getattr(t: Task, pid: Pid, attr: Addr, size: I32, flags: Flags) -> int:
    """sched_getattr(2).  EINVAL, ESRCH, EFAULT."""
    if not attr or flags or not SCHED_ATTR.size <= size <= 4096:
        raise EINVAL
    target = _target(t, pid)
    t.mem.write(attr, SCHED_ATTR.pack(SCHED_ATTR.size, target.sched_policy, 0, target.nice, 0, 0, 0, 0))
    return 0


@syscall(gaps="SCHED_FIFO, SCHED_RR and SCHED_DEADLINE are refused")
def sched_setattr(t: Task, pid: Pid, attr: Addr, flags: Flags) -> int:
    """sched_setattr(2).  EINVAL, E2BIG, ESRCH, EPERM, EFAULT."""
    if not attr or pid < 0 or flags:
        raise EINVAL
    size = int.from_bytes(t.mem.read(attr, 4), "little") or SCHED_ATTR.size
    if not SCHED_ATTR.size <= size <= 4096:
        raise E2BIG
    _, policy, _, nice, priority, *_ = SCHED_ATTR.unpack(t.mem.read(attr, SCHED_ATTR.size))
    target = _target(t, pid)
    _set_policy(t, target, policy, priority)
    _set_nice(t, target, nice)
    return 0


# -- nice values --


def _set_nice(t: Task, target: Task, nice: int) -> None:
    """EPERM: another user's.  EACCES: raising priority without the right to."""
    nice = max(-20, min(19, nice))
    if not _may_change(t, target):
        raise EPERM
    if nice < target.nice and not t.creds.has(CAP_SYS_NICE) and 20 - nice > target.tg.rlimits.get(RLIMIT_NICE)[0]:
        raise EACCES
    target.nice = nice


def _priority_targets(t: Task, which: int, who: int) -> list[Task]:
    ns = t.pidns
    if which == PRIO_PROCESS:
        found = t if who == 0 else ns.find(who)
        return [found] if found is not None else []
    if which == PRIO_PGRP:
        group = t.tg.pgrp if who == 0 else ns.find_pgrp(who)
        return [task for tg in group.members for task in tg.tasks] if group is not None else []
    if which == PRIO_USER:
        uid = who or t.creds.uid
        return [task for task in ns.tasks.values() if task.creds.uid == uid]
    raise EINVAL


@syscall
def getpriority(t: Task, which: I32, who: I32) -> int:
    """getpriority(2): 20 - nice of the most favoured.  EINVAL, ESRCH."""
    targets = _priority_targets(t, which, who)
    if not targets:
        raise ESRCH
    return 20 - min(target.nice for target in targets)


@syscall(gaps="the value is kept; the host's scheduler does not see it")
def setpriority(t: Task, which: I32, who: I32, nice: I32) -> int:
    """setpriority(2).  EINVAL, ESRCH, EPERM, EACCES."""
    targets = _priority_targets(t, which, who)
    if not targets:
        raise ESRCH
    error: LinuxError | None = None
    for target in targets:
        try:
            _set_nice(t, target, nice)
        except LinuxError as e:  # the others are changed all the same
            error = e
    if error is not None:
        raise error
    return 0


@syscall
def ioprio_get(t: Task, which: I32, who: I32) -> int:
    """ioprio_get(2): the class and level that were set.  EINVAL, ESRCH."""
    targets = _priority_targets(t, which - 1, who)
    if not targets:
        raise ESRCH
    return max(target.ioprio for target in targets)


@syscall(gaps="the value is kept; the host's scheduler does not see it")
def ioprio_set(t: Task, which: I32, who: I32, ioprio: I32) -> int:
    """ioprio_set(2).  EINVAL, ESRCH, EPERM."""
    kind, level = ioprio >> 13, ioprio & 0x1FFF
    if kind > 3 or (kind == 0 and level):
        raise EINVAL
    if kind == 1 and not t.creds.has(1 << 21):
        raise EPERM
    targets = _priority_targets(t, which - 1, who)
    if not targets:
        raise ESRCH
    for target in targets:
        target.ioprio = ioprio
    return 0
