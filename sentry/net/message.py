"""What lies in a socket's queue, what a send call hands over, and what a receive call brings back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sentry.net.flight import Parcel
    from sentry.net.identity import Identity
    from sentry.vfs.file import File

# What a message costs its sender besides its bytes: SKB_TRUESIZE(0), include/linux/skbuff.h.
OVERHEAD: Final = 576


class Message:
    """Bytes in a queue (struct sk_buff).  start: how many were read already.  cost: charged to the sender."""

    __slots__ = ("cost", "creds", "data", "parcel", "sender", "start", "time_ns")

    def __init__(self, data: bytes, sender: Any, creds: Identity | None, parcel: Parcel | None) -> None:
        self.data = data
        self.sender = sender
        self.creds = creds
        self.parcel = parcel
        self.start = 0
        self.cost = len(data) + OVERHEAD
        self.time_ns = 0

    def drop(self) -> None:
        """Nobody will read it."""
        if self.parcel is not None:
            self.parcel.drop()


class Outgoing:
    """What a send call carries besides its bytes.

    target   whom it is for, as Socket.resolve() found it; None: the peer
    creds    given by the sender; None: the socket's own business
    parcel   descriptors; None once they are on their way, so that what is left goes with close()
    """

    __slots__ = ("creds", "parcel", "target")

    def __init__(self) -> None:
        self.target: Any = None
        self.creds: Identity | None = None
        self.parcel: Parcel | None = None

    def take_parcel(self) -> Parcel | None:
        parcel, self.parcel = self.parcel, None
        return parcel

    def close(self) -> None:
        """The call is over."""
        if self.parcel is not None:
            self.parcel.drop()
            self.parcel = None


# write(2) has nothing of all that.
PLAIN: Final = Outgoing()


class Received:
    """What a receive call found, filled by Socket.receive(), maybe in several steps (MSG_WAITALL).

    count    the call's result so far
    flags    MSG_TRUNC
    name     the sender's address; None until it is known
    creds    the sender's; meaningful once stamped
    files    descriptors that came along: of a parcel that landed, or that stays in the queue (MSG_PEEK)
    ended    a boundary was reached: nothing more belongs to this call
    nothing  there was no message at all, so there is nothing to tell about one
    time_ns  when a datagram came, if the socket keeps that
    """

    __slots__ = ("_owned", "count", "creds", "ended", "files", "flags", "name", "nothing", "stamped", "time_ns")

    def __init__(self) -> None:
        self.count = 0
        self.flags = 0
        self.name: bytes | None = None
        self.creds: Identity | None = None
        self.stamped = False
        self.files: Sequence[File] = ()
        self.ended = False
        self.nothing = False
        self.time_ns = 0
        self._owned: Parcel | None = None

    def take(self, message: Message, peek: bool) -> None:
        """The descriptors of a message whose bytes were read, if it has any."""
        parcel = message.parcel
        if parcel is None:
            return
        self.files = parcel.files
        self.ended = True
        if not peek:
            message.parcel = None
            self._owned = parcel

    def close(self) -> None:
        """The call is over: whatever was not installed is gone."""
        if self._owned is not None:
            self._owned.drop()
            self._owned = None
