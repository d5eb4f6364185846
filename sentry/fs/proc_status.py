"""Texts about one process or thread: stat, status, statm, limits and the like, proc(5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi.errno import LinuxError
from sentry.fs.proc_maps import mappings
from sentry.fs.proc_view import TaskView
from sentry.fs.tty import controlling_tty
from sentry.kernel import rlimits as rl
from sentry.kernel.task import current
from sentry.platform import PAGE_SIZE, SpaceGone

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

TICK_NS: Final = 10_000_000  # USER_HZ is 100
PF_RANDOMIZE: Final = 0x00400000
PF_FORKNOEXEC: Final = 0x00000040
KB: Final = PAGE_SIZE // 1024
STATES: Final = {
    "R": "R (running)",
    "S": "S (sleeping)",
    "D": "D (disk sleep)",
    "T": "T (stopped)",
    "Z": "Z (zombie)",
}
_MASK_31: Final = 0x7FFFFFFF

_LIMITS: Final = (
    ("Max cpu time", "seconds", rl.RLIMIT_CPU),
    ("Max file size", "bytes", rl.RLIMIT_FSIZE),
    ("Max data size", "bytes", rl.RLIMIT_DATA),
    ("Max stack size", "bytes", rl.RLIMIT_STACK),
    ("Max core file size", "bytes", rl.RLIMIT_CORE),
    ("Max resident set", "bytes", rl.RLIMIT_RSS),
    ("Max processes", "processes", rl.RLIMIT_NPROC),
    ("Max open files", "files", rl.RLIMIT_NOFILE),
    ("Max locked memory", "bytes", rl.RLIMIT_MEMLOCK),
    ("Max address space", "bytes", rl.RLIMIT_AS),
    ("Max file locks", "locks", rl.RLIMIT_LOCKS),
    ("Max pending signals", "signals", rl.RLIMIT_SIGPENDING),
    ("Max msgqueue size", "bytes", rl.RLIMIT_MSGQUEUE),
    ("Max nice priority", "", rl.RLIMIT_NICE),
    ("Max realtime priority", "", rl.RLIMIT_RTPRIO),
    ("Max realtime timeout", "us", rl.RLIMIT_RTTIME),
)


# -- what they have in common --


def state(view: TaskView) -> str:
    """One letter, as ps shows it."""
    t = view.t
    if not view.alive:
        return "Z"
    if t.stopped or view.tg.stopped:
        return "T"
    if t.interruptible:
        return "S"
    return "D" if t.killable else "R"


def pages(view: TaskView) -> tuple[int, int, int]:
    """(size, resident, shared)."""
    mm = view.mm
    try:
        return mm.space.resident_pages() if mm is not None else (0, 0, 0)
    except (LinuxError, SpaceGone):
        return 0, 0, 0


def escaped_name(t: Task) -> str:
    """The command's name, on one line: string_escape_str()."""
    return t.task_name.replace("\\", "\\\\").replace("\n", "\\n")


def _cpu_ns(view: TaskView) -> tuple[int, int]:
    """(user, system) time of the process, or of the thread alone."""
    if view.whole:
        return view.tg.cpu_ns()
    return (view.t.cpu_ns if view.alive else 0), 0


def _parent_pid(view: TaskView) -> int:
    parent = view.tg.parent
    return parent.pid_in(view.ns) if parent is not None else 0


def _signal_masks(t: Task) -> tuple[int, int, int, int, int]:
    """(pending for the thread, for the process, blocked, ignored, caught)."""
    ignored, caught = t.tg.handlers.masks()
    return t.pending.mask, t.tg.pending.mask, t.sigmask, ignored, caught


def _is_writable_private(perms: str) -> bool:
    return perms[1] == "w" and perms[3] == "p"


# -- files --


def cmdline(view: TaskView) -> bytes:
    """The arguments; a program may have overwritten them, and gone on into the environment (setproctitle(3))."""
    mm = view.mm
    if mm is None:
        return b""
    try:
        arguments = mm.command_line()
        if arguments and not arguments.endswith(b"\0"):
            return (arguments + mm.environment()).split(b"\0", 1)[0] + b"\0"
    except SpaceGone:
        return b""
    return arguments


def environ(view: TaskView) -> bytes:
    mm = view.mm
    try:
        return mm.environment() if mm is not None else b""
    except SpaceGone:
        return b""


def auxv(view: TaskView) -> bytes:
    mm = view.mm
    return mm.auxv if mm is not None else b""


def comm(view: TaskView) -> str:
    return view.t.task_name + "\n"


def stat(view: TaskView) -> str:
    """proc(5), /proc/PID/stat: 52 numbers."""
    t = view.check()
    tg = t.tg
    size, resident, _ = pages(view)
    user_ns, system_ns = _cpu_ns(view)
    child_user_ns, child_system_ns = tg.child_cpu_ns if view.whole else (0, 0)
    _, shared_pending, blocked, ignored, caught = _signal_masks(t)
    head = (
        f"{view.number} ({t.task_name}) {state(view)} {_parent_pid(view)} "
        f"{tg.pgrp.id(view.ns)} {tg.session.id(view.ns)} {_terminal(view)} "
        f"{PF_RANDOMIZE | (0 if tg.did_exec else PF_FORKNOEXEC)} 0 0 0 0 "
    )
    times = (
        f"{user_ns // TICK_NS} {system_ns // TICK_NS} {child_user_ns // TICK_NS} {child_system_ns // TICK_NS} "
        f"{20 + t.nice} {t.nice} {len(tg.tasks) or 1} 0 {(t.start_ns - t.kernel.boot_ns) // TICK_NS} "
    )
    memory = f"{size * PAGE_SIZE} {resident} {tg.rlimits.get(rl.RLIMIT_RSS)[0]} {_layout(view)} "
    pending = (t.pending.mask | shared_pending) & _MASK_31
    signals = f"{pending} {blocked & _MASK_31} {ignored & _MASK_31} {caught & _MASK_31} "
    tail = f"0 0 0 {tg.exit_signal} 0 0 {t.sched_policy & 0xFF} 0 0 0 {_data_layout(view)} {_exit_code(view)}\n"
    return head + times + memory + signals + tail


def _terminal(view: TaskView) -> str:
    """Its controlling terminal and that one's foreground group."""
    session = view.tg.session
    tty = controlling_tty(session)
    if tty is None:
        return "0 -1"
    return f"{tty.rdev} {session.foreground.id(view.ns) if session.foreground is not None else -1}"


def _layout(view: TaskView) -> str:
    """Start and end of the code, the stack's beginning, stack pointer and instruction pointer.

    The last two are never shown, and the others only to those who may look (fs/proc/array.c:do_task_stat).
    """
    mm = view.mm
    if mm is None or not view.may_inspect():
        return "0 0 0 0 0"
    code = [m for m in mappings(view) if "x" in m.perms and m.ino]
    start, end = (code[0].start, code[0].end) if code else (0, 0)
    return f"{start} {end} {mm.arg_start} 0 0"


def _data_layout(view: TaskView) -> str:
    """start_data end_data start_brk arg_start arg_end env_start env_end."""
    mm = view.mm
    if mm is None or not view.may_inspect():
        return "0 0 0 0 0 0 0"
    return f"0 0 {mm.brk_start} {mm.arg_start} {mm.arg_end} {mm.env_start} {mm.env_end}"


def _exit_code(view: TaskView) -> int:
    return view.tg.exit_code if view.tg.dead and view.may_inspect() else 0


def statm(view: TaskView) -> str:
    size, resident, shared = pages(view)
    text = data = 0
    for m in mappings(view):
        length = (m.end - m.start) // PAGE_SIZE
        if "x" in m.perms and not m.kind:
            text += length
        elif _is_writable_private(m.perms):
            data += length
    return f"{size} {resident} {shared} {text} 0 {data} 0\n"


def status(view: TaskView) -> str:
    """proc(5), /proc/PID/status."""
    t = view.check()
    creds = t.creds
    lines = [
        f"Name:\t{escaped_name(t)}",
        *([f"Umask:\t{t.fs.umask:04o}"] if view.alive else []),
        f"State:\t{STATES[state(view)]}",
        f"Tgid:\t{t.tg.pid_in(view.ns)}",
        "Ngid:\t0",
        f"Pid:\t{view.number}",
        f"PPid:\t{_parent_pid(view)}",
        "TracerPid:\t0",
        f"Uid:\t{creds.uid}\t{creds.euid}\t{creds.suid}\t{creds.fsuid}",
        f"Gid:\t{creds.gid}\t{creds.egid}\t{creds.sgid}\t{creds.fsgid}",
        f"FDSize:\t{_fd_table_size(view)}",
        "Groups:\t" + "".join(f"{gid} " for gid in creds.groups),
        *_namespace_ids(view),
        *_memory_lines(view),
        f"Threads:\t{len(t.tg.tasks) or 1}",
        *_signal_lines(t),
        *_capability_lines(t),
        *_cpu_lines(t),
        "voluntary_ctxt_switches:\t0",
        "nonvoluntary_ctxt_switches:\t0",
    ]
    return "\n".join(lines) + "\n"


def _fd_table_size(view: TaskView) -> int:
    """Room in the descriptor table, which Linux grows by powers of two from 64."""
    highest = max((fd for fd, _ in view.t.files.items()), default=0) if view.alive else -1
    return max(64, 1 << highest.bit_length()) if highest >= 0 else 0


def _namespace_ids(view: TaskView) -> list[str]:
    """Its numbers in this namespace and those inside it, outermost first."""
    t = view.t
    spaces = [ns for ns in reversed(t.pidns.chain) if ns.level >= view.ns.level]
    tg = t.tg
    return [
        "NStgid:" + "".join(f"\t{tg.pid_in(ns)}" for ns in spaces),
        "NSpid:" + "".join(f"\t{t.tid_in(ns)}" for ns in spaces),
        "NSpgid:" + "".join(f"\t{tg.pgrp.id(ns)}" for ns in spaces),
        "NSsid:" + "".join(f"\t{tg.session.id(ns)}" for ns in spaces),
    ]


def _memory_lines(view: TaskView) -> list[str]:
    """Vm* lines.  Peaks are not kept: they show what is now.  A zombie has no memory and no lines."""
    mm = view.mm
    if mm is None:
        return []
    size, resident, shared = pages(view)
    data = stack = code = libraries = 0
    for m in mappings(view):
        length = m.end - m.start
        if m.start < mm.stack_end and m.end > mm.stack_start:
            stack += length
        elif _is_writable_private(m.perms):
            data += length
        elif "x" in m.perms and m.ino:
            if code:
                libraries += length
            else:
                code = length
    values = [
        ("VmPeak", size * KB), ("VmSize", size * KB), ("VmLck", 0), ("VmPin", 0), ("VmHWM", resident * KB),
        ("VmRSS", resident * KB), ("RssAnon", (resident - shared) * KB), ("RssFile", shared * KB), ("RssShmem", 0),
        ("VmData", data // 1024), ("VmStk", stack // 1024), ("VmExe", code // 1024), ("VmLib", libraries // 1024),
        ("VmPTE", size // 512 * KB), ("VmSwap", 0), ("HugetlbPages", 0),
    ]  # fmt: skip
    return [f"{name}:\t{value:8d} kB" for name, value in values] + ["CoreDumping:\t0", "THP_enabled:\t1"]


def _signal_lines(t: Task) -> list[str]:
    names = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    queued = t.pending.count() + t.tg.pending.count()
    return [
        f"SigQ:\t{queued}/{t.tg.rlimits.get(rl.RLIMIT_SIGPENDING)[0]}",
        *(f"{name}:\t{mask:016x}" for name, mask in zip(names, _signal_masks(t))),
    ]


def _capability_lines(t: Task) -> list[str]:
    creds = t.creds
    sets = (creds.inheritable, creds.permitted, creds.effective, creds.bounding, creds.ambient)
    return [
        *(f"{name}:\t{caps:016x}" for name, caps in zip(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), sets)),
        f"NoNewPrivs:\t{int(t.no_new_privs)}",
        "Seccomp:\t0",
        "Seccomp_filters:\t0",
    ]


def _cpu_lines(t: Task) -> list[str]:
    cpus = (1 << t.container.facts.ncpus) - 1
    mask = (t.affinity or cpus) & cpus
    return [
        f"Cpus_allowed:\t{cpu_mask(mask, t.container.facts.ncpus)}",
        f"Cpus_allowed_list:\t{cpu_list(mask)}",
        "Mems_allowed:\t1",
        "Mems_allowed_list:\t0",
    ]


def cpu_mask(mask: int, ncpus: int) -> str:
    """Words of 32 bits in hexadecimal, separated by commas: bitmap_string()."""
    digits = -(-ncpus // 4)
    text = f"{mask:0{digits}x}"
    first = digits % 8 or 8
    return ",".join([text[:first], *(text[at : at + 8] for at in range(first, digits, 8))])


def cpu_list(mask: int) -> str:
    """Ranges, such as 0-3,8."""
    parts: list[str] = []
    cpu = 0
    while mask >> cpu:
        if mask >> cpu & 1:
            first = cpu
            while mask >> cpu + 1 & 1:
                cpu += 1
            parts.append(str(first) if first == cpu else f"{first}-{cpu}")
        cpu += 1
    return ",".join(parts)


def limits(view: TaskView) -> str:
    shown = [f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}\n"]
    for name, unit, resource in _LIMITS:
        soft, hard = (
            "unlimited" if value == rl.RLIM_INFINITY else str(value) for value in view.tg.rlimits.get(resource)
        )
        shown.append(f"{name:<25} {soft:<20} {hard:<20} {unit:<10}\n")
    return "".join(shown)


def io(view: TaskView) -> str:
    """Transfers are not counted."""
    view.check_inspect()
    names = ("rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes")
    return "".join(f"{name}: 0\n" for name in names)


def children(view: TaskView) -> str:
    """/proc/PID/task/TID/children: the process's, listed with its first thread."""
    if view.t is not view.tg.leader:
        return ""
    return "".join(f"{child.pid_in(view.ns)} " for child in view.tg.children if child.pid_in(view.ns))


def oom_score(view: TaskView) -> str:
    """fs/proc/base.c:proc_oom_score: memory in thousandths of the machine's, moved by oom_score_adj."""
    total = view.t.container.facts.total_ram // PAGE_SIZE
    points = pages(view)[1] * 1000 // max(total, 1)
    return f"{max((1000 + points + view.tg.oom_score_adj) * 2 // 3, 0)}\n"


def is_own_process(tg: ThreadGroup) -> bool:
    reader = current()
    return reader is not None and reader.tg is tg
