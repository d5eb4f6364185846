"""Sizes and times as people write them, and figures in runc's form."""

import json

import pytest

from cli.args import UsageError
from cli.events import data, interval_s
from cli.update import size
from sandbox.cgroup_stats import DeviceIo, Stats


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0", 0), ("7", 7), ("-1", -1), ("1k", 1024), ("1K", 1024), ("2kb", 2048), ("2KiB", 2048), ("1.5m", 3 << 19)),
        *(("64M", 64 << 20), ("2g", 2 << 30), ("1t", 1 << 40), ("1p", 1 << 50), ("5b", 5), (" 5 m ", 5 << 20)),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "x", "-2", "1x", "k", "1kk", "nan", "inf", "1e30", "0x10", "--5"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        size(text)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("500ms", 0.5), ("1m", 60), ("2h", 7200), ("0.5", 0.5)])
def test_times(text: str, seconds: float) -> None:
    assert interval_s(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "0", "-1s", "5x", "nan"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        interval_s(text)


def test_figures_have_the_names_that_runc_gives_them() -> None:
    stats = Stats(
        version=1,
        cpu_usage_ns=5,
        cpu_user_ns=3,
        cpu_system_ns=2,
        memory_usage=7,
        memory_stat={"cache": 1},
        pids_current=4,
        io=[DeviceIo(8, 0, 100, 200, 1, 2)],
    )
    shown = json.loads(json.dumps(data(stats)))
    assert set(shown) == {
        *("cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"),
    }
    assert shown["cpu"]["usage"] == {"total": 5, "percpu": [], "kernel": 2, "user": 3}
    assert (shown["memory"]["usage"]["usage"], shown["memory"]["cache"]) == (7, 1)
    assert shown["memory"]["usage"]["limit"] == (1 << 63) - 4096
    assert shown["pids"] == {"current": 4, "limit": 0}
    assert shown["blkio"]["ioServiceBytesRecursive"] == [
        {"major": 8, "minor": 0, "op": "Read", "value": 100},
        {"major": 8, "minor": 0, "op": "Write", "value": 200},
    ]
