"""Figures of a cgroup as containerd's metrics messages."""

from sandbox.cgroup_stats import Stats
from shim import stats


def test_v1_in_nanoseconds_and_with_names_of_its_own() -> None:
    figures = Stats(
        version=1,
        cpu_usage_ns=5_000,
        cpu_user_ns=3_000,
        cpu_percpu_ns=[2_000, 3_000],
        memory_usage=1 << 20,
        memory_limit=1 << 30,
        memory_stat={"total_rss": 7, "total_inactive_file": 9, "total_pgmajfault": 2},
        memory_events={"oom_kill": 1},
        pids_current=3,
    )
    message = stats.metrics_v1(figures)
    assert stats.metrics(figures) == message
    usage = message.cpu.usage
    assert (usage.total, usage.user, list(usage.per_cpu)) == (5000, 3000, [2000, 3000])
    assert (message.memory.usage.usage, message.memory.usage.limit) == (1 << 20, 1 << 30)
    assert message.memory.swap.limit == stats.NO_LIMIT_V1
    memory = message.memory
    assert (memory.total_rss, memory.total_inactive_file, memory.total_pg_maj_fault) == (7, 9, 2)
    assert (message.memory_oom_control.oom_kill, message.pids.current) == (1, 3)


def test_v2_in_microseconds() -> None:
    figures = Stats(
        version=2,
        cpu_usage_ns=5_000_999,
        memory_usage=1 << 20,
        memory_stat={"anon": 7, "inactive_file": 9, "unknown": 1},
        memory_events={"oom_kill": 2, "max": 3},
        pids_limit=10,
    )
    message = stats.metrics_v2(figures)
    assert stats.metrics(figures) == message
    assert message.cpu.usage_usec == 5000
    assert (message.memory.usage, message.memory.usage_limit) == (1 << 20, stats.NO_LIMIT_V2)
    assert (message.memory.anon, message.memory.inactive_file) == (7, 9)
    assert (message.memory_events.oom_kill, message.memory_events.max, message.pids.limit) == (2, 3, 10)


def test_without_a_cgroup_the_blocks_are_there_nevertheless() -> None:
    """CRI leaves out CPU and memory altogether when their messages are missing; nerdctl dies without the last."""
    message = stats.metrics(Stats(version=0))
    assert message.HasField("cpu")
    assert message.HasField("memory")
    assert stats.metrics_v1(Stats(version=1)).HasField("blkio")
    assert stats.metrics_v2(Stats(version=2)).HasField("io")
