"""Guest memory without a guest: a processor in Python that walks the page tables, and caches what it found."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any, Final, NamedTuple

from platform_kvm.core._core import ffi, lib

PAGE: Final = 4096
LEAF: Final = 1 << 21
END: Final = (1 << 47) - PAGE
MMAP_BASE: Final = END - (1 << 30)
PRESENT, WRITABLE, USER, NX = 1, 2, 4, 1 << 63
ADDRESS: Final = 0x000FFFFFFFFFF000
READ, WRITE, EXEC = 0, 1, 2  # kv_fault's access
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
READ_WRITE: Final = 3
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 0x10, 0x20
ANONYMOUS: Final = MAP_PRIVATE | MAP_ANONYMOUS


class Fault(Exception):
    """The signal that an access ends in: (signo, code, addr)."""


class OutOfMemory(Exception):
    """An access for which there is no memory."""


class Shown(NamedTuple):
    """A struct kv_mapping."""

    start: int
    end: int
    offset: int
    dev: int
    ino: int
    prot: int
    shared: int
    kind: int


class Memory:
    """The window; knows every processor, so that it can say if one was left with something that is true no more."""

    def __init__(self) -> None:
        self.cores: dict[Any, Core] = {}
        self.slots: list[tuple[int, int, int]] = []
        self._add_slot = ffi.callback("int(unsigned long, void *, unsigned long)", self._slot_added)
        self._quiesce = ffi.callback("void(struct kv_space *)", self._quiesced)
        check(lib.kv_memory_init(self._add_slot, self._quiesce))
        self.window = int(ffi.cast("uintptr_t", lib.kv_window()))

    def _slot_added(self, gpa: int, host: Any, size: int) -> int:
        self.slots.append((gpa, int(ffi.cast("uintptr_t", host)), size))
        return 0

    def _quiesced(self, space: Any) -> None:
        core = self.cores.get(space)
        if core is not None:
            core.stop()

    def frames(self) -> Any:
        out = ffi.new("struct kv_frames_info *")
        lib.kv_frames(out)
        return out

    def host(self, gpa: int) -> int:
        assert lib.KV_WINDOW_GPA <= gpa < lib.KV_WINDOW_GPA + lib.KV_WINDOW_SIZE
        if self.slots:
            assert any(start <= gpa < start + size for start, _, size in self.slots), "not in a slot"
        offset: int = gpa - lib.KV_WINDOW_GPA
        return self.window + offset

    def entry(self, table_gpa: int, index: int) -> Any:
        """A pointer to the entry."""
        return ffi.cast("uint64_t *", self.host(table_gpa)) + index

    def close(self) -> None:
        lib.kv_memory_close()


class Core:
    """One space, and two processors that run in it.

    tlbs: per processor and page what it may still have cached: table, frame, rights.
    """

    def __init__(self, memory: Memory, account: Any, space: Any = None) -> None:
        self.memory = memory
        self.account = account
        self.space = space or lib.kv_space_new(account, END, MMAP_BASE, ffi.NULL)
        assert self.space != ffi.NULL
        self.tlbs: tuple[dict[int, tuple[int, int, int]], ...] = ({}, {})
        self.quiesced = 0
        memory.cores[self.space] = self

    def fork(self) -> Core:
        child = ffi.new("struct kv_space **")
        check(lib.kv_space_fork(self.space, child))
        return Core(self.memory, self.account, child[0])

    def free(self) -> None:
        del self.memory.cores[self.space]
        lib.kv_space_free(self.space)

    # -- the processor --

    def stop(self) -> None:
        self.quiesced += 1
        for tlb in self.tlbs:
            tlb.clear()

    def walk(self, addr: int) -> tuple[Any, int, int]:
        """The leaf entry's pointer (None: no table), the table's gpa, and what the levels above allow."""
        table, rights = lib.kv_space_root(self.space), WRITABLE | USER
        for shift in (39, 30, 21):
            entry = self.memory.entry(table, addr >> shift & 511)[0]
            if not entry & PRESENT:
                return None, 0, 0
            rights &= entry
            table = entry & ADDRESS
        return self.memory.entry(table, addr >> 12 & 511), table, rights

    def translation(self, addr: int) -> tuple[int, int, int] | None:
        slot, table, rights = self.walk(addr)
        if slot is None or not slot[0] & PRESENT:
            return None
        entry = slot[0]
        return table, entry & ADDRESS, (entry & rights & (WRITABLE | USER)) | (entry & NX)

    def access(self, addr: int, access: int, processor: int = 0) -> int:
        """Where in our memory the byte is, after as many faults as it takes.  Raises Fault, OutOfMemory."""
        info = ffi.new("struct kv_fault_info *")
        for _ in range(4):
            found = self.translation(addr)
            if found is not None:
                _, frame, rights = found
                assert rights & USER
                if not (access & WRITE and not rights & WRITABLE) and not (access & EXEC and rights & NX):
                    self.tlbs[processor][addr // PAGE] = found
                    return self.memory.host(frame) + addr % PAGE
            result = lib.kv_fault(self.space, addr, access, info)
            if result == -errno.ENOMEM:
                raise OutOfMemory
            if result:
                raise Fault(info.signo, info.code, info.addr)
        raise AssertionError("the same fault again and again")

    def load(self, addr: int, length: int = 1, access: int = READ, processor: int = 0) -> bytes:
        data: bytes = ffi.buffer(ffi.cast("char *", self.access(addr, access, processor)), length)[:]
        return data

    def store(self, addr: int, data: bytes, processor: int = 0) -> None:
        ffi.memmove(ffi.cast("char *", self.access(addr, WRITE, processor)), data, len(data))

    def fill_mark(self, addr: int, *, say: bool = True) -> bool:
        """What ring 0 does with a fault where it finds a mark: whether it did."""
        gpas = ffi.new("unsigned long[1]")
        assert lib.kv_stock_take(gpas, 1) == 1
        if not self.fill_mark_with(addr, gpas[0]):
            lib.kv_stock_return(gpas, 1)
            return False
        if say:
            lib.kv_stock_used(self.space, gpas[0])
        return True

    def fill_mark_with(self, addr: int, gpa: int) -> bool:
        """With this frame of its stock."""
        slot, _, rights = self.walk(addr)
        if slot is None or not rights & WRITABLE or slot[0] & ~NX != lib.KV_PTE_ZERO:
            return False
        slot[0] = gpa | (slot[0] & NX) | 0x67
        return True

    def check_tlb(self) -> None:
        """What is cached must still hold, or have been flushed."""
        for page, (table, frame, rights) in [cached for tlb in self.tlbs for cached in tlb.items()]:
            now = self.translation(page * PAGE)
            assert now is not None, f"page {page:x} was taken out without a flush"
            assert now[:2] == (table, frame), f"page {page:x} was replaced without a flush"
            assert not rights & WRITABLE & ~now[2], f"page {page:x} became read-only without a flush"
            assert not now[2] & NX & ~rights, f"page {page:x} became non-executable without a flush"

    # -- the kernel --

    def map(self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        return check(lib.kv_map(self.space, addr, length, prot, flags, fd, offset))

    def unmap(self, addr: int, length: int) -> None:
        check(lib.kv_unmap(self.space, addr, length))

    def protect(self, addr: int, length: int, prot: int) -> None:
        check(lib.kv_protect(self.space, addr, length, prot))

    def remap(self, addr: int, old: int, new: int, flags: int, to: int = 0) -> int:
        return check(lib.kv_remap(self.space, addr, old, new, flags, to))

    def advise(self, addr: int, length: int, advice: int) -> None:
        check(lib.kv_advise(self.space, addr, length, advice))

    def sync(self, addr: int, length: int, flags: int = 4) -> None:
        check(lib.kv_sync(self.space, addr, length, flags))

    def read(self, addr: int, length: int) -> bytes:
        buffer = ffi.new("char[]", length)
        n = check(lib.kv_read(self.space, addr, buffer, length))
        data: bytes = ffi.buffer(buffer, n)[:]
        return data

    def write(self, addr: int, data: bytes) -> int:
        return check(lib.kv_write(self.space, addr, data, len(data)))

    def cstr(self, addr: int, limit: int = PAGE) -> bytes:
        buffer = ffi.new("char[]", limit)
        n = check(lib.kv_read_cstr(self.space, addr, buffer, limit))
        data: bytes = ffi.buffer(buffer, n)[:]
        return data

    def word(self, addr: int) -> int:
        return int(struct.unpack("<I", self.read(addr, 4))[0])

    def mappings(self) -> list[Shown]:
        out = ffi.new("struct kv_mapping[1024]")
        n = lib.kv_mappings(self.space, out, 1024)
        return [Shown(m.start, m.end, m.offset, m.dev, m.ino, m.prot, m.shared, m.kind) for m in out[0:n]]

    def ranges(self) -> list[tuple[int, int, int]]:
        return [(m.start, m.end, m.prot) for m in self.mappings()]

    def resident(self) -> tuple[int, int, int]:
        out = ffi.new("unsigned long[3]")
        lib.kv_resident(self.space, out)
        return out[0], out[1], out[2]


def check(result: int) -> int:
    """A result, or OSError."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
