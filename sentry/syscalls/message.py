"""send(2), recv(2) and their relatives.

As read and write, the handlers are plain: they try at once, and only what would block
becomes a coroutine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from sentry.abi.errno import EAGAIN, EINVAL, EMSGSIZE, ENOBUFS, EPIPE, LinuxError
from sentry.abi.fcntl import MAX_RW_COUNT, O_NONBLOCK, UIO_MAXIOV
from sentry.abi.poll import POLLIN, POLLOUT
from sentry.abi.socket import (
    MMSGHDR_LEN,
    MMSGHDR_SIZE,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_WAITALL,
    MSG_WAITFORONE,
    MSGHDR,
    MSGHDR_NAMELEN,
    MSGHDR_RESULT,
    RESULT,
    SOCKADDR_STORAGE_SIZE,
    U32,
)
from sentry.abi.time import NSEC, TIMESPEC
from sentry.kernel.blocking import block_on
from sentry.kernel.restart import Interrupted
from sentry.net import scm
from sentry.net.message import PLAIN, Outgoing, Received
from sentry.net.socket import Socket
from sentry.syscalls.args import I32, U32_DECODE, Addr, Arg, Fd, Size, flags_of
from sentry.syscalls.args import U32 as U32Arg
from sentry.syscalls.read_write import import_iov, send_sigpipe
from sentry.syscalls.registry import syscall
from sentry.syscalls.showsocket import MSG_NAMES
from sentry.syscalls.socket import read_address, socket_of, write_address
from sentry.vfs.iov import Sink, Source, UserBuffer, UserData, user_sink, user_source

if TYPE_CHECKING:
    from sentry.kernel.task import Task

Result = int | Awaitable[int]
MsgFlags = Annotated[int, Arg(U32_DECODE, flags_of(MSG_NAMES))]
MAX_CONTROL: Final = 131072  # /proc/sys/net/core/optmem_max


class Header(NamedTuple):
    """struct msghdr, checked."""

    name_addr: int
    name_length: int
    segments: list[tuple[int, int]]
    control_addr: int
    control_length: int


def read_header(t: Task, addr: int) -> Header:
    """copy_msghdr_from_user().  EFAULT, EINVAL, EMSGSIZE."""
    name_addr, name_length, iov, iov_count, control, control_length, _ = MSGHDR.unpack(t.mem.read(addr, MSGHDR.size))
    if not name_addr:
        name_length = 0
    if name_length < 0:
        raise EINVAL("address length")
    if iov_count > UIO_MAXIOV:
        raise EMSGSIZE
    segments = import_iov(t, iov, iov_count) or [(0, 0)]
    return Header(name_addr, min(name_length, SOCKADDR_STORAGE_SIZE), segments, control, control_length)


# -- sending --


def do_send(t: Task, sock: Socket, src: Source, name: bytes, control: bytes, flags: int) -> Result:
    """One message.  name and control may be empty."""
    if not name and not control:
        return _send(t, sock, src, PLAIN, flags)
    out = Outgoing()
    if control:
        sock.attach(t, out, control)
    if name:
        return _send_to(t, sock, src, name, out, flags)
    return _send(t, sock, src, out, flags)


async def _send_to(t: Task, sock: Socket, src: Source, name: bytes, out: Outgoing, flags: int) -> int:
    try:
        out.target = await sock.resolve(t, name, src.remaining, bool(flags & MSG_DONTWAIT))
    except BaseException:
        out.close()
        raise
    sent = _send(t, sock, src, out, flags)
    return sent if isinstance(sent, int) else await sent


def _send(t: Task, sock: Socket, src: Source, out: Outgoing, flags: int) -> Result:
    """What goes at once, or a coroutine for what has to wait."""
    waits = not (flags & MSG_DONTWAIT or sock.flags & O_NONBLOCK)
    try:
        n = sock.send(src, out, flags)
    except EAGAIN:
        if waits:
            return _send_rest(t, sock, src, out, flags, 0)
        out.close()
        raise
    except BaseException as e:
        out.close()
        _signal(t, sock, e, flags)
        raise
    if waits and src.remaining and sock.writes_all:
        return _send_rest(t, sock, src, out, flags, n)
    out.close()
    return n


async def _send_rest(t: Task, sock: Socket, src: Source, out: Outgoing, flags: int, done: int) -> int:
    """Until all is sent; an error or signal after the first byte only ends it."""
    try:
        while True:
            done += await block_on(t, sock, POLLOUT, lambda: sock.send(src, out, flags))
            if not src.remaining or not sock.writes_all:
                return done
    except (LinuxError, Interrupted) as e:
        if not done:
            _signal(t, sock, e, flags)
            raise
        return done
    finally:
        out.close()


def _signal(t: Task, sock: Socket, e: BaseException, flags: int) -> None:
    """SIGPIPE is for streams."""
    if isinstance(e, EPIPE) and sock.writes_all and not flags & MSG_NOSIGNAL:
        send_sigpipe(t)


@syscall(gaps="no MSG_OOB")
def sendto(t: Task, fd: Fd, buf: Addr, length: Size, flags: MsgFlags, addr: Addr, addr_length: I32) -> Result:
    """sendto(2): send a message, maybe to a name.

    Linux: net/socket.c:__sys_sendto
    Blocks: while there is no room, for SO_SNDTIMEO at most
    Errors: EBADF, ENOTSOCK, EINVAL, EFAULT, EAGAIN, EPIPE (and SIGPIPE), ENOTCONN, EISCONN, EMSGSIZE, ECONNREFUSED
    """
    sock = socket_of(t, fd)
    name = read_address(t, addr, addr_length) if addr else b""
    return do_send(t, sock, UserData(t.mem, buf, min(length, MAX_RW_COUNT)), name, b"", flags)


@syscall(gaps="no MSG_OOB")
def sendmsg(t: Task, fd: Fd, msg: Addr, flags: MsgFlags) -> Result:
    """sendmsg(2): send a message with ancillary data.

    Linux: net/socket.c:__sys_sendmsg
    Errors: as sendto; EMSGSIZE, ENOBUFS; EINVAL, EBADF, EPERM, ETOOMANYREFS of ancillary data
    """
    return send_message(t, socket_of(t, fd), msg, flags)


def send_message(t: Task, sock: Socket, msg: int, flags: int) -> Result:
    header = read_header(t, msg)
    name = read_address(t, header.name_addr, header.name_length)
    control = b""
    if header.control_length:
        if header.control_length > MAX_CONTROL:
            raise ENOBUFS
        control = t.mem.read(header.control_addr, header.control_length)
    return do_send(t, sock, user_source(t.mem, header.segments), name, control, flags)


@syscall(gaps="no MSG_OOB")
async def sendmmsg(t: Task, fd: Fd, msgs: Addr, count: U32Arg, flags: MsgFlags) -> int:
    """sendmmsg(2): send several messages; how many were.

    Linux: net/socket.c:__sys_sendmmsg
    Errors: those of sendmsg, if the first fails
    """
    sock = socket_of(t, fd)
    done = 0
    try:
        for at in range(msgs, msgs + min(count, UIO_MAXIOV) * MMSGHDR_SIZE, MMSGHDR_SIZE):
            sent = send_message(t, sock, at, flags)
            t.mem.write(at + MMSGHDR_LEN, U32.pack(sent if isinstance(sent, int) else await sent))
            done += 1
    except (LinuxError, Interrupted):
        if not done:
            raise
    return done


# -- receiving --


def do_receive(t: Task, sock: Socket, dst: Sink, flags: int, got: Received) -> Awaitable[None] | None:
    """Fill got, at once (None) or by a coroutine.  Whoever calls it closes got, unless this raises."""
    needed = dst.remaining if flags & MSG_WAITALL else min(sock.rcvlowat, dst.remaining)
    try:
        sock.receive(dst, flags, got)
    except EAGAIN:
        if flags & MSG_DONTWAIT or sock.flags & O_NONBLOCK:
            raise
        return _receive_rest(t, sock, dst, flags, got, needed or 1)
    except BaseException:
        got.close()
        raise
    if got.count >= needed or got.ended or not got.count or flags & MSG_PEEK:
        return None
    return _receive_rest(t, sock, dst, flags, got, needed)


async def _receive_rest(t: Task, sock: Socket, dst: Sink, flags: int, got: Received, needed: int) -> None:
    """Until that much is there, or an end; an error or signal after the first byte only ends it."""
    nonblock = bool(flags & MSG_DONTWAIT)
    try:
        while got.count < needed and not got.ended:
            before = got.count
            await block_on(t, sock, POLLIN, lambda: sock.receive(dst, flags, got), nonblock=nonblock)
            if got.count == before or flags & MSG_PEEK:
                break
    except (LinuxError, Interrupted):
        if not got.count:
            got.close()
            raise


def _then(waiting: Awaitable[None] | None, finish: Callable[[], int]) -> Result:
    """finish() now, or after the wait."""
    return finish() if waiting is None else _after(waiting, finish)


async def _after(waiting: Awaitable[None], finish: Callable[[], int]) -> int:
    await waiting
    return finish()


@syscall(gaps="no MSG_OOB")
def recvfrom(t: Task, fd: Fd, buf: Addr, length: Size, flags: MsgFlags, addr: Addr, length_addr: Addr) -> Result:
    """recvfrom(2): receive, and maybe learn from whom.

    Linux: net/socket.c:__sys_recvfrom
    Blocks: while nothing is there, for SO_RCVTIMEO at most
    Errors: EBADF, ENOTSOCK, ENOTCONN, EINVAL, EAGAIN, ECONNRESET, EFAULT
    """
    sock = socket_of(t, fd)
    got = Received()
    dst = UserBuffer(t.mem, buf, min(length, MAX_RW_COUNT))

    def finish() -> int:
        try:
            if addr:
                write_address(t, addr, length_addr, got.name or b"")
            return got.count
        finally:
            got.close()

    return _then(do_receive(t, sock, dst, flags, got), finish)


@syscall(gaps="no MSG_OOB")
def recvmsg(t: Task, fd: Fd, msg: Addr, flags: MsgFlags) -> Result:
    """recvmsg(2): receive a message with its ancillary data.

    Linux: net/socket.c:__sys_recvmsg
    Errors: as recvfrom; EMSGSIZE
    """
    return receive_message(t, socket_of(t, fd), msg, flags)


def receive_message(t: Task, sock: Socket, msg: int, flags: int) -> Result:
    header = read_header(t, msg)
    got = Received()
    waiting = do_receive(t, sock, user_sink(t.mem, header.segments), flags, got)
    return _then(waiting, lambda: _finish_message(t, sock, msg, header, flags, got))


def _finish_message(t: Task, sock: Socket, msg: int, header: Header, flags: int, got: Received) -> int:
    """Ancillary data, the name, and what is to be seen in the header."""
    try:
        cloexec = flags & MSG_CMSG_CLOEXEC
        room = header.control_length if header.control_addr else 0
        control, more_flags, installed = scm.deliver(t, sock, got, room, bool(cloexec))
        if control:
            scm.store(t, header.control_addr, control, installed)
        if header.name_addr:
            write_address(t, header.name_addr, msg + MSGHDR_NAMELEN, got.name or b"")
        t.mem.write(msg + MSGHDR_RESULT, RESULT.pack(len(control), got.flags | more_flags | cloexec))
        return got.count
    finally:
        got.close()


@syscall(gaps="no MSG_OOB")
async def recvmmsg(t: Task, fd: Fd, msgs: Addr, count: U32Arg, flags: MsgFlags, timeout: Addr) -> int:
    """recvmmsg(2): receive several messages; how many came.

    Linux: net/socket.c:do_recvmmsg, whose timeout ends nothing but is looked at after each message
    Errors: those of recvmsg, if the first fails; an error later is reported by the next call
    """
    deadline_ns = _deadline(t, timeout)
    sock = socket_of(t, fd)
    error = sock.take_error()
    if error is not None:
        raise error
    now_ns = t.kernel.loop.now_ns
    done = 0
    try:
        while done < count:
            at = msgs + done * MMSGHDR_SIZE
            received = receive_message(t, sock, at, flags & ~MSG_WAITFORONE)
            t.mem.write(at + MMSGHDR_LEN, U32.pack(received if isinstance(received, int) else await received))
            done += 1
            if flags & MSG_WAITFORONE:
                flags |= MSG_DONTWAIT
            if deadline_ns is not None and now_ns() >= deadline_ns:
                break
    except (LinuxError, Interrupted) as e:
        if not done:
            raise
        if isinstance(e, LinuxError) and not isinstance(e, EAGAIN):
            sock.error = type(e)
    if deadline_ns is not None:
        t.mem.write(timeout, TIMESPEC.pack(*divmod(max(deadline_ns - now_ns(), 0), NSEC)))
    return done


def _deadline(t: Task, addr: int) -> int | None:
    """EFAULT, EINVAL."""
    if not addr:
        return None
    seconds, ns = TIMESPEC.unpack(t.mem.read(addr, TIMESPEC.size))
    if seconds < 0 or not 0 <= ns < NSEC:
        raise EINVAL("timeout")
    return t.kernel.loop.now_ns() + int(seconds) * NSEC + int(ns)
