"""What a container has used, read from its cgroup: one record for v1 and v2.

Times in nanoseconds, sizes in bytes; a limit of None is no limit.
"""

from __future__ import annotations

import os

from proto.record import Record, field
from sandbox.cgroups import OWN_TASKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.cgroups import Cgroup

_UNLIMITED_V1 = 1 << 62
"""v1 says "no limit" by a huge number: the largest multiple of the page size."""


class DeviceIo(Record):
    """What was read from and written to one block device."""

    major: int
    minor: int
    read_bytes: int = 0
    written_bytes: int = 0
    reads: int = 0
    writes: int = 0


class MemoryEntry(Record):
    """One of v1's counters of memory, with its limit."""

    usage: int = 0
    max: int = 0
    limit: int | None = None
    failures: int = 0
    """Times the limit was hit."""


class Stats(Record):
    """Figures of one container; zero where the host has no such controller."""

    version: int
    cpu_usage_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_percpu_ns: list[int] = field(default_factory=list)
    """v1 only."""
    cpu_periods: int = 0
    cpu_throttled_periods: int = 0
    cpu_throttled_ns: int = 0
    memory_usage: int = 0
    memory_max_usage: int = 0
    memory_limit: int | None = None
    memory_failures: int = 0
    """Times the limit was hit."""
    swap_usage: int = 0
    """v1: memory and swap together, as v1 counts."""
    swap_limit: int | None = None
    swap_max: int = 0
    swap_failures: int = 0
    kernel: MemoryEntry = field(default_factory=MemoryEntry)
    """v1 only, as is the next."""
    kernel_tcp: MemoryEntry = field(default_factory=MemoryEntry)
    memory_stat: dict[str, int] = field(default_factory=dict)
    """memory.stat as the kernel gives it; the names differ between v1 and v2."""
    memory_events: dict[str, int] = field(default_factory=dict)
    """v2's memory.events; of v1's memory.oom_control the counter oom_kill."""
    pids_current: int = 0
    pids_limit: int | None = None
    io: list[DeviceIo] = field(default_factory=list)
    """Of the application's own mappings; what it reads and writes by calls, gofer and Sentry do."""

    def take_over(self, memory: int | None, cpu_ns: int | None, oom_kills: int) -> None:
        """Figures of a container whose memory and processor time are not its cgroup's."""
        self.memory_events["oom_kill"] = self.oom_kills + oom_kills
        if memory is not None:
            self.memory_usage += memory
            for name in ("anon", "rss", "total_rss"):
                self.memory_stat[name] = self.memory_stat.get(name, 0) + memory
        if cpu_ns is not None:
            self.cpu_usage_ns += cpu_ns
            self.cpu_user_ns += cpu_ns

    @property
    def oom_kills(self) -> int:
        return self.memory_events.get("oom_kill", 0)


def read_stats(cgroup: Cgroup) -> Stats:
    """Read the figures as they are now."""
    stats = Stats(cgroup.version)
    if cgroup.version == 1:
        _cpu_v1(cgroup, stats)
        _memory_v1(cgroup, stats)
        _io_v1(cgroup, stats)
    elif cgroup.version == 2:
        _cpu_v2(cgroup, stats)
        _memory_v2(cgroup, stats)
        _io_v2(cgroup, stats)
    pids = cgroup.directory_of("pids")
    if pids:
        stats.pids_current = _number(f"{pids}/pids.current") or 0
        limit = _number(f"{pids}/pids.max")
        stats.pids_limit = None if limit is None else max(limit - OWN_TASKS, 0)
    return stats


def oom_kills(cgroup: Cgroup) -> int:
    """How often the kernel killed a process because the memory limit was reached; 0 if the cgroup is gone."""
    memory = cgroup.directory_of("memory")
    name = "memory.oom_control" if cgroup.version == 1 else "memory.events"
    return _table(f"{memory}/{name}").get("oom_kill", 0) if memory else 0


def _text(path: str) -> str:
    """Empty for a file that this kernel, or this controller's absence, does not offer."""
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ""


def _number(path: str) -> int | None:
    """None for "max" or a file that is not there."""
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _limit_v1(path: str) -> int | None:
    value = _number(path)
    return None if value is None or value >= _UNLIMITED_V1 else value


def _table(path: str) -> dict[str, int]:
    """Lines of "name number"."""
    pairs: Iterable[list[str]] = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _cpu_v1(cgroup: Cgroup, stats: Stats) -> None:
    accounting, cpu = cgroup.directory_of("cpuacct"), cgroup.directory_of("cpu")
    if accounting:
        stats.cpu_usage_ns = _number(f"{accounting}/cpuacct.usage") or 0
        stats.cpu_percpu_ns = [int(word) for word in _text(f"{accounting}/cpuacct.usage_percpu").split()]
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        ticks = _table(f"{accounting}/cpuacct.stat")
        stats.cpu_user_ns = ticks.get("user", 0) * tick_ns
        stats.cpu_system_ns = ticks.get("system", 0) * tick_ns
    if cpu:
        throttling = _table(f"{cpu}/cpu.stat")
        stats.cpu_periods = throttling.get("nr_periods", 0)
        stats.cpu_throttled_periods = throttling.get("nr_throttled", 0)
        stats.cpu_throttled_ns = throttling.get("throttled_time", 0)


def _memory_entry(prefix: str) -> MemoryEntry:
    return MemoryEntry(
        _number(f"{prefix}.usage_in_bytes") or 0,
        _number(f"{prefix}.max_usage_in_bytes") or 0,
        _limit_v1(f"{prefix}.limit_in_bytes"),
        _number(f"{prefix}.failcnt") or 0,
    )


def _memory_v1(cgroup: Cgroup, stats: Stats) -> None:
    memory = cgroup.directory_of("memory")
    if not memory:
        return
    own, swap = _memory_entry(f"{memory}/memory"), _memory_entry(f"{memory}/memory.memsw")
    stats.memory_usage, stats.memory_max_usage = own.usage, own.max
    stats.memory_limit, stats.memory_failures = own.limit, own.failures
    stats.swap_usage, stats.swap_max = swap.usage, swap.max
    stats.swap_limit, stats.swap_failures = swap.limit, swap.failures
    stats.kernel = _memory_entry(f"{memory}/memory.kmem")
    stats.kernel_tcp = _memory_entry(f"{memory}/memory.kmem.tcp")
    stats.memory_stat = _table(f"{memory}/memory.stat")
    stats.memory_events = _table(f"{memory}/memory.oom_control")


def _cpu_v2(cgroup: Cgroup, stats: Stats) -> None:
    cpu = cgroup.directory_of("cpu")
    table = _table(f"{cpu}/cpu.stat")
    stats.cpu_usage_ns = table.get("usage_usec", 0) * 1000
    stats.cpu_user_ns = table.get("user_usec", 0) * 1000
    stats.cpu_system_ns = table.get("system_usec", 0) * 1000
    stats.cpu_periods = table.get("nr_periods", 0)
    stats.cpu_throttled_periods = table.get("nr_throttled", 0)
    stats.cpu_throttled_ns = table.get("throttled_usec", 0) * 1000


def _memory_v2(cgroup: Cgroup, stats: Stats) -> None:
    memory = cgroup.directory_of("memory")
    stats.memory_usage = _number(f"{memory}/memory.current") or 0
    stats.memory_max_usage = _number(f"{memory}/memory.peak") or 0
    stats.memory_limit = _number(f"{memory}/memory.max")
    stats.swap_usage = _number(f"{memory}/memory.swap.current") or 0
    stats.swap_limit = _number(f"{memory}/memory.swap.max")
    stats.memory_stat = _table(f"{memory}/memory.stat")
    stats.memory_events = _table(f"{memory}/memory.events")
    stats.memory_failures = stats.memory_events.get("max", 0)


def _io_v1(cgroup: Cgroup, stats: Stats) -> None:
    """Lines of "MAJOR:MINOR Read|Write|... NUMBER"; the throttling policy counts for every scheduler."""
    directory = cgroup.directory_of("blkio")
    if not directory:
        return
    devices: dict[str, DeviceIo] = {}
    for name, fields in (("io_service_bytes", ("read_bytes", "written_bytes")), ("io_serviced", ("reads", "writes"))):
        file = f"{directory}/blkio.throttle.{name}"
        for line in (_text(f"{file}_recursive") or _text(file)).splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in ("Read", "Write"):
                setattr(_device(devices, words[0]), fields[words[1] == "Write"], int(words[2]))
    stats.io = list(devices.values())


def _io_v2(cgroup: Cgroup, stats: Stats) -> None:
    """io.stat: lines of "MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ..."."""
    names = {"rbytes": "read_bytes", "wbytes": "written_bytes", "rios": "reads", "wios": "writes"}
    devices: dict[str, DeviceIo] = {}
    for line in _text(f"{cgroup.directory_of('io')}/io.stat").splitlines():
        number, *pairs = line.split()
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key in names and value.isdigit():
                setattr(_device(devices, number), names[key], int(value))
    stats.io = list(devices.values())


def _device(devices: dict[str, DeviceIo], number: str) -> DeviceIo:
    major, _, minor = number.partition(":")
    return devices.setdefault(number, DeviceIo(int(major), int(minor or 0)))
