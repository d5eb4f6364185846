"""What a set of processes holds of the host: descriptors, memory, threads, children; to be compared later."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.integration.daemon import until
from tests.integration.stubs import resident_kib

SETTLE_SECONDS = 10
QUIET_SECONDS = 0.3
POOL_THREADS = 32
MUCH_KIB = 1 << 30
"""More than a process can hold: for those who do not ask about memory."""


class Figures(NamedTuple):
    """One process."""

    descriptors: int
    threads: int
    children: int
    resident_kib: int

    def exceeds(self, other: Figures, kib: int) -> bool:
        """Whether it holds more, but for so much memory that is kept for reuse, and threads of a pool."""
        return (
            self.descriptors > other.descriptors
            or self.children > other.children
            or self.threads > other.threads + POOL_THREADS
            or self.resident_kib > other.resident_kib + kib
        )


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


def settled(pids: Callable[[], Iterable[int]], first: Census | None = None) -> Census:
    """Once what ends, ends: when nothing has changed for some time, and there is not more than there was at first."""
    census = take(pids())

    def is_settled() -> bool:
        nonlocal census
        before = census
        time.sleep(QUIET_SECONDS)
        census = take(pids())
        quiet = not growth(before, census, MUCH_KIB) and not growth(census, before, MUCH_KIB)
        return quiet and (first is None or not growth(first, census, MUCH_KIB))

    until(is_settled, SETTLE_SECONDS)
    return census


def growth(first: Census, last: Census, kib: int) -> list[str]:
    """What there is more of: processes of a kind, or what one of them holds."""
    grown = []
    for name, figures in last.items():
        before = first.get(name, [])
        if len(figures) > len(before):
            grown.append(f"{name}: {len(figures)} processes, {len(before)} before")
        pairs = zip(before, figures)
        grown += [f"{name}: {after}, {earlier} before" for earlier, after in pairs if after.exceeds(earlier, kib)]
    return grown
