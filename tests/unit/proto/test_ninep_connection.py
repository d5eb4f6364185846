"""The client's 9P connection: what is awaited, whose descriptor is whose, and what a bad server cannot do."""

from __future__ import annotations

import struct

import pytest

from proto.ninep.codec import DEFAULT_MSIZE, MIN_MSIZE, Decoder, encode
from proto.ninep.connection import Connection, Numbers, OutOfTags
from proto.ninep.dialect import VERSION_PYSC, Attr, Rlopenfd, Rwalkgetattr, Tlopenfd, Twalkgetattr
from proto.ninep.message import ProtocolError
from proto.ninep.messages import NOTAG, Rclunk, Rlerror, Rread, Rversion, Tclunk, Tread, Tversion, Twrite

ATTR = Attr(*range(12))


@pytest.fixture
def connection() -> Connection:
    """One that has agreed on the dialect and a small msize."""
    made = Connection()
    made.hello()
    made.receive(encode(NOTAG, Rversion(MIN_MSIZE, VERSION_PYSC)))
    return made


def opened(tag: int, has_fd: int = 1) -> bytes:
    return encode(tag, Rlopenfd(ATTR, 0, has_fd))


def test_hello_asks_for_the_dialect_and_its_reply_sets_msize() -> None:
    connection = Connection()
    assert list(Decoder().feed(connection.hello())) == [(NOTAG, Tversion(DEFAULT_MSIZE, VERSION_PYSC))]
    reply = Rversion(65536, VERSION_PYSC)
    assert connection.receive(encode(NOTAG, reply)) == [(NOTAG, reply, None)]
    assert connection.msize == 65536


@pytest.mark.parametrize(
    "reply",
    [Rversion(65536, b"unknown"), Rversion(65536, b"9P2000.L"), Rversion(DEFAULT_MSIZE + 1, VERSION_PYSC),
     Rversion(MIN_MSIZE - 1, VERSION_PYSC)],
)  # fmt: skip
def test_another_version_or_a_wrong_msize_is_refused(reply: Rversion) -> None:
    connection = Connection()
    connection.hello()
    with pytest.raises(ProtocolError):
        connection.receive(encode(NOTAG, reply))


def test_replies_come_back_with_their_tags_in_any_order(connection: Connection) -> None:
    first, frame = connection.send(Tclunk(1))
    assert list(Decoder().feed(frame)) == [(first, Tclunk(1))]
    second, _ = connection.send(Tread(1, 0, 9))
    third, _ = connection.send(Tclunk(2))
    assert len({first, second, third}) == 3
    assert connection.pending == 3
    data = encode(third, Rlerror(9)) + encode(second, Rread(b"x")) + encode(first, Rclunk())
    assert connection.receive(data) == [(third, Rlerror(9), None), (second, Rread(b"x"), None), (first, Rclunk(), None)]
    assert connection.pending == 0


def test_tags_are_used_again_after_their_replies(connection: Connection) -> None:
    tag, _ = connection.send(Tclunk(1))
    connection.receive(encode(tag, Rclunk()))
    assert connection.send(Tclunk(1))[0] == tag


def test_all_tags_but_notag_can_be_in_flight(connection: Connection) -> None:
    tags = {connection.send(Tclunk(1))[0] for _ in range(NOTAG)}
    assert tags == set(range(NOTAG))
    with pytest.raises(OutOfTags):
        connection.send(Tclunk(1))


def test_a_request_above_msize_is_the_callers_error_and_costs_no_tag(connection: Connection) -> None:
    with pytest.raises(ValueError, match="Twrite of 4119 bytes, msize is 4096"):
        connection.send(Twrite(1, 0, bytes(4096)))
    assert connection.pending == 0
    assert connection.send(Tclunk(1))[0] == 0


def test_a_value_out_of_range_costs_no_tag(connection: Connection) -> None:
    with pytest.raises(struct.error):
        connection.send(Tclunk(1 << 32))
    assert connection.pending == 0
    assert connection.send(Tclunk(1))[0] == 0


def test_descriptors_go_to_the_replies_that_announce_one_in_order(connection: Connection) -> None:
    tags = [connection.send(Tlopenfd(fid, 0))[0] for fid in range(3)]
    data = opened(tags[1]) + opened(tags[0], has_fd=0) + opened(tags[2])
    assert [fd for _, _, fd in connection.receive(data, [50, 51])] == [50, None, 51]


def test_a_descriptor_may_come_before_the_end_of_its_frame(connection: Connection) -> None:
    tag, _ = connection.send(Tlopenfd(1, 0))
    frame = opened(tag)
    assert connection.receive(frame[:1], [50]) == []
    assert connection.receive(frame[1:-1]) == []
    assert connection.receive(frame[-1:])[0][2] == 50


def test_an_announced_descriptor_that_is_missing_breaks_the_protocol(connection: Connection) -> None:
    tag, _ = connection.send(Tlopenfd(1, 0))
    with pytest.raises(ProtocolError, match="its descriptor is missing"):
        connection.receive(opened(tag))


@pytest.mark.parametrize(
    "frame", [encode(5, Rclunk()), encode(0, Rread(b"")), encode(0, Tclunk(1)), encode(5, Rlerror(1))]
)
def test_replies_that_answer_nothing_break_the_protocol(connection: Connection, frame: bytes) -> None:
    connection.send(Tclunk(1))
    with pytest.raises(ProtocolError, match="answers no request"):
        connection.receive(frame)


def test_a_second_reply_to_one_request_breaks_the_protocol(connection: Connection) -> None:
    tag, _ = connection.send(Tclunk(1))
    with pytest.raises(ProtocolError):
        connection.receive(encode(tag, Rclunk()) * 2)


def test_a_frame_above_msize_breaks_the_protocol(connection: Connection) -> None:
    tag, _ = connection.send(Tread(1, 0, 9999))
    with pytest.raises(ProtocolError):
        connection.receive(encode(tag, Rread(bytes(MIN_MSIZE))))


def test_close_returns_every_descriptor_that_nobody_got(connection: Connection) -> None:
    tags = [connection.send(Tlopenfd(fid, 0))[0] for fid in range(3)]
    with pytest.raises(ProtocolError):
        connection.receive(opened(tags[0]) + encode(99, Rclunk()), [50, 51])
    assert connection.close() == ([tags[1], tags[2]], [51, 50])
    assert connection.close() == ([], [])


def test_walks_are_matched_like_any_other_request(connection: Connection) -> None:
    tag, _ = connection.send(Twalkgetattr(0, 1, [b"a"]))
    reply = Rwalkgetattr(b"", [ATTR])
    assert connection.receive(encode(tag, reply)) == [(tag, reply, None)]


def test_numbers_are_unique_until_given_back() -> None:
    numbers = Numbers(3)
    assert [numbers.take() for _ in range(4)] == [0, 1, 2, None]
    numbers.give_back(1)
    assert [numbers.take(), numbers.take()] == [1, None]
