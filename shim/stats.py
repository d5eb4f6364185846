"""A container's figures as containerd and the kubelet read them: the metrics message of the host's cgroup version.

CRI takes CPU time, working set (usage less inactive_file), resident memory, page faults and the number of processes
from here; any other message would make it drop the figures of the whole node.
"""

import os

from proto.containerd import metrics_v1_pb2 as v1
from proto.containerd import metrics_v2_pb2 as v2
from sandbox.cgroup_stats import DeviceIo, Stats

# What containerd itself reports where there is no limit.
NO_LIMIT_V1 = (1 << 63) - 4096
NO_LIMIT_V2 = (1 << 64) - 1

V2_MARK = "/sys/fs/cgroup/cgroup.controllers"

V1_MEMORY_FIELDS = (
    "cache", "rss", "mapped_file", "inactive_file", "active_file", "total_cache", "total_rss", "total_inactive_file",
)  # fmt: skip
V1_MEMORY_RENAMED = {
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "total_pgfault": "total_pg_fault",
    "total_pgmajfault": "total_pg_maj_fault",
}
V2_MEMORY_FIELDS = (
    "anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback",
    "anon_thp", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "slab_reclaimable",
    "slab_unreclaimable", "pgfault", "pgmajfault",
)  # fmt: skip


def metrics(stats: Stats) -> v1.Metrics | v2.Metrics:
    """The message for the host's cgroup version; without a cgroup all figures are zero."""
    version = stats.version or (2 if os.path.exists(V2_MARK) else 1)
    return metrics_v1(stats) if version == 1 else metrics_v2(stats)


def metrics_v1(stats: Stats) -> v1.Metrics:
    """io.containerd.cgroups.v1.Metrics; times in nanoseconds."""
    message = v1.Metrics()
    message.pids.current = stats.pids_current
    message.pids.limit = stats.pids_limit or 0
    usage, throttling = message.cpu.usage, message.cpu.throttling
    usage.total, usage.user, usage.kernel = stats.cpu_usage_ns, stats.cpu_user_ns, stats.cpu_system_ns
    usage.per_cpu.extend(stats.cpu_percpu_ns)
    throttling.periods = stats.cpu_periods
    throttling.throttled_periods = stats.cpu_throttled_periods
    throttling.throttled_time = stats.cpu_throttled_ns
    memory = message.memory
    for name in V1_MEMORY_FIELDS:
        setattr(memory, name, stats.memory_stat.get(name, 0))
    for name, ours in V1_MEMORY_RENAMED.items():
        setattr(memory, ours, stats.memory_stat.get(name, 0))
    memory.usage.usage = stats.memory_usage
    memory.usage.max = stats.memory_max_usage
    memory.usage.limit = NO_LIMIT_V1 if stats.memory_limit is None else stats.memory_limit
    memory.usage.failcnt = stats.memory_failures
    memory.swap.usage, memory.swap.max = stats.swap_usage, stats.swap_max
    memory.swap.limit = NO_LIMIT_V1 if stats.swap_limit is None else stats.swap_limit
    memory.swap.failcnt = stats.swap_failures
    for entry, figures in ((memory.kernel, stats.kernel), (memory.kernel_tcp, stats.kernel_tcp)):
        entry.usage, entry.max, entry.failcnt = figures.usage, figures.max, figures.failures
        entry.limit = NO_LIMIT_V1 if figures.limit is None else figures.limit
    message.memory_oom_control.oom_kill = stats.oom_kills
    _fill_blkio(message.blkio, stats)
    return message


def _fill_blkio(message: v1.BlkIOStat, stats: Stats) -> None:
    message.SetInParent()  # nerdctl follows the pointer before it looks whether there is one
    for device in stats.io:
        path = _device_path(device)
        for entries, values in (
            (message.io_service_bytes_recursive, (device.read_bytes, device.written_bytes)),
            (message.io_serviced_recursive, (device.reads, device.writes)),
        ):
            for op, value in zip(("Read", "Write", "Total"), (*values, sum(values))):
                entries.add(op=op, device=path, major=device.major, minor=device.minor, value=value)


def _device_path(device: DeviceIo) -> str:
    """Empty if the host does not show it."""
    try:
        return "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{device.major}:{device.minor}"))
    except OSError:
        return ""


def metrics_v2(stats: Stats) -> v2.Metrics:
    """io.containerd.cgroups.v2.Metrics; times in microseconds."""
    message = v2.Metrics()
    message.pids.current = stats.pids_current
    message.pids.limit = NO_LIMIT_V2 if stats.pids_limit is None else stats.pids_limit
    cpu = message.cpu
    cpu.usage_usec, cpu.user_usec = stats.cpu_usage_ns // 1000, stats.cpu_user_ns // 1000
    cpu.system_usec = stats.cpu_system_ns // 1000
    cpu.nr_periods, cpu.nr_throttled = stats.cpu_periods, stats.cpu_throttled_periods
    cpu.throttled_usec = stats.cpu_throttled_ns // 1000
    memory = message.memory
    for name in V2_MEMORY_FIELDS:
        setattr(memory, name, stats.memory_stat.get(name, 0))
    memory.usage = stats.memory_usage
    memory.usage_limit = NO_LIMIT_V2 if stats.memory_limit is None else stats.memory_limit
    memory.swap_usage = stats.swap_usage
    memory.swap_limit = NO_LIMIT_V2 if stats.swap_limit is None else stats.swap_limit
    for name in ("low", "high", "max", "oom", "oom_kill"):
        setattr(message.memory_events, name, stats.memory_events.get(name, 0))
    message.io.SetInParent()
    for device in stats.io:
        message.io.usage.add(
            major=device.major, minor=device.minor, rbytes=device.read_bytes, wbytes=device.written_bytes,
            rios=device.reads, wios=device.writes,
        )  # fmt: skip
    return message
