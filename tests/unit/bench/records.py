"""A record of a benchmark that never ran, for tests of what is made of one."""

from __future__ import annotations

from typing import Any

from bench.stats import Results

RUNTIMES = ("native", "runc", "runsc-ptrace", "pysc-ptrace")


def record() -> dict[str, Any]:
    """getpid keeps its limit against native and misses that against runsc; tcp has no number for pysc."""
    results = Results()
    for drift in (1.0, 2.0, 4.0):
        results.add("micro", "native", {"getpid": 100.0 * drift, "tcp": 1000.0 * drift})
        results.add("micro", "runc", {"getpid": 110.0 * drift, "tcp": 1000.0 * drift})
        results.add("micro", "runsc-ptrace", {"getpid": 9000.0 * drift, "tcp": 50_000.0 * drift})
        results.add("micro", "pysc-ptrace", {"getpid": 5000.0 * drift, "tcp": "socket: EAFNOSUPPORT"})
        results.add("startup", "runc", {"ctr_run": 100.0})
        results.add("startup", "runsc-ptrace", {"ctr_run": 350.0})
        results.add("startup", "pysc-ptrace", {"ctr_run": 230.0})
    return {
        "machine": {
            "date": "2026-01-02 03:04 UTC",
            "cpu": "A <fast> & cheap CPU",
            "cpus": 2,
            "memory_gb": 8,
            "kernel": "6.1.0",
            "python": "3.11.2",
            "commit": "abc1234",
            "load_before": 0.25,
            "runtimes": {name: {"version": "1.0", "note": ""} for name in RUNTIMES},
        },
        "left_out": {"runsc-kvm": "no end within its time"},
        "results": results.to_json(),
    }
