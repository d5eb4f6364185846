"""Directory entries as getdents64(2) writes them: struct linux_dirent64, include/linux/dirent.h."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

# d_ino, d_off, d_reclen, d_type; then the name, a NUL, and padding to 8 bytes.
DIRENT64: Final = struct.Struct("<QqHB")
_pack: Final = DIRENT64.pack


def dirent64(name: str, ino: int, kind: int, next_offset: int) -> bytes:
    """One entry."""
    encoded = name.encode("utf-8", "surrogateescape")
    size = (20 + len(encoded) + 7) & ~7
    return _pack(ino, next_offset, size, kind) + encoded.ljust(size - 19, b"\0")


class PackedEntries:
    """A whole directory, ready to be copied out in any portions.

    Its entries lie at consecutive positions.  ends: where each one ends in data.
    """

    __slots__ = ("_data", "_ends", "_first")

    def __init__(self, entries: Iterable[tuple[str, int, int]], first: int) -> None:
        """entries: (name, inode number, DT_*) of what lies at first, first + 1, ..."""
        self._first = first
        parts = [dirent64(name, ino, kind, position) for position, (name, ino, kind) in enumerate(entries, first + 1)]
        self._data = b"".join(parts)
        end = 0
        self._ends = [end := end + len(part) for part in parts]

    def portion(self, position: int, room: int) -> tuple[bytes, int]:
        """The entries from position on, as many whole ones as fit, and the position behind them."""
        ends = self._ends
        index = position - self._first
        start = ends[index - 1] if index else 0
        behind = bisect_right(ends, start + room, index)
        return (self._data[start : ends[behind - 1]], self._first + behind) if behind > index else (b"", position)

    @property
    def end(self) -> int:
        """The position behind all of them."""
        return self._first + len(self._ends)
