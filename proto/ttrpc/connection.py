"""One side of a ttrpc connection as a pure protocol object: bytes in, messages out, and the other way round.

Stream ids are the client's: odd, ascending.  A request opens a stream and its response ends it, in any order; there
is no cancellation, a client that has lost interest just forgets the stream.

    data ----> ServerConnection.receive() ----> requests
         <---- respond(), error(), data_to_send() (answers to requests that were refused unseen)
"""

from __future__ import annotations

from . import frame
from .message import Request, Response, decode_request, decode_response, encode_request, encode_response
from .protobuf import DecodeError
from .status import INTERNAL, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, ProtocolError, RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_STREAM_ID = (1 << 32) - 1


class ServerConnection:
    """The server's side: knows which streams wait for a response, and refuses what cannot be a unary request."""

    def __init__(self) -> None:
        self._decoder = frame.Decoder()
        self._last_stream = 0
        self._open: set[int] = set()
        self._outgoing = bytearray()
        self._unclaimed: list[int] = []

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> list[Request]:
        """Take bytes that arrived, and the descriptors that came with them; return the requests now complete.

        Afterwards send data_to_send() and close unclaimed_fds().
        """
        requests = []
        for received in self._decoder.feed(data, fds):
            request = self._accept(received)
            if request is None:
                self._unclaimed += received.fds
            else:
                request.fds = received.fds
                self._open.add(request.stream_id)
                requests.append(request)
        return requests

    def respond(self, stream_id: int, payload: bytes) -> bytes:
        """The bytes that answer a request; none when the stream is not open."""
        if stream_id not in self._open:
            return b""
        if len(payload) > frame.MAX_PAYLOAD - 16:  # leave room for the envelope
            return self.error(stream_id, RESOURCE_EXHAUSTED, f"response of {len(payload)} bytes is too large")
        self._open.discard(stream_id)
        return frame.encode(stream_id, frame.RESPONSE, encode_response(payload))

    def error(self, stream_id: int, code: int, message: str) -> bytes:
        """The bytes that answer a request with a failure; none when the stream is not open."""
        if stream_id not in self._open:
            return b""
        self._open.discard(stream_id)
        return self._refusal(stream_id, code, message)

    def data_to_send(self) -> bytes:
        """Answers to requests that were refused without being returned by receive()."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def unclaimed_fds(self) -> list[int]:
        """Descriptors that came with refused frames; the caller closes them."""
        fds, self._unclaimed = self._unclaimed, []
        return fds

    def close(self) -> list[int]:
        """The connection has ended: no stream is open any more.  Returns descriptors to close."""
        self._open.clear()
        return self.unclaimed_fds() + self._decoder.take_fds()

    @property
    def open_streams(self) -> int:
        """How many requests wait for their response."""
        return len(self._open)

    def _accept(self, received: frame.Frame) -> Request | None:
        if received.kind != frame.REQUEST:
            return None  # as Go's server does; a unary server has no other use for them
        try:
            self._check(received)
            request = decode_request(received.stream_id, received.payload)
        except RpcError as e:
            self._outgoing += self._refusal(received.stream_id, e.code, e.message)
            return None
        except DecodeError as e:
            self._outgoing += self._refusal(received.stream_id, INVALID_ARGUMENT, f"request: {e}")
            return None
        return request

    def _check(self, received: frame.Frame) -> None:
        stream_id = received.stream_id
        if stream_id % 2 == 0:
            raise RpcError(INVALID_ARGUMENT, f"stream id {stream_id} is even")
        if stream_id <= self._last_stream:
            raise RpcError(INVALID_ARGUMENT, f"stream id {stream_id} is not above {self._last_stream}")
        self._last_stream = stream_id
        if received.oversized:
            raise RpcError(RESOURCE_EXHAUSTED, f"request exceeds the maximum of {frame.MAX_PAYLOAD} bytes")
        if received.flags & (frame.REMOTE_OPEN | frame.REMOTE_CLOSED):
            raise RpcError(UNIMPLEMENTED, "streaming calls")

    @staticmethod
    def _refusal(stream_id: int, code: int, message: str) -> bytes:
        return frame.encode(stream_id, frame.RESPONSE, encode_response(code=code, message=message))


class ClientConnection:
    """The client's side: hands out stream ids and matches responses to them."""

    def __init__(self) -> None:
        self._decoder = frame.Decoder()
        self._next_stream = 1
        self._open: set[int] = set()

    def request(
        self,
        service: str,
        method: str,
        payload: bytes,
        timeout_ns: int = 0,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> tuple[int, bytes]:
        """Open a stream: its id and the bytes to send.  Send them in the order of the calls.

        Raises frame.PayloadTooLarge, or ProtocolError when the ids of this connection are used up.
        """
        stream_id = self._next_stream
        if stream_id > MAX_STREAM_ID:
            raise ProtocolError("stream ids are used up")
        envelope = encode_request(service, method, payload, timeout_ns, metadata)
        data = frame.encode(stream_id, frame.REQUEST, envelope)
        self._next_stream += 2
        self._open.add(stream_id)
        return stream_id, data

    def receive(self, data: bytes) -> list[Response]:
        """Take bytes that arrived; return the responses now complete.  What belongs to no open stream is dropped."""
        responses = []
        for received in self._decoder.feed(data):
            if received.kind == frame.RESPONSE and received.stream_id in self._open:
                self._open.discard(received.stream_id)
                responses.append(self._decode(received))
        return responses

    def forget(self, stream_id: int) -> None:
        """Drop the response of a stream when it comes."""
        self._open.discard(stream_id)

    @staticmethod
    def _decode(received: frame.Frame) -> Response:
        if received.oversized:
            return Response(received.stream_id, code=RESOURCE_EXHAUSTED, message="response is too large")
        try:
            return decode_response(received.stream_id, received.payload)
        except DecodeError as e:
            return Response(received.stream_id, code=INTERNAL, message=f"response: {e}")
