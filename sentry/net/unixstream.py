"""SOCK_STREAM of AF_UNIX: bytes without boundaries, but for descriptors and credentials that came with them.

A write makes messages of up to CHUNK bytes, as Linux does, so that a nonblocking writer gets
as far as it does there.  A read joins messages, up to one that brought descriptors, and never
those of different writers if the reader wants credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from sentry.abi.errno import EAGAIN, EFAULT, EINVAL, EISCONN, ENOTCONN, EOPNOTSUPP, EPIPE
from sentry.abi.poll import READABLE
from sentry.abi.socket import MSG_OOB, MSG_PEEK, RCV_SHUTDOWN, SEND_SHUTDOWN
from sentry.net.message import PLAIN, Message, Outgoing, Received
from sentry.net.unix import ESTABLISHED, UnixSocket
from sentry.vfs.iov import Sink, Source

if TYPE_CHECKING:
    from sentry.kernel.task import Task

CHUNK: Final = 3776 + 32768  # SKB_MAX_HEAD(0) + UNIX_SKB_FRAGS_SZ
SMALL: Final = 2048  # fits into one chunk, however small the buffer was made


class UnixStream(UnixSocket):
    """An end of a byte stream."""

    __slots__ = ()

    writes_all: ClassVar[bool] = True
    CONNECTED: ClassVar[bool] = True

    async def resolve(self, t: Task, address: bytes, size: int, nonblock: bool) -> None:
        """EISCONN, EOPNOTSUPP: there is only the peer to send to."""
        raise EISCONN if self.state == ESTABLISHED else EOPNOTSUPP

    def send(self, src: Source, out: Outgoing, flags: int) -> int:
        """Errors: EOPNOTSUPP, ENOTCONN, EPIPE (the caller adds SIGPIPE), EFAULT, EAGAIN, the pending one."""
        if flags & MSG_OOB:
            raise EOPNOTSUPP("out-of-band data")
        peer = self.peer
        if peer is None:
            raise ENOTCONN
        if self.shut & SEND_SHUTDOWN or peer.shut & RCV_SHUTDOWN:
            raise EPIPE
        done = 0
        chunk = (self.sndbuf >> 1) - 64
        if chunk > CHUNK:
            chunk = CHUNK
        creds = self.stamp(peer, out)
        while left := src.remaining:
            if self.charged >= self.sndbuf:
                if done:
                    break
                error = self.take_error()
                raise error or EAGAIN
            try:
                data = src.take(chunk if left > chunk else left)
            except EFAULT:
                if done:
                    break
                raise
            message = Message(data, self, creds, None if out.parcel is None else out.take_parcel())
            self.charged += message.cost
            peer.messages.append(message)
            done += len(data)
            if len(data) < chunk and len(data) < left:
                break  # the rest is unreadable
        if done:
            peer.queue.wake(READABLE)
        return done

    def write(self, src: Source) -> int:
        peer, left = self.peer, src.remaining
        if (
            peer is None or not 0 < left <= SMALL or self.charged >= self.sndbuf or self.shut or peer.shut
            or not peer.accepted or self.passcred or peer.passcred or self.passpidfd or peer.passpidfd
        ):  # fmt: skip
            return self.send(src, PLAIN, 0)
        # By far the most frequent case: one message, and nobody wants to know who sent it.
        message = Message(src.take(left), self, None, None)
        self.charged += message.cost
        peer.messages.append(message)
        peer.queue.wake(READABLE)
        return len(message.data)

    def read(self, dst: Sink) -> int:
        messages = self.messages
        if len(messages) == 1 and not self.passcred:
            # By far the most frequent case: one message, all of which fits.
            message = messages[0]
            data = message.data
            if message.parcel is None and not message.start and len(data) <= dst.remaining:
                n = dst.put(data)
                if n == len(data):
                    messages.popleft()
                    self.discharge(message)
                else:
                    message.start = n
                return n
        return super().read(dst)

    def receive(self, dst: Sink, flags: int, got: Received) -> None:
        """Errors: EINVAL not connected, EOPNOTSUPP, the pending one, EAGAIN, EFAULT."""
        if self.state != ESTABLISHED:
            raise EINVAL("not connected")
        if flags & MSG_OOB:
            raise EOPNOTSUPP("out-of-band data")
        if not self.messages:
            error = self.take_error()
            if error is not None:
                raise error
            if not self.shut & RCV_SHUTDOWN:
                raise EAGAIN
            return
        parts = self._gather(dst.remaining, got)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        n = dst.put(data) if data else 0
        self._consume(n, got, bool(flags & MSG_PEEK))
        got.count += n

    def _gather(self, room: int, got: Received) -> list[bytes]:
        """Bytes that one call may read at once.  Notes their sender in got."""
        parts: list[bytes] = []
        for message in self.messages:
            if got.stamped:
                if message.creds != got.creds:
                    got.ended = True
                    break
            elif self.passcred or self.passpidfd:
                got.stamped = True
                got.creds = message.creds
            if got.name is None:
                got.name = message.sender.address
            part = message.data[message.start : message.start + room] if message.start else message.data[:room]
            parts.append(part)
            room -= len(part)
            if message.parcel is not None or not room:
                break
        return parts

    def _consume(self, count: int, got: Received, peek: bool) -> None:
        """The first count bytes were read, or (peek) looked at."""
        messages = self.messages
        if peek:
            for message in messages:
                if count <= 0:
                    break
                got.take(message, True)
                count -= len(message.data) - message.start
            return
        while count:
            message = messages[0]
            got.take(message, False)
            left = len(message.data) - message.start
            if count < left:
                message.start += count
                return
            count -= left
            messages.popleft()
            self.discharge(message)
