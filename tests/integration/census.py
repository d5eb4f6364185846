"""What a set of processes holds of the host: descriptors, memory, threads, children; to be compared later."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.integration.daemon import until
from tests.integration.stubs import resident_kib

SETTLE_SECONDS = 10


class Figures(NamedTuple):
    """One process."""

    descriptors: int
    threads: int
    children: int
    resident_kib: int

    def without_memory(self) -> tuple[int, ...]:
        return self[:-1]


Census = dict[str, list[Figures]]
"""Of each kind of process by its name, the smallest first."""


def figures_of(pid: int) -> Figures:
    """Raises OSError when it is gone."""
    tasks = Path(f"/proc/{pid}/task")
    threads = os.listdir(tasks)
    children = sum(len((tasks / thread / "children").read_text().split()) for thread in threads)
    return Figures(len(os.listdir(f"/proc/{pid}/fd")), len(threads), children, resident_kib(pid))


def take(pids: Iterable[int]) -> Census:
    census: Census = {}
    for pid in pids:
        with suppress(OSError, StopIteration):  # it has just ended, or is a zombie
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            census.setdefault(name, []).append(figures_of(pid))
    return {name: sorted(figures) for name, figures in sorted(census.items())}


def settled(pids: Callable[[], Iterable[int]], expected: Census | None = None) -> Census:
    """Once what ends, ends: when it holds what an earlier one held, or after a time."""
    census = take(pids())

    def is_settled() -> bool:
        nonlocal census
        before, census = census, take(pids())
        return bare(census) == bare(expected if expected is not None else before)

    until(is_settled, SETTLE_SECONDS)
    return census


def bare(census: Census) -> dict[str, list[tuple[int, ...]]]:
    """Without memory, which is never quite the same."""
    return {name: [each.without_memory() for each in figures] for name, figures in census.items()}


def assert_no_growth(first: Census, last: Census, kib: int) -> None:
    """The same processes hold the same, and no more memory but for what is kept for reuse."""
    assert bare(first) == bare(last)
    for name, figures in last.items():
        for before, after in zip(first[name], figures):
            assert after.resident_kib <= before.resident_kib + kib, (name, before, after)
