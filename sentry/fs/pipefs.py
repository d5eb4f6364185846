"""Pipes and FIFOs, pipe(7).

A Pipe is the bytes between its ends.  Each end is a PipeFile; a FIFO's inode, or that of a
pipe reopened through /proc/PID/fd, leads further openers to the same Pipe.

Linux counts a pipe's room in pages, we count bytes.  What a program can rely on is the same:
writes of up to PIPE_BUF bytes are whole or not at all, and the pipe is writable for poll(2)
when such a write will succeed.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Final

from sentry.abi.errno import EAGAIN, EBADF, EBUSY, EINVAL, ENOTTY, ENXIO, EPERM, EPIPE
from sentry.abi.fcntl import O_ACCMODE, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY
from sentry.abi.poll import ANY, POLLERR, POLLHUP, READABLE, WRITABLE
from sentry.abi.stat import S_IFIFO
from sentry.fs.simple import apply_attrs
from sentry.kernel.blocking import wait_on
from sentry.kernel.task import current
from sentry.platform import PAGE_SIZE
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Path
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange, FileSystem, Inode
from sentry.vfs.iov import Sink, Source
from sentry.wait import WaitQueue

PIPE_BUF: Final = 4096
DEFAULT_SIZE: Final = 65536
MAX_UNPRIVILEGED_SIZE: Final = 1 << 20  # /proc/sys/fs/pipe-max-size
MAX_SIZE: Final = 1 << 31
FIONREAD: Final = 0x541B
INT: Final = struct.Struct("<i")


class Pipe:
    """Bytes on their way (struct pipe_inode_info).

    readers, writers            how many open files can do so
    reads_opened, writes_opened how many ever could: what an open(2) of a FIFO waits to see change
    queue                       both ends wait here: readers for POLLIN, writers for POLLOUT
    """

    __slots__ = ("data", "open_queue", "queue", "readers", "reads_opened", "size", "writers", "writes_opened")

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = DEFAULT_SIZE
        self.readers = self.writers = 0
        self.reads_opened = self.writes_opened = 0
        self.queue = WaitQueue()
        self.open_queue = WaitQueue()

    @property
    def room(self) -> int:
        return self.size - len(self.data)

    def put(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append; the caller made sure of the room."""
        self.data += chunk
        self.queue.wake(READABLE)

    def consume(self, count: int) -> None:
        """Drop the first count bytes."""
        data = self.data
        was_full = self.size - len(data) < PIPE_BUF
        del data[:count]
        if was_full and self.size - len(data) >= PIPE_BUF:
            self.queue.wake(WRITABLE)

    def take(self, count: int) -> bytes:
        """The first count bytes, or all."""
        data = bytes(memoryview(self.data)[:count])
        self.consume(len(data))
        return data

    def put_back(self, chunk: bytes) -> None:
        """What take() gave was not used."""
        if chunk:
            self.data[:0] = chunk
            self.queue.wake(READABLE)

    def opened(self, flags: int) -> None:
        """One more file: counts it in."""
        access = flags & O_ACCMODE
        if access != O_WRONLY:
            self.readers += 1
            self.reads_opened += 1
        if access != O_RDONLY:
            self.writers += 1
            self.writes_opened += 1
        self.open_queue.wake(ANY)

    def closed(self, flags: int) -> None:
        """A file is gone; the other end hears of the last one."""
        access = flags & O_ACCMODE
        if access != O_WRONLY:
            self.readers -= 1
        if access != O_RDONLY:
            self.writers -= 1
        if not self.readers or not self.writers:
            self.queue.wake(READABLE | WRITABLE | POLLERR | POLLHUP)


class PipeFs(FileSystem):
    """Where unnamed pipes live."""

    NAME = "pipefs"
    MAGIC = 0x50495045


FILESYSTEM: Final = PipeFs()


class PipeInode(Inode):
    """An unnamed pipe's inode.  Opened again (through /proc/PID/fd) it is a further end of the pipe."""

    __slots__ = ()

    async def open(self, path: Path, flags: int) -> File:
        return _join(self, path, flags)

    async def setattr(self, change: AttrChange) -> None:
        apply_attrs(self, change)

    def blksize(self) -> int:
        return PAGE_SIZE


class PipeFile(File):
    """An end of a pipe, or both (a FIFO opened with O_RDWR)."""

    __slots__ = ("access", "ignored_writers", "pipe")

    writes_all: ClassVar[bool] = True

    def __init__(self, inode: Inode, path: Path | None, flags: int, pipe: Pipe) -> None:
        super().__init__(inode, path, flags)
        self.pipe = pipe
        self.queue = pipe.queue
        self.access = flags & O_ACCMODE
        # A FIFO opened without a writer shows no POLLHUP until one has come and gone.
        self.ignored_writers = -1

    def release(self) -> None:
        pipe = self.pipe
        pipe.closed(self.access)
        if not pipe.readers and not pipe.writers:
            self.inode.fifo = None

    def read(self, dst: Sink) -> int:
        pipe = self.pipe
        data = pipe.data
        if data:
            n = dst.put(data)
            pipe.consume(n)
            return n
        if pipe.writers and dst.remaining:
            raise EAGAIN
        return 0

    def write(self, src: Source) -> int:
        """EPIPE: no reader; the caller adds SIGPIPE."""
        n = src.remaining
        if not n:
            return 0
        pipe = self.pipe
        if not pipe.readers:
            raise EPIPE
        room = pipe.size - len(pipe.data)
        if n > room:
            if n <= PIPE_BUF or not room:
                raise EAGAIN
            n = room
        chunk = src.take(n)
        pipe.data += chunk
        pipe.queue.wake(READABLE)
        return len(chunk)

    def poll(self) -> int:
        pipe = self.pipe
        events = 0
        if self.access != O_WRONLY:
            if pipe.data:
                events = READABLE
            if not pipe.writers and pipe.writes_opened != self.ignored_writers:
                events |= POLLHUP
        if self.access != O_RDONLY:
            if pipe.size - len(pipe.data) >= PIPE_BUF:
                events |= WRITABLE
            if not pipe.readers:
                events |= POLLERR
        return events

    def ioctl(self, t: Any, request: int, arg: int) -> int:
        if request != FIONREAD:
            raise ENOTTY
        t.mem.write(arg, INT.pack(len(self.pipe.data)))
        return 0

    def describe(self) -> str | None:
        return f"pipe:[{self.inode.ino}]" if self.path is None or isinstance(self.inode, PipeInode) else None


# -- making and opening --


def new_pair(caller: Caller, flags: int) -> tuple[PipeFile, PipeFile]:
    """pipe2(2): the read end and the write end.  flags: O_NONBLOCK or 0."""
    inode = PipeInode(FILESYSTEM, S_IFIFO | 0o600, caller.fsuid, caller.fsgid)
    inode.fifo = pipe = Pipe()
    reader = PipeFile(inode, None, O_RDONLY | flags, pipe)
    writer = PipeFile(inode, None, O_WRONLY | flags, pipe)
    pipe.readers = pipe.writers = pipe.reads_opened = pipe.writes_opened = 1
    return reader, writer


def _join(inode: Inode, path: Path | None, flags: int) -> PipeFile:
    """A file on the pipe of inode; the pipe is made by the first."""
    pipe = inode.fifo
    if pipe is None:
        inode.fifo = pipe = Pipe()
    assert isinstance(pipe, Pipe)
    pipe.opened(flags)
    return PipeFile(inode, path, flags, pipe)


async def open_fifo(inode: Inode, path: Path, flags: int) -> PipeFile:
    """open(2) of a FIFO, fifo(7): each end waits for the other one.

    ENXIO: O_WRONLY | O_NONBLOCK without a reader.  Interrupted by a signal.
    """
    access = flags & O_ACCMODE
    if access not in (O_RDONLY, O_WRONLY, O_RDWR):
        raise EINVAL
    pipe = inode.fifo
    if access == O_WRONLY and flags & O_NONBLOCK and not (isinstance(pipe, Pipe) and pipe.readers):
        raise ENXIO
    file = _join(inode, path, flags)
    pipe = file.pipe
    if access == O_RDONLY and not pipe.writers:
        if flags & O_NONBLOCK:
            file.ignored_writers = pipe.writes_opened
        else:
            await _wait_for_partner(file, "writes_opened")
    elif access == O_WRONLY and not pipe.readers:
        await _wait_for_partner(file, "reads_opened")
    return file


async def _wait_for_partner(file: PipeFile, counter: str) -> None:
    """Until the other end was opened, even if it is closed again by now."""
    pipe = file.pipe
    before: int = getattr(pipe, counter)
    t = current()
    assert t is not None, "a job of the kernel opens a FIFO"
    try:
        while getattr(pipe, counter) == before:
            await wait_on(t, pipe.open_queue, ANY)
    except BaseException:
        file.hold().drop()
        raise


# -- fcntl(2) --


def pipe_size(file: File) -> int:
    """F_GETPIPE_SZ.  EBADF: not a pipe."""
    if not isinstance(file, PipeFile):
        raise EBADF
    return file.pipe.size


def set_pipe_size(file: File, wanted: int, privileged: bool) -> int:
    """F_SETPIPE_SZ: the new size, wanted rounded up to a power of two.

    EBADF; EINVAL; EPERM: above /proc/sys/fs/pipe-max-size without CAP_SYS_RESOURCE; EBUSY: it holds more.
    """
    if not isinstance(file, PipeFile):
        raise EBADF
    pipe = file.pipe
    wanted &= 0xFFFFFFFF
    if wanted > MAX_SIZE:
        raise EINVAL
    size = max(PAGE_SIZE, 1 << (wanted - 1).bit_length() if wanted else 0)
    if size > pipe.size and size > MAX_UNPRIVILEGED_SIZE and not privileged:
        raise EPERM
    if size < len(pipe.data):
        raise EBUSY
    pipe.size = size
    if pipe.room >= PIPE_BUF:
        pipe.queue.wake(WRITABLE)
    return size
