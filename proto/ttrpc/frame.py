"""Frames: length[4] stream_id[4] kind[1] flags[1] payload[length], integers big-endian, the length without the header.

The decoder also carries file descriptors: the caller hands it those that arrived with a piece of data, and they end
up in the frame whose first byte they were attached to.
"""

from __future__ import annotations

import struct

from proto.record import Record, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

HEADER: Final = struct.Struct(">IIBB")
MAX_PAYLOAD: Final = 4 << 20

REQUEST: Final = 1
RESPONSE: Final = 2
DATA: Final = 3

# Flags of streaming calls; a unary call has none of them.
REMOTE_CLOSED: Final = 1
REMOTE_OPEN: Final = 2
NO_DATA: Final = 4


class PayloadTooLarge(ValueError):
    """A payload to send exceeds MAX_PAYLOAD."""


class Frame(Record):
    """One frame.  `oversized` is set when the payload was longer than allowed and has been thrown away."""

    stream_id: int
    kind: int
    flags: int
    payload: bytes
    fds: list[int] = field(default_factory=list)
    oversized: bool = False


def encode(stream_id: int, kind: int, payload: bytes, flags: int = 0) -> bytes:
    """length[4] stream_id[4] kind[1] flags[1] payload[length]"""
    if len(payload) > MAX_PAYLOAD:
        raise PayloadTooLarge(f"payload of {len(payload)} bytes exceeds the maximum of {MAX_PAYLOAD}")
    return HEADER.pack(len(payload), stream_id, kind, flags) + payload


class Decoder:
    """Feed it whatever arrived; it returns whole frames.  Knows no socket, no clock."""

    def __init__(self) -> None:
        self._buffer = bytearray()  # always begins at a frame's first byte
        self._skip_bytes = 0  # what is left to throw away of an oversized payload
        self._fds: list[int] = []  # for the frame that begins the buffer

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Frame]:
        """Take the next bytes of the stream, and the descriptors that the same recvmsg returned.

        The descriptors go to the last frame that begins in data.  That is exact: the kernel ends a recvmsg behind
        the piece that carries descriptors, and a sender attaches them to a piece that holds nothing but that frame.
        """
        self._buffer += data
        frames: list[Frame] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        if self._buffer or not frames:
            self._fds += fds
        else:
            frames[-1].fds += fds
        return frames

    def take_fds(self) -> list[int]:
        """The descriptors of a frame that never became whole; to be closed with the connection."""
        fds, self._fds = self._fds, []
        return fds

    def _next(self) -> Frame | None:
        self._skip()
        if self._skip_bytes or len(self._buffer) < HEADER.size:
            return None
        length, stream_id, kind, flags = HEADER.unpack_from(self._buffer)
        end = HEADER.size + length
        if length > MAX_PAYLOAD:
            self._skip_bytes = end
            self._skip()
            return Frame(stream_id, kind, flags, b"", self.take_fds(), oversized=True)
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return Frame(stream_id, kind, flags, payload, self.take_fds())

    def _skip(self) -> None:
        count = min(self._skip_bytes, len(self._buffer))
        del self._buffer[:count]
        self._skip_bytes -= count
