"""What sentry/platform.py promises of address spaces, of every platform."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable

import pytest

from sentry.abi.errno import EAGAIN, EEXIST, EFAULT, EINVAL, ENAMETOOLONG, ENODEV, ENOMEM, LinuxError
from sentry.mm.mm import MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ
from sentry.platform import PAGE_SIZE, FaultTrap, SyscallTrap
from tests.bare import CODE, DATA, FIXED, MASK64, NOP, READ_WRITE, STACK, Bare, call, mov
from tests.integration.platforms import ANONYMOUS, place

# A platform waits for any child and for SIGCHLD: the process is to have no other children and no other threads.
pytestmark = pytest.mark.own_process

# -- memory, as the kernel sees it --


def test_a_new_space_is_empty_but_for_the_vdso(bare: Bare) -> None:
    space = bare.empty().space
    assert {mapping.kind for mapping in space.mappings()} <= {"vdso", "vvar"}
    assert [m.start for m in space.mappings() if m.kind == "vdso"] == ([space.vdso] if space.vdso else [])
    if space.vdso:
        assert space.read(space.vdso, 4) == b"\x7fELF"


def test_map_says_where_and_mappings_show_it(bare: Bare) -> None:
    space = bare.empty().space
    addr = space.map(0, 3 * PAGE_SIZE, PROT_READ, ANONYMOUS, -1, 0)
    assert addr and addr % PAGE_SIZE == 0 and addr + 3 * PAGE_SIZE <= space.end
    space.map(DATA, PAGE_SIZE, PROT_READ | PROT_EXEC, FIXED, -1, 0)
    space.map(DATA + PAGE_SIZE, PAGE_SIZE, 0, FIXED, -1, 0)
    shown = {(m.start, m.end): (m.perms, m.kind) for m in space.mappings()}
    assert shown[addr, addr + 3 * PAGE_SIZE] == ("r--p", "")
    assert shown[DATA, DATA + PAGE_SIZE] == ("r-xp", "")
    assert shown[DATA + PAGE_SIZE, DATA + 2 * PAGE_SIZE] == ("---p", "")
    assert list(shown) == sorted(shown)


def test_spaces_are_apart(bare: Bare) -> None:
    a, b = bare.empty().space, bare.empty().space
    for space, text in ((a, b"first"), (b, b"other")):
        space.map(DATA, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
        space.write(DATA, text)
    assert (a.read(DATA, 5), b.read(DATA, 5)) == (b"first", b"other")


def test_reads_stop_at_the_first_page_that_cannot_be_read(bare: Bare) -> None:
    space = bare.load(NOP).space
    end = DATA + PAGE_SIZE
    space.write(end - 6, b"abcdef")
    assert space.read(end - 6, 6) == b"abcdef"
    assert space.read_some(end - 6, 100) == b"abcdef"
    assert space.read_some(end - 6, 0) == b""
    with pytest.raises(EFAULT):
        space.read(end - 6, 7)
    for at in (0, end):
        with pytest.raises(EFAULT):
            space.read_some(at, 1)


def test_memory_that_is_not_readable_is_not_read(bare: Bare) -> None:
    space = bare.load(NOP).space
    space.protect(DATA, PAGE_SIZE, 0)
    with pytest.raises(EFAULT):
        space.read(DATA, 1)


def test_writes_stop_at_the_first_page_that_cannot_be_written(bare: Bare) -> None:
    space = bare.load(NOP).space
    end = DATA + PAGE_SIZE
    assert space.write_some(end - 3, b"abcdef") == 3
    assert space.read(end - 3, 3) == b"abc"
    assert space.write_some(end, b"") == 0
    with pytest.raises(EFAULT):
        space.write(end - 3, b"abcdef")
    with pytest.raises(EFAULT):
        space.write_some(CODE, b"x")
    with pytest.raises(EFAULT):
        space.write(end, b"x")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_whatever_holds_bytes_can_be_written(bare: Bare, kind: Callable[[bytes], bytes]) -> None:
    space = bare.load(NOP).space
    space.write(DATA, kind(b"text"))
    assert space.read(DATA, 4) == b"text"


def test_large_copies_are_whole(bare: Bare) -> None:
    space = bare.empty().space
    size = 3 << 20
    addr = space.map(0, size, READ_WRITE, ANONYMOUS, -1, 0)
    data = os.urandom(1 << 10) * (size >> 10)
    space.write(addr, data)
    assert space.read(addr, size) == data


def test_strings_end_at_their_nul(bare: Bare) -> None:
    space = bare.load(NOP).space
    end = DATA + PAGE_SIZE
    space.write(end - 6, b"hello\0")
    assert space.read_cstr(end - 6, 4096) == b"hello"
    assert space.read_cstr(end - 1, 4096) == b""
    space.map(end, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
    space.write(end - 6, b"hello, world\0")
    assert space.read_cstr(end - 6, 4096) == b"hello, world"
    with pytest.raises(ENAMETOOLONG):
        space.read_cstr(end - 6, 12)
    space.write(2 * PAGE_SIZE + DATA - 2, b"xx")
    with pytest.raises(EFAULT):
        space.read_cstr(2 * PAGE_SIZE + DATA - 2, 4096)


def test_compare_and_exchange(bare: Bare) -> None:
    space = bare.load(NOP).space
    space.write(DATA, struct.pack("<II", 0xFFFFFFFE, 7))
    assert space.cmpxchg32(DATA, 1, 2) == 0xFFFFFFFE
    assert space.cmpxchg32(DATA, 0xFFFFFFFE, 0x80000001) == 0xFFFFFFFE
    assert struct.unpack("<II", space.read(DATA, 8)) == (0x80000001, 7)


@pytest.mark.parametrize("addr", [0, CODE, DATA + PAGE_SIZE, DATA + 1, 1 << 62, MASK64 - 3])
def test_compare_and_exchange_of_what_cannot_be_written_is_efault(bare: Bare, addr: int) -> None:
    space = bare.load(NOP).space
    with pytest.raises(EFAULT):
        space.cmpxchg32(addr, 0, 0)


def test_an_injected_change_leaves_the_registers_alone(bare: Bare) -> None:
    context = bare.load(call(1) + call(2), rbx=1, r12=2, r8=3)
    bare.syscall(context)
    context.space.map(0, PAGE_SIZE, READ_WRITE, ANONYMOUS, -1, 0)
    context.space.cmpxchg32(DATA, 0, 5)
    context.set_result(-1)
    bare.syscall(context)
    regs = context.regs
    assert (regs.rbx, regs.r12, regs.r8, regs.rsp) == (1, 2, 3, STACK - 64)


def test_unmap_protect_and_advise(bare: Bare) -> None:
    space = bare.empty().space
    addr = space.map(0, 4 * PAGE_SIZE, READ_WRITE, ANONYMOUS, -1, 0)
    space.write(addr, b"x" * 4 * PAGE_SIZE)
    space.unmap(addr + PAGE_SIZE, PAGE_SIZE)
    with pytest.raises(EFAULT):
        space.read(addr + PAGE_SIZE, 1)
    space.advise(addr, PAGE_SIZE, 4)  # MADV_DONTNEED
    assert space.read(addr, 1) == b"\0"
    with pytest.raises(ENOMEM):
        space.protect(addr, 4 * PAGE_SIZE, PROT_READ)
    with pytest.raises(EEXIST):
        space.map(addr, PAGE_SIZE, PROT_READ, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)
    with pytest.raises(EINVAL):
        space.unmap(addr + 1, PAGE_SIZE)


def test_remap_moves_the_contents(bare: Bare) -> None:
    space = bare.empty().space
    addr = space.map(0, 4 * PAGE_SIZE, READ_WRITE, ANONYMOUS, -1, 0)
    space.write(addr, b"kept")
    moved = space.remap(addr, PAGE_SIZE, 8 * PAGE_SIZE, 1, MASK64)  # MREMAP_MAYMOVE: the last argument is none
    assert space.read(moved, 4) == b"kept" and moved != addr
    assert space.remap(moved, 8 * PAGE_SIZE, PAGE_SIZE, 0, 0) == moved
    with pytest.raises(EFAULT):
        space.read(moved + PAGE_SIZE, 1)
    fixed = space.remap(moved, PAGE_SIZE, PAGE_SIZE, 3, DATA)  # and MREMAP_FIXED
    assert (fixed, space.read(DATA, 4)) == (DATA, b"kept")


def test_files_are_mapped_shared_and_private(bare: Bare) -> None:
    space = bare.empty().space
    with tempfile.TemporaryFile() as file:
        file.write(b"A" * PAGE_SIZE + b"B" * PAGE_SIZE)
        file.flush()
        shared = space.map(0, 2 * PAGE_SIZE, READ_WRITE, MAP_SHARED, file.fileno(), 0)
        private = space.map(0, PAGE_SIZE, READ_WRITE, MAP_PRIVATE, file.fileno(), PAGE_SIZE)
        info = os.fstat(file.fileno())
        assert space.read(shared + PAGE_SIZE - 1, 2) == b"AB" and space.read(private, 1) == b"B"
        space.write(shared, b"written")
        space.write(private, b"private")
        space.sync(shared, PAGE_SIZE, 4)
        assert os.pread(file.fileno(), 7, 0) == b"written"
        assert os.pread(file.fileno(), 7, PAGE_SIZE) == b"B" * 7
        shown = {m.start: (m.perms, m.offset, m.dev, m.ino) for m in space.mappings()}
        assert shown[shared] == ("rw-s", 0, info.st_dev, info.st_ino)
        assert shown[private] == ("rw-p", PAGE_SIZE, info.st_dev, info.st_ino)


def test_a_file_that_cannot_be_mapped_is_the_hosts_errno(bare: Bare) -> None:
    space = bare.empty().space
    r, w = os.pipe()
    try:
        with pytest.raises(ENODEV):
            space.map(0, PAGE_SIZE, PROT_READ, MAP_PRIVATE, r, 0)
    finally:
        os.close(r)
        os.close(w)
    with pytest.raises(LinuxError):
        space.map(0, PAGE_SIZE, PROT_READ, MAP_PRIVATE, 1 << 20, 0)
    assert space.map(0, PAGE_SIZE, PROT_READ, ANONYMOUS, -1, 0)


def test_mapping_files_uses_up_nothing(bare: Bare) -> None:
    space = bare.empty().space
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE_SIZE)
        for _ in range(1100):
            space.map(DATA, PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.fileno(), 0)


def test_what_the_platform_keeps_for_itself_is_out_of_reach(bare: Bare) -> None:
    space = bare.load(NOP).space
    assert all(mapping.end <= space.end for mapping in space.mappings())
    for addr in (*range(space.end, space.end + 0x10000, PAGE_SIZE), MASK64, 1 << 64, 1 << 70, -1, -PAGE_SIZE, -1 << 70):
        for touch in (
            lambda addr=addr: space.read(addr, 1),
            lambda addr=addr: space.write(addr, b"x"),
            lambda addr=addr: space.read_cstr(addr, 10),
            lambda addr=addr: space.cmpxchg32(addr, 0, 0),
        ):
            with pytest.raises(EFAULT):
                touch()
    for change in (
        lambda: space.map(space.end, PAGE_SIZE, READ_WRITE, FIXED, -1, 0),
        lambda: space.map(space.end - PAGE_SIZE, 4 * PAGE_SIZE, READ_WRITE, FIXED, -1, 0),
        lambda: space.unmap(space.end - PAGE_SIZE, 4 * PAGE_SIZE),
        lambda: space.protect(space.end + PAGE_SIZE, PAGE_SIZE, READ_WRITE | PROT_EXEC),
        lambda: space.advise(space.end, PAGE_SIZE, 4),
        lambda: space.sync(space.end, PAGE_SIZE, 4),
        lambda: space.remap(DATA, PAGE_SIZE, PAGE_SIZE, 3, space.end + PAGE_SIZE),
        lambda: space.remap(space.end + PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, 3, DATA),
        lambda: space.map(1 << 63, PAGE_SIZE, READ_WRITE, FIXED, -1, 0),
        lambda: space.unmap(MASK64 & ~(PAGE_SIZE - 1), PAGE_SIZE),
        lambda: space.unmap(-PAGE_SIZE, PAGE_SIZE),
        lambda: space.unmap(DATA, -PAGE_SIZE),
        lambda: space.unmap(DATA, 1 << 70),
    ):
        with pytest.raises(LinuxError):
            change()


def test_no_application_code_gets_a_call_past_the_kernel_through_the_hidden_region(bare: Bare) -> None:
    """It may run what lies there: whatever that does, it ends in a trap and does nothing by itself."""
    mmap = call(9, DATA + PAGE_SIZE, PAGE_SIZE, READ_WRITE, FIXED, -1, 0, instruction=b"")
    for offset in range(0x40):
        context = bare.load(b"")
        target = context.space.end + PAGE_SIZE + offset
        place(context, CODE, mmap + mov("rbx", target) + b"\xff\xe3")  # jmp *%rbx
        assert isinstance(bare.run(context), SyscallTrap | FaultTrap)
        with pytest.raises(EFAULT):
            context.space.read(DATA + PAGE_SIZE, 1)
        context.release()


def test_a_host_that_has_no_room_says_so(bare: Bare) -> None:
    space = bare.empty().space
    with pytest.raises((ENOMEM, EAGAIN)):
        space.map(0, 1 << 47, READ_WRITE, ANONYMOUS, -1, 0)
