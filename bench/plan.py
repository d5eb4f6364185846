"""Which sections run how often, and the loop that takes the runtimes in turn.

In every round each runtime is measured once, in an order that is turned by one from round to round: what the machine
does besides then disturbs all of them alike.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bench.runtimes import Runtime
from bench.stats import Results, Value
from bench.table import Section


class Measurer(Protocol):
    """One section of the benchmark, ready to run."""

    def measure(self, runtime: Runtime) -> dict[str, Value]: ...


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    rounds: dict[str, int]
    row_ms: float
    startup_times: int
    few_pods: int
    many_pods: int
    program_seconds: float


FULL = Scale({"micro": 13, "startup": 8, "programs": 8, "memory": 1}, 80, 3, 11, 100, 180)
QUICK = Scale({"micro": 2, "startup": 1, "programs": 1, "memory": 1}, 40, 2, 3, 3, 90)


@dataclass(frozen=True, slots=True)
class Step:
    """A section that is to be run, and on what; `prepare` makes its measurer when it comes to it."""

    section: Section
    prepare: Callable[[], Measurer]
    runtimes: list[Runtime]
    rounds: int


def run(steps: list[Step], results: Results) -> None:
    """Section after section, each in rounds over its runtimes."""
    for step in steps:
        say(f"{step.section.title}: {', '.join(runtime.name for runtime in step.runtimes)}")
        measurer = step.prepare()
        for number in range(step.rounds):
            for runtime in turned(step.runtimes, number):
                start = time.monotonic()
                results.add(step.section.name, runtime.name, measurer.measure(runtime))
                took = time.monotonic() - start
                say(f"  round {number + 1} of {step.rounds}: {runtime.name} {took:.1f} s")


def turned(runtimes: list[Runtime], number: int) -> list[Runtime]:
    first = number % len(runtimes) if runtimes else 0
    return runtimes[first:] + runtimes[:first]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
