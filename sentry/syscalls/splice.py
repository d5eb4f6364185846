"""sendfile(2), copy_file_range(2), splice(2), tee(2), vmsplice(2): bytes from one descriptor to another.

Linux moves pages; here the bytes go through memory of ours, in slices, with a pause between
them so that other tasks run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi import stat as st
from sentry.abi.errno import EAGAIN, EBADF, EINVAL, EISDIR, EOVERFLOW, EPIPE, ESPIPE, LinuxError
from sentry.abi.fcntl import MAX_RW_COUNT, O_APPEND, O_NONBLOCK, O_RDONLY
from sentry.abi.poll import POLLIN, READABLE, WRITABLE
from sentry.fs.pipefs import Pipe, PipeFile
from sentry.kernel.blocking import block_on, held, sleep_until, wait_on
from sentry.kernel.restart import ERESTARTSYS, Interrupted
from sentry.syscalls.args import U32_DECODE, Addr, Arg, Fd, Flags, Size, flags_of
from sentry.syscalls.read_write import import_iov, limit_size, send_sigpipe, write_rest
from sentry.syscalls.registry import syscall
from sentry.vfs.file import MAX_OFFSET, File
from sentry.vfs.iov import BytesSink, BytesSource, user_sink, user_source

if TYPE_CHECKING:
    from sentry.kernel.task import Task

SLICE: Final = 1 << 20
PAUSE_NS: Final = 50_000

SPLICE_F_MOVE: Final = 1
SPLICE_F_NONBLOCK: Final = 2
SPLICE_F_MORE: Final = 4
SPLICE_F_GIFT: Final = 8
NAMES: Final = {
    SPLICE_F_MOVE: "SPLICE_F_MOVE",
    SPLICE_F_NONBLOCK: "SPLICE_F_NONBLOCK",
    SPLICE_F_MORE: "SPLICE_F_MORE",
    SPLICE_F_GIFT: "SPLICE_F_GIFT",
}
SpliceFlags = Annotated[int, Arg(U32_DECODE, flags_of(NAMES))]


# -- one side --


def _read_offset(t: Task, addr: int) -> int | None:
    """The loff_t at addr; None without one.  EFAULT; EINVAL: negative."""
    if not addr:
        return None
    offset = int.from_bytes(t.mem.read(addr, 8), "little", signed=True)
    if offset < 0:
        raise EINVAL("negative offset")
    return offset


def _store_offset(t: Task, addr: int, offset: int) -> None:
    if addr:
        t.mem.write(addr, offset.to_bytes(8, "little"))


def _fetch(file: File, limit: int, offset: int | None) -> bytes:
    """Up to limit bytes at offset, which stays, or from the file's own position."""
    sink = BytesSink(limit)
    if offset is None:
        file.read(sink)
    else:
        file.read_at(sink, offset)
    return bytes(sink.data)


async def _store(t: Task, file: File, data: bytes, offset: int | None) -> int:
    """Write data, waiting if the file is a blocking stream; the count, short for all that write(2) is short for."""
    src = BytesSource(data)
    if st.is_reg(file.inode.mode):
        start = offset if offset is not None else file.end_offset() if file.flags & O_APPEND else file.offset
        limit_size(t, src, start)
        src = BytesSource(data[: src.remaining])
        return file.write_at(src, offset) if offset is not None else file.write(src)
    if offset is not None:
        return file.write_at(src, offset)
    if not file.flags & O_NONBLOCK:
        return await write_rest(t, file, src, 0)
    try:
        return file.write(src)
    except EPIPE:
        if file.writes_all:
            send_sigpipe(t)
        raise


async def _pause(t: Task) -> None:
    """Let others run.  Interrupted."""
    await sleep_until(t, t.kernel.loop.now_ns() + PAUSE_NS, ERESTARTSYS)


# -- file to file --


async def _copy(t: Task, source: File, position: int, target: File, target_offset: int | None, count: int) -> int:
    """Copy up to count bytes; the number that arrived.  What goes wrong after the first byte only ends it."""
    done = 0
    try:
        while done < count:
            if done:
                await _pause(t)
            data = _fetch(source, min(SLICE, count - done), position + done)
            if not data:
                break
            n = await _store(t, target, data, None if target_offset is None else target_offset + done)
            done += n
            if n < len(data):
                break
    except (LinuxError, Interrupted):
        if not done:
            raise
    return done


@syscall
async def sendfile(t: Task, out_fd: Fd, in_fd: Fd, offset_addr: Addr, count: Size) -> int:
    """sendfile(2): from a file that has positions to any other.

    Linux: fs/read_write.c:do_sendfile
    Blocks: while the target does
    Errors: EFAULT; EBADF; ESPIPE; EINVAL no positions, O_APPEND; as read and write
    """
    given = _read_offset(t, offset_addr)
    source = t.files.readable(in_fd)
    if given is not None and not source.seekable:
        raise ESPIPE
    target = t.files.writable(out_fd)
    if st.is_dir(source.inode.mode):
        raise EINVAL("a directory")
    count = min(count, MAX_RW_COUNT)
    position = source.offset if given is None else given
    if not isinstance(target, PipeFile) and (target.flags & O_APPEND or not source.seekable):
        raise EINVAL
    with held(source, target):
        if isinstance(target, PipeFile):
            n = await _file_to_pipe(t, source, position if source.seekable else None, target, count, 0)
        else:
            n = await _copy(t, source, position, target, None, count)
    if given is not None:
        _store_offset(t, offset_addr, given + n)
    elif source.seekable:
        source.offset = position + n
    return n


@syscall
async def copy_file_range(
    t: Task, in_fd: Fd, in_addr: Addr, out_fd: Fd, out_addr: Addr, count: Size, flags: Flags
) -> int:
    """copy_file_range(2): between regular files.

    Linux: fs/read_write.c:vfs_copy_file_range
    Errors: EBADF; EFAULT; EINVAL flags, not regular, overlapping; EISDIR; EOVERFLOW; EFBIG; as read and write
    """
    source, target = t.files.get(in_fd), t.files.get(out_fd)
    in_given, out_given = _read_offset(t, in_addr), _read_offset(t, out_addr)
    if flags:
        raise EINVAL("flags")
    _check_regular(source, target)
    position = source.offset if in_given is None else in_given
    out_position = target.offset if out_given is None else out_given
    count = min(count, MAX_RW_COUNT)
    if max(position, out_position) + count > MAX_OFFSET:
        raise EOVERFLOW
    count = min(count, max(source.end_offset() - position, 0))
    if source.inode is target.inode and abs(position - out_position) < count:
        raise EINVAL("overlapping ranges")
    with held(source, target):
        n = await _copy(t, source, position, target, out_position, count) if count else 0
    if in_given is None:
        source.offset = position + n
    if out_given is None:
        target.offset = out_position + n
    _store_offset(t, in_addr, position + n)
    _store_offset(t, out_addr, out_position + n)
    return n


def _check_regular(source: File, target: File) -> None:
    """generic_file_rw_checks()."""
    modes = (source.inode.mode, target.inode.mode)
    if any(st.is_dir(mode) for mode in modes):
        raise EISDIR
    if not all(st.is_reg(mode) for mode in modes):
        raise EINVAL("not a regular file")
    if not source.readable or not target.writable or target.flags & O_APPEND:
        raise EBADF


# -- pipes --


async def _wait_for_room(t: Task, pipe: Pipe, nonblock: bool) -> int:
    """How much fits.  EPIPE with SIGPIPE; EAGAIN; Interrupted."""
    while True:
        if not pipe.readers:
            send_sigpipe(t)
            raise EPIPE
        if pipe.room > 0:
            return pipe.room
        if nonblock:
            raise EAGAIN
        await wait_on(t, pipe.queue, WRITABLE)


async def _wait_for_data(t: Task, pipe: Pipe, nonblock: bool) -> int:
    """How much is there; 0 if nobody will write any more.  EAGAIN; Interrupted."""
    while not pipe.data and pipe.writers:
        if nonblock:
            raise EAGAIN
        await wait_on(t, pipe.queue, READABLE)
    return len(pipe.data)


async def _file_to_pipe(t: Task, source: File, offset: int | None, target: PipeFile, count: int, flags: int) -> int:
    """What fits, once."""
    nonblock = bool(flags & SPLICE_F_NONBLOCK or target.flags & O_NONBLOCK)
    room = await _wait_for_room(t, target.pipe, nonblock)
    limit = min(count, room)
    data = await block_on(t, source, POLLIN, lambda: _fetch(source, limit, offset), nonblock=nonblock)
    if data:
        target.pipe.put(data)
    return len(data)


async def _pipe_to_file(t: Task, source: PipeFile, target: File, offset: int | None, count: int, flags: int) -> int:
    """Until count, or the pipe is empty after something came."""
    pipe = source.pipe
    nonblock = bool(flags & SPLICE_F_NONBLOCK or source.flags & O_NONBLOCK)
    done = 0
    try:
        await _wait_for_data(t, pipe, nonblock)
        while pipe.data and done < count:
            data = pipe.take(min(count - done, SLICE))
            n = 0
            try:
                n = await _store(t, target, data, None if offset is None else offset + done)
            finally:
                pipe.put_back(data[n:])
            done += n
            if n < len(data):
                break
    except (LinuxError, Interrupted):
        if not done:
            raise
    return done


async def _pipe_to_pipe(t: Task, source: PipeFile, target: PipeFile, count: int, flags: int, keep: bool) -> int:
    """splice_pipe_to_pipe(), and (keep) tee: what is there and fits, once."""
    if source.pipe is target.pipe:
        raise EINVAL("the same pipe")
    nonblock = bool(flags & SPLICE_F_NONBLOCK or (source.flags | target.flags) & O_NONBLOCK)
    while True:
        available = await _wait_for_data(t, source.pipe, nonblock)
        if not available:
            return 0
        room = await _wait_for_room(t, target.pipe, nonblock)
        # While this waited for room, others may have taken the data.
        n = min(count, room, len(source.pipe.data))
        if n:
            break
    target.pipe.put(bytes(memoryview(source.pipe.data)[:n]) if keep else source.pipe.take(n))
    return n


def _check_splice_flags(flags: int) -> None:
    if flags & ~(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT):
        raise EINVAL("unknown flags")


@syscall
async def splice(t: Task, in_fd: Fd, in_addr: Addr, out_fd: Fd, out_addr: Addr, count: Size, flags: SpliceFlags) -> int:
    """splice(2): between a pipe and anything.

    Linux: fs/splice.c:do_splice
    Blocks: for data or room in the pipe, and while the other side does
    Errors: EINVAL flags, no pipe, O_APPEND; EBADF; ESPIPE an offset for a pipe; EFAULT; EAGAIN; EPIPE
    """
    if not count:
        return 0
    _check_splice_flags(flags)
    source, target = t.files.readable(in_fd), t.files.writable(out_fd)
    if (in_addr and isinstance(source, PipeFile)) or (out_addr and isinstance(target, PipeFile)):
        raise ESPIPE
    out_offset, in_offset = _read_offset(t, out_addr), _read_offset(t, in_addr)
    count = min(count, MAX_RW_COUNT)
    with held(source, target):
        return await _splice(t, (source, in_addr, in_offset), (target, out_addr, out_offset), count, flags)


async def _splice(
    t: Task, giver: tuple[File, int, int | None], taker: tuple[File, int, int | None], count: int, flags: int
) -> int:
    """By kind of the two sides, each (file, address of its offset, offset)."""
    (source, in_addr, in_offset), (target, out_addr, out_offset) = giver, taker
    if isinstance(source, PipeFile) and isinstance(target, PipeFile):
        return await _pipe_to_pipe(t, source, target, count, flags, keep=False)
    if isinstance(source, PipeFile):
        if target.flags & O_APPEND or (out_offset is not None and not target.seekable):
            raise EINVAL
        n = await _pipe_to_file(t, source, target, out_offset, count, flags)
        _store_offset(t, out_addr, (out_offset or 0) + n)
        return n
    if isinstance(target, PipeFile):
        if st.is_dir(source.inode.mode) or (in_offset is not None and not source.seekable):
            raise EINVAL
        n = await _file_to_pipe(t, source, in_offset, target, count, flags)
        _store_offset(t, in_addr, (in_offset or 0) + n)
        return n
    raise EINVAL("neither is a pipe")


@syscall
async def tee(t: Task, in_fd: Fd, out_fd: Fd, count: Size, flags: SpliceFlags) -> int:
    """tee(2): copy from pipe to pipe, without taking anything out.

    Errors: EINVAL flags, not two pipes; EBADF; EAGAIN; EPIPE
    """
    _check_splice_flags(flags)
    if not count:
        return 0
    source, target = t.files.readable(in_fd), t.files.writable(out_fd)
    if not isinstance(source, PipeFile) or not isinstance(target, PipeFile):
        raise EINVAL("not a pipe")
    with held(source, target):
        return await _pipe_to_pipe(t, source, target, min(count, MAX_RW_COUNT), flags, keep=True)


@syscall
async def vmsplice(t: Task, fd: Fd, iov_addr: Addr, iov_count: Size, flags: SpliceFlags) -> int:
    """vmsplice(2): memory into a pipe, or out of it.  The pages are copied, so a gift stays the giver's.

    Errors: EINVAL; EBADF not a pipe; EFAULT; EAGAIN; EPIPE
    """
    _check_splice_flags(flags)
    file = t.files.get(fd)
    if not isinstance(file, PipeFile):
        raise EBADF
    segments = import_iov(t, iov_addr, iov_count)
    nonblock = bool(flags & SPLICE_F_NONBLOCK)
    pipe = file.pipe
    if file.access == O_RDONLY:
        dst = user_sink(t.mem, segments)
        return await block_on(t, file, POLLIN, lambda: file.read(dst), nonblock=nonblock)
    src = user_source(t.mem, segments)
    if not src.remaining:
        return 0
    with held(file):
        room = await _wait_for_room(t, pipe, nonblock)
        data = src.take(room)
        pipe.put(data)
    return len(data)
