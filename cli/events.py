"""pysc events: a container's figures, and the news that it ran out of memory, as JSON lines in runc's form.

Engines read `events --stats`.  The names are those of runc's types/events.go; what does not exist here, such as huge
pages, is there and empty.
"""

import json
from typing import Any

from cli.args import Command, Flag, UsageError, Values
from cli.options import state_root
from proto import control
from sandbox.cgroup_stats import MemoryEntry, Stats
from sandbox.errors import FailedPrecondition
from sandbox.sandbox import CREATING, Sandbox

NO_LIMIT = (1 << 63) - 4096
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}


def data(stats: Stats) -> dict[str, Any]:
    """The figures of one container; a member that is 0 may be missing, as in Go's encoding."""
    swap = MemoryEntry(stats.swap_usage, stats.swap_max, stats.swap_limit, stats.swap_failures)
    own = MemoryEntry(stats.memory_usage, stats.memory_max_usage, stats.memory_limit, stats.memory_failures)
    return {
        "cpu": _cpu(stats),
        "cpuset": {},
        "memory": {
            "cache": stats.memory_stat.get("cache", stats.memory_stat.get("file", 0)),
            "usage": _entry(own),
            "swap": _entry(swap),
            "kernel": _entry(stats.kernel),
            "kernelTCP": _entry(stats.kernel_tcp),
            "raw": stats.memory_stat,
        },
        "pids": {"current": stats.pids_current, "limit": stats.pids_limit or 0},
        "blkio": _blkio(stats),
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _cpu(stats: Stats) -> dict[str, Any]:
    usage = {
        "total": stats.cpu_usage_ns,
        "percpu": stats.cpu_percpu_ns,
        "kernel": stats.cpu_system_ns,
        "user": stats.cpu_user_ns,
    }
    throttling = {
        "periods": stats.cpu_periods,
        "throttledPeriods": stats.cpu_throttled_periods,
        "throttledTime": stats.cpu_throttled_ns,
    }
    return {"usage": usage, "throttling": throttling}


def _entry(entry: MemoryEntry) -> dict[str, int]:
    limit = NO_LIMIT if entry.limit is None else entry.limit
    return {"limit": limit, "usage": entry.usage, "max": entry.max, "failcnt": entry.failures}


def _blkio(stats: Stats) -> dict[str, Any]:
    def entries(read: str, written: str) -> list[dict[str, Any]]:
        return [
            {"major": device.major, "minor": device.minor, "op": op, "value": getattr(device, name)}
            for device in stats.io
            for op, name in (("Read", read), ("Write", written))
        ]

    if not stats.io:
        return {}
    return {
        "ioServiceBytesRecursive": entries("read_bytes", "written_bytes"),
        "ioServicedRecursive": entries("reads", "writes"),
    }


def interval_s(text: str) -> float:
    """A time in the form of Go's: 5s, 500ms, 1m.  UsageError."""
    number = text.rstrip("hms")
    try:
        seconds = float(number) * UNITS[text[len(number) :] or "s"]
    except (ValueError, KeyError):
        raise UsageError(f"events: flag --interval: {text!r} is not a time such as 5s") from None
    if not seconds > 0:
        raise UsageError("events: flag --interval: must be greater than zero")
    return seconds


def _show(kind: str, container: str, content: Any = None) -> None:
    event = {"type": kind, "id": container} | ({} if content is None else {"data": content})
    print(json.dumps(event, separators=(",", ":")), flush=True)


def _events(flags: Values, values: Values, words: list[str]) -> int:
    pause_s = interval_s(values["interval"])
    root, name = state_root(flags), words[0]
    sandbox = Sandbox.load(root, name)
    status = sandbox.status()
    if status in (control.STOPPED, CREATING):
        raise FailedPrecondition(f"container with id {name} is not running")
    if values["stats"]:
        _show("stats", name, data(sandbox.stats()))
        return 0
    oom_kills = sandbox.stats().oom_kills
    while True:
        stats = sandbox.stats()
        for _ in range(stats.oom_kills - oom_kills):
            _show("oom", name)
        oom_kills = stats.oom_kills
        _show("stats", name, data(stats))
        if sandbox.ends_within(pause_s):
            return 0


COMMANDS = (
    Command(
        "events", "ID", "Print a container's figures again and again, and when it runs out of memory.", _events,
        (
            Flag("stats", "print them once"),
            Flag("interval", "time between two (5s)", str, default="5s", value="TIME"),
        ),
        (1, 1),
    ),
)  # fmt: skip
