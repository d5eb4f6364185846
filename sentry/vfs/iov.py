"""Where file data goes to and comes from: application memory or bytes of our own.

A file's read puts into a Sink, its write takes from a Source; neither knows which kind.  A file
whose bytes lie in a host file has fill() and pour() copy them, which for one range of
application memory the platform does in one step, without making them an object of ours.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from sentry.abi.errno import EFAULT, from_host
from sentry.platform import AddressSpace

# What is copied at once where it does become an object: a call with a huge count must not take as much memory of ours.
SLICE: Final = 1 << 20

Segments = list[tuple[int, int]]


class Sink(Protocol):
    """Takes what read(2) returns."""

    remaining: int

    def put(self, data: bytes | bytearray | memoryview) -> int:
        """Store as much of data as fits and is writable; returns the count.  EFAULT if nothing could be stored."""

    def fill(self, fd: int, offset: int) -> int:
        """Store what the host file has from offset on, as much as fits; the count, 0 at its end.

        EFAULT and the host's errors, if nothing was stored.
        """


class Source(Protocol):
    """Gives what write(2) writes."""

    remaining: int

    def take(self, limit: int) -> bytes:
        """The next bytes, at most limit; short at unreadable memory.  EFAULT if the very first is unreadable."""

    def give_back(self, count: int) -> None:
        """The last count bytes taken were not used: the write will be tried again."""

    def pour(self, fd: int, offset: int) -> int:
        """Write everything to the host file from offset on; the count, short at unreadable memory or a full disk.

        EFAULT and the host's errors, if nothing was written.
        """


# -- one range of application memory: nearly every call's --


class UserBuffer:
    """The buffer of read(2)."""

    __slots__ = ("_addr", "_space", "remaining")

    def __init__(self, space: AddressSpace, addr: int, length: int) -> None:
        self._space = space
        self._addr = addr
        self.remaining = length

    def put(self, data: bytes | bytearray | memoryview) -> int:
        if len(data) > self.remaining:
            data = memoryview(data)[: self.remaining]
        n = self._space.write_some(self._addr, data)
        self._addr += n
        self.remaining -= n
        return n

    def fill(self, fd: int, offset: int) -> int:
        n = self._space.read_from_file(fd, offset, self._addr, self.remaining)
        self._addr += n
        self.remaining -= n
        return n


class UserData:
    """The buffer of write(2)."""

    __slots__ = ("_addr", "_space", "remaining")

    def __init__(self, space: AddressSpace, addr: int, length: int) -> None:
        self._space = space
        self._addr = addr
        self.remaining = length

    def take(self, limit: int) -> bytes:
        data = self._space.read_some(self._addr, limit if limit < self.remaining else self.remaining)
        self._addr += len(data)
        self.remaining -= len(data)
        return data

    def give_back(self, count: int) -> None:
        self._addr -= count
        self.remaining += count

    def pour(self, fd: int, offset: int) -> int:
        n = self._space.write_to_file(fd, offset, self._addr, self.remaining)
        self._addr += n
        self.remaining -= n
        return n


# -- several: struct iovec[] --


def user_sink(space: AddressSpace, segments: Segments) -> Sink:
    """What readv(2) fills."""
    return UserBuffer(space, *segments[0]) if len(segments) == 1 else UserSink(space, segments)


def user_source(space: AddressSpace, segments: Segments) -> Source:
    """What writev(2) empties."""
    return UserData(space, *segments[0]) if len(segments) == 1 else UserSource(space, segments)


class UserSink:
    """Any number of ranges of application memory."""

    __slots__ = ("_index", "_segments", "_space", "remaining")

    def __init__(self, space: AddressSpace, segments: Segments) -> None:
        self._space = space
        self._segments = segments
        self._index = 0
        self.remaining = sum([length for _, length in segments])

    def put(self, data: bytes | bytearray | memoryview) -> int:
        total = min(len(data), self.remaining)
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

    def fill(self, fd: int, offset: int) -> int:
        return fill_in_slices(self, fd, offset)


class UserSource:
    """Any number of ranges of application memory, to be read once, front to back."""

    __slots__ = ("_index", "_segments", "_skip", "_space", "remaining")

    def __init__(self, space: AddressSpace, segments: Segments) -> None:
        self._space = space
        self._segments = segments
        self._index = 0
        self._skip = 0  # how much of the current segment was taken
        self.remaining = sum([length for _, length in segments])

    def take(self, limit: int) -> bytes:
        if limit > self.remaining:
            limit = self.remaining
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

    def pour(self, fd: int, offset: int) -> int:
        return pour_in_slices(self, fd, offset)


# -- bytes of ours: sendfile(2), exec, tests --


class BytesSink:
    """Collects them."""

    __slots__ = ("data", "remaining")

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.remaining = limit

    def put(self, data: bytes | bytearray | memoryview) -> int:
        chunk = data[: self.remaining]
        self.data += chunk
        self.remaining -= len(chunk)
        return len(chunk)

    def fill(self, fd: int, offset: int) -> int:
        return fill_in_slices(self, fd, offset)


class BytesSource:
    """Gives them."""

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

    def pour(self, fd: int, offset: int) -> int:
        return pour_in_slices(self, fd, offset)


# -- host files, by bytes of ours --


def fill_in_slices(dst: Sink, fd: int, offset: int) -> int:
    """Sink.fill() by put()."""
    done = 0
    while True:
        want = min(dst.remaining, SLICE)
        try:
            data = os.pread(fd, want, offset + done)
        except OSError as e:
            if done:
                return done
            raise from_host(e) from None
        if not data:
            return done
        n = dst.put(data)
        done += n
        if n < want or not dst.remaining:
            return done


def pour_in_slices(src: Source, fd: int, offset: int) -> int:
    """Source.pour() by take()."""
    done = 0
    while True:
        try:
            data = src.take(SLICE)
            n = os.pwrite(fd, data, offset + done)
        except EFAULT:
            if done:
                return done
            raise
        except OSError as e:
            if done:
                return done
            raise from_host(e) from None
        done += n
        if n < len(data) or not src.remaining:
            return done
