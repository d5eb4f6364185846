"""Files directly in /proc: the machine and the kernel, proc(5).

The machine is what the host gave the sandbox: its processors and its memory.  What a kernel
counts and this one does not (interrupts, context switches, pages) is zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sentry.fs.proc_status import TICK_NS
from sentry.kernel.utsname import BANNER, RELEASE
from sentry.platform import PAGE_SIZE, SpaceGone

if TYPE_CHECKING:
    from sentry.fs.procfs import ProcFs
    from sentry.kernel.container import Container
    from sentry.kernel.kernel import Kernel
    from sentry.kernel.threadgroup import ThreadGroup

_MEMINFO: Final = (
    "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive", "Active(anon)",
    "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked", "SwapTotal", "SwapFree", "Dirty",
    "Writeback", "AnonPages", "Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack",
    "PageTables", "NFS_Unstable", "Bounce", "WritebackTmp", "CommitLimit", "Committed_AS", "VmallocTotal",
    "VmallocUsed", "VmallocChunk", "Percpu",
)  # fmt: skip
_HUGE_PAGES: Final = """\
HugePages_Total:       0
HugePages_Free:        0
HugePages_Rsvd:        0
HugePages_Surp:        0
Hugepagesize:       2048 kB
Hugetlb:               0 kB
"""
_DEVICES: Final = """\
Character devices:
  1 mem
  5 /dev/tty
  5 /dev/console
  5 /dev/ptmx
128 ptm
136 pts

Block devices:
"""
_VMSTAT: Final = (
    "nr_free_pages", "nr_anon_pages", "pgpgin", "pgpgout", "pswpin", "pswpout", "pgalloc_normal", "pgfree",
    "pgactivate", "pgdeactivate", "pgfault", "pgmajfault",
)  # fmt: skip


def processes(kernel: Kernel) -> list[ThreadGroup]:
    """All that live in the sandbox."""
    return [tg for tg in kernel.root_pidns.thread_groups() if not tg.dead]


def anonymous_bytes(container: Container) -> int:
    """Memory that a container's processes have for themselves, as far as the host tells."""
    pages = 0
    for tg in container.thread_groups():
        if tg.dead:
            continue
        try:
            _, resident, shared = tg.leader.mem.resident_pages()
        except SpaceGone:
            continue
        pages += max(resident - shared, 0)
    return min(pages * PAGE_SIZE, container.facts.total_ram)


def meminfo(fs: ProcFs) -> str:
    total = fs.container.facts.total_ram
    used = anonymous_bytes(fs.container)
    known = {
        "MemTotal": total,
        "MemFree": total - used,
        "MemAvailable": total - used,
        "Active": used,
        "Active(anon)": used,
        "AnonPages": used,
        "Committed_AS": used,
        "CommitLimit": total // 2,
        "VmallocTotal": (1 << 45) - 1024,
    }
    lines = (f"{name + ':':<16}{known.get(name, 0) // 1024:8d} kB\n" for name in _MEMINFO)
    return "".join(lines) + _HUGE_PAGES


def uptime_ns(kernel: Kernel) -> int:
    return kernel.loop.now_ns() - kernel.boot_ns


class _CpuCounter:
    """Processor time of all processes, those that ended included: /proc/stat's numbers may not go back.

    What an ended process used is in its parent's account; when nobody waited for it, it is lost
    there, and the highest sum that was ever seen stands in.
    """

    def __init__(self) -> None:
        self._highest: dict[int, int] = {}

    def busy_ns(self, kernel: Kernel) -> int:
        total = 0
        for tg in processes(kernel):
            total += sum(tg.cpu_ns()) + sum(tg.child_cpu_ns)
        highest = max(self._highest.get(id(kernel), 0), total)
        self._highest[id(kernel)] = highest
        return highest


_cpu: Final = _CpuCounter()


def stat(fs: ProcFs) -> str:
    kernel = fs.kernel
    ncpus = fs.container.facts.ncpus
    uptime = uptime_ns(kernel)
    busy = min(_cpu.busy_ns(kernel), uptime * ncpus)
    running = sum(
        1 for t in kernel.root_pidns.tasks.values() if t in t.tg.tasks and not (t.interruptible or t.killable)
    )
    lines = [_cpu_line("cpu ", busy, uptime * ncpus - busy)]
    # Which processor ran what is the host's secret: they share evenly.
    lines += [_cpu_line(f"cpu{n}", busy // ncpus, uptime - busy // ncpus) for n in range(ncpus)]
    boot_time_s = (time.time_ns() - uptime) // 1_000_000_000
    lines += [
        "intr 0",
        "ctxt 0",
        f"btime {boot_time_s}",
        f"processes {kernel.forks}",
        f"procs_running {running}",
        "procs_blocked 0",
        "softirq 0 0 0 0 0 0 0 0 0 0 0",
    ]
    return "\n".join(lines) + "\n"


def _cpu_line(name: str, busy_ns: int, idle_ns: int) -> str:
    return f"{name} {busy_ns // TICK_NS} 0 0 {idle_ns // TICK_NS} 0 0 0 0 0 0"


def uptime(fs: ProcFs) -> str:
    up = uptime_ns(fs.kernel)
    idle = max(up * fs.container.facts.ncpus - _cpu.busy_ns(fs.kernel), 0)
    return f"{up // 10**9}.{up // 10**7 % 100:02d} {idle // 10**9}.{idle // 10**7 % 100:02d}\n"


def loadavg(fs: ProcFs) -> str:
    """The averages are not kept."""
    tasks = [t for t in fs.ns.tasks.values() if t in t.tg.tasks]
    running = sum(1 for t in tasks if not (t.interruptible or t.killable))
    return f"0.00 0.00 0.00 {running}/{len(tasks)} {fs.ns._last}\n"


def filesystems(fs: ProcFs) -> str:
    from sentry.fs.table import FILESYSTEMS  # which has procfs in it

    return "".join(f"nodev\t{name}\n" for name in FILESYSTEMS)


def interrupts(fs: ProcFs) -> str:
    return "     " + "".join(f"{f'CPU{n}':>11}" for n in range(fs.container.facts.ncpus)) + "\n"


def vmstat(fs: ProcFs) -> str:
    used = anonymous_bytes(fs.container) // PAGE_SIZE
    known = {"nr_free_pages": fs.container.facts.total_ram // PAGE_SIZE - used, "nr_anon_pages": used}
    return "".join(f"{name} {known.get(name, 0)}\n" for name in _VMSTAT)


FILES: Final[dict[str, Callable[[ProcFs], str]]] = {
    "cgroups": lambda fs: "#subsys_name\thierarchy\tnum_cgroups\tenabled\n",
    "cmdline": lambda fs: f"BOOT_IMAGE=/boot/vmlinuz-{RELEASE}\n",
    "cpuinfo": lambda fs: fs.container.facts.cpuinfo,
    "devices": lambda fs: _DEVICES,
    "diskstats": lambda fs: "",
    "filesystems": filesystems,
    "interrupts": interrupts,
    "loadavg": loadavg,
    "meminfo": meminfo,
    "modules": lambda fs: "",
    "partitions": lambda fs: "major minor  #blocks  name\n\n",
    "stat": stat,
    "swaps": lambda fs: "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "uptime": uptime,
    "version": lambda fs: BANNER + "\n",
    "vmstat": vmstat,
}
