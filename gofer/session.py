"""One connection's protocol state: version, message size, fids; and the dispatch of its requests.

Requests are carried out one after the other, in the order in which they came; each is answered before the next is
looked at.  So no handler needs a lock, and a Tflush always comes too late to cancel anything.

A handler is a function (session, request) -> reply that raises OSError to fail; it sits in a table by the class of its
request.  There are two tables a version: requests that only look, and requests that change the tree, which a read-only
mount answers with EROFS.
"""

from __future__ import annotations

import os
import struct
import sys
from errno import EINVAL, EIO, EMSGSIZE, EOPNOTSUPP, EOVERFLOW, EROFS

from gofer import dialect, plain
from gofer.fids import FidTable
from gofer.localfs import InodeSalt
from proto.ninep.codec import MAX_MSIZE, MIN_MSIZE, Decoder, encode, encoders
from proto.ninep.dialect import VERSION_PYSC
from proto.ninep.message import Message, ProtocolError
from proto.ninep.messages import VERSION_L, VERSION_UNKNOWN, Rlerror, Rversion, Tfsync, Tversion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Handler = Callable[["Session", Any], Message]


class Session:
    """The server's side of one connection, without its socket.

    root_fd   O_PATH descriptor of what is served; the caller's, and open for as long as the session
    readonly  whether requests that change the tree are refused
    fids      the client's handles
    salt      makes inode numbers, see localfs
    msize     the agreed limit of a frame
    donated   the descriptor that goes with the reply just made, or -1
    """

    def __init__(self, root_fd: int, readonly: bool) -> None:
        self.root_fd = root_fd
        self.readonly = readonly
        self.fids = FidTable()
        self.salt = InodeSalt(os.stat(root_fd).st_dev)
        self.donated = -1
        self._decoder = Decoder(MAX_MSIZE)
        self._handlers: dict[type[Message], Handler] = {}

    @property
    def msize(self) -> int:
        return self._decoder.msize

    def receive_whole(self, data: bytes) -> tuple[bytes, int] | None:
        """receive() of exactly one request, as nearly all come: the reply.  None: it is not that."""
        whole = self._decoder.whole(data)
        return None if whole is None else self._answer(*whole)

    def receive(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Carry out the requests completed by data: (reply frame, descriptor to send with it or -1).

        Each is carried out when it is asked for; before one that waits for the disk comes an empty frame.  The
        descriptor is the caller's to close.  ProtocolError: the client cannot be talked to; close the connection.
        """
        for tag, request in self._decoder.feed(data):
            if type(request) is Tfsync:
                yield b"", -1
            yield self._answer(tag, request)

    def _answer(self, tag: int, request: Message) -> tuple[bytes, int]:
        try:
            reply = self._handlers.get(type(request), _not_handled)(self, request)
            frame: bytes = encoders[type(reply)](tag, reply)
            if len(frame) <= self._decoder.msize:
                fd = self.donated
                if fd >= 0:
                    self.donated = -1
                return frame, fd
            errno = EMSGSIZE
        except OSError as error:
            errno = error.errno or EIO
        except (OverflowError, ValueError):  # from the os module: a number or name that no system call could take
            errno = EINVAL
        except struct.error:  # from encode: the host's value does not fit its field
            errno = EOVERFLOW
        except ProtocolError:
            raise
        except Exception:
            # A bug of ours fails this one request.  excepthook, because logging would be the slowest import of all.
            sys.excepthook(*sys.exc_info())
            errno = EIO
        self._drop_donation()
        return encode(tag, Rlerror(errno)), -1

    def _drop_donation(self) -> None:
        if self.donated >= 0:
            os.close(self.donated)
            self.donated = -1

    def start(self, request: Tversion) -> Rversion:
        """Tversion: forget all that was, and agree on a version and a message size."""
        self.fids.close_all()
        self._handlers = {}
        if request.msize < MIN_MSIZE:
            raise OSError(EINVAL, "msize is too small")
        msize = self._decoder.msize = min(request.msize, MAX_MSIZE)
        if request.version == VERSION_PYSC:
            self._accept(plain.LOOKING | dialect.LOOKING, plain.CHANGING | dialect.CHANGING)
            return Rversion(msize, VERSION_PYSC)
        if request.version == VERSION_L or request.version.startswith(VERSION_L + b"."):
            self._accept(plain.LOOKING, plain.CHANGING)
            return Rversion(msize, VERSION_L)
        return Rversion(msize, VERSION_UNKNOWN)

    def _accept(self, looking: dict[type[Message], Handler], changing: dict[type[Message], Handler]) -> None:
        if self.readonly:
            changing = dict.fromkeys(changing, _refuse_change)
        self._handlers = looking | changing

    def check_writable(self) -> None:
        """For the requests that change the tree only with some flags."""
        if self.readonly:
            raise OSError(EROFS, "read-only mount")

    def close(self) -> None:
        """The connection has ended: let go of everything but root_fd."""
        self._drop_donation()
        self.fids.close_all()


def _refuse_change(session: Session, request: Message) -> Message:
    raise OSError(EROFS, "read-only mount")


def _not_handled(session: Session, request: Message) -> Message:
    """What is in no table: Tversion, which rebuilds the tables; what we do not know; anything before a Tversion."""
    if isinstance(request, Tversion):
        return session.start(request)
    if not session._handlers:
        raise ProtocolError(f"{type(request).__name__} before a version was agreed")
    raise OSError(EOPNOTSUPP, "no such request in this version")
