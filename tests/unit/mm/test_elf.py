"""ELF headers: what is read from them, and that nothing in them does harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentry.abi.errno import EINVAL, ENOEXEC, LinuxError
from sentry.mm.elf import EHDR, ET_DYN, ET_EXEC, PHDR, PT_INTERP, PT_LOAD, PT_PHDR, Image, parse_header, parse_image
from sentry.platform import PAGE_SIZE
from tests.elf import DATA, TEXT, Load, R, W, X, elf

FILE = elf(TEXT, DATA)


def parse(data: bytes) -> Image:
    """As execve reads a file."""
    _, _, phoff, phentsize, phnum = parse_header(data)
    return parse_image(data, data[phoff : phoff + phentsize * phnum])


def damaged(offset: int, layout: str, value: int) -> bytes:
    data = bytearray(FILE)
    struct.pack_into(layout, data, offset, value)
    return bytes(data)


def test_the_headers_of_a_file() -> None:
    image = parse(FILE)
    assert (image.type, image.entry, image.phoff, image.phentsize, image.phnum) == (ET_DYN, 0x1000, 64, 56, 3)
    assert [(s.vaddr, s.offset, s.file_size, s.mem_size, s.prot) for s in image.segments] == [
        (0, 0, 0x1800, 0x1800, 5),
        (0x3800, 0x1800, 0x100, 0x2000, 3),
    ]
    assert (image.low, image.high, image.align) == (0, 0x5800, PAGE_SIZE)
    assert (image.interp, image.exec_stack, image.phdr_vaddr) == (None, False, 64)


def test_a_file_at_fixed_addresses() -> None:
    image = parse(elf(Load(R | X, 0x400000, 0, 0x1000, 0x1000), kind=ET_EXEC, entry=0x400100))
    assert (image.type, image.low, image.entry, image.phdr_vaddr) == (ET_EXEC, 0x400000, 0x400100, 0x400040)


def test_the_order_of_segments_does_not_matter_for_their_range() -> None:
    """Else a file could have parts mapped outside of the range that was reserved for it."""
    image = parse(elf(DATA, TEXT))
    assert (image.low, image.high) == (0, 0x5800)


def test_an_interpreter_and_an_executable_stack() -> None:
    image = parse(elf(TEXT, interp=b"/lib/ld.so\0", stack=R | W | X))
    assert image.interp == (0x800, 11) and image.exec_stack


def test_only_the_first_interpreter_counts() -> None:
    second = PHDR.pack(PT_INTERP, R, 0x900, 0x900, 0, 5, 5, 1)
    assert parse(elf(TEXT, interp=b"/lib/ld.so\0", extra=[second])).interp == (0x800, 11)


def test_pt_phdr_says_where_the_headers_are() -> None:
    assert parse(elf(TEXT, extra=[PHDR.pack(PT_PHDR, R, 64, 0x7040, 0, 56, 56, 8)])).phdr_vaddr == 0x7040


def test_headers_that_are_not_loaded_have_no_address() -> None:
    assert parse(elf(Load(R, 0x1000, 0x1000, 0x100, 0x100))).phdr_vaddr == 0


@pytest.mark.parametrize(
    ("aligns", "expected"), [((0x1000, 0x200000), 0x200000), ((0, 1), 0x1000), ((0x3000, 0x10), 0x1000)]
)
def test_the_alignment_is_the_largest_power_of_two(aligns: tuple[int, int], expected: int) -> None:
    loads = [load._replace(align=align) for load, align in zip((TEXT, DATA), aligns)]
    assert parse(elf(*loads)).align == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        FILE[:63],
        b"MZ" + FILE[2:],
        damaged(4, "<B", 1),  # 32-bit
        damaged(5, "<B", 2),  # big-endian
        damaged(16, "<H", 1),  # an object file
        damaged(16, "<H", 4),  # a core
        damaged(18, "<H", 183),  # aarch64
        damaged(18, "<H", 3),  # i386
        damaged(54, "<H", 32),  # size of a program header
        damaged(56, "<H", 0),  # no program headers
        damaged(56, "<H", 0xFFFF),
        damaged(32, "<Q", 1 << 63),  # headers far away
        damaged(24, "<Q", 1 << 63),  # an entry point that no register takes
        elf(),  # nothing to load
        elf(TEXT, interp=b"x"),
        elf(TEXT, extra=[PHDR.pack(PT_INTERP, R, 1 << 63, 0, 0, 11, 11, 1)]),
    ],
)
def test_what_is_not_a_program_for_this_machine(data: bytes) -> None:
    with pytest.raises((ENOEXEC, EINVAL)):
        parse(data)


@pytest.mark.parametrize(
    "load",
    [
        Load(R, 0, 0, 2, 1),  # more in the file than in memory
        Load(R, 0x10, 0, 1, 1),  # offset and address don't fit each other
        Load(R, 1 << 47, 0, 1, 1),
        Load(R, (1 << 47) - 0x1000, 0, 0x1000, 0x1000),
        Load(R, 0x1000, 1 << 63, 1, 1),
        Load(R, 0, 0, 0, (1 << 64) - 1),
        Load(R, (1 << 64) - 0x1000, 0, 0x10, 0x2000),
    ],
)
def test_malformed_segments_are_einval(load: Load) -> None:
    with pytest.raises(EINVAL):
        parse(elf(load))


def test_headers_that_the_file_does_not_have_are_enoexec() -> None:
    with pytest.raises(ENOEXEC):
        parse_image(FILE, FILE[64:100])


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A sound file with bytes of its headers changed, or one that was made of extreme numbers."""
    if draw(st.booleans()):
        data = bytearray(FILE)
        for _ in range(draw(st.integers(1, 6))):
            data[draw(st.integers(0, 255))] = draw(st.integers(0, 255))
        return bytes(data)
    number = st.sampled_from([0, 1, 0xFFF, 0x1000, 0x7FFFFFFFFFFF, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    headers = [
        PHDR.pack(draw(st.sampled_from([PT_LOAD, PT_INTERP, PT_PHDR])), draw(st.integers(0, 7)), *[draw(number)] * 6)
        for _ in range(draw(st.integers(1, 4)))
    ]
    ehdr = EHDR.pack(FILE[:16], ET_DYN, 62, 1, draw(number), 64, 0, 0, 64, 56, len(headers), 0, 0, 0)
    return ehdr + b"".join(headers)


@given(damaged_files())
def test_damage_is_an_errno_or_an_image_within_bounds(data: bytes) -> None:
    try:
        image = parse(data)
    except LinuxError:
        return
    assert 0 <= image.low <= image.high < 1 << 47
    assert image.entry < 1 << 47 and image.align & image.align - 1 == 0
    for segment in image.segments:
        assert segment.file_size <= segment.mem_size and segment.offset < 1 << 62


@given(st.binary(max_size=400))
def test_noise_is_an_errno(data: bytes) -> None:
    with pytest.raises(LinuxError):
        parse(data)
    with pytest.raises(LinuxError):
        parse(b"\x7fELF\2\1" + data[:40])
