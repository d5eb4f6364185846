"""clone(2), fork(2), vfork(2): kernel/fork.c:copy_process."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from proto.slotted import slotted
from sentry.abi.errno import EAGAIN, EINVAL, EPERM, LinuxError
from sentry.arch.x86_64 import TASK_SIZE_MAX
from sentry.kernel import run
from sentry.kernel.creds import CAP_SYS_ADMIN, CAP_SYS_RESOURCE
from sentry.kernel.rlimits import RLIMIT_NPROC
from sentry.kernel.task import Task
from sentry.kernel.threadgroup import ThreadGroup
from sentry.kernel.timers import watch_inherited_limit
from sentry.wait import Event

if TYPE_CHECKING:
    from sentry.mm.mm import Mm
    from sentry.vfs.file import File

log = logging.getLogger(__name__)

CSIGNAL: Final = 0xFF
CLONE_VM: Final = 0x100
CLONE_FS: Final = 0x200
CLONE_FILES: Final = 0x400
CLONE_SIGHAND: Final = 0x800
CLONE_PIDFD: Final = 0x1000
CLONE_PTRACE: Final = 0x2000
CLONE_VFORK: Final = 0x4000
CLONE_PARENT: Final = 0x8000
CLONE_THREAD: Final = 0x10000
CLONE_NEWNS: Final = 0x20000
CLONE_SYSVSEM: Final = 0x40000
CLONE_SETTLS: Final = 0x80000
CLONE_PARENT_SETTID: Final = 0x100000
CLONE_CHILD_CLEARTID: Final = 0x200000
CLONE_DETACHED: Final = 0x400000
CLONE_UNTRACED: Final = 0x800000
CLONE_CHILD_SETTID: Final = 0x1000000
CLONE_NEWCGROUP: Final = 0x2000000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWIPC: Final = 0x8000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE_IO: Final = 0x80000000
CLONE_CLEAR_SIGHAND: Final = 0x100000000
CLONE_INTO_CGROUP: Final = 0x200000000

NEW_NAMESPACES: Final = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
)


# What every thread is made with, and what more than that would have to be looked at.
THREAD: Final = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD
UNUSUAL: Final = NEW_NAMESPACES | CLONE_CLEAR_SIGHAND | CLONE_PARENT | CLONE_PIDFD | CLONE_INTO_CGROUP


@slotted
class CloneArgs:
    """struct clone_args, with the exit signal apart from the flags."""

    flags: int
    exit_signal: int = 0
    stack: int = 0  # initial stack pointer, 0: the parent's
    parent_tid_addr: int = 0
    child_tid_addr: int = 0
    tls: int = 0
    pidfd_addr: int = 0
    new_pidfd: Callable[[ThreadGroup], File] | None = None  # with CLONE_PIDFD


def check_flags(t: Task, flags: int) -> None:
    """copy_process()'s combinations, in its order.  EINVAL, EPERM."""
    if flags & (THREAD | UNUSUAL) == THREAD:
        return
    if flags & CLONE_FS and flags & (CLONE_NEWNS | CLONE_NEWUSER):
        raise EINVAL
    if flags & CLONE_THREAD and not flags & CLONE_SIGHAND:
        raise EINVAL
    if flags & CLONE_SIGHAND and not flags & CLONE_VM:
        raise EINVAL
    if flags & CLONE_SIGHAND and flags & CLONE_CLEAR_SIGHAND:
        raise EINVAL
    if flags & CLONE_PARENT and t.tg.unkillable:
        raise EINVAL("pid 1 can't have siblings")
    if flags & CLONE_PIDFD and flags & (CLONE_DETACHED | CLONE_THREAD):
        raise EINVAL
    if flags & NEW_NAMESPACES:
        if not t.creds.has(CAP_SYS_ADMIN):
            raise EPERM
        raise EINVAL("namespaces can't be made inside the sandbox")
    if flags & CLONE_INTO_CGROUP:
        raise EINVAL("clone: no cgroup can be entered")


def clone(t: Task, args: CloneArgs) -> int | Awaitable[int]:
    """Make a task; returns its tid as the caller sees it, vfork after a wait.  EAGAIN, ENOMEM, EINVAL, EPERM."""
    flags = args.flags
    check_flags(t, flags)
    check_process_limit(t)
    if flags & CLONE_SETTLS and args.tls >= TASK_SIZE_MAX:
        raise EPERM("no such FS base")
    if flags & CLONE_PIDFD:
        t.files.check_room()
    child_context = t.context.clone(share_space=bool(flags & CLONE_VM), same_process=bool(flags & CLONE_THREAD))
    mm = t.mm
    if flags & CLONE_VM:
        mm.users += 1
    else:
        mm = mm.copy(child_context.space)
    try:
        child = _new_task(t, args, child_context, mm)
    except LinuxError:
        child_context.release()
        mm.release()
        raise
    tid = child.tid_in(t.pidns)
    if flags & CLONE_PIDFD and args.new_pidfd is not None:
        _install_pidfd(t, child, args.new_pidfd(child.tg), args.pidfd_addr)
    if flags & CLONE_PARENT_SETTID:
        _store_tid(t, args.parent_tid_addr, tid)
    if flags & CLONE_CHILD_SETTID:
        _store_tid(child, args.child_tid_addr, child.tid)
    if flags & CLONE_CHILD_CLEARTID:
        child.clear_child_tid = args.child_tid_addr
    _set_registers(child, args)
    if flags & CLONE_VFORK:
        child.vfork_done = Event(t.kernel.loop)
    child.start(run.run(child), f"task {tid}")
    return tid if child.vfork_done is None else _wait_for_vfork(t, child.vfork_done, tid)


def check_process_limit(t: Task) -> None:
    """The container's limit of tasks, as cgroup_can_fork(); RLIMIT_NPROC counts the user's.  EAGAIN."""
    if t.container.max_tasks is not None and len(t.container.members) >= t.container.max_tasks:
        raise EAGAIN("pids.max")
    if t.creds.uid == 0 or t.creds.has(CAP_SYS_RESOURCE) or t.creds.has(CAP_SYS_ADMIN):
        return
    limit = t.tg.rlimits.get(RLIMIT_NPROC)[0]
    used = sum(1 for task in t.kernel.root_pidns.tasks.values() if task.creds.uid == t.creds.uid)
    if used >= limit:
        raise EAGAIN


def _new_task(t: Task, args: CloneArgs, context: object, mm: Mm) -> Task:
    flags = args.flags
    thread = bool(flags & CLONE_THREAD)
    tg = t.tg if thread else _new_thread_group(t, flags, args.exit_signal)
    child = Task(t.kernel, tg, context, mm, t.creds)  # type: ignore[arg-type]
    if not thread:
        tg.leader = child
    try:
        t.kernel.number_task(child)
    except EAGAIN:
        if not thread and tg.parent is not None:
            tg.parent.children.remove(tg)
        raise
    child.task_name = t.task_name
    child.sigmask = t.saved_sigmask if t.saved_sigmask is not None else t.sigmask
    child.no_new_privs = t.no_new_privs
    child.affinity, child.sched_policy = t.affinity, t.sched_policy
    child.nice, child.ioprio = t.nice, t.ioprio
    if not flags & CLONE_VM or flags & CLONE_VFORK:
        child.altstack = t.altstack
    if flags & CLONE_FILES:
        t.files.refs += 1
        child.files = t.files
    else:
        child.files = t.files.copy()
    child.fs = t.fs if flags & CLONE_FS else t.fs.copy()
    tg.tasks.append(child)
    if not thread:
        t.tg.pgrp.members.add(tg)
        tg.pgrp = t.tg.pgrp
        watch_inherited_limit(tg)
    if thread:
        child.exiting = t.tg.exiting
        child.attention = t.tg.exiting or t.tg.stop_signal != 0
    return child


def _new_thread_group(t: Task, flags: int, exit_signal: int) -> ThreadGroup:
    if flags & CLONE_SIGHAND:
        handlers = t.tg.handlers
    elif flags & CLONE_CLEAR_SIGHAND:
        handlers = t.tg.handlers.for_exec()
    else:
        handlers = t.tg.handlers.copy()
    parent = t.tg.parent if flags & CLONE_PARENT else t.tg
    tg = ThreadGroup(t.kernel, t.container, t.pidns, parent, handlers, t.tg.rlimits.copy())
    tg.exit_signal = t.tg.exit_signal if flags & CLONE_PARENT else exit_signal
    tg.oom_score_adj = t.tg.oom_score_adj
    tg.dumpable = t.tg.dumpable
    return tg


def _install_pidfd(t: Task, child: Task, file: File, addr: int) -> None:
    """CLONE_PIDFD.  The child exists already: what fails leaves it without a descriptor, not undone."""
    try:
        fd = t.files.install(file, cloexec=True)
        t.mem.write(addr, fd.to_bytes(4, "little"))
    except LinuxError:
        log.info("clone: no pidfd for task %d", child.tid)


def _store_tid(t: Task, addr: int, tid: int) -> None:
    """put_user() whose failure Linux ignores here too."""
    try:
        t.mem.write(addr, tid.to_bytes(4, "little"))
    except LinuxError:
        pass


def _set_registers(child: Task, args: CloneArgs) -> None:
    regs = child.context.regs
    regs.rax = 0
    if args.stack:
        regs.rsp = args.stack
    if args.flags & CLONE_SETTLS:
        regs.fs_base = args.tls


async def _wait_for_vfork(t: Task, done: Event, tid: int) -> int:
    """Until the child gave the memory back; only death ends this wait.  Returns tid."""
    t.killable = True
    if t.container.frozen:
        t.container.freezer.at_rest(t)
    while not done.is_set and not t.exiting:
        await done.wait_once()
    t.killable = False
    return tid
