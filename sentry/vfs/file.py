"""Open file descriptions (struct file) and what they can do.

As for inodes, every operation has the default Linux has for a NULL operation.  read, write,
poll and ioctl are plain functions: one that would have to wait raises EAGAIN, and
kernel/blocking.py waits on `queue` and tries again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, NamedTuple

from sentry.abi.errno import EINVAL, ENODEV, ENOTDIR, ENOTTY, EOPNOTSUPP, EOVERFLOW, ESPIPE
from sentry.abi.fcntl import (
    O_ACCMODE,
    O_APPEND,
    O_PATH,
    O_RDONLY,
    O_WRONLY,
    SEEK_CUR,
    SEEK_DATA,
    SEEK_END,
    SEEK_HOLE,
    SEEK_SET,
)
from sentry.abi.poll import POLLFREE, READABLE, WRITABLE
from sentry.platform import AddressSpace
from sentry.vfs.dentry import Path
from sentry.vfs.inode import Inode
from sentry.vfs.iov import Sink, Source, UserBuffer, UserData
from sentry.wait import Waiter, WaitQueue

MAX_OFFSET = (1 << 63) - 1


class DirEntry(NamedTuple):
    """One directory entry; next_offset is what lseek(2) takes to go on behind it."""

    name: str
    ino: int
    type: int
    next_offset: int


class _NobodysQueue(WaitQueue):
    """Of files that are always ready: nobody who waits in it would ever be woken."""

    __slots__ = ()

    def add(self, waiter: Waiter) -> None:
        pass


# One for all of them, so that opening one need not make one.
ALWAYS_READY: Final = _NobodysQueue()


class File:
    """An open file description.

    path      where it was opened; None only for descriptions outside of any mount (never seen by walks)
    flags     file status flags and access mode, as F_GETFL shows them
    offset    the file position
    refs      descriptors (of all tables) and other holders; release() runs when it falls to 0
    queue     who waits for readiness
    """

    __slots__ = ("__weakref__", "async_owner", "flags", "inode", "offset", "path", "queue", "refs")

    seekable: ClassVar[bool] = False
    # A blocking write(2) goes on after a short count until all is written, and EPIPE comes with SIGPIPE: pipes,
    # terminals, stream sockets.
    writes_all: ClassVar[bool] = False

    def __init__(self, inode: Inode, path: Path | None, flags: int) -> None:
        self.inode = inode
        self.path = path
        self.flags = flags
        self.offset = 0
        self.refs = 0
        self.queue = WaitQueue()
        self.async_owner: Any = None

    # -- life --

    def hold(self) -> File:
        self.refs += 1
        if self.refs == 1:
            inode = self.inode
            inode.users += 1
            if self.flags & O_ACCMODE and not self.flags & O_PATH:
                inode.writers += 1
        return self

    def drop(self) -> None:
        self.refs -= 1
        if self.refs == 0:
            inode = self.inode
            if self.flags & O_ACCMODE and not self.flags & O_PATH:
                inode.writers -= 1
            if inode._locks is not None:
                inode._locks.release_file(self)
            self.release()
            self.queue.wake(POLLFREE)
            inode.users -= 1
            if not inode.users:
                inode.unused()

    def release(self) -> None:
        """The last reference is gone."""

    def flush(self) -> None:
        """A descriptor of it was closed (close(2)'s chance to report an error)."""

    # -- access --

    @property
    def readable(self) -> bool:
        return self.flags & O_ACCMODE != O_WRONLY and not self.flags & O_PATH

    @property
    def writable(self) -> bool:
        return self.flags & O_ACCMODE != O_RDONLY and not self.flags & O_PATH

    def read_at(self, dst: Sink, offset: int) -> int:
        """pread(2).  EINVAL: no such operation."""
        raise EINVAL

    def read_into(self, space: AddressSpace, addr: int, length: int, offset: int) -> int:
        """read_at() to one range of application memory: for files whose bytes the platform moves in one step."""
        return self.read_at(UserBuffer(space, addr, length), offset)

    def write_at(self, src: Source, offset: int) -> int:
        """pwrite(2); O_APPEND is the file's own business, through append_offset()."""
        raise EINVAL

    def write_from(self, space: AddressSpace, addr: int, length: int, offset: int) -> int:
        """write_at() from one range of application memory."""
        return self.write_at(UserData(space, addr, length), offset)

    def read(self, dst: Sink) -> int:
        """read(2); of a stream unless overridden for seekable files."""
        n = self.read_at(dst, self.offset)
        self.offset += n
        return n

    def write(self, src: Source) -> int:
        """write(2)."""
        if self.flags & O_APPEND:
            self.offset = self.end_offset()
        n = self.write_at(src, self.offset)
        self.offset += n
        return n

    def end_offset(self) -> int:
        """The file's size now: where O_APPEND and SEEK_END start."""
        return self.inode.size

    def seek(self, offset: int, whence: int) -> int:
        """lseek(2).  ESPIPE on what has no position; EINVAL, ENXIO, EOVERFLOW."""
        if not self.seekable:
            raise ESPIPE
        if whence == SEEK_SET:
            position = offset
        elif whence == SEEK_CUR:
            position = self.offset + offset
        elif whence == SEEK_END:
            position = self.end_offset() + offset
        elif whence in (SEEK_DATA, SEEK_HOLE):
            position = self.seek_data(offset, whence == SEEK_HOLE)
        else:
            raise EINVAL
        if position < 0:
            raise EINVAL
        if position > MAX_OFFSET:
            raise EOVERFLOW
        self.offset = position
        return position

    def seek_data(self, offset: int, hole: bool) -> int:
        """SEEK_DATA and SEEK_HOLE.  ENXIO: offset is past the end."""
        raise EINVAL

    # -- readiness --

    def poll(self) -> int:
        """The poll(2) events that hold now.  Files without a poll operation are always ready."""
        return READABLE | WRITABLE

    def patience_ns(self, events: int) -> int | None:
        """How long a read or write may wait for events; None: for ever.  A socket's SO_RCVTIMEO and SO_SNDTIMEO."""
        return None

    # -- directories --

    def entries(self, offset: int) -> Iterator[DirEntry]:
        """Entries from a position on, without waiting; what load_entries() prepared."""
        raise ENOTDIR

    async def load_entries(self) -> None:
        """Fetch what entries() needs, if that may wait."""
        raise ENOTDIR

    def load_entries_now(self) -> bool:
        """load_entries(), if that need not wait; False: await it."""
        return False

    def packed_entries(self, offset: int, room: int) -> tuple[bytes, int] | None:
        """What entries() gives from offset on, as getdents64(2) writes it, whole entries that fit in room.

        And the position behind them.  None: it is nowhere ready, use entries().
        """
        return None

    # -- the rest --

    def ioctl(self, t: Any, request: int, arg: int) -> int:
        """ioctl(2); t is the calling Task."""
        raise ENOTTY

    async def host_fd(self, writable: bool) -> int:
        """A descriptor of ours for mmap(2); the file keeps owning it.  ENODEV: it can't be mapped.

        writable: shared mapping that may be written.
        """
        raise ENODEV

    async def fsync(self, datasync: bool) -> None:
        """EINVAL: the file has no such operation."""
        raise EINVAL

    async def fallocate(self, mode: int, offset: int, length: int) -> None:
        raise EOPNOTSUPP

    async def truncate(self, size: int) -> None:
        """ftruncate(2).  EINVAL: not a regular file."""
        raise EINVAL

    def fd_info(self) -> str:
        """Extra lines of /proc/PID/fdinfo."""
        return ""

    def describe(self) -> str | None:
        """What readlink of /proc/PID/fd/N shows for a file without a name, such as pipe:[7]; None: its path."""
        return None
