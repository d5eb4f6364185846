"""The client's side of a 9P connection, sans-io: tags, fids, what is awaited, and which descriptor came with what.

    connection = Connection()
    sock.sendall(connection.hello())
    ...                                             # receive() until it returns the Rversion
    tag, frame = connection.send(Tgetattr(fid, GETATTR_BASIC))
    sock.send(frame)
    data, fds, _, _ = socket.recv_fds(sock, 65536, 16)
    for tag, reply, fd in connection.receive(data, fds): ...

The owner of the socket sends each frame whole and in order, hands in all bytes and descriptors that arrive, in order,
and owns every descriptor that receive() or close() returns.  ProtocolError means that the server broke the protocol:
call close() and drop the connection.
"""

from __future__ import annotations

from collections import deque

from proto.ninep.codec import DEFAULT_MSIZE, MIN_MSIZE, Decoder, encode, encoders
from proto.ninep.dialect import VERSION_PYSC, Rlcreatefd, Rlopenfd
from proto.ninep.message import Message, ProtocolError
from proto.ninep.messages import NOFID, NOTAG, Rlerror, Rversion, Tversion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


_DONATING = frozenset((Rlopenfd, Rlcreatefd))


class Numbers:
    """Small integers handed out and taken back: the lowest never used first, then the latest given back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._next = 0
        self.free: list[int] = []

    def take(self) -> int | None:
        """A number that nobody has; None when all are taken."""
        if self.free:
            return self.free.pop()
        if self._next == self._limit:
            return None
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        self.free.append(number)


class OutOfTags(Exception):
    """65,535 requests are waiting for replies already."""


class Connection:
    """One session.  `msize` and `version` are what was agreed once the Rversion has been received."""

    def __init__(self, msize: int = DEFAULT_MSIZE, version: bytes = VERSION_PYSC) -> None:
        self.msize = msize
        self.version = version
        self.fids = Numbers(NOFID)
        self._decoder = Decoder(msize)
        self._tags = Numbers(NOTAG)
        self._awaited: dict[int, int] = {}  # tag -> type number of its reply
        self._fds: deque[int] = deque()  # arrived, but the frames they belong to are not complete

    @property
    def pending(self) -> int:
        """How many requests await their replies."""
        return len(self._awaited)

    def hello(self) -> bytes:
        """The Tversion that must be sent first; its reply comes out of receive() with the tag NOTAG."""
        self._awaited[NOTAG] = Rversion.TYPE
        return encode(NOTAG, Tversion(self.msize, self.version))

    def send(self, request: Message) -> tuple[int, bytes]:
        """The tag and the frame of a request.  ValueError if it does not fit msize; struct.error as encode()."""
        free = self._tags.free
        tag = free.pop() if free else self._tags.take()
        if tag is None:
            raise OutOfTags
        try:
            frame: bytes = encoders[type(request)](tag, request)
            if len(frame) > self.msize:
                raise ValueError(f"{type(request).__name__} of {len(frame)} bytes, msize is {self.msize}")
        except Exception:
            self._tags.give_back(tag)
            raise
        self._awaited[tag] = request.TYPE + 1
        return tag, frame

    def receive(self, data: bytes, fds: Iterable[int] = ()) -> list[tuple[int, Message, int | None]]:
        """The replies completed by data: (tag, reply, donated descriptor or None)."""
        self._fds.extend(fds)
        whole = self._decoder.whole(data)
        if whole is not None:
            tag, reply = whole
            return [(tag, reply, self._accept(tag, reply))]
        replies: list[tuple[int, Message, int | None]] = []
        try:
            for tag, reply in self._decoder.feed(data):
                replies.append((tag, reply, self._accept(tag, reply)))
        except ProtocolError:
            self._fds.extend(fd for _, _, fd in replies if fd is not None)  # for close() to return
            raise
        return replies

    def _accept(self, tag: int, reply: Message) -> int | None:
        """Match a reply with its request; the descriptor that belongs to it."""
        wanted = self._awaited.pop(tag, None)
        if wanted != reply.TYPE and (wanted is None or type(reply) is not Rlerror):
            raise ProtocolError(f"{type(reply).__name__} with tag {tag} answers no request of ours")
        if tag != NOTAG:
            self._tags.free.append(tag)
        elif isinstance(reply, Rversion):
            self._agree(reply)
        if type(reply) in _DONATING and reply.has_fd:  # type: ignore[attr-defined]
            if not self._fds:
                raise ProtocolError(f"{type(reply).__name__}: its descriptor is missing")
            return self._fds.popleft()
        return None

    def _agree(self, reply: Rversion) -> None:
        if reply.version != self.version:
            raise ProtocolError(f"the server speaks {reply.version!r}, not {self.version!r}")
        if not MIN_MSIZE <= reply.msize <= self.msize:
            raise ProtocolError(f"msize {reply.msize} is no answer to {self.msize}")
        self.msize = self._decoder.msize = reply.msize

    def close(self) -> tuple[list[int], list[int]]:
        """Give up: the tags that will get no reply, and the descriptors that nobody has claimed (close them)."""
        abandoned = list(self._awaited), list(self._fds)
        self._awaited.clear()
        self._fds.clear()
        return abandoned
