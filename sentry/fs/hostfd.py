"""Host descriptors as files: the container's stdio, donated from outside.

The open file description is shared with whoever else holds it, so it is used as it is:
read and write move its own offset, and O_NONBLOCK is never set on it.  That it will not block
is asked of poll(2) each time; a write goes in pieces no larger than PIPE_BUF, which a pipe
that polls writable takes without blocking.  What has O_NONBLOCK, as the shim's FIFOs do, is
simply written to: it takes as much as it has room for.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from typing import TYPE_CHECKING, ClassVar, Final

from sentry.abi.errno import EACCES, EAGAIN, EFAULT, ENODEV, EPIPE, ESPIPE, from_host
from sentry.abi.fcntl import O_ACCMODE, O_APPEND, O_RDWR, SEEK_CUR, SEEK_END, SEEK_SET
from sentry.abi.poll import ANY, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from sentry.abi.stat import DEV_NULL
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange, FileSystem, Inode
from sentry.vfs.iov import Sink, Source

if TYPE_CHECKING:
    from sentry.vfs.dentry import Path
    from sentry.wait import Loop

PIPE_BUF: Final = 4096
CHUNK: Final = 65536


class HostFs(FileSystem):
    """Where donated descriptors live; never mounted."""

    NAME = "hostfd"
    MAGIC = 0x50495045


class HostInode(Inode):
    """The host's inode, as fstat shows it."""

    __slots__ = ("_loop", "fd")

    fs: HostFs

    def __init__(self, loop: Loop, fs: HostFs, fd: int) -> None:
        info = os.fstat(fd)
        super().__init__(fs, info.st_mode, info.st_uid, info.st_gid, info.st_ino, info.st_rdev)
        self._loop = loop
        self.fd = fd
        self.size = info.st_size

    async def refresh(self) -> None:
        self.fresh()

    def fresh(self) -> bool:
        info = os.fstat(self.fd)
        self.size, self.mtime_ns = info.st_size, info.st_mtime_ns
        return True

    async def open(self, path: Path, flags: int) -> File:
        """Again, through /dev/stdout and its like: another descriptor of the same open file.

        EACCES: it was not donated for this kind of access, and can't be had otherwise.
        """
        have, wanted = fcntl.fcntl(self.fd, fcntl.F_GETFL) & O_ACCMODE, flags & O_ACCMODE
        if wanted != have != O_RDWR:
            raise EACCES
        file = HostFile(self._loop, self.fs, os.dup(self.fd))
        file.flags = flags
        return file

    async def setattr(self, change: AttrChange) -> None:
        """Attributes of a host file are not the application's to change: they are kept for its own eyes."""
        if change.mode is not None:
            self.mode = self.mode & ~0o7777 | change.mode
        if change.uid is not None:
            self.uid = change.uid
        if change.gid is not None:
            self.gid = change.gid
        if change.size is not None:
            os.ftruncate(self.fd, change.size)


class HostFile(File):
    """A donated descriptor; closes it in the end."""

    __slots__ = ("_loop", "_pollable", "fd")

    writes_all: ClassVar[bool] = True

    def __init__(self, loop: Loop, fs: HostFs, fd: int) -> None:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        self.fd = -1  # so that File's own `offset = 0` moves nothing
        super().__init__(HostInode(loop, fs, fd), None, flags & (O_ACCMODE | O_APPEND))
        self.fd = fd
        self._loop = loop
        # epoll refuses what is always ready (regular files, /dev/null); such a file never blocks.
        self._pollable = not stat.S_ISREG(self.inode.mode) and _epoll_accepts(fd)
        if self._pollable:
            loop.watch_fd(fd, select.EPOLLONESHOT, self._ready)

    @property
    def offset(self) -> int:
        """The position that is shared with the host; 0 where there is none."""
        try:
            return os.lseek(self.fd, 0, SEEK_CUR)
        except OSError:
            return 0

    @offset.setter
    def offset(self, position: int) -> None:
        if self.fd >= 0 and stat.S_ISREG(self.inode.mode):
            os.lseek(self.fd, position, SEEK_SET)

    def _host_poll(self, events: int) -> int:
        if not self._pollable:
            return events
        poller = select.poll()
        poller.register(self.fd, events)
        found = poller.poll(0)
        return found[0][1] if found else 0

    def _ready(self, events: int) -> None:
        """The loop saw readiness, once (EPOLLONESHOT): wake the waiters; who waits on arms it again."""
        # The end of the other side is readable (end of file) and writable (EPIPE) alike.
        self.queue.wake(ANY if events & (POLLERR | POLLHUP) else events | POLLRDNORM | POLLWRNORM)

    def poll(self) -> int:
        wanted = (POLLIN if self.readable else 0) | (POLLOUT if self.writable else 0)
        events = self._host_poll(wanted)
        if events & wanted != wanted and self._pollable:
            self._wait_for(wanted & ~events)
        if events & POLLIN:
            events |= POLLRDNORM
        if events & POLLOUT:
            events |= POLLWRNORM
        return events

    def _wait_for(self, events: int) -> None:
        self._loop.watch_fd(self.fd, events | select.EPOLLONESHOT, self._ready)

    def read(self, dst: Sink) -> int:
        if not self._host_poll(POLLIN):
            self._wait_for(select.EPOLLIN)
            raise EAGAIN
        try:
            data = os.read(self.fd, min(dst.remaining, CHUNK))
        except BlockingIOError:
            self._wait_for(select.EPOLLIN)
            raise EAGAIN from None
        except OSError as e:
            raise from_host(e) from None
        return dst.put(data)

    def write(self, src: Source) -> int:
        if self._pollable and not fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_NONBLOCK:
            return self._write_if_polled(src)
        return self._write_at_once(src)

    def _write_if_polled(self, src: Source) -> int:
        """To what would block if it were given more than it asks for."""
        done = 0
        while src.remaining:
            events = self._host_poll(POLLOUT)
            if not events & (POLLOUT | POLLERR):
                return self._written(done)
            if events & POLLERR and not events & POLLOUT:
                if done:
                    return done
                raise EPIPE
            count = self._write_some(src, PIPE_BUF, done)
            if not count:
                return self._written(done)
            done += count
        return done

    def _write_at_once(self, src: Source) -> int:
        """To what takes what it has room for, or never blocks."""
        done = 0
        while remaining := src.remaining:
            limit = min(remaining, CHUNK)
            count = self._write_some(src, CHUNK, done)
            done += count
            if count < limit:  # it is full, or the source or the host has failed
                return self._written(done)
        return done

    def _write_some(self, src: Source, limit: int, done: int) -> int:
        """One write(2); the count, 0 if it would have blocked.  What the host refuses counts as not taken.

        An error after the first `done` bytes only ends the write: the next one will meet it again.
        """
        try:
            data = src.take(limit)
        except EFAULT:
            if not done:
                raise
            return 0
        count = 0
        try:
            count = os.write(self.fd, data)
        except BlockingIOError:
            pass
        except OSError as e:
            if not done:
                raise (EPIPE if isinstance(e, BrokenPipeError) else from_host(e)) from None
        finally:
            if count < len(data):
                src.give_back(len(data) - count)
        return count

    def _written(self, done: int) -> int:
        """The write ends before its data does.  EAGAIN, and a wake-up once there is room, if nothing was written."""
        if not done:
            self._wait_for(select.EPOLLOUT)
            raise EAGAIN
        return done

    def read_at(self, dst: Sink, offset: int) -> int:
        try:
            return dst.put(os.pread(self.fd, min(dst.remaining, 1 << 20), offset))
        except OSError as e:
            raise from_host(e) from None

    def write_at(self, src: Source, offset: int) -> int:
        try:
            return os.pwrite(self.fd, src.take(1 << 20), offset)
        except OSError as e:
            raise from_host(e) from None

    def seek(self, offset: int, whence: int) -> int:
        if not stat.S_ISREG(self.inode.mode) or whence not in (SEEK_SET, SEEK_CUR, SEEK_END):
            raise ESPIPE
        try:
            return os.lseek(self.fd, offset, whence)
        except OSError as e:
            raise from_host(e) from None

    async def host_fd(self, writable: bool) -> int:
        if not stat.S_ISREG(self.inode.mode):
            raise ENODEV
        return self.fd

    async def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self.fd, size)
        except OSError as e:
            raise from_host(e) from None

    async def fsync(self, datasync: bool) -> None:
        try:
            (os.fdatasync if datasync else os.fsync)(self.fd)
        except OSError as e:
            raise from_host(e) from None

    def describe(self) -> str | None:
        if stat.S_ISFIFO(self.inode.mode):
            return f"pipe:[{self.inode.ino}]"
        if self.inode.rdev == DEV_NULL:
            return "/dev/null"
        return f"host:[{self.inode.ino}]"

    def release(self) -> None:
        if self._pollable:
            self._loop.unwatch_fd(self.fd)
        os.close(self.fd)


def _epoll_accepts(fd: int) -> bool:
    probe = select.epoll()
    try:
        probe.register(fd, 0)
    except PermissionError:
        return False
    finally:
        probe.close()
    return True
