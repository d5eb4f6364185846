"""Memory of the kvm platform: what mmap(2) and its family promise, faults, forks, copies, and that nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from platform_kvm.core._core import ffi, lib
from tests.descriptors import open_descriptors
from tests.kvmwalk import (
    ANONYMOUS,
    END,
    EXEC,
    LEAF,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MMAP_BASE,
    NX,
    PAGE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    READ_WRITE,
    WRITE,
    Core,
    Fault,
    Memory,
    OutOfMemory,
)

AT = 0x10000000000
FIXED = ANONYMOUS | MAP_FIXED
SHARED = MAP_SHARED | MAP_ANONYMOUS
F_SEAL_WRITE = 8
MAYMOVE, REMAP_FIXED, DONTUNMAP = 1, 2, 4
MAPERR, ACCERR, ADRERR = (signal.SIGSEGV, 1), (signal.SIGSEGV, 2), (signal.SIGBUS, 2)


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Afterwards, what was handed out must have been given back."""
    memory = Memory()
    yield memory
    for core in list(memory.cores.values()):
        core.check_tlb()
        core.free()
    frames = memory.frames()
    assert (frames.handed_out, frames.objects, frames.window_used) == (0, 0, 0)
    memory.close()


@pytest.fixture
def account(memory: Memory) -> Iterator[Any]:
    account = lib.kv_account_new(1 << 20)
    yield account
    for core in list(memory.cores.values()):
        core.check_tlb()
        core.free()
    assert lib.kv_account_used(account) == 0
    lib.kv_account_free(account)


@pytest.fixture
def core(memory: Memory, account: Any) -> Core:
    return Core(memory, account)


@pytest.fixture
def file() -> Iterator[Any]:
    """Three pages: a..., b..., c..."""
    with tempfile.TemporaryFile() as file:
        file.write(b"a" * PAGE + b"b" * PAGE + b"c" * PAGE)
        file.flush()
        yield file


def fails(code: int, act: Callable[[], object]) -> bool:
    with pytest.raises(OSError) as failure:
        act()
    assert failure.value.errno == code, failure.value
    return True


def faults(core: Core, addr: int, access: int) -> tuple[int, int]:
    with pytest.raises(Fault) as fault:
        core.access(addr, access)
    assert fault.value.args[2] == addr
    return fault.value.args[0], fault.value.args[1]


# -- where things are mapped --


def test_a_new_space_is_empty(core: Core) -> None:
    assert core.mappings() == [] and core.resident() == (0, 0, 0)
    assert faults(core, AT, WRITE) == MAPERR


def test_the_kernels_half_of_the_top_table_is_what_was_given_and_survives(memory: Memory, account: Any) -> None:
    half = ffi.new("unsigned long[256]", [i << 12 for i in range(256)])
    space = lib.kv_space_new(account, END, MMAP_BASE, half)
    core = Core(memory, account, space)
    core.map(AT, PAGE, READ_WRITE, FIXED)
    core.store(AT, b"x")
    child = core.fork()
    core.unmap(0, END)
    for one in (core, child):
        assert [memory.entry(lib.kv_space_root(one.space), 256 + i)[0] for i in range(256)] == list(half)


def test_without_an_address_it_goes_below_the_last_one(core: Core) -> None:
    first = core.map(0, 2 * PAGE, READ_WRITE, ANONYMOUS)
    second = core.map(0, PAGE, PROT_READ, ANONYMOUS)
    assert (first, second) == (MMAP_BASE - 2 * PAGE, MMAP_BASE - 3 * PAGE)
    core.unmap(first, PAGE)
    assert core.map(0, 2 * PAGE, READ_WRITE, SHARED) == second - 2 * PAGE
    assert core.map(0, PAGE, READ_WRITE, SHARED) == first
    assert core.map(0, PAGE, READ_WRITE, SHARED) == second - 3 * PAGE


def test_a_full_area_is_no_end_while_there_is_room_above(memory: Memory, account: Any) -> None:
    core = Core(memory, account, lib.kv_space_new(account, END, 0x20000, ffi.NULL))
    assert core.map(0, 0x10000, 0, ANONYMOUS) == 0x10000
    assert core.map(0, PAGE, 0, ANONYMOUS) == END - PAGE


def test_a_free_hint_is_taken(core: Core) -> None:
    assert core.map(AT, 2 * PAGE, READ_WRITE, ANONYMOUS) == AT
    assert core.map(AT + 2 * PAGE - 1, PAGE, READ_WRITE, ANONYMOUS) == AT + 2 * PAGE
    assert core.map(AT, PAGE, READ_WRITE, ANONYMOUS) == MMAP_BASE - PAGE
    assert core.map(END - PAGE, 2 * PAGE, READ_WRITE, ANONYMOUS) == MMAP_BASE - 3 * PAGE


def test_low_addresses_are_for_who_asks(core: Core) -> None:
    first = core.map(0, PAGE, READ_WRITE, ANONYMOUS | 0x40)
    second = core.map(0, PAGE, READ_WRITE, ANONYMOUS | 0x40)
    assert 0 < first < second < 1 << 31
    assert fails(errno.ENOMEM, lambda: core.map(0, 1 << 31, READ_WRITE, ANONYMOUS | 0x40))


def test_fixed_replaces_and_noreplace_does_not(core: Core) -> None:
    core.map(AT, 3 * PAGE, READ_WRITE, FIXED)
    for page in range(3):
        core.store(AT + page * PAGE, b"old")
    core.map(AT + PAGE, PAGE, READ_WRITE, FIXED)
    assert [core.load(AT + page * PAGE, 3) for page in range(3)] == [b"old", b"\0\0\0", b"old"]
    assert fails(errno.EEXIST, lambda: core.map(AT, PAGE, PROT_READ, ANONYMOUS | 0x100000))
    assert core.map(AT + 3 * PAGE, PAGE, PROT_READ, ANONYMOUS | 0x100000) == AT + 3 * PAGE


@pytest.mark.parametrize(
    ("code", "addr", "length", "flags"),
    [
        (errno.EINVAL, AT, 0, FIXED),
        (errno.EINVAL, AT + 1, PAGE, FIXED),
        (errno.ENOMEM, END, PAGE, FIXED),
        (errno.ENOMEM, END - PAGE, 2 * PAGE, FIXED),
        (errno.ENOMEM, 0, 1 << 47, ANONYMOUS),
        (errno.ENOMEM, 0, (1 << 64) - 1, ANONYMOUS),
        (errno.ENOMEM, 0, 1 << 46, ANONYMOUS),
        (errno.EPERM, PAGE, PAGE, FIXED),
    ],
)
def test_what_cannot_be_mapped(core: Core, code: int, addr: int, length: int, flags: int) -> None:
    assert fails(code, lambda: core.map(addr, length, READ_WRITE, flags))
    assert core.mappings() == []


def test_much_may_be_reserved_that_is_not_to_be_written(core: Core) -> None:
    addr = core.map(0, 1 << 45, 0, ANONYMOUS)
    core.protect(addr + (1 << 44), PAGE, READ_WRITE)
    core.store(addr + (1 << 44), b"x")
    core.map(0, 1 << 45, READ_WRITE, ANONYMOUS | 0x4000)
    assert core.resident()[1] == 1


def test_neighbours_that_differ_in_nothing_are_one(core: Core, file: Any) -> None:
    core.map(AT, PAGE, READ_WRITE, FIXED)
    core.map(AT + 2 * PAGE, PAGE, READ_WRITE, FIXED)
    core.map(AT + PAGE, PAGE, READ_WRITE, FIXED)
    assert core.ranges() == [(AT, AT + 3 * PAGE, READ_WRITE)]
    core.protect(AT + PAGE, PAGE, PROT_READ)
    assert len(core.mappings()) == 3
    core.protect(AT, 3 * PAGE, PROT_READ)
    assert core.ranges() == [(AT, AT + 3 * PAGE, PROT_READ)]
    fd = file.fileno()
    core.map(AT, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0)
    core.map(AT + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, PAGE)
    core.map(AT + 2 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, PAGE)
    assert [(m.start - AT, m.offset) for m in core.mappings()] == [(0, 0), (2 * PAGE, PAGE)]
    core.map(AT, PAGE, PROT_READ, SHARED | MAP_FIXED)
    core.map(AT + PAGE, PAGE, PROT_READ, SHARED | MAP_FIXED)
    assert len(core.mappings()) == 3


def test_kinds_are_shown_and_never_merge(core: Core) -> None:
    for page, kind in enumerate((lib.KV_VVAR, lib.KV_VDSO, lib.KV_VDSO)):
        lib.kv_map_kind(core.space, AT + page * PAGE, PAGE, PROT_READ, FIXED, -1, 0, kind)
    assert [m.kind for m in core.mappings()] == [lib.KV_VVAR, lib.KV_VDSO, lib.KV_VDSO]


def test_unmapping_splits_and_passes_over_holes(core: Core) -> None:
    core.map(AT, 5 * PAGE, READ_WRITE, FIXED)
    for page in range(5):
        core.store(AT + page * PAGE, b"x")
    core.unmap(AT + PAGE, PAGE)
    core.unmap(AT + 3 * PAGE, PAGE)
    assert [start - AT for start, _, _ in core.ranges()] == [0, 2 * PAGE, 4 * PAGE]
    assert faults(core, AT + PAGE, WRITE) == MAPERR
    assert core.resident()[:2] == (3, 3)
    core.unmap(AT - PAGE, 100 * PAGE)
    assert core.mappings() == [] and core.resident() == (0, 0, 0)
    for addr, length in ((AT + 1, PAGE), (AT, 0), (END, PAGE), (AT, END), (AT, (1 << 64) - 1)):
        assert fails(errno.EINVAL, lambda addr=addr, length=length: core.unmap(addr, length))  # type: ignore[misc]


def test_many_regions_are_found_and_there_is_a_limit(core: Core) -> None:
    core.map(AT, 70000 * PAGE, PROT_READ, FIXED)
    count = 0
    with pytest.raises(OSError) as failure:
        for page in range(1, 70000, 2):
            core.protect(AT + page * PAGE, PAGE, 0)
            count += 1
    assert failure.value.errno == errno.ENOMEM and 32000 < count < 33000
    core.unmap(AT + PAGE, PAGE)
    assert lib.kv_mappings(core.space, ffi.NULL, 0) > 65000
    core.unmap(AT, 70000 * PAGE)


# -- faults --


def test_untouched_memory_is_zero_and_reading_it_costs_no_frame(core: Core, memory: Memory) -> None:
    core.map(AT, 4 * LEAF, PROT_READ, FIXED)
    before = memory.frames().handed_out
    for offset in range(0, LEAF, PAGE):
        assert core.load(AT + offset) == b"\0"
    assert core.resident()[1] == 0
    assert memory.frames().handed_out - before <= 3  # tables


def test_every_frame_is_zero_when_it_is_handed_out(core: Core) -> None:
    for _ in range(3):
        core.map(AT, 2000 * PAGE, READ_WRITE, FIXED)
        for page in range(2000):
            assert core.load(AT + page * PAGE, PAGE, WRITE) == bytes(PAGE)
            core.store(AT + page * PAGE, b"\xff" * PAGE)


def test_what_the_protection_forbids_is_a_fault(core: Core) -> None:
    core.map(AT, PAGE, PROT_READ, FIXED)
    core.map(AT + PAGE, PAGE, 0, FIXED)
    core.map(AT + 2 * PAGE, PAGE, PROT_WRITE, FIXED)
    core.map(AT + 3 * PAGE, PAGE, PROT_EXEC, FIXED)
    assert core.load(AT) == b"\0" and faults(core, AT, WRITE) == ACCERR and faults(core, AT, EXEC) == ACCERR
    assert faults(core, AT + PAGE, 0) == ACCERR
    core.store(AT + 2 * PAGE, b"w")
    assert core.load(AT + 2 * PAGE) == b"w" and faults(core, AT + 2 * PAGE, EXEC) == ACCERR
    assert core.load(AT + 3 * PAGE, 1, EXEC) == b"\0" and faults(core, AT + 3 * PAGE, WRITE) == ACCERR
    assert faults(core, END, 0) == MAPERR and faults(core, (1 << 64) - 1, 0) == MAPERR


def test_pages_around_a_written_one_are_marked_for_ring_0(core: Core, memory: Memory) -> None:
    core.map(AT + 10 * PAGE, 20 * PAGE, READ_WRITE, FIXED)
    core.map(AT + 30 * PAGE, PAGE, READ_WRITE | PROT_EXEC, FIXED)
    core.map(AT + 31 * PAGE, PAGE, PROT_READ, FIXED)
    core.store(AT + 12 * PAGE, b"x")
    core.store(AT + 30 * PAGE, b"x")
    marks = {page: core.walk(AT + page * PAGE)[0][0] for page in range(9, 33)}
    for page, mark in marks.items():
        if 10 <= page < 30 and page != 12:
            assert mark == lib.KV_PTE_ZERO | NX
        elif page not in (12, 30):
            assert mark == 0
    assert core.fill_mark(AT + 11 * PAGE)
    used = lib.kv_account_used(core.account)
    assert core.load(AT + 11 * PAGE) == b"\0" and not core.fill_mark(AT + 11 * PAGE)
    core.store(AT + 11 * PAGE, b"y")
    assert core.read(AT + 11 * PAGE, 1) == b"y"
    assert core.fill_mark(AT + 13 * PAGE)
    assert lib.kv_account_used(core.account) == used + 1
    core.protect(AT + 10 * PAGE, 20 * PAGE, PROT_READ)
    assert core.walk(AT + 20 * PAGE)[0][0] == 0
    assert core.read(AT + 20 * PAGE, 1) == b"\0"


def test_what_ring_0_filled_is_freed_even_if_it_is_said_too_late(core: Core, memory: Memory) -> None:
    core.map(AT, 2 * PAGE, READ_WRITE, FIXED)
    core.store(AT, b"x")
    assert core.fill_mark(AT + PAGE, say=False)
    gpa = core.walk(AT + PAGE)[0][0] & ~NX & ~0xFFF
    core.unmap(AT, 2 * PAGE)
    lib.kv_stock_used(core.space, gpa)


def test_the_stock_is_zeroed_and_comes_back(memory: Memory, account: Any) -> None:
    gpas = ffi.new("unsigned long[700]")
    for _ in range(2):
        assert lib.kv_stock_take(gpas, 700) == 700
        assert len(set(gpas)) == 700
        for gpa in gpas:
            assert ffi.buffer(ffi.cast("char *", memory.host(gpa)), PAGE)[:] == bytes(PAGE)
        assert memory.frames().handed_out == 700
        lib.kv_stock_return(gpas, 700)
        assert memory.frames().handed_out == 0


def test_slots_are_added_before_they_are_used_once_each_and_large(core: Core, memory: Memory, file: Any) -> None:
    core.map(AT, LEAF, READ_WRITE, FIXED)
    core.store(AT, b"x")
    core.map(AT, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.fileno())
    core.load(AT)
    gpas = [gpa for gpa, _, _ in memory.slots]
    assert len(gpas) == len(set(gpas)) == 2
    for gpa, host, size in memory.slots:
        assert size == lib.KV_SLOT_SIZE and host == memory.window + gpa - lib.KV_WINDOW_GPA


# -- protection --


def test_protection_changes_what_is_already_there(core: Core) -> None:
    core.map(AT, 2 * PAGE, READ_WRITE, FIXED)
    core.store(AT, b"kept")
    core.protect(AT, PAGE, PROT_READ)
    assert core.load(AT, 4) == b"kept" and faults(core, AT, WRITE) == ACCERR
    core.protect(AT, PAGE, 0)
    assert faults(core, AT, 0) == ACCERR and fails(errno.EFAULT, lambda: core.read(AT, 1))
    core.protect(AT, PAGE, PROT_READ | PROT_EXEC)
    assert core.read(AT, 4) == b"kept"
    assert core.load(AT, 4, EXEC) == b"kept"
    core.protect(AT, PAGE, PROT_READ)
    assert faults(core, AT, EXEC) == ACCERR
    core.protect(AT, PAGE, READ_WRITE)
    core.store(AT, b"more")
    assert core.load(AT, 4) == b"more"


def test_protection_up_to_a_hole_is_done(core: Core) -> None:
    core.map(AT, PAGE, READ_WRITE, FIXED)
    core.map(AT + 2 * PAGE, PAGE, READ_WRITE, FIXED)
    assert fails(errno.ENOMEM, lambda: core.protect(AT, 3 * PAGE, PROT_READ))
    assert core.ranges() == [(AT, AT + PAGE, PROT_READ), (AT + 2 * PAGE, AT + 3 * PAGE, READ_WRITE)]
    assert fails(errno.ENOMEM, lambda: core.protect(AT + PAGE, 2 * PAGE, PROT_READ))
    assert fails(errno.EINVAL, lambda: core.protect(AT + 1, PAGE, PROT_READ))


def test_frames_in_memory_that_nobody_may_touch_survive_a_fork(core: Core) -> None:
    core.map(AT, PAGE, READ_WRITE, FIXED)
    core.store(AT, b"hidden")
    core.protect(AT, PAGE, 0)
    child = core.fork()
    for one, text in ((child, b"child "), (core, b"parent")):
        one.protect(AT, PAGE, READ_WRITE)
        assert one.load(AT, 6) == b"hidden"
        one.store(AT, text)
    assert child.load(AT, 6) == b"child "


# -- forks --


def test_a_fork_sees_what_was_and_not_what_comes(core: Core) -> None:
    core.map(AT, 4 * PAGE, READ_WRITE, FIXED)
    core.store(AT, b"before")
    child = core.fork()
    core.check_tlb()
    assert child.load(AT, 6) == b"before"
    child.store(AT, b"child ")
    core.store(AT + PAGE, b"parent")
    assert (core.load(AT, 6), child.load(AT, 6)) == (b"before", b"child ")
    assert child.load(AT + PAGE, 6) == b"\0" * 6
    core.store(AT, b"again ")
    assert child.load(AT, 6) == b"child "


def test_a_fork_costs_tables_not_pages(core: Core, memory: Memory) -> None:
    core.map(AT, 8 * LEAF, READ_WRITE | PROT_EXEC, FIXED | 0x8000)
    before = memory.frames().handed_out
    child = core.fork()
    assert memory.frames().handed_out - before == 3
    child.store(AT, b"x")
    assert memory.frames().handed_out - before == 5
    child.free()
    assert memory.frames().handed_out == before


def test_memory_with_one_user_left_is_not_copied(core: Core, memory: Memory) -> None:
    core.map(AT, PAGE, READ_WRITE, FIXED)
    core.store(AT, b"x")
    frame = core.translation(AT)
    child = core.fork()
    child.store(AT, b"y")
    child.free()
    before = memory.frames().handed_out
    core.store(AT, b"z")
    assert core.translation(AT) == frame and memory.frames().handed_out == before


def test_shared_memory_stays_shared(core: Core) -> None:
    core.map(AT, 2 * PAGE, READ_WRITE, SHARED | MAP_FIXED)
    core.store(AT, b"before")
    child = core.fork()
    child.store(AT, b"child ")
    assert core.load(AT, 6) == b"child "
    core.store(AT + PAGE, b"parent")
    assert child.load(AT + PAGE, 6) == b"parent"
    core.unmap(AT, 2 * PAGE)
    assert child.load(AT + PAGE, 6) == b"parent"


def test_what_a_fork_is_not_to_see(core: Core) -> None:
    core.map(AT, 3 * PAGE, READ_WRITE, FIXED)
    for page in range(3):
        core.store(AT + page * PAGE, b"x")
    core.advise(AT, PAGE, 10)  # MADV_DONTFORK
    core.advise(AT + PAGE, PAGE, 18)  # MADV_WIPEONFORK
    child = core.fork()
    assert faults(child, AT, 0) == MAPERR
    assert (child.load(AT + PAGE), child.load(AT + 2 * PAGE)) == (b"\0", b"x")
    assert [core.load(AT + page * PAGE) for page in range(3)] == [b"x"] * 3
    core.advise(AT, PAGE, 11)
    core.advise(AT + PAGE, PAGE, 19)
    assert len(core.mappings()) == 1
    assert core.fork().load(AT) == b"x"


def test_generations_of_forks_are_apart(core: Core) -> None:
    core.map(AT, 2 * LEAF, READ_WRITE, FIXED)
    generations = [core]
    for number in range(6):
        generations[-1].store(AT + number * PAGE, struct.pack("<I", number))
        generations.append(generations[-1].fork())
    for number, one in enumerate(generations):
        one.store(AT + 100 * PAGE, struct.pack("<I", 1000 + number))
    generations[2].free()
    for number, one in enumerate(generations):
        if number == 2:
            continue
        one.check_tlb()
        assert struct.unpack("<I", one.load(AT + 100 * PAGE, 4)) == (1000 + number,)
        for page in range(6):
            expected = page if page <= number else 0
            assert struct.unpack("<I", one.load(AT + page * PAGE, 4)) == (expected,)


def test_other_processors_forget_a_page_that_is_copied_and_a_table_that_is(core: Core, file: Any) -> None:
    core.map(AT, 4 * PAGE, READ_WRITE, FIXED)
    core.map(AT + 4 * PAGE, 2 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, file.fileno())
    core.store(AT, b"x")
    for page in (3, 4):  # the page of zeros, and a file's
        core.load(AT + page * PAGE, 1, processor=0)
        core.store(AT + page * PAGE, b"x", processor=1)
        core.check_tlb()
    child = core.fork()
    for one in (core, child):
        one.load(AT)
        one.load(AT + 5 * PAGE, 1, processor=1)
        one.load(AT + 2 * PAGE)  # the first that is not there yet: the table is copied
        one.check_tlb()
        one.load(AT)
        one.store(AT, b"y", processor=1)
        one.check_tlb()


# -- remap --


def test_remap_grows_shrinks_and_moves(core: Core) -> None:
    core.map(AT, 2 * PAGE, READ_WRITE, FIXED)
    core.store(AT, b"x")
    core.store(AT + PAGE, b"y")
    assert core.remap(AT, 2 * PAGE, PAGE, 0) == AT and faults(core, AT + PAGE, 0) == MAPERR
    assert core.remap(AT, PAGE, 600 * PAGE, 0) == AT and core.load(AT + 599 * PAGE) == b"\0"
    core.map(AT + 600 * PAGE, PAGE, PROT_READ, FIXED)
    assert fails(errno.ENOMEM, lambda: core.remap(AT, 600 * PAGE, 700 * PAGE, 0))
    moved = core.remap(AT, 600 * PAGE, 700 * PAGE, MAYMOVE)
    assert moved != AT and core.load(moved) == b"x" and faults(core, AT, 0) == MAPERR
    target = AT + 5 * PAGE
    core.map(target, PAGE, READ_WRITE, FIXED)
    core.store(target, b"z")
    assert core.remap(moved, PAGE, PAGE, MAYMOVE | REMAP_FIXED, target) == target
    assert core.load(target) == b"x" and faults(core, moved, 0) == MAPERR
    assert core.load(moved + PAGE) == b"\0"


def test_remap_can_leave_the_old_mapping_empty(core: Core) -> None:
    core.map(AT, PAGE, READ_WRITE, FIXED)
    core.store(AT, b"x")
    moved = core.remap(AT, PAGE, PAGE, MAYMOVE | DONTUNMAP)
    assert (core.load(AT), core.load(moved)) == (b"\0", b"x")


def test_remap_of_nothing_duplicates_what_is_shared(core: Core, file: Any) -> None:
    core.map(AT, 2 * PAGE, READ_WRITE, SHARED | MAP_FIXED)
    core.store(AT + PAGE, b"x")
    copy = core.remap(AT, 0, 2 * PAGE, MAYMOVE)
    assert core.load(copy + PAGE) == b"x"
    core.store(copy, b"y")
    assert core.load(AT) == b"y"
    core.map(AT, PAGE, READ_WRITE, FIXED)
    assert fails(errno.EINVAL, lambda: core.remap(AT, 0, PAGE, MAYMOVE))


def test_remap_of_a_file_shows_more_of_it(core: Core, file: Any) -> None:
    core.map(AT, PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, file.fileno())
    core.store(AT, b"Q")
    moved = core.remap(AT, PAGE, 3 * PAGE, MAYMOVE)
    assert [core.load(moved + page * PAGE) for page in range(3)] == [b"Q", b"b", b"c"]


def test_shared_memory_ends_where_it_was_mapped(core: Core) -> None:
    core.map(AT, PAGE, READ_WRITE, SHARED | MAP_FIXED)
    core.remap(AT, PAGE, 2 * PAGE, 0)
    core.store(AT, b"x")
    assert faults(core, AT + PAGE, WRITE) == ADRERR
    assert fails(errno.EFAULT, lambda: core.read(AT + PAGE, 1))


def test_remap_errors(core: Core) -> None:
    core.map(AT, 3 * PAGE, READ_WRITE, FIXED)
    core.unmap(AT + PAGE, PAGE)
    for code, args in (
        (errno.EFAULT, (AT, 3 * PAGE, 4 * PAGE, MAYMOVE, 0)),
        (errno.EFAULT, (AT + PAGE, PAGE, PAGE, MAYMOVE, 0)),
        (errno.EINVAL, (AT + 1, PAGE, PAGE, 0, 0)),
        (errno.EINVAL, (AT, PAGE, 0, 0, 0)),
        (errno.EINVAL, (AT, PAGE, PAGE, REMAP_FIXED, 0)),
        (errno.EINVAL, (AT, PAGE, PAGE, DONTUNMAP, 0)),
        (errno.EINVAL, (AT, PAGE, 2 * PAGE, MAYMOVE | DONTUNMAP, 0)),
        (errno.EINVAL, (AT, PAGE, PAGE, MAYMOVE | REMAP_FIXED, AT)),
        (errno.EINVAL, (AT, PAGE, PAGE, MAYMOVE | REMAP_FIXED, END)),
        (errno.EINVAL, (AT, PAGE, PAGE, MAYMOVE | REMAP_FIXED, AT + 1)),
        (errno.EINVAL, (AT, (1 << 64) - 1, PAGE, 0, 0)),
        (errno.EINVAL, (AT, PAGE, (1 << 64) - 1, MAYMOVE, 0)),
        (errno.ENOMEM, (AT, PAGE, END - AT, MAYMOVE, 0)),
    ):
        assert fails(code, lambda args=args: core.remap(*args))  # type: ignore[misc]


# -- files --


def test_files_are_mapped_shared_and_private(core: Core, file: Any) -> None:
    fd = file.fileno()
    core.map(AT, 3 * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd)
    core.map(AT + LEAF, PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, fd, PAGE)
    assert core.load(AT + PAGE) == b"b" and core.load(AT + LEAF) == b"b"
    core.store(AT + PAGE, b"shared")
    assert os.pread(fd, 6, PAGE) == b"shared" and core.load(AT + LEAF, 6) == b"shared"
    core.store(AT + LEAF, b"secret")
    assert os.pread(fd, 6, PAGE) == b"shared" and core.load(AT + LEAF, PAGE) == b"secret" + b"b" * (PAGE - 6)
    os.pwrite(fd, b"later", PAGE)
    assert core.load(AT + PAGE, 5) == b"later" and core.load(AT + LEAF, 6) == b"secret"
    info = os.fstat(fd)
    shown = [(m.shared, m.offset, m.dev, m.ino) for m in core.mappings()]
    assert shown == [(1, 0, info.st_dev, info.st_ino), (0, PAGE, info.st_dev, info.st_ino)]
    core.sync(AT, 3 * PAGE)


def test_a_map_outlives_its_descriptor_and_its_name(core: Core) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"text")
        file.flush()
        core.map(AT, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.fileno())
    assert core.load(AT, 4) == b"text"


def test_files_that_cannot_be_mapped_are_the_hosts_errno(core: Core, file: Any) -> None:
    r, w = os.pipe()
    readonly = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
    writeonly = os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY)
    path = os.open(f"/proc/self/fd/{file.fileno()}", os.O_PATH)
    core.map(AT, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.fileno())
    try:
        for code, fd, prot, flags in (
            (errno.ENODEV, r, PROT_READ, MAP_PRIVATE),
            (errno.EACCES, writeonly, PROT_READ, MAP_PRIVATE),
            (errno.EACCES, readonly, READ_WRITE, MAP_SHARED),
            (errno.EBADF, 1 << 20, PROT_READ, MAP_PRIVATE),
            (errno.EBADF, path, PROT_READ, MAP_PRIVATE),
        ):
            with pytest.raises(OSError) as failure:
                core.map(0, PAGE, prot, flags, fd)
            assert failure.value.errno == code
        core.map(AT, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, readonly)
        assert fails(errno.EACCES, lambda: core.protect(AT, PAGE, READ_WRITE))
        core.protect(AT, PAGE, 0)
        core.map(AT, PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, readonly)
        core.store(AT, b"x")
    finally:
        for fd in (r, w, readonly, writeonly, path):
            os.close(fd)


def test_beyond_the_end_of_a_file_is_a_bus_error(core: Core, file: Any) -> None:
    fd = file.fileno()
    os.ftruncate(fd, PAGE + 1)
    for flags in (MAP_SHARED, MAP_PRIVATE):
        core.map(AT, 4 * PAGE, READ_WRITE, flags | MAP_FIXED, fd)
        assert core.load(AT + PAGE, 2) == b"b\0"
        for access in (0, WRITE):
            assert faults(core, AT + 2 * PAGE, access) == ADRERR
        assert fails(errno.EFAULT, lambda: core.read(AT + 2 * PAGE, 1))
        assert fails(errno.EFAULT, lambda: core.write(AT + 2 * PAGE, b"x"))
    core.map(AT, 4 * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd)
    os.ftruncate(fd, 4 * PAGE)
    core.store(AT + 3 * PAGE, b"grown")
    assert os.pread(fd, 5, 3 * PAGE) == b"grown"


def test_pages_that_a_file_has_lost_can_be_dropped(core: Core, file: Any) -> None:
    fd = file.fileno()
    core.map(AT, 3 * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd)
    core.map(AT + LEAF, 3 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, fd)
    core.map(AT + 2 * LEAF, PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 2 * PAGE)
    for page in range(3):
        core.load(AT + page * PAGE)
        core.store(AT + LEAF + page * PAGE, b"x")
    core.load(AT + 2 * LEAF)
    assert lib.kv_drop_beyond_eof(core.space) == 0
    os.ftruncate(fd, PAGE)
    assert lib.kv_drop_beyond_eof(core.space) == 5
    core.check_tlb()
    assert faults(core, AT + PAGE, 0) == ADRERR and faults(core, AT + LEAF + PAGE, 0) == ADRERR
    assert core.load(AT + LEAF) == b"x"


def test_copies_survive_that_a_file_is_shortened(core: Core, file: Any) -> None:
    """With a load or store of ours this would be the end of the Sentry."""
    fd = file.fileno()
    core.map(AT, 3 * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd)
    for page in range(3):
        core.load(AT + page * PAGE)
    os.ftruncate(fd, PAGE)
    assert core.read(AT + PAGE - 1, 2) == b"a"
    assert core.write(AT + PAGE - 1, b"xy") == 1
    assert fails(errno.EFAULT, lambda: core.read(AT + PAGE, 1))
    assert fails(errno.EFAULT, lambda: core.write(AT + PAGE, b"x"))
    assert fails(errno.EFAULT, lambda: core.cstr(AT + PAGE))
    assert lib.kv_cmpxchg(core.space, AT + PAGE, 0, 1) == -errno.EFAULT
    assert lib.kv_cmpxchg(core.space, AT, 0x61616161, 1) == 0x61616161
    with tempfile.TemporaryFile() as other:
        assert lib.kv_write_to_file(core.space, other.fileno(), 0, AT + PAGE, 10) == -errno.EFAULT
        assert lib.kv_write_to_file(core.space, other.fileno(), 0, AT, 3 * PAGE) == PAGE
        os.pwrite(other.fileno(), b"q" * 2 * PAGE, 0)
        assert lib.kv_read_from_file(core.space, other.fileno(), 0, AT, 2 * PAGE) == PAGE
    assert core.read(AT, 2) == b"qq"


def test_a_sealed_file_can_be_mapped_for_reading(core: Core) -> None:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, b"text")
        core.map(AT, PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd)
        with pytest.raises(OSError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_WRITE)
        core.map(AT, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_WRITE)
        assert core.load(AT, 4) == b"text"
        assert fails(errno.EPERM, lambda: core.map(AT, PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, fd))
        core.map(AT, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd)
        assert fails(errno.EACCES, lambda: core.protect(AT, PAGE, READ_WRITE))
    finally:
        os.close(fd)


def test_dev_zero_is_anonymous_memory(core: Core) -> None:
    fd = os.open("/dev/zero", os.O_RDWR)
    try:
        for flags in (MAP_PRIVATE, MAP_SHARED):
            core.map(AT, PAGE, READ_WRITE, flags | MAP_FIXED, fd)
            assert core.load(AT) == b"\0"
            core.store(AT, b"x")
            assert core.load(AT) == b"x"
    finally:
        os.close(fd)


def test_mapping_files_uses_up_nothing(core: Core, memory: Memory, file: Any) -> None:
    before = open_descriptors()
    for number in range(1100):
        core.map(AT, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.fileno(), number % 3 * PAGE)
        core.load(AT)
    assert len(open_descriptors() - before) == 1
    assert (memory.frames().objects, memory.frames().window_used) == (1, LEAF)
    core.unmap(AT, PAGE)
    assert open_descriptors() <= before


def test_large_and_growing_files_are_mapped_in_few_pieces(core: Core, memory: Memory, file: Any) -> None:
    fd = file.fileno()
    os.ftruncate(fd, 5 << 30)
    core.map(AT, 5 << 30, READ_WRITE, MAP_SHARED | MAP_FIXED, fd)
    for gigabyte in range(5):
        core.store(AT + (gigabyte << 30) + 12345, b"x")
        assert os.pread(fd, 1, (gigabyte << 30) + 12345) == b"x"
    assert memory.frames().window_used == 5 << 30
    core.sync(AT, 5 << 30)


# -- tables that are used again --


def test_a_top_table_that_is_held_outlives_its_space(memory: Memory, account: Any) -> None:
    """A processor enters ring 0 on the tables of the space that it was in last: their upper half is to be there."""
    kernel_half = ffi.new("unsigned long[256]", [0x1000 + n for n in range(256)])
    space = lib.kv_space_new(account, END, MMAP_BASE, kernel_half)
    core = Core(memory, account, space)
    core.map(AT, PAGE, READ_WRITE, FIXED)
    core.store(AT, b"x")
    root = lib.kv_space_root(space)
    lib.kv_root_hold(root)
    core.free()
    others = [Core(memory, account) for _ in range(4)]
    assert root not in [lib.kv_space_root(other.space) for other in others]
    top = memory.entry(root, 0)
    assert [top[n] for n in range(512)] == [0] * 256 + list(kernel_half)
    lib.kv_root_put(root)


def test_copies_of_tables_are_lost_before_a_table_is_used_again(memory: Memory, account: Any) -> None:
    """Where KVM has copies of tables: in a space that other processors run in, they would find the old table's."""
    old, new = Core(memory, account), Core(memory, account)
    led_to: list[int] = []  # entries of the new space's top table, each time that copies are lost
    forget = ffi.callback("void(void)", lambda: led_to.append(memory.entry(lib.kv_space_root(new.space), AT >> 39)[0]))
    lib.kv_expect_copies(forget)
    for core in (old, new):
        core.map(AT, PAGE, READ_WRITE, FIXED)
    old.store(AT, b"x")
    old.free()
    assert led_to == []
    new.store(AT, b"x")
    assert led_to == [0]
    lib.kv_forget_stale_copies()
    assert led_to == [0]


# -- advice --


def test_dontneed_frees_and_gives_zero_or_the_file_again(core: Core, memory: Memory, file: Any) -> None:
    core.map(AT, 2 * LEAF, READ_WRITE, FIXED | 0x8000)
    full = memory.frames().handed_out
    core.advise(AT + PAGE, 2 * LEAF - PAGE, 4)
    assert memory.frames().handed_out == full - 1023 - 1
    assert core.load(AT + PAGE) == b"\0" and core.resident()[1] == 1
    core.map(AT + LEAF, PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, file.fileno())
    core.store(AT + LEAF, b"X")
    core.advise(AT + LEAF, PAGE, 4)
    assert core.load(AT + LEAF) == b"a"
    assert fails(errno.EINVAL, lambda: core.advise(AT + LEAF, PAGE, 8))
    assert fails(errno.EINVAL, lambda: core.advise(AT + 1, PAGE, 4))
    core.map(AT, PAGE, READ_WRITE, SHARED | MAP_FIXED)
    core.store(AT, b"kept")
    core.advise(AT, PAGE, 4)
    assert core.load(AT, 4) == b"kept"


def test_advice_about_holes_is_carried_out_around_them(core: Core) -> None:
    core.map(AT, 3 * PAGE, READ_WRITE, FIXED)
    core.unmap(AT + PAGE, PAGE)
    core.store(AT, b"x")
    core.store(AT + 2 * PAGE, b"x")
    assert fails(errno.ENOMEM, lambda: core.advise(AT, 3 * PAGE, 4))
    assert (core.load(AT), core.load(AT + 2 * PAGE)) == (b"\0", b"\0")
    assert fails(errno.ENOMEM, lambda: core.sync(AT, 3 * PAGE))
    assert fails(errno.ENOMEM, lambda: core.advise(END, PAGE, 4))


def test_populate(core: Core, file: Any) -> None:
    core.map(AT, 3 * PAGE, READ_WRITE, FIXED)
    core.advise(AT, 2 * PAGE, 23)
    assert core.resident()[1] == 2
    core.protect(AT, 3 * PAGE, PROT_READ)
    core.advise(AT, 3 * PAGE, 22)
    assert fails(errno.EINVAL, lambda: core.advise(AT, PAGE, 23))
    assert fails(errno.ENOMEM, lambda: core.advise(AT + 2 * PAGE, 2 * PAGE, 22))
    core.map(AT, 4 * PAGE, READ_WRITE, MAP_SHARED | MAP_FIXED, file.fileno())
    assert fails(errno.EFAULT, lambda: core.advise(AT, 4 * PAGE, 23))


# -- limits --


def test_an_account_that_is_used_up_is_out_of_memory(memory: Memory) -> None:
    account = lib.kv_account_new(100)
    core = Core(memory, account)
    core.map(AT, 200 * PAGE, READ_WRITE, FIXED)
    with pytest.raises(OutOfMemory):
        for page in range(200):
            core.store(AT + page * PAGE, b"x")
    assert lib.kv_account_used(account) == 100
    assert fails(errno.ENOMEM, lambda: core.advise(AT, 200 * PAGE, 23))
    assert fails(errno.EFAULT, lambda: core.write(AT + 199 * PAGE, b"x"))
    assert core.read(AT + 199 * PAGE, 1) == b"\0"
    with pytest.raises(OSError):
        core.fork()
    core.map(AT + LEAF, LEAF, READ_WRITE, FIXED | 0x8000)  # populating fails, mapping does not
    core.advise(AT, PAGE, 4)
    core.store(AT + 198 * PAGE, b"x")
    lib.kv_account_limit(account, 101)
    core.store(AT + 199 * PAGE, b"x")
    core.free()
    lib.kv_account_free(account)


def test_memory_can_be_given_back_beyond_the_limit(memory: Memory) -> None:
    """Unmapping a part of what is shared with a fork takes a table."""
    account = lib.kv_account_new(1000)
    core = Core(memory, account)
    core.map(AT, 100 * PAGE, READ_WRITE, FIXED | 0x8000)
    child = core.fork()
    lib.kv_account_limit(account, 1)
    child.unmap(AT, 10 * PAGE)
    child.protect(AT + 50 * PAGE, PAGE, 0)
    assert fails(errno.EFAULT, lambda: child.read(AT, 1)) and core.load(AT) == b"\0"
    core.free()
    child.free()
    lib.kv_account_free(account)


@pytest.mark.parametrize("limit", [12, 25, 60])
def test_nothing_is_lost_when_memory_runs_out_anywhere(memory: Memory, file: Any, limit: int) -> None:
    account = lib.kv_account_new(limit)
    chance = random.Random(limit)
    cores = [Core(memory, account)]
    for _ in range(2000):
        core = chance.choice(cores)
        addr = AT + chance.choice((0, 3, 509, 510, 511, 512, 513, 1023, 1024)) * PAGE
        length = chance.choice((1, 2, 3, 8, 512)) * PAGE
        with suppress(OSError, Fault, OutOfMemory):
            match chance.randrange(9):
                case 0:
                    kind, fd = chance.choice(((ANONYMOUS, -1), (SHARED, -1), (MAP_PRIVATE, file.fileno())))
                    core.map(addr, length, READ_WRITE, kind | MAP_FIXED, fd)
                case 1:
                    core.unmap(addr, length)
                case 2:
                    core.protect(addr, length, chance.choice((0, PROT_READ, READ_WRITE)))
                case 3:
                    core.remap(addr, length, length, MAYMOVE | REMAP_FIXED, addr + 2 * LEAF)
                case 4 if len(cores) < 4:
                    cores.append(core.fork())
                case 5 if len(cores) > 1:
                    cores.remove(core)
                    core.free()
                case 6:
                    core.advise(addr, length, 23)
                case 7:
                    core.write(addr + 100, b"x" * 5000)
                case _:
                    core.store(addr, b"x", chance.randrange(2))
        for core in cores:
            core.check_tlb()
    for core in cores:
        core.free()
    assert lib.kv_account_used(account) == 0
    lib.kv_account_free(account)


def test_shared_memory_is_charged_once(core: Core) -> None:
    core.map(AT, 64 * PAGE, READ_WRITE, SHARED | MAP_FIXED | 0x8000)
    used = lib.kv_account_used(core.account)
    child = core.fork()
    child.advise(AT, 64 * PAGE, 23)
    assert lib.kv_account_used(core.account) - used <= 8


def test_what_a_space_used_goes_back_to_the_host(core: Core) -> None:
    def on_host() -> int:
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                if "guest memory" in os.readlink(f"/proc/self/fd/{fd}"):
                    return os.stat(f"/proc/self/fd/{fd}").st_blocks * 512
        raise AssertionError("no memory file")

    child = core.fork()
    child.map(AT, 64 << 20, READ_WRITE, FIXED | 0x8000)
    full = on_host()
    assert full >= 64 << 20
    child.free()
    assert on_host() <= full - (58 << 20)


# -- copies --


def test_copies_stop_at_the_first_page_that_is_not_there(core: Core) -> None:
    core.map(AT, 2 * PAGE, READ_WRITE, FIXED)
    core.map(AT + PAGE, PAGE, PROT_READ, FIXED)
    end = AT + 2 * PAGE
    assert core.write(AT + PAGE - 3, b"abcdef") == 3
    assert core.read(AT + PAGE - 3, 6) == b"abc\0\0\0"
    assert core.read(end - 2, 6) == b"\0\0"
    assert fails(errno.EFAULT, lambda: core.write(end - 2, b"x"))
    for addr in (0, end, END, END - 1, 1 << 62, (1 << 64) - 1):
        for act in (
            lambda addr=addr: core.read(addr, 1),
            lambda addr=addr: core.write(addr, b"x"),
            lambda addr=addr: core.cstr(addr),
        ):
            assert fails(errno.EFAULT, act)
        assert lib.kv_cmpxchg(core.space, addr & ~3, 0, 0) == -errno.EFAULT


def test_reading_what_was_never_touched_touches_nothing(core: Core, memory: Memory) -> None:
    core.map(AT, LEAF, READ_WRITE, FIXED)
    core.map(AT + LEAF, LEAF, READ_WRITE, SHARED | MAP_FIXED)
    before = memory.frames().handed_out
    assert core.read(AT, 2 * LEAF) == bytes(2 * LEAF)
    assert memory.frames().handed_out == before


def test_writing_breaks_copy_on_write(core: Core) -> None:
    core.map(AT, PAGE, READ_WRITE, FIXED)
    core.write(AT, b"before")
    child = core.fork()
    child.write(AT, b"child ")
    assert (core.read(AT, 6), child.read(AT, 6)) == (b"before", b"child ")
    assert lib.kv_cmpxchg(core.space, AT, struct.unpack("<I", b"befo")[0], 7) == struct.unpack("<I", b"befo")[0]
    assert (core.word(AT), child.read(AT, 4)) == (7, b"chil")


def test_strings(core: Core) -> None:
    core.map(AT, PAGE, READ_WRITE, FIXED)
    end = AT + PAGE
    core.write(end - 6, b"hello\0")
    assert core.cstr(end - 6) == b"hello\0" and core.cstr(end - 1) == b"\0"
    core.map(end, PAGE, READ_WRITE, FIXED)
    core.write(end - 6, b"hello, world\0")
    assert core.cstr(end - 6) == b"hello, world\0"
    assert fails(errno.ENAMETOOLONG, lambda: core.cstr(end - 6, 12))
    core.write(end + PAGE - 2, b"xx")
    assert fails(errno.EFAULT, lambda: core.cstr(end + PAGE - 2))


def test_files_are_read_into_memory_and_written_from_it(core: Core, file: Any) -> None:
    fd, size = file.fileno(), 5 << 20
    core.map(AT, size, READ_WRITE, FIXED)
    data = os.urandom(1 << 10) * (size >> 10)
    core.write(AT, data)
    assert lib.kv_write_to_file(core.space, fd, 0, AT, size) == size
    assert os.pread(fd, size, 0) == data
    core.advise(AT, size, 4)
    assert lib.kv_read_from_file(core.space, fd, 1, AT + 1, size) == size - 1
    assert core.read(AT + 1, size - 1) == data[1:]
    assert lib.kv_read_from_file(core.space, fd, size, AT, 100) == 0
    assert lib.kv_read_from_file(core.space, fd, 0, AT + size - 5, 100) == 5
    assert lib.kv_read_from_file(core.space, fd, 0, AT + size, 100) == -errno.EFAULT
    assert lib.kv_read_from_file(core.space, fd, size, AT + size, 100) == 0
    assert lib.kv_read_from_file(core.space, 1 << 20, 0, AT, 100) == -errno.EBADF
    assert lib.kv_write_to_file(core.space, fd, 0, AT + size, 100) == -errno.EFAULT
    assert lib.kv_write_to_file(core.space, 1 << 20, 0, AT, 100) == -errno.EBADF
    os.pwrite(fd, b"s", 0)
    os.ftruncate(fd, 3)
    core.advise(AT, size, 4)
    assert lib.kv_read_from_file(core.space, fd, 0, AT, size) == 3
    assert core.resident()[1] == 1


def test_untouched_memory_is_written_to_a_file_as_zeros(core: Core, file: Any) -> None:
    core.map(AT, 100 * PAGE, READ_WRITE, FIXED)
    core.write(AT + 50 * PAGE, b"x" * PAGE)
    assert lib.kv_write_to_file(core.space, file.fileno(), 0, AT, 100 * PAGE) == 100 * PAGE
    assert os.pread(file.fileno(), 100 * PAGE, 0) == bytes(50 * PAGE) + b"x" * PAGE + bytes(49 * PAGE)
    assert core.resident()[1] == 1
