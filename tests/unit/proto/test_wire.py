"""Binary records: layout, packing, and what a wrong declaration says."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from proto.wire import Record, chars, i32, i64, u8, u16, u32, u64, wire


@wire
class EpollEvent(Record):
    """struct epoll_event, epoll_ctl(2); packed on x86-64."""

    events: u32
    data: u64


@wire
class Winsize(Record):
    """struct winsize, ioctl_tty(2)."""

    rows: u16
    columns: u16
    x_pixels: u16
    y_pixels: u16

    def cells(self) -> int:
        return self.rows * self.columns


@wire
class Flock(Record):
    """struct flock, fcntl(2)."""

    type: u16
    whence: u16
    pad: bytes = chars(4)
    start: i64
    length: i64
    pid: i32
    pad2: bytes = chars(4)


@wire
class One(Record):
    value: u8


def test_fields_are_packed_in_order_little_endian_without_padding() -> None:
    assert EpollEvent(0x11, 0x2233).pack() == bytes.fromhex("11000000 3322000000000000")
    assert EpollEvent.SIZE == 12
    assert EpollEvent.OFFSETS == {"events": 0, "data": 4}


def test_unpack_from_reads_at_an_offset() -> None:
    buffer = b"xyz" + Winsize(24, 80, 0, 7).pack()
    size = Winsize.unpack_from(buffer, 3)
    assert (size.rows, size.columns, size.x_pixels, size.y_pixels) == (24, 80, 0, 7)
    assert size.cells() == 1920


def test_pack_into_writes_only_the_record() -> None:
    buffer = bytearray(b"\xff" * 4)
    One(5).pack_into(buffer, 2)
    assert buffer == b"\xff\xff\x05\xff"
    assert One.unpack_from(buffer, 2).value == 5


def test_records_are_mutable_but_take_no_other_attributes() -> None:
    size = Winsize(1, 2, 3, 4)
    size.rows = 9
    assert size.pack()[:2] == b"\x09\x00"
    with pytest.raises(AttributeError):
        size.depth = 1  # type: ignore[attr-defined]


def test_records_compare_by_value_and_show_their_fields() -> None:
    assert Winsize(1, 2, 3, 4) == Winsize(1, 2, 3, 4) != Winsize(1, 2, 3, 5)
    assert EpollEvent(1, 2) != Winsize(1, 2, 0, 0)
    assert repr(EpollEvent(1, 2)) == "EpollEvent(events=1, data=2)"
    assert EpollEvent.__doc__ == "struct epoll_event, epoll_ctl(2); packed on x86-64."


def test_positional_patterns_match_the_fields() -> None:
    match EpollEvent(1, 2):
        case EpollEvent(events, data):
            assert (events, data) == (1, 2)


def test_short_byte_fields_are_filled_with_nuls() -> None:
    packed = Flock(1, 0, b"", -1, 2, -3, b"").pack()
    assert packed == struct.pack("<HH4xqqi4x", 1, 0, -1, 2, -3)
    assert Flock.unpack_from(packed).start == -1


def test_values_out_of_range_and_short_buffers_are_errors() -> None:
    with pytest.raises(struct.error):
        One(256).pack()
    with pytest.raises(struct.error):
        Winsize.unpack_from(b"1234567")


def test_an_unknown_kind_of_field_is_named_at_once() -> None:
    class Wrong(Record):
        ok: u8
        bad: float

    with pytest.raises(TypeError, match=r"Wrong\.bad: float"):
        wire(Wrong)


def test_a_module_without_string_annotations_is_told_what_it_lacks() -> None:
    wrong = type("Wrong", (Record,), {"__annotations__": {"ok": int}})
    with pytest.raises(TypeError, match="from __future__ import annotations"):
        wire(wrong)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_layouts_agree_with_the_c_compiler(tmp_path: Path) -> None:
    """The way other packages pin their records: sizeof and offsetof, from the host's own headers."""
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <fcntl.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <sys/epoll.h>\n#include <sys/ioctl.h>\n"
        'int main(void) { printf("%zu %zu %zu %zu %zu %zu", sizeof(struct epoll_event), '
        "offsetof(struct epoll_event, data), sizeof(struct winsize), sizeof(struct flock), "
        "offsetof(struct flock, l_start), offsetof(struct flock, l_pid)); }\n"
    )
    subprocess.run(["cc", "-o", tmp_path / "layout", source], check=True)
    told = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout
    ours = [EpollEvent.SIZE, EpollEvent.OFFSETS["data"], Winsize.SIZE]
    ours += [Flock.SIZE, Flock.OFFSETS["start"], Flock.OFFSETS["pid"]]
    assert [int(number) for number in told.split()] == ours
