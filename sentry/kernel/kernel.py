"""Kernel: the one instance that everything hangs on.  boot.py builds it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sentry.kernel.answers import CONSTANT
from sentry.kernel.creds import ALL_CAPS, Creds
from sentry.kernel.dmesg import KernelLog
from sentry.kernel.exit import exit_task
from sentry.kernel.futex import Futexes
from sentry.kernel.ids import PidNamespace
from sentry.kernel.signals import SigInfo
from sentry.kernel.task import Task, set_kernel
from sentry.kernel.threadgroup import ThreadGroup
from sentry.platform import Platform, SyscallTrap
from sentry.wait import Loop

if TYPE_CHECKING:
    from sentry.kernel.container import Container
    from sentry.strace import Strace
    from sentry.syscalls.registry import Syscall

log = logging.getLogger(__name__)


class HostFacts:
    """What the host told before the Sentry was confined: nothing is read from it later."""

    __slots__ = ("auxv", "cpuinfo", "ncpus", "total_ram")

    def __init__(self, cpuinfo: str = "", ncpus: int = 1, total_ram: int = 1 << 30, auxv: dict[int, int] | None = None):
        self.cpuinfo = cpuinfo
        self.ncpus = ncpus
        self.total_ram = total_ram
        self.auxv = auxv or {}

    def seen_with(self, ncpus: int, total_ram: int) -> HostFacts:
        """The same host with fewer CPUs and less memory, as a container sees it; 0: no fewer."""
        cpus = min(ncpus or self.ncpus, self.ncpus)
        cpuinfo = self.cpuinfo if cpus == self.ncpus else "\n\n".join([*self.cpuinfo.split("\n\n")[:cpus], ""])
        return HostFacts(cpuinfo, cpus, min(total_ram or self.total_ram, self.total_ram), self.auxv)


class Kernel:
    """Fields: loop, platform, table (system calls), futexes, log (dmesg), containers by id, root_pidns.

    proc_fd is an O_PATH descriptor of a /proc of the host that shows this process.
    """

    def __init__(self, platform: Platform, table: dict[int, Syscall], facts: HostFacts, proc_fd: int) -> None:
        self.platform = platform
        self.loop = Loop(platform)
        self.table = table
        self.facts = facts
        self.proc_fd = proc_fd
        self.hwcap = facts.auxv.get(16, 0)
        self.hwcap2 = facts.auxv.get(26, 0)
        self.min_signal_stack = facts.auxv.get(51, 3632)
        self.root_pidns = PidNamespace(None)
        self.futexes = Futexes()
        self.containers: dict[str, Container] = {}
        self.unix_names: object | None = None  # the network namespace's AF_UNIX sockets: sentry/net's own
        self.log = KernelLog(self.loop.now_ns)
        self.boot_ns = self.loop.now_ns()
        self.boot_id = os.urandom(16)
        self.strace: Strace | None = None
        self.profiled = False  # each call is to be counted
        self.constant_calls = [row for row in table.values() if row.name in CONSTANT]
        self.bugs = 0
        self.forks = 0
        self.restart_blocks: dict[Task, Callable[[], Any] | None] = {}
        self._unknown_calls: set[tuple[int, bool]] = set()
        set_kernel(self)

    # -- host descriptors --

    def readonly_copy(self, fd: int) -> int:
        """A second, read-only open file description of one of our memory files; the caller closes it."""
        return os.open(f"self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc_fd)

    # -- numbers --

    def number_task(self, t: Task) -> None:
        """Give t a number in its PID namespace and every ancestor, and a place in its container.  EAGAIN."""
        for ns in t.pidns.chain:
            number = ns.allocate()
            t.numbers[ns] = number
            ns.tasks[number] = t
        t.container.members.add(t)
        self.forks += 1

    def unnumber_task(self, t: Task) -> None:
        t.container.members.discard(t)
        for ns, number in t.numbers.items():
            if ns.tasks.get(number) is t:
                del ns.tasks[number]

    def swap_numbers(self, a: Task, b: Task) -> None:
        """execve by a thread: it takes the leader's numbers."""
        a.numbers, b.numbers = b.numbers, a.numbers
        for t in (a, b):
            for ns, number in t.numbers.items():
                ns.tasks[number] = t

    # -- endings --

    def exit_task(self, t: Task) -> None:
        self.restart_blocks.pop(t, None)
        exit_task(t)

    def process_ended(self, tg: ThreadGroup) -> None:
        """Every process's end; the container records those it reports to the outside."""
        if tg.timers is not None:
            tg.timers.on_exit()
        tg.container.process_ended(tg)

    def namespace_ended(self, init: ThreadGroup) -> None:
        """pid 1 is gone: zap_pid_ns_processes()."""
        ns = init.pidns
        ns.init = None
        for tg in ns.thread_groups():
            if tg is not init and not tg.dead:
                tg.send_signal(SigInfo(9), forced=True)

    # -- hooks --

    def timer_signal_taken(self, info: SigInfo) -> None:
        """A POSIX timer's signal was delivered: its overrun count starts anew."""
        timer = info.timer
        if timer is not None:
            timer.signal_taken(info)  # type: ignore[attr-defined]

    def count_bug(self) -> None:
        self.bugs += 1

    def note_unknown_call(self, trap: SyscallTrap) -> None:
        key = (trap.number, trap.native)
        if key not in self._unknown_calls and len(self._unknown_calls) < 1024:
            self._unknown_calls.add(key)
            log.warning("unknown system call %#x (%s)", trap.number, "x86-64" if trap.native else "int 0x80")

    def statistics(self) -> dict[str, int]:
        return {"tasks": len(self.root_pidns.tasks), "forks": self.forks, "bugs": self.bugs}


def new_root_creds() -> Creds:
    """Of kernel jobs: everything allowed."""
    return Creds(permitted=ALL_CAPS, effective=ALL_CAPS)
