"""Call sites: which can be patched, where the code lies that they jump to, and how a site is patched.

A `syscall` instruction is too short for a jump, but the instruction in front of it is not: compilers load the number
there, or syscall(2) its last argument.  That instruction alone becomes a jump; the `syscall` stays where it is, so
whoever jumps to it, sleeps in it or makes it again, finds what he always did, and the code that was jumped to can go
back to it.

- Five bytes (`mov $number, %eax`; `mov 8(%rsp), %r9`) are exactly a jump to anywhere within 2 GiB.
- Two bytes (`xor %eax, %eax`, of read(2)) are a jump's first two: its distance is then, but for the lowest byte, what
  stands behind them, the `syscall` itself and one byte more.  That is an address like any other, mostly a free one.

Only code that was mapped from a file, private and not writable, is patched: nobody else sees it, and code that a
program makes for itself is left alone.  A site is patched while no other thread of the space runs.

What is mapped for all this is hidden from the application: Ring.hidden.
"""

from __future__ import annotations

import logging
import os
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from platform_ptrace.core._core import ffi, lib
from platform_ptrace.platform import MAP_FIXED_NOREPLACE, SYS_MADVISE, SYS_MMAP, SYS_MUNMAP
from sentry.abi.errno import LinuxError
from sentry.abi.nr_x86_64 import NAMES
from sentry.platform import PAGE_SIZE, Mapping, PlatformError, SpaceGone

if TYPE_CHECKING:
    from platform_systrap.platform import SystrapContext, SystrapSpace

log = logging.getLogger(__name__)

PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4
MAP_SHARED: Final = 1
MAP_PRIVATE: Final = 2
MAP_ANONYMOUS: Final = 0x20
MADV_DONTFORK: Final = 10
MADV_WIPEONFORK: Final = 18
MASK64: Final = (1 << 64) - 1

# The calls whose blocks copy what their first pointer points to, at most a page of it.
NUMBERS: Final = {name: number for number, name in NAMES.items()}
KINDS: Final = {
    NUMBERS[name]: kind
    for kind, names in (
        (lib.RING_STRING_1, "open stat lstat access readlink unlink chdir mkdir rmdir statfs"),
        (lib.RING_STRING_2, "openat newfstatat faccessat faccessat2 readlinkat unlinkat mkdirat statx"),
        (lib.RING_BUFFER, "write pwrite64 sendto"),
    )
    for name in names.split()
}
SHARED_SIZE: Final[int] = lib.RING_PAGE_SIZE
BLOCK_SIZE: Final[int] = lib.RING_BLOCK_SIZE
MAX_BLOCKS: Final[int] = lib.RING_BLOCKS
MAX_HIDDEN: Final[int] = lib.RING_HIDDEN
CODE_SIZE: Final = 8 * PAGE_SIZE
LOWEST: Final = 0x10000
# Where to look for room: below all that is loaded together, below where linkers put programs, above.
DISTANCES: Final = (-(1 << 30), None, 1 << 30, 3 << 29, -(3 << 29))
BELOW_PROGRAMS: Final = 0x200000
REACH: Final = (1 << 31) - (1 << 20)

SYSCALL: Final = b"\x0f\x05"
LOAD_NUMBER: Final = 0xB8  # mov $imm32, %eax
LOAD_SIXTH: Final = b"\x4c\x8b\x4c\x24\x08"  # mov 8(%rsp), %r9
CLEAR_NUMBER: Final = b"\x31\xc0"  # xor %eax, %eax
PADDING: Final = b"\x0f\x1f\x00"  # a nop of three bytes
JUMP: Final = 0xE9
# Bytes that, in front of an instruction, change what it means.
PREFIXES: Final = frozenset((*range(0x40, 0x50), 0x26, 0x2E, 0x36, 0x3E, *range(0x64, 0x68), 0xF0, 0xF2, 0xF3, 0x0F))
BEFORE: Final = 8  # bytes, of which the last two are the syscall instruction
AROUND: Final = BEFORE + 1


class Site(NamedTuple):
    """The instruction in front of a syscall instruction: its size, the number that it loads (-1: none), and what a
    block does in its place, five bytes."""

    size: int
    number: int
    displaced: bytes


def recognise(code: bytes, number: int) -> Site | None:
    """What kind of site code is, AROUND bytes of which BEFORE end behind its syscall; None: of no known kind.

    number: of the call that it has just made; what looks like its load and is not would hardly name the same.
    """
    if code[6:8] != SYSCALL or len(code) < AROUND:
        return None
    if code[1:6] == LOAD_SIXTH:
        return Site(5, -1, LOAD_SIXTH)
    if code[1] == LOAD_NUMBER and code[2:6] == struct.pack("<I", number) and code[0] not in PREFIXES:
        return Site(5, number, code[1:6])
    if code[4:6] == CLEAR_NUMBER and number == 0 and code[3] not in PREFIXES:
        return Site(2, 0, CLEAR_NUMBER + PADDING)
    return None


def targets(site: Site, end: int, behind: int) -> range:
    """Where a two-byte site can jump to whose syscall instruction ends at end; behind: the byte behind that."""
    (lowest,) = struct.unpack("<i", bytes((0, *SYSCALL, behind)))
    first = end - 4 + 5 + lowest
    return range(first, first + 256)


def jump(site: Site, end: int, block: int) -> bytes:
    """The bytes that replace the site's instruction."""
    start = end - 2 - site.size
    return (bytes((JUMP,)) + struct.pack("<i", block - (start + 5)))[: site.size]


class Ring:
    """One address space's: struct ring, and what is mapped for it.  hidden: (start, end) of each mapping.

    It outlives the space's contexts, for which it is what space.ring names.
    """

    def __init__(self) -> None:
        self.c: Any = ffi.gc(ffi.new("struct ring *"), lib.ring_close)
        self.hidden: list[tuple[int, int]] = []
        self._blocks: dict[int, list[int]] = {}  # of each page with code, where blocks start
        self.works = True

    def copied(self) -> Ring:
        """That of a fork: the patched sites and their blocks are there, the shared page is not."""
        copy = Ring()
        ffi.memmove(copy.c, self.c, ffi.sizeof("struct ring"))
        copy.c.page, copy.c.key, copy.c.n_taken, copy.c.n_users, copy.c.streak = ffi.NULL, 0, 0, 0, 0
        copy.c.n_hidden = 0
        for start, end in self.hidden:
            if start != self.c.shared_at:
                copy.hide(start, end)
        copy._blocks = {page: list(blocks) for page, blocks in self._blocks.items()}
        return copy

    def hide(self, start: int, end: int) -> None:
        """This is the ring's; the core knows it, too, unless there is much."""
        c, n = self.c, len(self.hidden)
        self.hidden.append((start, end))
        if n < MAX_HIDDEN:
            c.hidden[n] = (start, end)
        c.n_hidden = n + 1 if n < MAX_HIDDEN else -1

    def hides(self, start: int, end: int) -> bool:
        """Does anything of start to end belong to the ring?"""
        for low, high in self.hidden:  # noqa: SIM110 (any() takes four times as long)
            if start < high and low < end:
                return True
        return False

    def visible(self, mappings: list[Mapping]) -> list[Mapping]:
        """mappings without the ring's own."""
        for low, high in self.hidden:
            mappings = [part for mapping in mappings for part in _without(mapping, low, high)]
        return mappings

    # -- memory --

    def _map(self, space: SystrapSpace, addr: int, length: int, prot: int) -> bool:
        """Map fresh memory at addr, and hide it.  False: something else is there."""
        if addr < LOWEST or addr + length > space.end:
            return False
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
        try:
            got = space.inject(SYS_MMAP, addr, length, prot, flags, MASK64, 0)
        except LinuxError:
            return False
        if got != addr:  # a host that knows no MAP_FIXED_NOREPLACE
            space.inject(SYS_MUNMAP, got, length)
            return False
        self.hide(addr, addr + length)
        return True

    def _map_code(self, space: SystrapSpace, addr: int, length: int) -> bool:
        if not self._map(space, addr, length, PROT_READ | PROT_EXEC):
            return False
        for page in range(addr, addr + length, PAGE_SIZE):
            self._blocks[page] = []
        return True

    def ready(self, context: SystrapContext, near: int) -> bool:
        """Have the two pages of the ring mapped; False: that can't be done in this space."""
        if self.c.page == ffi.NULL and self.works:
            try:
                self.works = self._open(context, near)
            except LinuxError:
                self.works = False
        return self.works

    def _open(self, context: SystrapContext, near: int) -> bool:
        space = context.space
        if not self.c.private_at:
            for at in _places(near):
                if self._map(space, at, PAGE_SIZE, PROT_READ | PROT_WRITE):
                    break
            else:
                return False
            space.inject(SYS_MADVISE, at, PAGE_SIZE, MADV_WIPEONFORK)
            self.c.private_at, self.c.shared_at = at, at + PAGE_SIZE
        at = self.c.shared_at
        fd = lib.ring_open(self.c)
        if fd < 0:
            log.warning("no page for a ring: %s", os.strerror(-fd))
            return False
        try:
            got = space.map(at, SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0)
            if got == at:
                space.inject(SYS_MADVISE, at, SHARED_SIZE, MADV_DONTFORK)
                self.hide(at, at + SHARED_SIZE)
                return True
            space.inject(SYS_MUNMAP, got, SHARED_SIZE)
        except LinuxError:
            pass
        finally:
            os.close(fd)
        lib.ring_close(self.c)  # and nothing of it is used, whatever is mapped
        return False

    # -- blocks --

    def place(self, space: SystrapSpace, site: Site, end: int, behind: int) -> int:
        """The address of a new block that the site can jump to; 0: there is none.  Maps memory where needed."""
        if site.size == 2:
            return self._place_at(space, targets(site, end, behind))
        for page, blocks in self._blocks.items():
            if abs(page - end) < REACH and len(blocks) < PAGE_SIZE // BLOCK_SIZE:
                start = page + BLOCK_SIZE * len(blocks)
                if self._is_free(start):
                    blocks.append(start)
                    return start
        for at in _places(end):
            if self._map_code(space, at + PAGE_SIZE + SHARED_SIZE, CODE_SIZE):
                return self.place(space, site, end, behind)
        return 0

    def _place_at(self, space: SystrapSpace, where: range) -> int:
        """A block that starts in where.  It may lie in two pages."""
        for start in (where[0], where[-1]):
            pages = range(start & -PAGE_SIZE, start + BLOCK_SIZE, PAGE_SIZE)
            if self._is_free(start) and all(
                page in self._blocks or self._map_code(space, page, PAGE_SIZE) for page in pages
            ):
                self._blocks[pages[0]].append(start)
                return start
        return 0

    def _is_free(self, start: int) -> bool:
        """Is there no other block?"""
        return all(abs(block - start) >= BLOCK_SIZE for blocks in self._blocks.values() for block in blocks)

    def has(self, end: int) -> bool:
        """Was this site patched?"""
        return any(self.c.blocks[index].end == end for index in range(self.c.n_blocks))

    def add(self, start: int, site: Site, end: int) -> int:
        """Note a block; its index."""
        c = self.c
        index: int = c.n_blocks
        block = c.blocks[index]
        block.start, block.end, block.number = start, end, site.number
        block.kind = KINDS.get(site.number, lib.RING_NOTHING)
        c.n_blocks = index + 1
        c.low = min(c.low or start, start)
        c.high = max(c.high, start + BLOCK_SIZE)
        return index


def _places(near: int) -> list[int]:
    """Where to try to map something that code at near is to reach."""
    page = near & -PAGE_SIZE
    places = (BELOW_PROGRAMS if distance is None else page + distance for distance in DISTANCES)
    return [place for place in places if place >= LOWEST and abs(place - near) < REACH]


def _without(mapping: Mapping, low: int, high: int) -> list[Mapping]:
    """What is left of a mapping without the range."""
    if mapping.end <= low or high <= mapping.start:
        return [mapping]
    parts = []
    if mapping.start < low:
        parts.append(mapping._replace(end=low))
    if high < mapping.end:
        offset = mapping.offset + (high - mapping.start if mapping.ino else 0)
        parts.append(mapping._replace(start=high, offset=offset))
    return parts


def patch(context: SystrapContext, end: int, number: int) -> None:
    """Patch the site whose syscall instruction ends at end, at which context has just trapped, if that is possible."""
    try:
        _patch(context, end, number)
    except SpaceGone:
        pass  # its end is on its way
    except (LinuxError, PlatformError) as e:
        log.debug("a call site was not patched: %s", e)
    except Exception:
        log.exception("a call site was not patched: a bug")


def _patch(context: SystrapContext, end: int, number: int) -> None:
    space = context.space
    ending = (other for other in space.platform.dying.values() if other.space is space)
    if any(other.running for other in space.contexts) or any(ending):
        return
    code = space.read(end - BEFORE, AROUND)
    ring = space.ring
    if ring is not None and JUMP in (code[1], code[4]) and ring.has(end):
        ring.ready(context, end)  # a fork's is not yet
        return
    site = recognise(code, number)
    if site is None:
        log.debug("call %d at %#x: no site that can be patched: %s", number, end, code.hex())
    if site is None or not _is_patchable(space.mappings(), end - BEFORE, end):
        return
    if ring is None:
        ring = space.ring = Ring()
        for sharer in space.contexts:
            cast("SystrapContext", sharer).use(ring)
    if ring.c.n_blocks == MAX_BLOCKS or not ring.ready(context, end):
        return
    start = ring.place(space, site, end, code[BEFORE])
    if not start:
        return
    index = ring.add(start, site, end)
    text = ffi.new("char[]", BLOCK_SIZE)
    lib.ring_build(ring.c, index, site.displaced, text)
    log.debug("call %d at %#x: patched, its block is at %#x", number, end, start)
    context.poke(start, ffi.buffer(text)[:])
    context.poke(end - BEFORE, code[: 6 - site.size] + jump(site, end, start) + SYSCALL)


def _is_patchable(mappings: list[Mapping], start: int, end: int) -> bool:
    """Does start to end lie in code from a file, private and not to be written?"""
    return any(m.start <= start and end <= m.end and m.perms == "r-xp" and m.ino for m in mappings)
