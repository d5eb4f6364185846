"""Directory entries of in-memory file systems: found by name, listed by position.

Each entry gets a position when it is added, higher than any before, and keeps it.  So a
reader that stopped at a position goes on behind it, whatever was removed or added since: it
sees every entry that was there all along exactly once, as readdir(3) promises.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Entries(Generic[T]):
    """name -> item, and positions -> names in ascending order.  Positions start at `first`."""

    __slots__ = ("_by_name", "_by_position", "_next", "_positions")

    def __init__(self, first: int = 2) -> None:
        self._by_name: dict[str, tuple[int, T]] = {}
        self._by_position: dict[int, str] = {}
        self._positions: list[int] = []  # ascending; those of removed entries stay until there are too many
        self._next = first

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> T | None:
        found = self._by_name.get(name)
        return found[1] if found is not None else None

    def add(self, name: str, item: T) -> None:
        """Add a name that is not there."""
        position = self._next
        self._next += 1
        self._by_name[name] = (position, item)
        self._by_position[position] = name
        self._positions.append(position)

    def replace(self, name: str, item: T) -> None:
        """Let an existing name, at its old position, mean item."""
        self._by_name[name] = (self._by_name[name][0], item)

    def remove(self, name: str) -> T:
        position, item = self._by_name.pop(name)
        del self._by_position[position]
        if len(self._positions) > 2 * len(self._by_position) + 16:
            self._positions = list(self._by_position)
        return item

    def since(self, position: int) -> Iterator[tuple[int, str, T]]:
        """(position, name, item) from position on."""
        positions = self._positions
        for at in range(bisect_left(positions, position), len(positions)):
            name = self._by_position.get(positions[at])
            if name is not None:
                yield positions[at], name, self._by_name[name][1]
