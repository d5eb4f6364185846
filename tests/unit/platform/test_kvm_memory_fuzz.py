"""The kvm platform's memory beside a plain model of what Linux promises, and beside Linux itself.

The first test does whatever comes to a family of forked spaces, and holds every page against a model of it in
dictionaries; the processors keep what they cached, as real ones do (tests/kvmwalk.py).  The second makes the same
calls of the mmap family to a space and to the host, in an empty part of this process, and compares results and maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from platform_kvm.core._core import ffi, lib
from tests.kvmwalk import (
    ANONYMOUS,
    EXEC,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE,
    READ,
    WRITE,
    Core,
    Fault,
    Memory,
)

BASE = 0x20000000
# Around the borders of tables, so that whole tables and parts of them are changed.
SPOTS = sorted({*range(6), *range(508, 517), *range(1021, 1027), 1530})
PAGES = 1536
MOST_SPACES = 5
FILE_PAGES = 4000
ACCERR, MAPERR, ADRERR = (signal.SIGSEGV, 2), (signal.SIGSEGV, 1), (signal.SIGBUS, 2)
NEEDS = {READ: 7, WRITE: 2, EXEC: 4}

spot = st.sampled_from(SPOTS)
ranges = st.tuples(spot, spot).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: (min(pair), max(pair)))
prots = st.sampled_from([0, 1, 2, 3, 3, 3, 5, 7])
# Of a region, by its number, a part; sometimes more than there is.
parts = st.tuples(st.integers(0, 30), st.integers(0, 12), st.integers(1, 600), st.sampled_from([0, 0, 0, 1]))
values = st.integers(1, 1 << 30)
which = st.integers(0, MOST_SPACES - 1)
# Often the same few pages, by both processors.
accesses = st.tuples(
    spot | st.sampled_from([511, 512, 1024]), st.sampled_from([READ, READ, WRITE, EXEC]), values, st.integers(0, 1)
)


def part_of(regions: Sequence[tuple[int, int]], part: tuple[int, int, int, int]) -> tuple[int, int]:
    """In pages, from, to."""
    number, skip, length, more = part
    start, end = regions[number % len(regions)] if regions else (0, 5)
    start += skip % (end - start)
    return start, min(start + length, end) + more


@dataclass
class Page:
    """One page of a space.  source: what it shows: a file's page, one of an object, or nothing (anonymous)."""

    prot: int
    shared: bool
    source: tuple[str, int, int] | None
    own: int | None = None  # what was written to it, if it is private
    dontfork: bool = False
    wipeonfork: bool = False


@dataclass
class Space:
    core: Core
    pages: dict[int, Page] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.account = lib.kv_account_new(1 << 20)
        self.spaces = [Space(Core(self.memory, self.account))]
        self.file = tempfile.TemporaryFile()
        os.ftruncate(self.file.fileno(), FILE_PAGES * PAGE)
        self.contents: dict[tuple[str, int, int], int] = {}
        self.sizes: list[int] = []
        self.written: set[int] = set(SPOTS)

    def teardown(self) -> None:
        for space in self.spaces:
            space.core.free()
        frames = self.memory.frames()
        assert (frames.handed_out, frames.objects, frames.window_used) == (0, 0, 0)
        assert lib.kv_account_used(self.account) == 0
        lib.kv_account_free(self.account)
        self.memory.close()
        self.file.close()

    def space(self, number: int) -> Space:
        return self.spaces[number % len(self.spaces)]

    # -- the model --

    def value(self, page: Page) -> int | None:
        """What a page shows; None: it does not exist."""
        if page.own is not None:
            return page.own
        if page.source is None:
            return 0
        kind, number, index = page.source
        if kind == "shared" and index >= self.sizes[number]:
            return None
        return self.contents.get(page.source, 0)

    def expected(self, space: Space, at: int, access: int) -> tuple[int, int] | None:
        page = space.pages.get(at)
        if page is None:
            return MAPERR
        if not page.prot & NEEDS[access]:
            return ACCERR
        return ADRERR if self.value(page) is None else None

    def note_write(self, page: Page, value: int) -> None:
        if page.shared:
            assert page.source is not None
            self.contents[page.source] = value
        else:
            page.own = value

    # -- the calls --

    @rule(number=which, at=ranges, prot=prots, kind=st.sampled_from(["anon"] * 3 + ["shared", "file", "filecopy"]))
    def map(self, number: int, at: tuple[int, int], prot: int, kind: str) -> None:
        space, (start, end) = self.space(number), at
        addr, length = BASE + start * PAGE, (end - start) * PAGE
        if kind == "anon":
            space.core.map(addr, length, prot, ANONYMOUS | MAP_FIXED)
            new = {i: Page(prot, False, None) for i in range(start, end)}
        elif kind == "shared":
            space.core.map(addr, length, prot, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED)
            new = {i: Page(prot, True, ("shared", len(self.sizes), i - start)) for i in range(start, end)}
            self.sizes.append(end - start)
        else:
            shared = kind == "file"
            flags = (MAP_SHARED if shared else MAP_PRIVATE) | MAP_FIXED
            space.core.map(addr, length, prot, flags, self.file.fileno(), start % 7 * PAGE)
            new = {i: Page(prot, shared, ("file", 0, start % 7 + i - start)) for i in range(start, end)}
        space.pages.update(new)

    @rule(number=which, at=ranges)
    def unmap(self, number: int, at: tuple[int, int]) -> None:
        space = self.space(number)
        space.core.unmap(BASE + at[0] * PAGE, (at[1] - at[0]) * PAGE)
        for i in range(*at):
            space.pages.pop(i, None)

    @rule(number=which, at=ranges, prot=prots)
    def protect(self, number: int, at: tuple[int, int], prot: int) -> None:
        space = self.space(number)
        result = lib.kv_protect(space.core.space, BASE + at[0] * PAGE, (at[1] - at[0]) * PAGE, prot)
        for i in range(*at):
            if i not in space.pages:
                assert result == -errno.ENOMEM
                return
            space.pages[i].prot = prot
        assert result == 0

    @rule(number=which, part=parts, to=spot, grow=st.sampled_from([0, 0, 1, 5, 512]), keep=st.booleans())
    def remap(self, number: int, part: tuple[int, int, int, int], to: int, grow: int, keep: bool) -> None:
        space = self.space(number)
        start, end = part_of([((r[0] - BASE) // PAGE, (r[1] - BASE) // PAGE) for r in space.core.ranges()], part)
        length = end - start
        new_length = length + (0 if keep else grow)
        flags = 3 | (4 if keep else 0)
        args = (BASE + start * PAGE, length * PAGE, new_length * PAGE, flags, BASE + to * PAGE)
        region = next((r for r in space.core.ranges() if r[0] <= args[0] < r[1]), None)
        result = lib.kv_remap(space.core.space, *args)
        if start < to + new_length and to < end:
            assert result == -errno.EINVAL
        elif region is None or args[0] + args[1] > region[1]:
            assert result == -errno.EFAULT
        else:
            assert result == args[4]
            old = {i: space.pages[i] for i in range(start, end)}
            for i in range(to, to + new_length):
                space.pages.pop(i, None)
            for i in range(new_length):
                page = replace(old[start]) if i >= length else replace(old[start + i])
                if i >= length:
                    page.own = None
                    if page.source is not None:
                        page.source = (*page.source[:2], page.source[2] + i)
                space.pages[to + i] = page
            for i in old:
                if keep:
                    old[i].own = None
                else:
                    del space.pages[i]

    @rule(number=which, at=ranges)
    def dontneed(self, number: int, at: tuple[int, int]) -> None:
        space = self.space(number)
        result = lib.kv_advise(space.core.space, BASE + at[0] * PAGE, (at[1] - at[0]) * PAGE, 4)
        assert result == (0 if all(i in space.pages for i in range(*at)) else -errno.ENOMEM)
        for i in range(*at):
            if i in space.pages:
                space.pages[i].own = None

    @rule(number=which, at=ranges, advice=st.sampled_from([10, 11, 18, 19]))
    def inherit(self, number: int, at: tuple[int, int], advice: int) -> None:
        space = self.space(number)
        pages = [space.pages.get(i) for i in range(*at)]
        if any(page is None or page.source is not None for page in pages):
            return
        space.core.advise(BASE + at[0] * PAGE, (at[1] - at[0]) * PAGE, advice)
        for page in pages:
            assert page is not None
            if advice in (10, 11):
                page.dontfork = advice == 10
            else:
                page.wipeonfork = advice == 18

    @rule(number=which, at=ranges, access=st.sampled_from([READ, WRITE]))
    def populate(self, number: int, at: tuple[int, int], access: int) -> None:
        space, (start, end) = self.space(number), at
        result = lib.kv_advise(space.core.space, BASE + start * PAGE, (end - start) * PAGE, 22 + access)
        wrong = [self.expected(space, i, access) for i in range(start, end)]
        first = next((one for one in wrong if one is not None), None)
        # Holes are passed over, and reported if nothing worse happens.
        worse = next((one for one in wrong if one not in (None, MAPERR)), None)
        codes: dict[tuple[int, int] | None, int] = {None: 0, MAPERR: -errno.ENOMEM}
        codes |= {ACCERR: -errno.EINVAL, ADRERR: -errno.EFAULT}
        assert result == codes[worse or first]
        if access == WRITE:
            for i in range(start, end):
                if self.expected(space, i, WRITE) not in (None, MAPERR):
                    return
                page = space.pages.get(i)
                if page is not None and not page.shared:
                    page.own = self.value(page)

    @precondition(lambda self: len(self.spaces) < MOST_SPACES)
    @rule(number=which)
    def fork(self, number: int) -> None:
        parent = self.space(number)
        child = Space(parent.core.fork())
        for i, page in parent.pages.items():
            if not page.dontfork:
                child.pages[i] = replace(page, own=None if page.wipeonfork else page.own)
        self.spaces.append(child)

    @precondition(lambda self: len(self.spaces) > 1)
    @rule(number=which)
    def free(self, number: int) -> None:
        self.spaces.pop(number % len(self.spaces)).core.free()

    # -- the application, the Sentry, and others --

    @rule(number=which, accesses=st.lists(accesses, min_size=1, max_size=6))
    def touch(self, number: int, accesses: list[tuple[int, int, int, int]]) -> None:
        for access in accesses:
            self.touch_once(self.space(number), *access)

    def touch_once(self, space: Space, at: int, access: int, value: int, processor: int) -> None:
        expected = self.expected(space, at, access)
        try:
            if access == WRITE:
                space.core.store(BASE + at * PAGE, struct.pack("<I", value), processor)
            else:
                found = struct.unpack("<I", space.core.load(BASE + at * PAGE, 4, access, processor))[0]
                assert expected is None and found == self.value(space.pages[at])
        except Fault as fault:
            assert fault.args[:2] == expected
            return
        assert expected is None
        if access == WRITE:
            self.note_write(space.pages[at], value)

    @rule(number=which, at=spot, value=values)
    def write(self, number: int, at: int, value: int) -> None:
        space = self.space(number)
        addr = BASE + (at + 1) * PAGE - 4
        both = [self.expected(space, i, WRITE) is None for i in (at, at + 1)]
        n = lib.kv_write(space.core.space, addr, b"\0\0\0\0" + struct.pack("<I", value), 8)
        assert n == (-errno.EFAULT if not both[0] else 8 if both[1] else 4)
        if both[0]:
            page = space.pages[at]
            if not page.shared:
                page.own = self.value(page)
            if both[1]:
                self.note_write(space.pages[at + 1], value)
                self.written.add(at + 1)

    @rule(number=which, at=spot, late=st.booleans())
    def fill_mark(self, number: int, at: int, late: bool) -> None:
        space = self.space(number)
        if space.core.fill_mark(BASE + at * PAGE, say=not late):
            page = space.pages[at]
            assert page.source is None and page.prot & 2 and page.own in (None, 0)

    @rule(index=st.integers(0, 1540), value=values)
    def change_file(self, index: int, value: int) -> None:
        os.pwrite(self.file.fileno(), struct.pack("<I", value), index * PAGE)
        self.contents["file", 0, index] = value

    # -- what must hold at any time --

    @invariant()
    def nothing_stale_is_cached(self) -> None:
        for space in self.spaces:
            space.core.check_tlb()

    @invariant()
    def every_page_shows_what_it_should(self) -> None:
        for space in self.spaces:
            for at in self.written:
                addr = BASE + at * PAGE
                if self.expected(space, at, READ) is None:
                    assert space.core.word(addr) == self.value(space.pages[at])
                else:
                    assert lib.kv_read(space.core.space, addr, ffi.new("char[4]"), 4) == -errno.EFAULT

    @invariant()
    def the_map_is_right(self) -> None:
        for space in self.spaces:
            mappings = space.core.mappings()
            for at in self.written:
                addr, page = BASE + at * PAGE, space.pages.get(at)
                m = next((m for m in mappings if m.start <= addr < m.end), None)
                if m is None or page is None:
                    assert m is None and page is None
                    continue
                offset = page.source[2] * PAGE if page.source else 0
                assert (m.prot, bool(m.shared)) == (page.prot, page.shared)
                assert (m.offset + addr - m.start if m.ino else 0) == offset
            assert space.core.resident()[0] == len(space.pages)


Machine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
test_a_family_of_spaces_is_what_the_model_says = Machine.TestCase


# -- beside Linux --

# Far from where the host puts anything by itself: an interpreter that is no PIE has its heap anywhere below 2 GiB.
ARENA, ARENA_PAGES = 0x100000000000, 2048
CALLS = {"mmap": 9, "mprotect": 10, "munmap": 11, "mremap": 25, "msync": 26, "madvise": 28}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

operations = st.one_of(
    st.tuples(
        st.just("mmap"),
        ranges,
        prots,
        st.sampled_from([ANONYMOUS, ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED, MAP_PRIVATE]),
        st.sampled_from([0, MAP_FIXED, MAP_FIXED, 0x100000]),
        st.booleans(),
    ),
    st.tuples(st.just("munmap"), ranges),
    st.tuples(st.just("mprotect"), ranges, prots),
    st.tuples(st.just("mremap"), parts, st.integers(0, 12), st.integers(0, 7), spot),
    st.tuples(st.just("mremap"), parts, st.integers(0, 12), st.just(3), spot),
    st.tuples(st.just("madvise"), ranges, st.sampled_from([4, 8, 10, 11, 18, 19, 24, 9999])),
    st.tuples(st.just("msync"), ranges, st.sampled_from([1, 4])),
)


def host(name: str, *args: int) -> int:
    result: int = libc.syscall(CALLS[name], *(ctypes.c_long(arg) for arg in args))
    return -ctypes.get_errno() if result == -1 else result


def ours(core: Core, name: str, *args: int) -> int:
    call = {
        "mmap": lib.kv_map,
        "mprotect": lib.kv_protect,
        "munmap": lib.kv_unmap,
        "mremap": lib.kv_remap,
        "msync": lib.kv_sync,
        "madvise": lib.kv_advise,
    }[name]
    result: int = call(core.space, *args)
    return result


def on_host() -> list[tuple[int, int, str, int]]:
    """What lies in the arena: start, end, rwxp, offset in a file."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, perms, offset, _, inode = line.split()[:5]
            start, end = (int(part, 16) for part in span.split("-"))
            if start < ARENA + ARENA_PAGES * PAGE and end > ARENA:
                found.append((start, end, perms, int(offset, 16) if inode != "0" else 0))
    return found


def in_space(core: Core) -> list[tuple[int, int, str, int]]:
    return [
        (m.start, m.end, "".join("rwx"[i] if m.prot >> i & 1 else "-" for i in range(3)) + "ps"[m.shared], m.offset)
        for m in core.mappings()
    ]


def joined(regions: list[tuple[int, int, str, int]]) -> list[tuple[int, int, str, int]]:
    """Linux keeps some neighbours apart for reasons that nobody can see."""
    out: list[tuple[int, int, str, int]] = []
    for start, end, perms, offset in regions:
        if out and out[-1][1] == start and out[-1][2] == perms and perms[3] == "p":
            if offset in (0, out[-1][3] + start - out[-1][0]):
                if offset or not out[-1][3]:
                    out[-1] = (out[-1][0], end, perms, out[-1][3])
                    continue
        out.append((start, end, perms, offset))
    return out


def in_one(regions: list[tuple[int, int, str, int]], start: int, end: int) -> bool:
    return any(region[0] <= start and end <= region[1] for region in regions)


def arguments(operation: tuple[Any, ...], fds: tuple[int, int]) -> tuple[Any, ...]:
    name, (start, end), *rest = operation
    addr, length = ARENA + start * PAGE, (end - start) * PAGE
    if name == "mmap":
        prot, kind, fixed, readonly = rest
        fd = -1 if kind & MAP_ANONYMOUS else fds[readonly]
        if fd >= 0 and not fixed:
            fixed = MAP_FIXED  # some of the host's file systems take no hint, for the sake of large pages
        return addr, length, prot, kind | fixed, fd, 0 if fd < 0 else start % 5 * PAGE
    if name == "mremap":
        grow, flags, to = rest
        # Linux zeroes no argument that it does not use; a hint is one only for those who leave the old mapping.
        return addr, length, length + (0 if flags & 4 else grow * PAGE), flags, ARENA + to * PAGE if flags & 2 else 0
    return (addr, length, *rest)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(st.lists(operations, min_size=5, max_size=40))
def test_calls_and_maps_are_those_of_linux(script: list[tuple[Any, ...]]) -> None:
    assert on_host() == []
    memory = Memory()
    account = lib.kv_account_new(1 << 20)
    core = Core(memory, account)
    with tempfile.NamedTemporaryFile() as file:
        os.ftruncate(file.fileno(), 4 * PAGE)
        readonly = os.open(file.name, os.O_RDONLY)
        try:
            for operation in script:
                if operation[0] == "mremap":
                    there = [((r[0] - ARENA) // PAGE, (r[1] - ARENA) // PAGE) for r in on_host()]
                    operation = ("mremap", part_of(there, operation[1]), *operation[2:])
                args = arguments(operation, (file.fileno(), readonly))
                if operation[0] == "mremap":
                    span = args[0], args[0] + args[1]
                    whole = [in_one(on_host(), *span), in_one(in_space(core), *span)]
                    # Newer hosts move several mappings at once; and see joined().
                    if not all(whole) or args[4] + args[2] > ARENA + ARENA_PAGES * PAGE:
                        continue
                theirs, our = host(operation[0], *args), ours(core, operation[0], *args)
                if theirs > 0 and not ARENA <= theirs < ARENA + ARENA_PAGES * PAGE:
                    assert our > 0 and not ARENA <= our < ARENA + ARENA_PAGES * PAGE, (operation, theirs, our)
                    host("munmap", theirs, args[2] if operation[0] == "mremap" else args[1])
                    core.unmap(our, args[2] if operation[0] == "mremap" else args[1])
                else:
                    assert theirs == our, operation
                assert joined(on_host()) == joined(in_space(core)), operation
        finally:
            os.close(readonly)
            host("munmap", ARENA, 2 * ARENA_PAGES * PAGE)
            core.free()
            lib.kv_account_free(account)
            memory.close()
