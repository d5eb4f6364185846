"""Where file data goes to and comes from: application memory or bytes of our own.

A file's read puts into a Sink, its write takes from a Source; neither knows which kind.
"""

from __future__ import annotations

from typing import Protocol

from sentry.abi.errno import EFAULT
from sentry.platform import AddressSpace


class Sink(Protocol):
    """Takes what read(2) returns."""

    remaining: int

    def put(self, data: bytes | bytearray | memoryview) -> int:
        """Store as much of data as fits and is writable; returns the count.  EFAULT if nothing could be stored."""


class Source(Protocol):
    """Gives what write(2) writes."""

    remaining: int

    def take(self, limit: int) -> bytes:
        """The next bytes, at most limit; short at unreadable memory.  EFAULT if the very first is unreadable."""

    def give_back(self, count: int) -> None:
        """The last count bytes taken were not used: the write will be tried again."""


class UserSink:
    """One or more ranges of application memory (struct iovec[])."""

    __slots__ = ("_index", "_segments", "_space", "remaining")

    def __init__(self, space: AddressSpace, segments: list[tuple[int, int]]) -> None:
        self._space = space
        self._segments = segments
        self._index = 0
        self.remaining = segments[0][1] if len(segments) == 1 else sum([length for _, length in segments])

    def put(self, data: bytes | bytearray | memoryview) -> int:
        total = len(data)
        if total <= self.remaining and len(self._segments) == 1:
            # By far the most frequent case: all of it into the one buffer of read(2).
            addr, length = self._segments[0]
            n = self._space.write_some(addr, data)
            self._segments[0] = (addr + n, length - n)
            self.remaining -= n
            return n
        return self._put_in_pieces(data, min(total, self.remaining))

    def _put_in_pieces(self, data: bytes | bytearray | memoryview, total: int) -> int:
        done = 0
        while done < total:
            addr, length = self._segments[self._index]
            if not length:
                self._index += 1
                continue
            step = min(length, total - done)
            chunk = data if done == 0 and step == len(data) else memoryview(data)[done : done + step]
            try:
                n = self._space.write_some(addr, chunk)
            except EFAULT:
                if done:
                    break
                raise
            done += n
            self._segments[self._index] = (addr + n, length - n)
            if n < step:
                break
        self.remaining -= done
        return done


class UserSource:
    """One or more ranges of application memory, to be read once, front to back."""

    __slots__ = ("_index", "_segments", "_skip", "_space", "remaining")

    def __init__(self, space: AddressSpace, segments: list[tuple[int, int]]) -> None:
        self._space = space
        self._segments = segments
        self._index = 0
        self._skip = 0  # how much of the current segment was taken
        self.remaining = segments[0][1] if len(segments) == 1 else sum([length for _, length in segments])

    def take(self, limit: int) -> bytes:
        if limit > self.remaining:
            limit = self.remaining
        if len(self._segments) == 1 and limit:
            chunk = self._space.read_some(self._segments[0][0] + self._skip, limit)
            self._skip += len(chunk)
            self.remaining -= len(chunk)
            return chunk
        return self._take_pieces(limit)

    def _take_pieces(self, limit: int) -> bytes:
        parts: list[bytes] = []
        done = 0
        while done < limit:
            addr, length = self._segments[self._index]
            if length == self._skip:
                self._index += 1
                self._skip = 0
                continue
            step = min(length - self._skip, limit - done)
            try:
                chunk = self._space.read_some(addr + self._skip, step)
            except EFAULT:
                if done:
                    break
                raise
            parts.append(chunk)
            n = len(chunk)
            done += n
            self._skip += n
            if n < step:
                break
        self.remaining -= done
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def give_back(self, count: int) -> None:
        self.remaining += count
        while count > self._skip:
            count -= self._skip
            self._index -= 1
            self._skip = self._segments[self._index][1]
        self._skip -= count


class BytesSink:
    """Collects in memory of ours: sendfile(2), exec, tests."""

    __slots__ = ("data", "remaining")

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.remaining = limit

    def put(self, data: bytes | bytearray | memoryview) -> int:
        chunk = data[: self.remaining]
        self.data += chunk
        self.remaining -= len(chunk)
        return len(chunk)


class BytesSource:
    """Gives bytes of ours."""

    __slots__ = ("_data", "_done", "remaining")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._done = 0
        self.remaining = len(data)

    def take(self, limit: int) -> bytes:
        chunk = self._data[self._done : self._done + limit]
        self._done += len(chunk)
        self.remaining -= len(chunk)
        return chunk

    def give_back(self, count: int) -> None:
        self._done -= count
        self.remaining += count
