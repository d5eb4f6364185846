"""A container's figures as containerd and the kubelet read them: the metrics message of the host's cgroup version.

CRI takes CPU time, working set (usage less inactive_file), resident memory, page faults and the number of processes
from here; any other message would make it drop the figures of the whole node.
"""

import os

from proto.containerd import metrics_v1_pb2 as v1
from proto.containerd import metrics_v2_pb2 as v2
from sandbox.cgroup_stats import Stats

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
    memory.swap.usage = stats.swap_usage
    memory.swap.limit = NO_LIMIT_V1 if stats.swap_limit is None else stats.swap_limit
    message.memory_oom_control.oom_kill = stats.oom_kills
    return message


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
    return message
