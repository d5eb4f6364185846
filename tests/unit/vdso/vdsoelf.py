"""Finds symbols in a vDSO's image, as the programs do that have to: by either hash table, with versions.

Linux's tools/testing/selftests/vDSO shows how; glibc and Go take the GNU table first, musl the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from sentry.mm.elf import EHDR, PHDR

PT_LOAD, PT_DYNAMIC, PT_TLS, PT_GNU_EH_FRAME = 1, 2, 7, 0x6474E550
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_SONAME = 0, 4, 5, 6, 14
DT_PLTRELSZ, DT_RELA, DT_REL, DT_JMPREL = 2, 7, 17, 23
DT_GNU_HASH, DT_VERSYM, DT_VERDEF = 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFC
STT_FUNC, STB_GLOBAL, STB_WEAK = 2, 1, 2
VER_FLG_BASE = 1

SYM = struct.Struct("<IBBHQQ")
VERDEF = struct.Struct("<HHHHIII")


class Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    file_size: int
    mem_size: int
    align: int


class Symbol(NamedTuple):
    value: int
    size: int
    binding: int


def sysv_hash(name: str) -> int:
    h = 0
    for byte in name.encode():
        h = (h << 4) + byte
        h = (h ^ (h & 0xF0000000) >> 24) & 0x0FFFFFFF
    return h


def gnu_hash(name: str) -> int:
    h = 5381
    for byte in name.encode():
        h = h * 33 + byte & 0xFFFFFFFF
    return h


class VdsoElf:
    """An image as it lies in memory, which is as it lies in its file."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        ehdr = EHDR.unpack_from(image)
        self.segments = [Segment(*PHDR.unpack_from(image, ehdr[5] + i * PHDR.size)) for i in range(ehdr[10])]
        load = next(s for s in self.segments if s.kind == PT_LOAD)
        self.bias = load.offset - load.vaddr
        dynamic = next(s for s in self.segments if s.kind == PT_DYNAMIC)
        self.dynamic = dict(self._entries(dynamic.offset))

    def _entries(self, at: int) -> Iterator[tuple[int, int]]:
        while True:
            tag, value = struct.unpack_from("<QQ", self.image, at)
            if tag == DT_NULL:
                return
            yield tag, value
            at += 16

    def _table(self, tag: int) -> int:
        return self.dynamic[tag] + self.bias

    def string(self, offset: int) -> str:
        start = self._table(DT_STRTAB) + offset
        return self.image[start : self.image.index(b"\0", start)].decode()

    def _u32(self, at: int) -> int:
        return int.from_bytes(self.image[at : at + 4], "little")

    def _version(self, index: int) -> str:
        """The version of symbol number index."""
        wanted = struct.unpack_from("<H", self.image, self._table(DT_VERSYM) + 2 * index)[0] & 0x7FFF
        at = self._table(DT_VERDEF)
        while True:
            _, flags, number, _, name_hash, aux, following = VERDEF.unpack_from(self.image, at)
            if not flags & VER_FLG_BASE and number & 0x7FFF == wanted:
                name = self.string(self._u32(at + aux))
                assert name_hash == sysv_hash(name)
                return name
            if not following:
                return ""
            at += following

    def _match(self, index: int, name: str, version: str) -> Symbol | None:
        name_at, info, _, section, value, size = SYM.unpack_from(self.image, self._table(DT_SYMTAB) + SYM.size * index)
        if info & 0xF != STT_FUNC or info >> 4 not in (STB_GLOBAL, STB_WEAK) or not section:
            return None
        if self.string(name_at) != name or self._version(index) != version:
            return None
        return Symbol(value + self.bias, size, info >> 4)

    def by_sysv_hash(self, name: str, version: str) -> Symbol | None:
        at = self._table(DT_HASH)
        n_buckets = self._u32(at)
        index = self._u32(at + 8 + 4 * (sysv_hash(name) % n_buckets))
        while index:
            if found := self._match(index, name, version):
                return found
            index = self._u32(at + 8 + 4 * n_buckets + 4 * index)
        return None

    def by_going_through(self, name: str, version: str) -> Symbol | None:
        """All symbols, whose number only the SysV table tells."""
        for index in range(self._u32(self._table(DT_HASH) + 4)):
            if found := self._match(index, name, version):
                return found
        return None

    def by_gnu_hash(self, name: str, version: str) -> Symbol | None:
        at = self._table(DT_GNU_HASH)
        n_buckets, first, bloom_words, shift = struct.unpack_from("<IIII", self.image, at)
        wanted = gnu_hash(name)
        bloom = struct.unpack_from("<Q", self.image, at + 16 + 8 * (wanted // 64 % bloom_words))[0]
        if not bloom >> wanted % 64 & bloom >> (wanted >> shift) % 64 & 1:
            return None
        buckets = at + 16 + 8 * bloom_words
        index = self._u32(buckets + 4 * (wanted % n_buckets))
        if index < first:
            return None
        while True:
            hashed = self._u32(buckets + 4 * n_buckets + 4 * (index - first))
            if hashed | 1 == wanted | 1 and (found := self._match(index, name, version)):
                return found
            if hashed & 1:
                return None
            index += 1
