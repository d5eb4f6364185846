"""The bytes of one regular file that lives in memory.

Small files are a bytearray of ours; a file becomes a memfd of the host when it grows past
SMALL, is mapped, or gets a hole.  So thousands of small files cost no descriptors, and
everything that needs the host (mmap, sparse files) has it.  A bytearray is dense: it never
has a hole of a page, so each of its pages counts as allocated.

Pages are charged to a Pool.  What the application allocates by touching a shared mapping is
only noticed afterwards (recount): no page fault reaches the Sentry.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from sentry.abi.errno import ENOSPC, ENXIO, LinuxError, from_host
from sentry.abi.fcntl import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from sentry.fs.hostcall import fallocate
from sentry.platform import PAGE_SIZE
from sentry.vfs.iov import SLICE, Sink, Source

SMALL: Final = 64 << 10


class Pool:
    """Pages that a file system may use; limit 0 means any number (mount option size=).  They are the parent's, too."""

    __slots__ = ("limit", "parent", "used")

    def __init__(self, limit: int, parent: Pool | None = None) -> None:
        self.limit = limit
        self.parent = parent
        self.used = 0

    @property
    def free(self) -> int:
        own = max(self.limit - self.used, 0) if self.limit else 1 << 51
        return own if self.parent is None else min(own, self.parent.free)

    def take(self, pages: int) -> None:
        """ENOSPC."""
        if pages > self.free and pages > 0:
            raise ENOSPC
        self.count(pages)

    def count(self, pages: int) -> None:
        """Pages that are in use, or no more (if negative), whatever the limits say."""
        self.used += pages
        if self.parent is not None:
            self.parent.count(pages)


# All memory files of the sandbox.  The pages are the Sentry's, so no cgroup of a container limits them: boot sets the
# limit to the memory that the sandbox may use.  A container may use less: it has a pool of its own (Container.memory).
MEMORY: Final = Pool(0)


def pages_of(length: int) -> int:
    return -(-length // PAGE_SIZE)


class MemData:
    """Contents, size and allocated pages of one file.  close() must be called once; then it is empty."""

    __slots__ = ("_bytes", "_fd", "_pool", "pages", "size")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._bytes = bytearray()
        self._fd = -1
        self.size = 0
        self.pages = 0  # charged to the pool

    # The default argument keeps os.close callable while the interpreter shuts down.
    def close(self, close_fd: Callable[[int], None] = os.close) -> None:
        """Give back the memory."""
        self._pool.count(-self.pages)
        self.pages = self.size = 0
        self._bytes = bytearray()
        if self._fd >= 0:
            close_fd(self._fd)
            self._fd = -1

    # -- the two forms --

    def fd(self) -> int:
        """The memfd that holds the bytes from now on; it stays ours.  ENOSPC: no descriptor, no memory."""
        if self._fd < 0:
            try:
                fd = os.memfd_create("tmpfs")
                os.ftruncate(fd, self.size)
                if self._bytes:
                    os.pwrite(fd, self._bytes, 0)
            except OSError as e:
                raise _no_space(e) from None
            self._fd = fd
            self._bytes = bytearray()
        return self._fd

    def recount(self) -> None:
        """Charge what is really allocated, if the host knows better."""
        if self._fd >= 0:
            pages = os.fstat(self._fd).st_blocks * 512 // PAGE_SIZE
            self._pool.count(pages - self.pages)
            self.pages = pages

    def _charge_to(self, pages: int) -> None:
        self._pool.take(pages - self.pages)
        self.pages = pages

    # -- reading and writing --

    def read(self, dst: Sink, offset: int) -> int:
        if self._fd >= 0:
            return dst.fill(self._fd, offset)
        if offset >= self.size:
            return 0
        return dst.put(self._bytes[offset : offset + dst.remaining])

    def write(self, src: Source, offset: int) -> int:
        """Write all of src, or as much as there is room for.  ENOSPC, EFBIG, EFAULT if nothing was written."""
        if self._fd < 0:
            # A gap of less than a page before offset keeps a bytearray dense: its pages are allocated anyway.
            if offset + src.remaining <= SMALL and offset < pages_of(self.size) * PAGE_SIZE + PAGE_SIZE:
                return self._write_small(src, offset)
            self.fd()
        return self._write_host(src, offset)

    def _write_small(self, src: Source, offset: int) -> int:
        room = (self.pages + self._pool.free) * PAGE_SIZE - offset
        if room <= 0 and src.remaining:
            raise ENOSPC
        data = src.take(min(SMALL - offset, room))
        end = offset + len(data)
        if data:
            self._charge_to(max(self.pages, pages_of(end)))
            if offset > self.size:
                self._bytes.extend(bytes(offset - self.size))
            self._bytes[offset:end] = data
            self.size = max(self.size, end)
        return len(data)

    def _write_host(self, src: Source, offset: int) -> int:
        done = 0
        while src.remaining:
            at = offset + done
            limit = min(SLICE, src.remaining)
            try:
                limit = self._room(at, limit)
                data = src.take(limit)
                done += self._pwrite(data, at)
            except LinuxError:
                if done:
                    return done
                raise
            if len(data) < limit:
                break
        return done

    def _pwrite(self, data: bytes, at: int) -> int:
        try:
            n = os.pwrite(self._fd, data, at)
        except OSError as e:
            raise _no_space(e) from None
        self.size = max(self.size, at + n)
        self.recount()
        return n

    def _room(self, offset: int, length: int) -> int:
        """How much of the range may be written now.  ENOSPC: not even a byte."""
        free = self._pool.free
        last = (offset + length - 1) // PAGE_SIZE
        first = offset // PAGE_SIZE
        if last - first + 1 <= free:
            return length
        # Nearly full: pages that are allocated already may be written all the same.
        page = first
        while page <= last and (free or self._is_allocated(page)):
            if not self._is_allocated(page):
                free -= 1
            page += 1
        room = page * PAGE_SIZE - offset
        if room <= 0:
            raise ENOSPC
        return min(room, length)

    def _is_allocated(self, page: int) -> bool:
        start = page * PAGE_SIZE
        return start < self.size and self.seek(start, hole=False) == start

    def _held(self, start: int, end: int) -> int:
        """Pages allocated between two offsets."""
        pages = 0
        at = start // PAGE_SIZE * PAGE_SIZE
        end = min(end, self.size)
        while at < end:
            try:
                at = self.seek(at, hole=False)
            except ENXIO:
                break
            hole = min(self.seek(at, hole=True), end)
            pages += max(pages_of(hole - at), 0)
            at = max(hole, at + PAGE_SIZE)
        return pages

    # -- holes and sizes --

    def seek(self, offset: int, hole: bool) -> int:
        """SEEK_DATA and SEEK_HOLE.  ENXIO: past the end, or no data behind offset."""
        if offset < 0 or offset >= self.size:
            raise ENXIO
        if self._fd < 0:
            return self.size if hole else offset
        try:
            # The memfd's own position, which this moves, is used by nobody.
            return os.lseek(self._fd, offset, os.SEEK_HOLE if hole else os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                return self.size if hole else self._no_data()
            raise from_host(e) from None

    @staticmethod
    def _no_data() -> int:
        raise ENXIO

    def truncate(self, size: int) -> None:
        """EFBIG, ENOSPC."""
        if self._fd < 0 and size > self.size and size > self.pages * PAGE_SIZE:
            self.fd()
        if self._fd >= 0:
            try:
                os.ftruncate(self._fd, size)
            except OSError as e:
                raise _no_space(e) from None
            self.size = size
            self.recount()
            return
        if size < self.size:
            del self._bytes[size:]
            self._charge_to(pages_of(size))
        else:
            self._bytes.extend(bytes(size - self.size))
        self.size = size

    def allocate(self, offset: int, length: int, keep_size: bool) -> None:
        """fallocate(2) without FALLOC_FL_PUNCH_HOLE.  ENOSPC: then nothing is allocated."""
        end = offset + length
        wanted = pages_of(end) - offset // PAGE_SIZE
        if wanted > self._pool.free:
            # At most self.pages of them can be there already; looking is worth it only if that would do.
            if wanted - self.pages > self._pool.free or wanted - self._held(offset, end) > self._pool.free:
                raise ENOSPC
        fallocate(self.fd(), FALLOC_FL_KEEP_SIZE if keep_size else 0, offset, length)
        if not keep_size:
            self.size = max(self.size, end)
        self.recount()

    def punch(self, offset: int, length: int) -> None:
        """FALLOC_FL_PUNCH_HOLE: the range reads as zeros and gives its whole pages back."""
        fallocate(self.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
        self.recount()


def _no_space(e: OSError) -> LinuxError:
    """A host failure of growing: out of memory or descriptors is this file system's lack of space."""
    if e.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return ENOSPC("the host gave no memory")
    return from_host(e)
