"""The devices that are only memory: null, zero, full, random, urandom; mem(4), null(4), random(4)."""

from __future__ import annotations

import os
import struct
from typing import Any, ClassVar, Final

from sentry.abi.errno import ENOSPC, ENOTTY
from sentry.vfs.dentry import Path
from sentry.vfs.file import File
from sentry.vfs.inode import Inode
from sentry.vfs.iov import Sink, Source

ZEROS: Final = bytes(64 << 10)
RANDOM_CHUNK: Final = 64 << 10
RNDGETENTCNT: Final = 0x80045200
ENTROPY_BITS: Final = 256  # what Linux says since 5.18, once and for all
MAPPING_SIZE: Final = 1 << 47


class DeviceFile(File):
    """Any position is as good as another: null_lseek()."""

    __slots__ = ()

    seekable: ClassVar[bool] = True

    def seek(self, offset: int, whence: int) -> int:
        self.offset = 0
        return 0

    def read(self, dst: Sink) -> int:
        return self.read_at(dst, 0)

    def write(self, src: Source) -> int:
        return self.write_at(src, 0)


class NullFile(DeviceFile):
    """/dev/null: takes everything, without looking at it, and is empty."""

    __slots__ = ()

    def read_at(self, dst: Sink, offset: int) -> int:
        return 0

    def write_at(self, src: Source, offset: int) -> int:
        n, src.remaining = src.remaining, 0
        return n


class ZeroFile(NullFile):
    """/dev/zero."""

    __slots__ = ("_mapped",)

    def __init__(self, inode: Inode, path: Path | None, flags: int) -> None:
        super().__init__(inode, path, flags)
        self._mapped: list[int] = []

    def release(self) -> None:
        for fd in self._mapped:
            os.close(fd)

    def read_at(self, dst: Sink, offset: int) -> int:
        done = 0
        while dst.remaining:
            want = min(dst.remaining, len(ZEROS))
            n = dst.put(ZEROS[:want])
            done += n
            if n < want:
                break
        return done

    async def host_fd(self, writable: bool) -> int:
        """Each mapping has zeros of its own, shared or not: a new memfd each time."""
        fd = os.memfd_create("zero")
        os.ftruncate(fd, MAPPING_SIZE)
        self._mapped.append(fd)
        return fd


class FullFile(ZeroFile):
    """/dev/full."""

    __slots__ = ()

    def write_at(self, src: Source, offset: int) -> int:
        raise ENOSPC


class RandomFile(DeviceFile):
    """/dev/random and /dev/urandom, which are the same."""

    __slots__ = ()

    def seek(self, offset: int, whence: int) -> int:
        """noop_llseek()."""
        return self.offset

    def read_at(self, dst: Sink, offset: int) -> int:
        done = 0
        while dst.remaining:
            want = min(dst.remaining, RANDOM_CHUNK)
            n = dst.put(os.urandom(want))
            done += n
            if n < want:
                break
        return done

    def write_at(self, src: Source, offset: int) -> int:
        """Mixing it in would change nothing: the host's generator has all the entropy it needs."""
        done = 0
        while data := src.take(RANDOM_CHUNK):
            done += len(data)
        return done

    def ioctl(self, t: Any, request: int, arg: int) -> int:
        if request != RNDGETENTCNT:
            raise ENOTTY
        t.mem.write(arg, struct.pack("<i", ENTROPY_BITS))
        return 0
