"""The 9P codec against golden bytes, against the wire lines in the docstrings, and against nonsense."""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.ninep import dialect as d
from proto.ninep import messages as m
from proto.ninep.codec import (
    ATTR_ENTRY_SIZE,
    ATTR_SIZE,
    HEADER_SIZE,
    Decoder,
    Unknown,
    attr_entries,
    dirents,
    encode,
    pack_attr_entry,
    pack_dirent,
)
from proto.ninep.message import MESSAGES, STRUCTS, Message, ProtocolError
from proto.wire import INTEGER_CODES

QID = m.Qid(0x80, 0x01020304, 0x1112131415161718)
QID_HEX = "80 04030201 1817161514131211"
ATTR = d.Attr(1, 0o100644, 1, 1000, 1001, 0, 5, 8, 10, 11, -1, 4096)
ATTR_HEX = (
    "0100000000000000 a4810000 01000000 e8030000 e9030000 0000000000000000 0500000000000000 0800000000000000"
    "0a00000000000000 0b00000000000000 ffffffffffffffff 00100000"
)

# (tag, message, frame).  Written by hand from diod's protocol.md and, for the dialect, from its wire lines.
GOLDEN: list[tuple[int, Message, str]] = [
    (0xFFFF, m.Tversion(8192, b"9P2000.L"), "15000000 64 ffff 00200000 0800 3950323030302e4c"),
    (0xFFFF, m.Rversion(8192, b"unknown"), "14000000 65 ffff 00200000 0700 756e6b6e6f776e"),
    (1, m.Tattach(0, m.NOFID, b"root", b"", 0), "1b000000 68 0100 00000000 ffffffff 0400 726f6f74 0000 00000000"),
    (1, m.Rattach(QID), f"14000000 69 0100 {QID_HEX}"),
    (2, m.Rlerror(2), "0b000000 07 0200 02000000"),
    (3, m.Tflush(0x1234), "09000000 6c 0300 3412"),
    (3, m.Rflush(), "07000000 6d 0300"),
    (4, m.Twalk(1, 2, [b"a", b"bc"]), "18000000 6e 0400 01000000 02000000 0200 0100 61 0200 6263"),
    (4, m.Twalk(1, 2, []), "11000000 6e 0400 01000000 02000000 0000"),
    (4, m.Rwalk([QID, QID]), f"23000000 6f 0400 0200 {QID_HEX} {QID_HEX}"),
    (4, m.Rwalk([]), "09000000 6f 0400 0000"),
    (5, m.Tlopen(1, 2), "0f000000 0c 0500 01000000 02000000"),
    (5, m.Rlopen(QID, 4096), f"18000000 0d 0500 {QID_HEX} 00100000"),
    (6, m.Tlcreate(1, b"f", 2, 0o644, 7), "1a000000 0e 0600 01000000 0100 66 02000000 a4010000 07000000"),
    (7, m.Tsymlink(1, b"n", b"to", 3), "16000000 10 0700 01000000 0100 6e 0200 746f 03000000"),
    (8, m.Tread(1, 2, 3), "17000000 74 0800 01000000 0200000000000000 03000000"),
    (8, m.Rread(b"abc"), "0e000000 75 0800 03000000 616263"),
    (8, m.Rread(b""), "0b000000 75 0800 00000000"),
    (9, m.Twrite(1, 2, b"hi"), "19000000 76 0900 01000000 0200000000000000 02000000 6869"),
    (9, m.Trenameat(1, b"a", 2, b"b"), "15000000 4a 0900 01000000 0100 61 02000000 0100 62"),
    (10, m.Tunlinkat(1, b"d", 0x200), "12000000 4c 0a00 01000000 0100 64 00020000"),
    (10, m.Tgetlock(1, 0, 2, 3, 4, b"c"),
     "23000000 36 0a00 01000000 00 0200000000000000 0300000000000000 04000000 0100 63"),
    (11, m.Tfsync(1, 1), "0f000000 32 0b00 01000000 01000000"),
    (12, d.Twalkgetattr(1, 2, [b"etc"]), "16000000 c8 0c00 01000000 02000000 0100 0300 657463"),
    (12, d.Rwalkgetattr(b"to", [ATTR]), f"59000000 c9 0c00 0200 746f 0100 {ATTR_HEX}"),
    (13, d.Rlopenfd(ATTR, 4096, 1), f"58000000 cb 0d00 {ATTR_HEX} 00100000 01"),
    (14, d.Tlcreatefd(1, 2, 3, 4, 5, 6, b"f"),
     "22000000 cc 0e00 01000000 02000000 03000000 04000000 05000000 06000000 0100 66"),
    (15, d.Tclunkmany([1, 0x10]), "11000000 d8 0f00 0200 01000000 10000000"),
    (16, d.Tsetxattr(1, 2, b"user.a", b"v"), "1c000000 dc 1000 01000000 02000000 0600 757365722e61 01000000 76"),
    (17, d.Tplace(3), "0b000000 e2 1100 03000000"),
]  # fmt: skip


def sample(kind: str) -> st.SearchStrategy[Any]:
    """Values of a kind of field."""
    if kind in INTEGER_CODES:
        bits = 8 * struct.calcsize("<" + INTEGER_CODES[kind])
        signed = kind.startswith("i")
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)
    if kind in ("Str", "Data"):
        return st.binary(max_size=40)
    if kind in STRUCTS:
        return st.builds(STRUCTS[kind], *map(sample, STRUCTS[kind].FIELDS.values()))
    return st.lists(sample(kind.removeprefix("list[").removesuffix("]")), max_size=5)


def messages_of(cls: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(cls, *map(sample, cls.FIELDS.values()))


ANY_MESSAGE = st.sampled_from(sorted(MESSAGES)).flatmap(lambda number: messages_of(MESSAGES[number]))
TAGS = st.integers(0, 0xFFFF)


def decode(frame: bytes) -> list[tuple[int, Message]]:
    return list(Decoder().feed(frame))


@pytest.mark.parametrize(("tag", "message", "frame"), GOLDEN, ids=lambda value: type(value).__name__)
class TestGolden:
    def test_encoding_gives_the_frame(self, tag: int, message: Message, frame: str) -> None:
        assert encode(tag, message).hex() == frame.replace(" ", "")

    def test_decoding_gives_the_message(self, tag: int, message: Message, frame: str) -> None:
        assert decode(bytes.fromhex(frame)) == [(tag, message)]

    def test_fed_byte_by_byte_it_comes_out_at_the_last_one(self, tag: int, message: Message, frame: str) -> None:
        decoder = Decoder()
        got = [list(decoder.feed(bytes((byte,)))) for byte in bytes.fromhex(frame)]
        assert got == [[]] * (len(got) - 1) + [[(tag, message)]]

    def test_cut_short_with_its_size_corrected_it_is_refused(self, tag: int, message: Message, frame: str) -> None:
        whole = bytes.fromhex(frame)
        for length in range(HEADER_SIZE, len(whole)):
            with pytest.raises(ProtocolError):
                decode(struct.pack("<I", length) + whole[4:length])

    def test_with_bytes_to_spare_it_is_refused(self, tag: int, message: Message, frame: str) -> None:
        whole = bytes.fromhex(frame)
        with pytest.raises(ProtocolError):
            decode(struct.pack("<I", len(whole) + 1) + whole[4:] + b"\0")

    def test_cut_short_it_does_not_read_into_the_next_frame(self, tag: int, message: Message, frame: str) -> None:
        whole = bytes.fromhex(frame)
        for length in range(HEADER_SIZE, len(whole)):
            with pytest.raises(ProtocolError):
                decode(struct.pack("<I", length) + whole[4:] + whole)


CAPTURE = Path(__file__).parent / "data" / "v9fs-6.1.txt"


def test_what_linux_says_is_understood_whole() -> None:
    """Frames of the kernel's client, as they came: decoded, and encoded again to the same bytes."""
    lines = [line.split() for line in CAPTURE.read_text().splitlines() if not line.startswith("#")]
    stream = bytes.fromhex("".join(frame for side, frame in lines if side == ">"))
    requests = decode(stream)
    assert len(requests) == len(lines) / 2
    assert b"".join(encode(tag, request) for tag, request in requests) == stream
    for (_, request), (_, frame) in zip(requests, lines[1::2]):
        [(_, reply)] = decode(bytes.fromhex(frame))
        assert reply.TYPE in (request.TYPE + 1, m.Rlerror.TYPE)


def by_wire_line(cls: type[Message], tag: int, message: Message) -> bytes:
    """Encode as the docstring's wire line says, word by word: a second, slow codec."""
    line = " ".join(re.split(r": |\n\n", cls.__doc__ or "")[0].split())
    assert line.startswith(f"size[4] {cls.__name__} tag[2]"), line
    body = b""
    values = iter(message)
    for word in line.split()[3:]:
        name, _, size = word.rstrip(")]").rpartition("[")
        if size.isdigit() and word.startswith("n") and f"{name}*(" in line:
            continue  # the count, written together with its elements
        if "*(" in word:
            elements = next(values)
            body += struct.pack("<H", len(elements)) + b"".join(one(size, element) for element in elements)
        elif size == "count":
            body += one("data", next(values))
        elif not (name == "count" and "data[count]" in line):
            body += one(size, next(values))
    assert not list(values), f"{cls.__name__} has more fields than its wire line"
    return struct.pack("<IBH", HEADER_SIZE + len(body), cls.TYPE, tag) + body


def one(size: str, value: Any) -> bytes:
    if size in ("s", "data"):
        return (len(value).to_bytes(2 if size == "s" else 4, "little")) + bytes(value)
    if size in ("13", "76"):
        return struct.pack("<BIQ" if size == "13" else "<QIIIIQQQqqqI", *value)
    return int(value % (1 << 8 * int(size))).to_bytes(int(size), "little")


@pytest.mark.parametrize("cls", MESSAGES.values(), ids=lambda cls: cls.__name__)
@settings(max_examples=10, deadline=None)
@given(data=st.data(), tag=TAGS)
def test_each_message_is_encoded_as_its_docstring_says(cls: type[Message], data: st.DataObject, tag: int) -> None:
    message = data.draw(messages_of(cls))
    assert encode(tag, message) == by_wire_line(cls, tag, message)


def test_the_dialects_docstring_lists_exactly_its_messages() -> None:
    listed = re.findall(r"^ +(\d{3}) (size\[4\] \w+ tag\[2\].*?)(?: {2,}.*)?$", d.__doc__ or "", re.MULTILINE)
    declared = [
        (number, re.split(r": |\n\n", cls.__doc__ or "")[0]) for number, cls in MESSAGES.items() if number >= 200
    ]
    assert [(int(number), line) for number, line in listed] == declared


def test_every_request_is_even_and_its_reply_follows() -> None:
    requests = [cls for cls in MESSAGES.values() if cls.__name__.startswith("T")]
    assert len(requests) == 28 + 14
    for cls in requests:
        assert cls.TYPE % 2 == 0
        assert MESSAGES[cls.TYPE + 1].__name__ == "R" + cls.__name__[1:]


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(TAGS, ANY_MESSAGE), max_size=6), cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_any_messages_survive_any_fragmentation(pairs: list[tuple[int, Message]], cuts: list[int]) -> None:
    stream = b"".join(encode(tag, message) for tag, message in pairs)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder = Decoder()
    got = []
    for start, end in pairwise(places):
        got += list(decoder.feed(stream[start:end]))
    assert got == pairs


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise_is_decoded_or_refused_but_never_crashes(data: bytes) -> None:
    try:
        decode(data)
    except ProtocolError:
        pass


@settings(max_examples=300, deadline=None)
@given(number=st.sampled_from(sorted(MESSAGES)), body=st.binary(max_size=120))
def test_noise_in_a_good_frame_is_decoded_or_refused(number: int, body: bytes) -> None:
    frame = struct.pack("<IBH", HEADER_SIZE + len(body), number, 1) + body
    try:
        [(_, message)] = decode(frame)
    except ProtocolError:
        return
    assert encode(1, message) == frame  # what is accepted has one spelling only


@settings(max_examples=200, deadline=None)
@given(message=ANY_MESSAGE, data=st.data())
def test_a_flipped_byte_never_crashes_the_decoder(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(1, message))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(frame))
    except ProtocolError:
        pass


@pytest.mark.parametrize("size", [0, 6, 4097, 0xFFFFFFFF])
def test_a_frame_of_impossible_size_is_refused_before_it_arrives(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"frame of {size} bytes"):
        list(Decoder(4096).feed(struct.pack("<I", size)))


def test_a_frame_of_exactly_msize_is_accepted() -> None:
    message = m.Twrite(1, 0, bytes(4096 - 23))
    frame = encode(1, message)
    assert len(frame) == 4096
    assert list(Decoder(4096).feed(frame)) == [(1, message)]


def test_a_large_frame_in_small_pieces_is_not_copied_each_time() -> None:
    """A megabyte in 64-byte pieces: quadratic copying would take minutes."""
    frame = encode(1, m.Rread(bytes((1 << 20) - 11)))
    decoder = Decoder()
    got = []
    for start in range(0, len(frame), 64):
        got += list(decoder.feed(frame[start : start + 64]))
    assert got == [(1, m.Rread(bytes((1 << 20) - 11)))]


def test_unknown_types_are_told_apart_from_broken_frames() -> None:
    assert decode(bytes.fromhex("08000000 fa 0100 ff")) == [(1, Unknown(0xFA))]


def test_values_too_large_for_their_fields_are_the_callers_error() -> None:
    for message in (m.Tclunk(1 << 32), m.Rreadlink(bytes(1 << 16)), d.Tclunkmany([0] * 65536)):
        with pytest.raises(struct.error):
            encode(1, message)


def test_messages_know_their_fields_and_differ_by_class() -> None:
    clunk: Message = m.Tclunk(3)
    assert clunk != m.Tremove(3)
    assert m.Tclunk(3) == m.Tclunk(fid=3)
    assert hash(m.Tclunk(3)) == hash(m.Tclunk(3))
    assert repr(m.Twalk(1, 2, [b"a"])) == "Twalk(fid=1, newfid=2, names=[b'a'])"
    make: Any = m.Tclunk
    wrong: list[tuple[tuple[int, ...], dict[str, int]]] = [((), {}), ((1, 2), {}), ((), {"fid": 1, "oops": 2})]
    for args, kwargs in wrong:
        with pytest.raises(TypeError, match="Tclunk takes the fields fid"):
            make(*args, **kwargs)


def test_directory_entries_are_read_back_as_they_were_packed() -> None:
    data = pack_dirent(QID, 1, 4, b".") + pack_dirent(QID, 2, 8, b"n\xff")
    assert data[:24].hex() == (QID_HEX + "0100000000000000 04 0100").replace(" ", "")
    assert dirents(data) == [(QID, 1, 4, b"."), (QID, 2, 8, b"n\xff")]
    assert ATTR_SIZE == 76 and ATTR_ENTRY_SIZE == 86
    data = pack_attr_entry(ATTR, 7, b"x") + pack_attr_entry(ATTR, 8, b"")
    assert attr_entries(data) == [(b"x", 7, ATTR), (b"", 8, ATTR)]
    assert attr_entries(b"") == []


def test_cut_directory_entries_are_refused() -> None:
    for read, data in ((dirents, pack_dirent(QID, 1, 4, b"name")), (attr_entries, pack_attr_entry(ATTR, 1, b"name"))):
        for length in range(1, len(data)):
            with pytest.raises(ProtocolError):
                read(data[:length])
