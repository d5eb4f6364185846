"""Mm: the heap's end, users, the program's strings."""

from __future__ import annotations

import pytest

from sentry.mm.mm import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    Mm,
    page_down,
    page_up,
)
from sentry.platform import PAGE_SIZE
from tests.fakes import ScriptedSpace

START, LIMIT = 0x600000, 1 << 30
FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED


@pytest.fixture
def mm() -> Mm:
    mm = Mm(ScriptedSpace())
    mm.brk_start = mm.brk = START + 0x123
    return mm


def mapped(mm: Mm) -> list[tuple[int, int]]:
    return [(m.start, m.end) for m in mm.space.mappings()]


@pytest.mark.parametrize(("addr", "up", "down"), [(0, 0, 0), (1, 4096, 0), (4096, 4096, 4096), (8191, 8192, 4096)])
def test_rounding_to_pages(addr: int, up: int, down: int) -> None:
    assert (page_up(addr), page_down(addr)) == (up, down)


def test_brk_grows_and_shrinks_by_pages_and_keeps_the_exact_end(mm: Mm) -> None:
    page = page_up(mm.brk)
    assert mm.set_brk(START + 0x200, LIMIT) == START + 0x200
    assert mapped(mm) == []  # still in the page that the program's end rounds up to
    assert mm.set_brk(page + 1, LIMIT) == page + 1
    assert mapped(mm) == [(page, page + PAGE_SIZE)]
    mm.space.write(page, b"heap")
    assert mm.set_brk(page + 5 * PAGE_SIZE, LIMIT) == page + 5 * PAGE_SIZE
    assert mm.set_brk(page + PAGE_SIZE, LIMIT) == page + PAGE_SIZE
    assert mapped(mm) == [(page, page + PAGE_SIZE)]
    assert mm.space.read(page, 4) == b"heap"
    assert mm.set_brk(mm.brk_start, LIMIT) == mm.brk_start
    assert mapped(mm) == []


@pytest.mark.parametrize("new", [0, START, START + 0x122, START + 0x123 + LIMIT + 1, 1 << 47, (1 << 64) - 1])
def test_a_heap_that_is_not_possible_stays(mm: Mm, new: int) -> None:
    assert mm.set_brk(new, LIMIT) == START + 0x123
    assert mapped(mm) == []


def test_the_heap_does_not_grow_over_another_mapping(mm: Mm) -> None:
    page = page_up(mm.brk)
    mm.space.map(page + PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE, FLAGS, -1, 0)
    assert mm.set_brk(page + 3 * PAGE_SIZE, LIMIT) == START + 0x123
    assert mm.set_brk(page + 10, LIMIT) == page + 10


def test_a_copy_has_the_same_layout_and_its_own_users(mm: Mm) -> None:
    mm.users = 3
    mm.arg_start, mm.auxv = 5, b"auxv"
    mm.note_file(1, 2, "name")
    copy = mm.copy(ScriptedSpace())
    assert (copy.users, copy.brk, copy.arg_start, copy.auxv) == (1, mm.brk, 5, b"auxv")
    copy.note_file(1, 2, "other")
    assert (mm.file_at(1, 2), copy.file_at(1, 2), mm.file_at(3, 4)) == ("name", "other", None)


def test_command_line_and_environment_are_read_from_memory(mm: Mm) -> None:
    mm.space.map(0x10000, PAGE_SIZE, PROT_READ | PROT_WRITE, FLAGS, -1, 0)
    mm.space.write(0x10000, b"sh\0-c\0HOME=/\0")
    mm.arg_start, mm.arg_end, mm.env_start, mm.env_end = 0x10000, 0x10006, 0x10006, 0x1000D
    assert (mm.command_line(), mm.environment()) == (b"sh\0-c\0", b"HOME=/\0")
    mm.arg_start = mm.arg_end
    assert mm.command_line() == b""
    mm.env_start, mm.env_end = 0, 1 << 50
    assert mm.environment() == b""
