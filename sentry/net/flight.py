"""Descriptors on their way in messages (SCM_RIGHTS): counted, limited, and not lost when nobody can receive them.

A Parcel holds the open files of one message.  Sockets may travel too, even through
themselves: then a queue that only a message in a queue leads to is garbage that no close(2)
will ever find.  collect() finds it, as net/unix/garbage.c: a socket in flight whose every
reference is a message in a queue that cannot be reached from outside either.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

from sentry.vfs.file import File

if TYPE_CHECKING:
    from collections.abc import Sequence

# With that many sockets in flight, each further doubling is reason enough to collect.  Fewer are looked at whenever a
# socket is closed.
COLLECT_FROM: Final = 64


class Carrier(Protocol):
    """A socket, as collect() sees it."""

    refs: int

    def parcels(self) -> Iterable[Parcel]:
        """Those in its queue."""

    def discard_messages(self) -> None:
        """Empty its queue."""


class Parcel:
    """The files of one message; each is held once."""

    __slots__ = ("_flights", "files", "uid")

    def __init__(self, flights: Flights, files: Sequence[File], uid: int) -> None:
        self._flights = flights
        self.files = files
        self.uid = uid

    def land(self) -> Sequence[File]:
        """Received: the files, which the caller has to drop."""
        files, self.files = self.files, ()
        self._flights.landed(files, self.uid)
        return files

    def drop(self) -> None:
        """Nobody will receive it."""
        self._flights.release(self.land())


class Flights:
    """Everything in flight in one network namespace."""

    def __init__(self, carrier: type[Carrier]) -> None:
        self._carrier = carrier
        self._sockets: dict[Carrier, int] = {}  # in flight -> how many times
        self._of_user: dict[int, int] = {}
        self._doomed: list[File] = []
        self._releasing = False
        self._collecting = False
        self._collect_at = COLLECT_FROM
        self._closed = 0  # sockets since the last time

    def count_of(self, uid: int) -> int:
        """How many files of a user are in flight."""
        return self._of_user.get(uid, 0)

    def send(self, files: Sequence[File], uid: int) -> Parcel:
        """Hold files, sent by uid, until they land."""
        for file in files:
            file.hold()
            if isinstance(file, self._carrier):
                self._sockets[file] = self._sockets.get(file, 0) + 1
        self._of_user[uid] = self._of_user.get(uid, 0) + len(files)
        if len(self._sockets) > self._collect_at:
            self.collect()
            self._collect_at = max(COLLECT_FROM, 2 * len(self._sockets))
        return Parcel(self, files, uid)

    def landed(self, files: Sequence[File], uid: int) -> None:
        if not files:
            return
        left = self._of_user[uid] - len(files)
        if left:
            self._of_user[uid] = left
        else:
            del self._of_user[uid]
        for file in files:
            if isinstance(file, self._carrier):
                count = self._sockets[file] - 1
                if count:
                    self._sockets[file] = count
                else:
                    del self._sockets[file]

    def release(self, files: Iterable[File]) -> None:
        """Drop files.  One may be a socket whose queue holds more, to any depth: hence no recursion."""
        self._doomed.extend(files)
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._doomed:
                self._doomed.pop().drop()
        finally:
            self._releasing = False
        self._collect_if_due()

    def socket_closed(self) -> None:
        """What was in its queue may have been the last way to others."""
        self._closed += 1
        self._collect_if_due()

    def _collect_if_due(self) -> None:
        """After each close, or with very many in flight after several, so that closing them all takes linear time."""
        if self._sockets and not self._releasing and self._closed * COLLECT_FROM >= len(self._sockets):
            self.collect()

    def collect(self) -> None:
        """Empty the queues that nothing leads to any more."""
        if self._collecting:
            return
        self._collecting = True
        self._closed = 0
        try:
            for socket in self._garbage():
                socket.discard_messages()
        finally:
            self._collecting = False

    def _garbage(self) -> set[Carrier]:
        candidates = {socket for socket, count in self._sockets.items() if socket.refs == count}
        if not candidates:
            return candidates
        # Of each candidate's references, those that lie in queues of candidates.
        inside: dict[object, int] = {}
        for socket in candidates:
            for file in _carried(socket):
                inside[file] = inside.get(file, 0) + 1
        reachable = [socket for socket in candidates if self._sockets[socket] > inside.get(socket, 0)]
        candidates.difference_update(reachable)
        while reachable:
            for file in _carried(reachable.pop()):
                if file in candidates:
                    candidates.remove(file)
                    reachable.append(file)
        return candidates


def _carried(socket: Carrier) -> list[Carrier]:
    """Everything in a socket's queue; what is no socket never is a candidate."""
    return [file for parcel in socket.parcels() for file in parcel.files]  # type: ignore[misc]
