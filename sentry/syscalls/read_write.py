"""read(2), write(2) and their relatives.

The handlers are plain: they try at once, and only what would block becomes a coroutine.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from sentry.abi import stat as st
from sentry.abi.errno import EAGAIN, EBADF, EFBIG, EINVAL, EISDIR, EOPNOTSUPP, EPIPE, ESPIPE, LinuxError
from sentry.abi.fcntl import (
    MAX_RW_COUNT,
    O_ACCMODE,
    O_APPEND,
    O_DSYNC,
    O_NONBLOCK,
    O_SYNC,
    O_WRONLY,
    SEEK_HOLE,
    UIO_MAXIOV,
)
from sentry.abi.poll import POLLIN, POLLOUT
from sentry.abi.signal import SI_KERNEL, SIGXFSZ
from sentry.abi.stat import S_IFMT, S_IFREG
from sentry.kernel.blocking import block_on
from sentry.kernel.restart import Interrupted
from sentry.kernel.rlimits import RLIM_INFINITY, RLIMIT_FSIZE
from sentry.kernel.signals import SigInfo
from sentry.syscalls.args import I32, Addr, Fd, Flags, Offset, Size
from sentry.syscalls.registry import syscall
from sentry.vfs.attrs import SETID_BITS, mode_after_write
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange, Inode
from sentry.vfs.iov import Sink, Source, UserBuffer, UserData, user_sink, user_source

if TYPE_CHECKING:
    from sentry.kernel.task import Task

SIGPIPE: Final = 13
SSIZE_MAX: Final = (1 << 63) - 1

RWF_HIPRI: Final = 1
RWF_DSYNC: Final = 2
RWF_SYNC: Final = 4
RWF_NOWAIT: Final = 8
RWF_APPEND: Final = 16
RWF_KNOWN: Final = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND

Result = int | Awaitable[int]


def import_iov(t: Task, iov_addr: int, count: int) -> list[tuple[int, int]]:
    """struct iovec[count] (import_iovec): EINVAL for a bad count or length, EFAULT; cut at MAX_RW_COUNT bytes."""
    if count > UIO_MAXIOV:
        raise EINVAL("too many segments")
    segments: list[tuple[int, int]] = []
    room = MAX_RW_COUNT
    for base, length in struct.iter_unpack("<QQ", t.mem.read(iov_addr, 16 * count)) if count else ():
        if length > SSIZE_MAX:
            raise EINVAL("a segment's length is negative")
        length = min(length, room)
        room -= length
        segments.append((base, length))
    return segments


# ---- Reading.


@syscall
def read(t: Task, fd: Fd, buf: Addr, count: Size) -> Result:
    """read(2): read from a descriptor at its offset.

    Linux: fs/read_write.c:ksys_read
    Errors: EBADF, EISDIR, EINVAL, EFAULT, EAGAIN, what the file raises
    """
    file = t.files.readable(fd)
    return do_read(t, file, UserBuffer(t.mem, buf, count if count < MAX_RW_COUNT else MAX_RW_COUNT))


@syscall
def readv(t: Task, fd: Fd, iov: Addr, count: Size) -> Result:
    """readv(2): read into several buffers."""
    file = t.files.readable(fd)
    return do_read(t, file, user_sink(t.mem, import_iov(t, iov, count)))


def do_read(t: Task, file: File, dst: Sink, nowait: bool = False) -> Result:
    """At the file's own offset."""
    try:
        return file.read(dst)
    except EAGAIN:
        if nowait or file.flags & O_NONBLOCK:
            raise
    except EINVAL:
        refuse_directory(file)
        raise
    return block_on(t, file, POLLIN, lambda: file.read(dst), tried=True)


def do_pread(t: Task, file: File, dst: Sink, offset: int, nowait: bool = False) -> Result:
    """At offset, which the file does not take over."""
    try:
        return file.read_at(dst, offset)
    except EAGAIN:
        if nowait or file.flags & O_NONBLOCK:
            raise
    except EINVAL:
        refuse_directory(file)
        raise
    return block_on(t, file, POLLIN, lambda: file.read_at(dst, offset), tried=True)


def refuse_directory(file: File) -> None:
    if st.is_dir(file.inode.mode):
        raise EISDIR


@syscall
def pread64(t: Task, fd: Fd, buf: Addr, count: Size, offset: Offset) -> Result:
    """pread(2): read at an offset.

    Linux: fs/read_write.c:ksys_pread64
    Errors: EINVAL (negative offset), EBADF, ESPIPE, then as read
    """
    if offset < 0:
        raise EINVAL("negative offset")
    file = t.files.get(fd)
    if not file.seekable:
        raise ESPIPE
    if file.flags & O_ACCMODE == O_WRONLY:
        raise EBADF
    length = count if count < MAX_RW_COUNT else MAX_RW_COUNT
    try:
        return file.read_into(t.mem, buf, length, offset)
    except (EAGAIN, EINVAL):
        return do_pread(t, file, UserBuffer(t.mem, buf, length), offset)


def positioned(t: Task, fd: int) -> File:
    """EBADF, then ESPIPE, then the access mode is for the caller to check."""
    file = t.files.get(fd)
    if not file.seekable:
        raise ESPIPE
    return file


@syscall
def preadv(t: Task, fd: Fd, iov: Addr, count: Size, offset: Offset) -> Result:
    """preadv(2): read at an offset into several buffers."""
    if offset < 0:
        raise EINVAL("negative offset")
    file = positioned(t, fd)
    if not file.readable:
        raise EBADF
    return do_pread(t, file, user_sink(t.mem, import_iov(t, iov, count)), offset)


@syscall(gaps="RWF_NOWAIT may wait for the disk")
def preadv2(t: Task, fd: Fd, iov: Addr, count: Size, offset: Offset, high: Offset, flags: Flags) -> Result:
    """preadv2(2): preadv with flags; offset -1 is the file's own."""
    if flags & ~RWF_KNOWN or flags & RWF_APPEND:
        raise EOPNOTSUPP("unknown flags")
    nowait = bool(flags & RWF_NOWAIT)
    if offset == -1:
        file = t.files.readable(fd)
        return do_read(t, file, user_sink(t.mem, import_iov(t, iov, count)), nowait)
    if offset < 0:
        raise EINVAL("negative offset")
    file = positioned(t, fd)
    if not file.readable:
        raise EBADF
    return do_pread(t, file, user_sink(t.mem, import_iov(t, iov, count)), offset, nowait)


# ---- Writing.


@syscall
def write(t: Task, fd: Fd, buf: Addr, count: Size) -> Result:
    """write(2): write to a descriptor at its offset.

    Linux: fs/read_write.c:ksys_write
    Errors: EBADF, EINVAL, EFAULT, EFBIG, EPIPE, EAGAIN, what the file raises
    """
    file = t.files.writable(fd)
    return do_write(t, file, UserData(t.mem, buf, count if count < MAX_RW_COUNT else MAX_RW_COUNT))


@syscall
def writev(t: Task, fd: Fd, iov: Addr, count: Size) -> Result:
    """writev(2): write from several buffers."""
    file = t.files.writable(fd)
    return do_write(t, file, user_source(t.mem, import_iov(t, iov, count)))


def do_write(t: Task, file: File, src: Source, nowait: bool = False) -> Result:
    """At the file's own offset, or at its end."""
    inode = file.inode
    if inode.mode & S_IFMT == S_IFREG:
        limit_size(t, src, file.end_offset() if file.flags & O_APPEND else file.offset)
        n = file.write(src)
        if inode.mode & SETID_BITS or file.flags & O_SYNC:
            return after_write(t, file, n, inode.mode)
        return n
    try:
        n = file.write(src)
    except EAGAIN:
        if nowait or file.flags & O_NONBLOCK:
            raise
        return write_rest(t, file, src, 0)
    except EPIPE:
        if file.writes_all:
            send_sigpipe(t)
        raise
    if not src.remaining or not file.writes_all or nowait or file.flags & O_NONBLOCK:
        return n
    return write_rest(t, file, src, n)


async def write_rest(t: Task, file: File, src: Source, done: int) -> int:
    """A blocking write to a stream goes on until all is written; an error or signal then only ends it."""
    try:
        while src.remaining:
            done += await block_on(t, file, POLLOUT, lambda: file.write(src))
            if not file.writes_all:
                break
    except (LinuxError, Interrupted) as e:
        if isinstance(e, EPIPE) and file.writes_all:
            send_sigpipe(t)
        if not done:
            raise
    return done


def send_sigpipe(t: Task) -> None:
    """ "EPIPE: ... the writing process will also receive a SIGPIPE signal" - write(2)."""
    t.tg.send_to(t, SigInfo(SIGPIPE, pid=t.tg.pid, uid=t.creds.uid))


def limit_size(t: Task, src: Source, offset: int) -> None:
    """generic_write_checks(): shorten the write at RLIMIT_FSIZE.  EFBIG and SIGXFSZ when nothing is left."""
    limit = t.tg.rlimits.get(RLIMIT_FSIZE)[0]
    if limit == RLIM_INFINITY or not src.remaining:
        return
    check_size(t, offset + 1)
    src.remaining = min(src.remaining, limit - offset)


def check_size(t: Task, size: int) -> None:
    """inode_newsize_ok(): EFBIG and SIGXFSZ for a file larger than RLIMIT_FSIZE."""
    if size > t.tg.rlimits.get(RLIMIT_FSIZE)[0]:
        t.tg.send_to(t, SigInfo(SIGXFSZ, SI_KERNEL))
        raise EFBIG


async def after_write(t: Task, file: File, n: int, mode: int) -> int:
    """What a write has to do besides: settle the set-id bits, O_SYNC."""
    if mode & SETID_BITS:
        await settle_setid(t, file.inode, mode)
    if file.flags & O_DSYNC:
        await file.fsync(file.flags & O_SYNC != O_SYNC)
    return n


async def settle_setid(t: Task, inode: Inode, mode: int) -> None:
    """file_remove_privs(): a writer without CAP_FSETID takes the set-id bits off; for others they stay.

    Set explicitly in both cases, for a host that holds the file has its own idea of who writes.
    """
    inode.mode = mode
    left = mode_after_write(t.caller, inode)
    await inode.setattr(AttrChange(mode=mode & st.S_IALLUGO if left is None else left))


@syscall
def pwrite64(t: Task, fd: Fd, buf: Addr, count: Size, offset: Offset) -> Result:
    """pwrite(2): write at an offset.  With O_APPEND at the end all the same, as Linux does."""
    if offset < 0:
        raise EINVAL("negative offset")
    file = t.files.get(fd)
    if not file.seekable:
        raise ESPIPE
    if not file.flags & O_ACCMODE:
        raise EBADF
    length = count if count < MAX_RW_COUNT else MAX_RW_COUNT
    if (
        file.inode.mode & (S_IFMT | SETID_BITS) == S_IFREG
        and not file.flags & (O_APPEND | O_SYNC)
        and t.tg.rlimits.get(RLIMIT_FSIZE)[0] == RLIM_INFINITY
    ):
        # do_pwrite() would have nothing else to think of.
        return file.write_from(t.mem, buf, length, offset)
    return do_pwrite(t, file, UserData(t.mem, buf, length), offset)


@syscall
def pwritev(t: Task, fd: Fd, iov: Addr, count: Size, offset: Offset) -> Result:
    """pwritev(2): write at an offset from several buffers."""
    if offset < 0:
        raise EINVAL("negative offset")
    file = positioned(t, fd)
    if not file.writable:
        raise EBADF
    return do_pwrite(t, file, user_source(t.mem, import_iov(t, iov, count)), offset)


@syscall(gaps="RWF_NOWAIT may wait for the disk")
def pwritev2(t: Task, fd: Fd, iov: Addr, count: Size, offset: Offset, high: Offset, flags: Flags) -> Result:
    """pwritev2(2): pwritev with flags; offset -1 is the file's own."""
    if flags & ~RWF_KNOWN:
        raise EOPNOTSUPP("unknown flags")
    if offset < -1:
        raise EINVAL("negative offset")
    file = t.files.get(fd) if offset == -1 else positioned(t, fd)
    if not file.writable:
        raise EBADF
    src = user_source(t.mem, import_iov(t, iov, count))
    if flags & (RWF_DSYNC | RWF_SYNC):
        return write_synced(t, file, src, offset, flags)
    if offset == -1 and not flags & RWF_APPEND:
        return do_write(t, file, src, bool(flags & RWF_NOWAIT))
    if flags & RWF_APPEND:
        start = file.end_offset()
        n = do_pwrite(t, file, src, start)
        if offset == -1 and type(n) is int:
            file.offset = start + n
        return n
    return do_pwrite(t, file, src, offset)


async def write_synced(t: Task, file: File, src: Source, offset: int, flags: int) -> int:
    """A write that is on the disk when it returns."""
    start = file.end_offset() if flags & RWF_APPEND else offset
    n = do_write(t, file, src) if start == -1 else do_pwrite(t, file, src, start)
    count = n if isinstance(n, int) else await n
    await file.fsync(not flags & RWF_SYNC)
    return count


def do_pwrite(t: Task, file: File, src: Source, offset: int) -> Result:
    """At offset, or at the end of an O_APPEND file; the file's own offset stays."""
    if file.flags & O_APPEND:
        offset = file.end_offset()
    inode = file.inode
    if inode.mode & S_IFMT == S_IFREG:
        limit_size(t, src, offset)
        n = file.write_at(src, offset)
        if inode.mode & SETID_BITS or file.flags & O_SYNC:
            return after_write(t, file, n, inode.mode)
        return n
    try:
        return file.write_at(src, offset)
    except EAGAIN:
        if file.flags & O_NONBLOCK:
            raise
    return block_on(t, file, POLLOUT, lambda: file.write_at(src, offset))


# ---- Seeking.


@syscall
def lseek(t: Task, fd: Fd, offset: Offset, whence: I32) -> int:
    """lseek(2): move a file's offset.

    Linux: fs/read_write.c:ksys_lseek
    Errors: EBADF, EINVAL, ESPIPE, ENXIO, EOVERFLOW
    """
    file = t.files.get(fd)
    if not 0 <= whence <= SEEK_HOLE:
        raise EINVAL("unknown whence")
    return file.seek(offset, whence)
