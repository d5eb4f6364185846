"""The two envelopes that frames carry: Request and Response.

Both are protobuf messages; their fields are few and fixed, so they are coded by hand here.
"""

from __future__ import annotations

from proto.record import Record, field

from .protobuf import as_bytes, as_int, as_text, bytes_field, fields, int_field, text_field
from .status import OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Request(Record):
    """service 1 string; method 2 string; payload 3 bytes; timeout_nano 4 int64; metadata 5 repeated KeyValue

    KeyValue: key 1 string; value 2 string
    """

    stream_id: int
    service: str
    method: str
    payload: bytes
    timeout_ns: int = 0
    """How long the caller will wait, relative; 0 = for ever.  Advice: nothing is said when the time is over."""
    metadata: list[tuple[str, str]] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    """Descriptors that came with the frame.  Whoever handles the request owns them."""


class Response(Record):
    """status 1 Status; payload 2 bytes

    Status (google.rpc): code 1 int32; message 2 string; details 3 repeated Any (not read, never sent)
    """

    stream_id: int
    payload: bytes = b""
    code: int = OK
    message: str = ""


def encode_request(
    service: str, method: str, payload: bytes, timeout_ns: int = 0, metadata: Iterable[tuple[str, str]] = ()
) -> bytes:
    """A Request's protobuf encoding."""
    parts = [text_field(1, service), text_field(2, method), bytes_field(3, payload) if payload else b""]
    parts.append(int_field(4, timeout_ns))
    parts += [bytes_field(5, text_field(1, key) + text_field(2, value)) for key, value in metadata]
    return b"".join(parts)


def decode_request(stream_id: int, data: bytes) -> Request:
    """Read a Request; unknown fields are skipped.  Raises DecodeError."""
    request = Request(stream_id, "", "", b"")
    for number, value in fields(data):
        match number:
            case 1:
                request.service = as_text(value)
            case 2:
                request.method = as_text(value)
            case 3:
                request.payload = as_bytes(value)
            case 4:
                request.timeout_ns = as_int(value)
            case 5:
                request.metadata.append(_decode_pair(as_bytes(value)))
    return request


def _decode_pair(data: bytes) -> tuple[str, str]:
    pair = {1: "", 2: ""}
    for number, value in fields(data):
        if number in pair:
            pair[number] = as_text(value)
    return pair[1], pair[2]


def encode_response(payload: bytes = b"", code: int = OK, message: str = "") -> bytes:
    """A Response's protobuf encoding.

    A status is sent only with an error, and then without a payload: Go's client decodes the payload before it looks
    at the status.
    """
    if code != OK:
        return bytes_field(1, int_field(1, code) + text_field(2, message))
    return bytes_field(2, payload) if payload else b""


def decode_response(stream_id: int, data: bytes) -> Response:
    """Read a Response; unknown fields are skipped.  Raises DecodeError."""
    response = Response(stream_id)
    for number, value in fields(data):
        if number == 1:
            response.code, response.message = _decode_status(as_bytes(value))
        elif number == 2:
            response.payload = as_bytes(value)
    return response


def _decode_status(data: bytes) -> tuple[int, str]:
    code, message = OK, ""
    for number, value in fields(data):
        if number == 1:
            code = as_int(value)
        elif number == 2:
            message = as_text(value)
    return code, message
