"""The Sentry's end of a 9P connection: proto.ninep.connection put onto a socket and the loop.

    client = GoferClient(loop, sock, on_lost)
    await client.connect()
    reply, fd = await client.call(Tlopenfd(fid, O_RDONLY))

A job that calls parks until its reply arrives; no signal ends that wait, as none ends a wait
for a disk.  The server answers in order, so requests may be queued one behind the other
(`post`) without waiting for the first; they leave together when somebody waits.  When the
connection ends, every pending and later call fails with EIO and on_lost runs once: without
its files the sandbox cannot go on.
"""

from __future__ import annotations

import itertools
import os
import select
import struct
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_CTRUNC, SCM_RIGHTS, SOL_SOCKET, socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from proto.ninep.connection import Connection
from proto.ninep.dialect import Tclunkmany, Tplace
from proto.ninep.message import Message, ProtocolError
from proto.ninep.messages import NOTAG, Rlerror
from sentry.abi.errno import EIO, from_code
from sentry.wait import Job, Loop, park

RECEIVE_SIZE: Final = 64 << 10
MAX_FDS: Final = 64  # per recvmsg: the server sends one at a time, and no receive goes past the next
CLUNK_BATCH: Final = 512
CLUNK_DELAY_NS: Final = 2_000_000
PLACE_EVERY: Final = 15  # sends between two looks at where we run: the look costs as much as the sending

# As plain ints: arithmetic on members of an enum costs microseconds.
_TRUNCATED: Final = MSG_CTRUNC
_CLOEXEC: Final = MSG_CMSG_CLOEXEC
_FDS: Final = (SOL_SOCKET, SCM_RIGHTS)
_FD: Final = struct.Struct("i")
_CONTROL_SIZE: Final = CMSG_SPACE(MAX_FDS * 4)


class Call:
    """One request under way.  `reply` is set when the answer is there; None with `lost` when there will be none."""

    # Defaults of the class, and no constructor: one is made for each request.
    job: Job | None = None
    reply: Message | None = None
    fd = -1
    done = False


class GoferClient:
    """One connection, used by any number of jobs."""

    def __init__(self, loop: Loop, sock: socket, on_lost: Callable[[], None] | None = None) -> None:
        self.loop = loop
        self._sock = sock
        self._on_lost = on_lost
        self._connection = Connection()
        self._calls: dict[int, Call] = {}
        self._posted: list[bytes] = []  # frames to be sent when somebody waits
        self._unsent: deque[memoryview] = deque()  # what the socket had no room for
        self._clunks: list[int] = []
        self._numbers = itertools.count(1)
        self._placed: set[int] = set()  # where the server was told to run
        self._unplaced_sends = 0  # until the next look at where we run
        self.lost = False
        sock.setblocking(False)
        loop.watch_fd(sock.fileno(), select.EPOLLIN, self._on_event)

    @property
    def msize(self) -> int:
        return self._connection.msize

    async def connect(self) -> None:
        """Agree on the version."""
        call = self._calls[NOTAG] = Call()
        self._posted.append(self._connection.hello())
        await self.result(call)

    # -- requests --

    def call(self, request: Message) -> Coroutine[Any, Any, tuple[Any, int]]:
        """The reply and the descriptor that came with it (-1: none).  Raises what the server answered; EIO.

        The reply's class is the one that belongs to the request.
        """
        if self._posted or self.lost:
            return self.result(self.post(request))
        call = Call()
        tag, frame = self._connection.send(request)
        self._calls[tag] = call
        if self._unplaced_sends:
            self._unplaced_sends -= 1
            self._send(frame)
        else:
            self._posted.append(frame)  # result() sends it
        return self.result(call)

    def post(self, request: Message) -> Call:
        """Queue a request; result() sends it and waits for its reply."""
        call = Call()
        if self.lost:
            call.done = True
            return call
        tag, frame = self._connection.send(request)
        self._calls[tag] = call
        self._posted.append(frame)
        return call

    async def result(self, call: Call) -> tuple[Any, int]:
        """Wait for what post() sent."""
        if self._posted:
            self._send_posted()
        if not call.done:
            loop = self.loop
            call.job = loop.current_job()
            loop.likely = self._look
            while not call.done:
                await park()
        reply = call.reply
        if reply is None:
            raise EIO("the gofer is gone")
        if type(reply) is Rlerror:
            raise from_code(reply.ecode)
        return reply, call.fd

    def new_number(self) -> int:
        """For names that have to be unused."""
        return next(self._numbers)

    # -- fids --

    def new_fid(self) -> int:
        fid = self._connection.fids.take()
        if fid is None:
            raise EIO("out of fids")
        return fid

    def unused_fid(self, fid: int) -> None:
        """A fid that the server was never given, or refused."""
        self._connection.fids.give_back(fid)

    def clunk(self, fid: int) -> None:
        """Let the server forget fid, soon.  Finalisers call this, so nothing is sent from here."""
        if not self._clunks:
            self.loop.call_at(self.loop.now_ns() + CLUNK_DELAY_NS, self._send_clunks)
        self._clunks.append(fid)

    def _send_clunks(self) -> None:
        """Numbers are free again once the clunk is on its way: the server works in order."""
        fids, self._clunks = self._clunks, []
        if self.lost:
            return
        for start in range(0, len(fids), CLUNK_BATCH):
            batch = fids[start : start + CLUNK_BATCH]
            self.post(Tclunkmany(batch))
            for fid in batch:
                self._connection.fids.give_back(fid)
        self._send_posted()

    # -- the socket --

    def _place(self) -> None:
        """A Sentry that is bound to a processor wants its answers there, too: from another one they take longest."""
        self._unplaced_sends = PLACE_EVERY
        cpus = os.sched_getaffinity(0)
        if len(cpus) == 1 and cpus != self._placed and not self.lost:
            self._placed = cpus
            self.post(Tplace(*cpus))

    def _send_posted(self) -> None:
        if self._unplaced_sends:
            self._unplaced_sends -= 1
        else:
            self._place()
        posted = self._posted
        self._send(posted[0] if len(posted) == 1 else b"".join(posted))
        posted.clear()

    def _send(self, frame: bytes) -> None:
        if not self._unsent:
            try:
                sent = self._sock.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._lose()
                return
            if sent == len(frame):
                return
            self.loop.watch_fd(self._sock.fileno(), select.EPOLLIN | select.EPOLLOUT, self._on_event)
            self._unsent.append(memoryview(frame)[sent:])
        else:
            self._unsent.append(memoryview(frame))

    def _flush(self) -> None:
        unsent = self._unsent
        while unsent:
            try:
                sent = self._sock.send(unsent[0])
            except BlockingIOError:
                return
            if sent < len(unsent[0]):
                unsent[0] = unsent[0][sent:]
                return
            unsent.popleft()
        self.loop.watch_fd(self._sock.fileno(), select.EPOLLIN, self._on_event)

    def _look(self) -> bool:
        """Loop.likely: take a reply if one has come."""
        try:
            return self._receive()
        except (OSError, ProtocolError):
            self._lose()
            return True

    def _on_event(self, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._flush()
            if events & ~select.EPOLLOUT:
                self._receive()
        except (OSError, ProtocolError):
            self._lose()

    def _receive(self) -> bool:
        """False: nothing was there."""
        try:
            data, control, flags, _ = self._sock.recvmsg(RECEIVE_SIZE, _CONTROL_SIZE, _CLOEXEC)
        except BlockingIOError:
            return False
        if not data:
            raise ProtocolError("the server closed the connection")
        fds: Sequence[int] = ()
        if control:
            (level, kind, numbers), *more = control
            if not more and len(numbers) == _FD.size and (level, kind) == _FDS:
                fds = _FD.unpack(numbers)
            else:
                fds = _descriptors(control)
        if flags & _TRUNCATED:
            fds = (*fds, -1)  # no room in our table: the kernel dropped it, and only ever one comes at a time
        calls = self._calls
        wake = self.loop.wake
        for tag, reply, fd in self._connection.receive(data, fds):
            call = calls.pop(tag)
            call.reply = reply
            if fd is not None:
                call.fd = fd
            call.done = True
            if call.job is not None:
                wake(call.job)
        if not calls:
            self.loop.likely = None
        return True

    def _lose(self) -> None:
        """The connection is at its end."""
        if self.lost:
            return
        self.lost = True
        self.loop.unwatch_fd(self._sock.fileno())
        self._sock.close()
        _, fds = self._connection.close()
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        self.loop.likely = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.done = True
            if call.job is not None:
                self.loop.wake(call.job)
        if self._on_lost is not None:
            self._on_lost()

    def close(self) -> None:
        """End the connection on purpose."""
        self._on_lost = None
        self._lose()


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in control:
        if (level, kind) == _FDS:
            fds += [fd for (fd,) in _FD.iter_unpack(data[: len(data) - len(data) % _FD.size])]
    return fds
