"""The image, as the C libraries and Go read it."""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

from sentry.mm.elf import EM_X86_64, ET_DYN
from sentry.vdso.image import IMAGE, PARAMS_BELOW, PARAMS_SIZE
from tests.unit.vdso.mapped import FILE, FUNCTIONS
from tests.unit.vdso.vdsoelf import (
    DT_JMPREL,
    DT_PLTRELSZ,
    DT_REL,
    DT_RELA,
    DT_SONAME,
    PT_DYNAMIC,
    PT_GNU_EH_FRAME,
    PT_LOAD,
    PT_TLS,
    STB_GLOBAL,
    STB_WEAK,
    VdsoElf,
)

VERSION = "LINUX_2.6"
PAGE_SIZE = 4096
R, W, X = 4, 2, 1
LOOKUPS = (VdsoElf.by_sysv_hash, VdsoElf.by_gnu_hash, VdsoElf.by_going_through)

elf = VdsoElf(IMAGE)


def test_the_image_is_whole_pages_and_at_most_two() -> None:
    assert len(IMAGE) % PAGE_SIZE == 0
    assert PAGE_SIZE <= len(IMAGE) <= 2 * PAGE_SIZE


def test_the_parameters_fit_in_their_page() -> None:
    assert 0 < PARAMS_SIZE <= PARAMS_BELOW == PAGE_SIZE


def test_it_is_a_shared_object_of_linuxs_name() -> None:
    assert IMAGE[:7] == b"\x7fELF\2\1\1"
    assert struct.unpack_from("<HH", IMAGE, 16) == (ET_DYN, EM_X86_64)
    assert elf.string(elf.dynamic[DT_SONAME]) == "linux-vdso.so.1"


def test_all_of_it_is_in_one_segment_that_is_not_writable() -> None:
    load = [s for s in elf.segments if s.kind == PT_LOAD]
    assert [(s.flags, s.offset, s.vaddr) for s in load] == [(R | X, 0, 0)]
    assert load[0].file_size == load[0].mem_size <= len(IMAGE)
    assert not any(s.flags & W for s in elf.segments if s.kind == PT_DYNAMIC)


def test_nothing_needs_relocation_or_thread_local_storage() -> None:
    assert not {DT_REL, DT_RELA, DT_JMPREL, DT_PLTRELSZ} & elf.dynamic.keys()
    assert PT_TLS not in {s.kind for s in elf.segments}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_each_function_is_found_under_both_of_its_names(lookup, name: str) -> None:
    full, short = lookup(elf, f"__vdso_{name}", VERSION), lookup(elf, name, VERSION)
    assert (full.binding, short.binding) == (STB_GLOBAL, STB_WEAK)
    assert full.value == short.value
    assert 0 < full.value < full.value + full.size <= len(IMAGE)


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize(
    ("name", "version"),
    [("__vdso_clock_gettime", "LINUX_2.5"), ("__vdso_getrandom", VERSION), ("vdso_params", VERSION), ("", VERSION)],
)
def test_nothing_else_is_found(lookup, name: str, version: str) -> None:
    assert lookup(elf, name, version) is None


def test_the_unwind_table_has_an_entry_for_each_function() -> None:
    """.eh_frame_hdr: version, three encodings, pointer, count, then pairs of (function, entry), relative to itself."""
    at = next(s.offset for s in elf.segments if s.kind == PT_GNU_EH_FRAME)
    version, pointer_encoding, count_encoding, table_encoding, _, count = struct.unpack_from("<BBBBiI", IMAGE, at)
    assert (version, pointer_encoding, count_encoding, table_encoding) == (1, 0x1B, 0x03, 0x3B)
    starts = [at + struct.unpack_from("<i", IMAGE, at + 12 + 8 * i)[0] for i in range(count)]
    symbols = [elf.by_gnu_hash(f"__vdso_{name}", VERSION) for name in FUNCTIONS]
    assert starts == sorted(starts)
    assert {symbol.value for symbol in symbols if symbol} <= set(starts)


def test_the_c_librarys_own_loader_takes_it() -> None:
    handle = ctypes.CDLL(os.fspath(FILE))
    base = ctypes.CDLL(None)
    base.dlvsym.restype = ctypes.c_void_p
    base.dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
    found = {name: base.dlvsym(handle._handle, name.encode(), VERSION.encode()) for name in FUNCTIONS}
    assert all(found.values())
    values = {name: symbol.value for name in FUNCTIONS if (symbol := elf.by_gnu_hash(name, VERSION))}
    assert len({found[name] - values[name] for name in FUNCTIONS}) == 1
