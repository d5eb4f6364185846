"""ttrpc without sockets: the protobuf subset, frames, envelopes and the two sides of a connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.ttrpc import frame, protobuf
from proto.ttrpc.connection import ClientConnection, ServerConnection
from proto.ttrpc.message import (
    Request,
    Response,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from proto.ttrpc.status import INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED

VARINTS = [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (-8, "f8ffffffffffffffff01")]


@pytest.mark.parametrize(("value", "encoded"), VARINTS)
def test_varint_is_read_and_written_as_the_format_says(value: int, encoded: str) -> None:
    assert protobuf.varint(value).hex() == encoded
    [(number, raw)] = protobuf.fields(b"\x08" + bytes.fromhex(encoded))
    assert (number, protobuf.as_int(raw)) == (1, value)


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_int64_survives(value: int) -> None:
    decoded = [protobuf.as_int(v) for _, v in protobuf.fields(protobuf.int_field(7, value))]
    assert decoded == ([value] if value else [])


@pytest.mark.parametrize(
    "data",
    ["08", "0aff", "0a05616263", "0b", "00", "08ffffffffffffffffffff01", "0d0000", "090000000000"],
)
def test_broken_protobuf_raises_decode_error(data: str) -> None:
    with pytest.raises(protobuf.DecodeError):
        list(protobuf.fields(bytes.fromhex(data)))


@given(st.binary(max_size=64))
def test_arbitrary_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    for decode in (decode_request, decode_response):
        try:
            decode(1, data)
        except protobuf.DecodeError:
            pass


def test_wrong_wire_types_raise_decode_error() -> None:
    with pytest.raises(protobuf.DecodeError):
        decode_request(1, protobuf.int_field(1, 5))
    with pytest.raises(protobuf.DecodeError):
        decode_request(1, protobuf.bytes_field(4, b"x"))
    with pytest.raises(protobuf.DecodeError):
        decode_request(1, protobuf.bytes_field(1, b"\xff"))


# (message, its protobuf encoding); the first is what containerd sends for Connect.
REQUESTS = [
    (
        Request(1, "containerd.task.v2.Task", "Connect", b"\x0a\x02p1"),
        "0a17" + b"containerd.task.v2.Task".hex() + "1207" + b"Connect".hex() + "1a04" + "0a027031",
    ),
    (
        Request(1, "s", "m", b"", 5_000_000_000, [("containerd-namespace-ttrpc", "k8s.io")]),
        "0a0173" + "12016d" + "2080e497d012" + "2a24" + "0a1a" + b"containerd-namespace-ttrpc".hex() + "1206"
        + b"k8s.io".hex(),
    ),
]  # fmt: skip
RESPONSES = [
    (Response(1), ""),
    (Response(1, b"\x08\x01"), "12020801"),
    (Response(1, b"", 5, "gone"), "0a08" + "0805" + "1204" + b"gone".hex()),
]


@pytest.mark.parametrize(("request_", "encoded"), REQUESTS)
def test_request_envelope(request_: Request, encoded: str) -> None:
    r = request_
    assert encode_request(r.service, r.method, r.payload, r.timeout_ns, r.metadata).hex() == encoded
    assert decode_request(1, bytes.fromhex(encoded)) == r


@pytest.mark.parametrize(("response", "encoded"), RESPONSES)
def test_response_envelope(response: Response, encoded: str) -> None:
    assert encode_response(response.payload, response.code, response.message).hex() == encoded
    assert decode_response(1, bytes.fromhex(encoded)) == response


def test_unknown_fields_are_skipped() -> None:
    extra = protobuf.int_field(99, 7) + protobuf.bytes_field(98, b"zz") + b"\x2d\x00\x00\x00\x00"
    assert decode_request(1, extra.replace(b"\x2d", b"\xf5\x01") + encode_request("s", "m", b"")).service == "s"


def test_frame_header_is_big_endian() -> None:
    assert frame.encode(3, frame.RESPONSE, b"ab", 4).hex() == "00000002" + "00000003" + "02" + "04" + "6162"


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 7))
def test_frames_survive_any_fragmentation(payloads: list[bytes], size: int) -> None:
    stream = b"".join(frame.encode(i, frame.REQUEST, p) for i, p in enumerate(payloads))
    decoder = frame.Decoder()
    frames = [f for i in range(0, len(stream), size) for f in decoder.feed(stream[i : i + size])]
    assert [(f.stream_id, f.payload) for f in frames] == list(enumerate(payloads))


def test_too_long_payload_is_refused_by_the_sender() -> None:
    with pytest.raises(frame.PayloadTooLarge):
        frame.encode(1, frame.REQUEST, bytes(frame.MAX_PAYLOAD + 1))


def test_too_long_payload_is_skipped_by_the_receiver() -> None:
    decoder = frame.Decoder()
    length = frame.MAX_PAYLOAD + 1
    [oversized] = decoder.feed(frame.HEADER.pack(length, 1, frame.REQUEST, 0) + b"x" * 100)
    assert (oversized.oversized, oversized.payload) == (True, b"")
    assert decoder.feed(b"x" * (length - 100)) == []
    assert decoder.feed(frame.encode(3, frame.REQUEST, b"next"))[0].payload == b"next"


def test_descriptors_go_to_the_frame_they_came_with() -> None:
    first, second = (frame.encode(n, frame.REQUEST, b"payload") for n in (1, 3))
    decoder = frame.Decoder()
    assert [f.fds for f in decoder.feed(first + second[:1], [7, 8])] == [[]]
    assert [f.fds for f in decoder.feed(second[1:])] == [[7, 8]]
    assert [f.fds for f in decoder.feed(first + second, [9])] == [[], [9]]


def test_descriptors_of_an_unfinished_frame_can_be_taken_back() -> None:
    server = ServerConnection()
    assert server.receive(frame.encode(1, frame.REQUEST, b"")[:4], [5]) == []
    assert server.close() == [5]


def call_server(server: ServerConnection, data: bytes) -> tuple[list[Request], list[Response]]:
    """Feed data; return the requests and what the server refused by itself."""
    client = ClientConnection()
    for _ in range(8):
        client.request("s", "m", b"")
    return server.receive(data), client.receive(server.data_to_send())


def test_client_and_server_back_to_back_in_any_order_of_responses() -> None:
    client, server = ClientConnection(), ServerConnection()
    (a, data_a), (b, data_b) = client.request("s", "A", b"1", 5), client.request("s", "B", b"2")
    assert (a, b) == (1, 3)
    requests = server.receive(data_a + data_b)
    assert [(r.method, r.payload, r.timeout_ns) for r in requests] == [("A", b"1", 5), ("B", b"2", 0)]
    answers = client.receive(server.error(b, NOT_FOUND, "no b: not found") + server.respond(a, b"ok"))
    assert answers == [Response(b, b"", NOT_FOUND, "no b: not found"), Response(a, b"ok")]
    assert server.open_streams == 0


def test_response_goes_out_once() -> None:
    client, server = ClientConnection(), ServerConnection()
    stream, data = client.request("s", "m", b"")
    server.receive(data)
    assert server.respond(stream, b"") != b""
    assert server.respond(stream, b"") == b""
    assert server.error(stream, 2, "late") == b""


def test_forgotten_stream_is_dropped() -> None:
    client, server = ClientConnection(), ServerConnection()
    stream, data = client.request("s", "m", b"")
    server.receive(data)
    client.forget(stream)
    assert client.receive(server.respond(stream, b"late")) == []


@pytest.mark.parametrize(
    ("stream_id", "flags", "payload", "code"),
    [
        (2, 0, b"", INVALID_ARGUMENT),
        (0, 0, b"", INVALID_ARGUMENT),
        (1, 0, b"\xff", INVALID_ARGUMENT),
        (1, frame.REMOTE_OPEN, b"", UNIMPLEMENTED),
        (1, frame.REMOTE_CLOSED, b"", UNIMPLEMENTED),
    ],
)
def test_bad_request_is_refused_on_its_own_stream(stream_id: int, flags: int, payload: bytes, code: int) -> None:
    server = ServerConnection()
    assert server.receive(frame.encode(stream_id, frame.REQUEST, payload, flags), [4]) == []
    assert server.unclaimed_fds() == [4]
    [refusal] = frame.Decoder().feed(server.data_to_send())
    assert (refusal.stream_id, refusal.kind) == (stream_id, frame.RESPONSE)
    assert decode_response(stream_id, refusal.payload).code == code
    assert server.data_to_send() == b""


def test_stream_ids_must_ascend() -> None:
    server = ServerConnection()
    request = encode_request("s", "m", b"")
    good, refused = call_server(server, frame.encode(5, frame.REQUEST, request) + frame.encode(3, 1, request))
    assert ([r.stream_id for r in good], [(r.stream_id, r.code) for r in refused]) == ([5], [(3, INVALID_ARGUMENT)])


def test_oversized_request_gets_resource_exhausted_and_the_stream_goes_on() -> None:
    server = ServerConnection()
    length = frame.MAX_PAYLOAD + 1
    _, refused = call_server(server, frame.HEADER.pack(length, 1, frame.REQUEST, 0))
    assert [r.code for r in refused] == [RESOURCE_EXHAUSTED]
    server.receive(bytes(length))
    assert [r.stream_id for r in server.receive(frame.encode(3, 1, encode_request("s", "m", b"")))] == [3]


def test_frames_that_are_no_requests_are_ignored_by_the_server() -> None:
    server = ServerConnection()
    for kind in (frame.RESPONSE, frame.DATA, 77):
        assert call_server(server, frame.encode(1, kind, b"")) == ([], [])


def test_oversized_response_fails_that_call() -> None:
    client, server = ClientConnection(), ServerConnection()
    stream, data = client.request("s", "m", b"")
    server.receive(data)
    [answer] = client.receive(server.respond(stream, bytes(frame.MAX_PAYLOAD)))
    assert answer.code == RESOURCE_EXHAUSTED


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_server_survives_any_bytes(pieces: list[bytes]) -> None:
    """A hostile peer gets refusals or silence, never an exception."""
    server = ServerConnection()
    for piece in pieces:
        for request in server.receive(piece):
            server.respond(request.stream_id, b"")
        for refusal in frame.Decoder().feed(server.data_to_send()):
            assert refusal.kind == frame.RESPONSE


@given(st.binary(max_size=60), st.integers(0, 9))
def test_client_survives_any_bytes(data: bytes, kind: int) -> None:
    client = ClientConnection()
    stream, _ = client.request("s", "m", b"")
    for answer in client.receive(frame.encode(stream, kind, data) + data):
        assert answer.stream_id == stream
