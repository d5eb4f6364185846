"""mmap(2) and its kin: the checks before the host is asked, in Linux's order."""

from __future__ import annotations

from typing import ClassVar

import pytest

from sentry.abi.errno import (
    EACCES,
    EBADF,
    EEXIST,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    LinuxError,
)
from sentry.abi.fcntl import O_RDONLY, O_RDWR, O_WRONLY
from sentry.kernel.creds import ALL_CAPS
from sentry.kernel.rlimits import RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK
from sentry.kernel.task import Task
from sentry.platform import SyscallTrap
from sentry.syscalls import mmap as m
from sentry.vfs.dentry import MS_NOEXEC
from tests.fakes import ScriptedSpace
from tests.unit.kernel.world import DATA, MASK64, ROOT, STACK, World, call, context, drive

PAGE, END = 4096, 0x7FFF_0000_0000
READ, WRITE, EXEC = 1, 2, 4
SHARED, PRIVATE, FIXED, ANON, NOREPLACE = 1, 2, 0x10, 0x20, 0x100000
FREE = 0x900000  # nothing is mapped there
MAYMOVE, TO, DONTUNMAP = 1, 2, 4


def result(world: World, t: Task, trap: SyscallTrap) -> int:
    context(t).steps.append(trap)
    context(t).interrupt()
    world.run()
    return context(t).results[-1]


def opened(world: World, t: Task, flags: int, data: bytes = b"file contents") -> int:
    """A descriptor of a new file."""
    path = world.file("file", data, 0o644)
    return t.files.install(drive(path.inode.open(path, flags)), False)


def mmap(
    addr: int = 0, length: int = PAGE, prot: int = READ, flags: int = PRIVATE | ANON, fd: int = -1, offset: int = 0
) -> SyscallTrap:
    return call("mmap", addr, length, prot, flags, fd, offset)


@pytest.fixture
def t(world: World) -> Task:
    return world.process()


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (mmap(offset=5, fd=99, flags=PRIVATE), EINVAL),  # the offset comes before the descriptor
        (mmap(fd=99, flags=PRIVATE, length=0), EBADF),  # the descriptor before the length
        (mmap(length=0), EINVAL),
        (mmap(length=MASK64), ENOMEM),
        (mmap(length=END + PAGE), ENOMEM),
        (mmap(offset=(1 << 63) - PAGE), EOVERFLOW),
        (mmap(flags=ANON), EINVAL),
        (mmap(flags=ANON | 3), EINVAL),  # MAP_SHARED_VALIDATE is for files
        (mmap(flags=ANON | 5), EINVAL),
        (mmap(flags=PRIVATE | ANON | 0x40000), EINVAL),  # MAP_HUGETLB
        (mmap(5, flags=PRIVATE | ANON | FIXED), EINVAL),
        (mmap(0, flags=PRIVATE | ANON | FIXED), EPERM),
        (mmap(0xF000, flags=PRIVATE | ANON | FIXED), EPERM),
        (mmap(END, flags=PRIVATE | ANON | FIXED), ENOMEM),
        (mmap(END - PAGE, 2 * PAGE, flags=PRIVATE | ANON | FIXED), ENOMEM),
        (mmap(MASK64 & -PAGE, flags=PRIVATE | ANON | FIXED), ENOMEM),
        (mmap(DATA, flags=PRIVATE | ANON | NOREPLACE), EEXIST),
    ],
)
def test_mmap_errors(world: World, t: Task, trap: SyscallTrap, error: type[LinuxError]) -> None:
    before = t.mem.mappings()
    assert result(world, t, trap) == -error.code
    assert t.mem.mappings() == before


@pytest.mark.parametrize("hint", [0, 5, 0xF000, END - PAGE, END, 1 << 62, MASK64])
def test_a_hint_that_is_of_no_use_is_passed_over(world: World, t: Task, hint: int) -> None:
    addr = result(world, t, mmap(hint, 3 * PAGE, READ | WRITE))
    assert addr % PAGE == 0 and 0x10000 <= addr <= END - 3 * PAGE
    assert t.mem.read(addr, 3 * PAGE) == bytes(3 * PAGE)


def test_fixed_mappings_replace_what_was_there(world: World, t: Task) -> None:
    t.mem.write(DATA, b"old")
    assert result(world, t, mmap(DATA, PAGE, READ | WRITE, PRIVATE | ANON | FIXED)) == DATA
    assert t.mem.read(DATA, 3) == bytes(3)
    assert result(world, t, mmap(FREE, PAGE, READ, PRIVATE | ANON | NOREPLACE)) == FREE


def test_files_are_mapped_and_remembered_by_name(world: World, t: Task) -> None:
    fd = opened(world, t, O_RDONLY)
    addr = result(world, t, mmap(flags=PRIVATE, fd=fd, length=100))
    assert t.mem.read(addr, 13) == b"file contents"
    mapping = next(line for line in t.mem.mappings() if line.start == addr)
    assert t.mm.file_at(mapping.dev, mapping.ino) == t.files.get(fd).path


@pytest.mark.parametrize(
    ("open_flags", "flags", "prot", "error"),
    [
        (O_RDONLY, PRIVATE, READ | WRITE, None),
        (O_RDWR, SHARED, READ | WRITE, None),
        (O_RDONLY, SHARED, READ, None),
        (O_RDONLY, SHARED, READ | WRITE, EACCES),
        (O_WRONLY, PRIVATE, READ, EACCES),
        (O_WRONLY, SHARED, WRITE, EACCES),
        (O_RDWR, 3, READ, None),  # MAP_SHARED_VALIDATE
        (O_RDWR, 3 | 0x80000, READ, EOPNOTSUPP),  # with MAP_SYNC
        (O_RDWR, 3 | 0x4000000, READ, EOPNOTSUPP),
        (O_RDWR, SHARED | 0x80000, READ, None),  # MAP_SHARED passes over what it does not know
    ],
)
def test_a_mapping_needs_the_descriptors_access(
    world: World, t: Task, open_flags: int, flags: int, prot: int, error: type[LinuxError] | None
) -> None:
    fd = opened(world, t, open_flags)
    addr = result(world, t, mmap(flags=flags, prot=prot, fd=fd))
    assert addr == -error.code if error else addr > 0


def test_code_is_not_mapped_from_a_noexec_mount(world: World, t: Task) -> None:
    fd = opened(world, t, O_RDONLY)
    world.root.mount.flags |= MS_NOEXEC
    assert result(world, t, mmap(flags=PRIVATE, prot=EXEC, fd=fd)) == -EPERM.code
    assert result(world, t, mmap(flags=PRIVATE, prot=READ, fd=fd)) > 0


def test_what_has_no_memory_is_enodev(world: World, t: Task) -> None:
    result(world, t, call("pipe2", DATA, 0))
    assert result(world, t, mmap(flags=PRIVATE, fd=0)) == -ENODEV.code


def test_the_limit_of_the_address_space(world: World, t: Task) -> None:
    used = t.mem.resident_pages()[0] * PAGE
    t.tg.rlimits.set(RLIMIT_AS, used + 4 * PAGE, used + 4 * PAGE)
    assert result(world, t, mmap(length=5 * PAGE)) == -ENOMEM.code
    addr = result(world, t, mmap(length=4 * PAGE))
    assert addr > 0
    assert result(world, t, call("mremap", addr, 4 * PAGE, 5 * PAGE, MAYMOVE)) == -ENOMEM.code


# -- changes --


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (call("munmap", DATA + 1, PAGE), EINVAL),
        (call("munmap", DATA, 0), EINVAL),
        (call("munmap", END, PAGE), EINVAL),
        (call("munmap", END - PAGE, 2 * PAGE), EINVAL),
        (call("munmap", 0, MASK64), EINVAL),
        (call("mprotect", DATA + 1, PAGE, READ), EINVAL),
        (call("mprotect", DATA, PAGE, 0x100), EINVAL),
        (call("mprotect", DATA, PAGE, READ | 0x3000000), EINVAL),
        (call("mprotect", DATA, PAGE, READ | 0x1000000), EINVAL),
        (call("mprotect", END, PAGE, READ), ENOMEM),
        (call("mprotect", FREE, PAGE, READ), ENOMEM),
        (call("pkey_mprotect", DATA, PAGE, READ, 0), EINVAL),
        (call("mremap", DATA + 1, PAGE, PAGE, 0), EINVAL),
        (call("mremap", DATA, PAGE, 0, 0), EINVAL),
        (call("mremap", DATA, PAGE, PAGE, 8), EINVAL),
        (call("mremap", DATA, PAGE, PAGE, TO, FREE), EINVAL),
        (call("mremap", DATA, PAGE, PAGE, DONTUNMAP), EINVAL),
        (call("mremap", DATA, PAGE, PAGE, MAYMOVE | TO, FREE + 1), EINVAL),
        (call("mremap", DATA, PAGE, PAGE, MAYMOVE | TO, END), EINVAL),
        (call("mremap", DATA, PAGE, PAGE, MAYMOVE | TO, 0x1000), EPERM),
        (call("mremap", END, PAGE, PAGE, MAYMOVE), EINVAL),
        (call("mremap", DATA, PAGE, MASK64, MAYMOVE), EINVAL),
        (call("msync", DATA + 1, PAGE, 4), EINVAL),
        (call("msync", DATA, PAGE, 5), EINVAL),
        (call("msync", DATA, PAGE, 8), EINVAL),
        (call("msync", END, PAGE, 4), ENOMEM),
        (call("madvise", DATA, PAGE, 99), EINVAL),
        (call("madvise", DATA, PAGE, 100), EINVAL),  # MADV_HWPOISON is the host's business
        (call("madvise", DATA + 1, PAGE, 4), EINVAL),
        (call("madvise", END, PAGE, 4), EINVAL),
        (call("madvise", DATA, MASK64, 4), EINVAL),
        (call("mincore", DATA + 1, PAGE, DATA), EINVAL),
        (call("mincore", FREE, PAGE, DATA), ENOMEM),
        (call("mincore", END, PAGE, DATA), ENOMEM),
        (call("mincore", DATA, PAGE, 8), EFAULT),
        (call("mlock", FREE, PAGE), ENOMEM),
        (call("mlock", MASK64, 10), ENOMEM),
        (call("mlock2", DATA, PAGE, 2), EINVAL),
        (call("munlock", FREE, PAGE), ENOMEM),
        (call("mlockall", 0), EINVAL),
        (call("mlockall", 4), EINVAL),
        (call("mlockall", 8), EINVAL),
    ],
)
def test_errors_of_the_others(world: World, t: Task, trap: SyscallTrap, error: type[LinuxError]) -> None:
    before = t.mem.mappings()
    assert result(world, t, trap) == -error.code
    assert t.mem.mappings() == before


def test_the_end_of_the_address_space_is_reached_but_not_passed(world: World, t: Task) -> None:
    last = END - PAGE
    assert result(world, t, mmap(last, 1, READ | WRITE, PRIVATE | ANON | FIXED)) == last
    assert result(world, t, call("mprotect", last, 1, READ)) == 0
    assert result(world, t, call("mremap", DATA, PAGE, PAGE, MAYMOVE | TO, last)) == last
    assert result(world, t, call("munmap", last, PAGE)) == 0


def test_mremap_looks_at_the_new_address_only_if_it_is_fixed(world: World, t: Task) -> None:
    """realloc(3) gives four arguments: the register of the fifth holds anything."""
    t.mem.write(DATA, b"kept")
    moved = result(world, t, call("mremap", DATA, PAGE, 2 * PAGE, MAYMOVE, MASK64))
    assert moved > 0 and t.mem.read(moved, 4) == b"kept"


def test_empty_ranges_are_no_errors(world: World, t: Task) -> None:
    for name in ("mprotect", "msync", "madvise", "mlock", "munlock"):
        third = 4 if name in ("madvise", "msync") else READ
        assert result(world, t, call(name, DATA, 0, third)) == 0


def test_advice_is_checked_though_it_is_not_passed_on(world: World, t: Task) -> None:
    assert [result(world, t, call("madvise", DATA, PAGE, advice)) for advice in sorted(m.HINTS)] == [0] * len(m.HINTS)


class Counting(ScriptedSpace):
    """Notes what the host was asked to find."""

    asked: ClassVar[list[int]] = []

    def advise(self, addr: int, length: int, advice: int) -> None:
        self.asked.append(length)


@pytest.mark.parametrize("how", ["mmap", "madvise"])
def test_much_memory_is_found_in_slices_between_which_others_run(
    world: World, t: Task, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """JVMs touch their whole heap at the start; the sandbox once stood still meanwhile."""
    monkeypatch.setattr(m, "SLICE", 4 * PAGE)
    monkeypatch.setattr(Counting, "asked", [])
    assert isinstance(t.mem, ScriptedSpace)
    t.mem.__class__ = Counting
    others: list[int] = []

    def look(_: object) -> SyscallTrap:
        others.append(len(Counting.asked))
        return call("getpid")

    other = world.process(*[look] * 6)
    trap = (
        mmap(length=10 * PAGE, flags=PRIVATE | ANON | 0x8000) if how == "mmap" else call("madvise", DATA, 10 * PAGE, 23)
    )
    assert result(world, t, trap) >= 0
    assert Counting.asked == [4 * PAGE, 4 * PAGE, 2 * PAGE]
    assert set(others) >= {1, 2} and not other.exiting


def test_a_killed_task_stops_looking_for_memory(world: World, t: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "SLICE", PAGE)
    monkeypatch.setattr(Counting, "asked", [])
    t.mem.__class__ = Counting

    def kill(_: object) -> SyscallTrap:
        t.tg.send_kernel_signal(9)
        return call("getpid")

    world.process(call("getpid"), kill)
    context(t).steps.append(call("madvise", DATA, 10 * PAGE, 23))
    world.run()
    assert t.tg.dead and 0 < len(Counting.asked) < 10


def test_mincore_tells_one_byte_for_each_page(world: World, t: Task) -> None:
    assert result(world, t, call("mincore", STACK - 0x10000, 0xF001, DATA)) == 0
    assert t.mem.read(DATA, 17) == b"\1" * 16 + b"\0"


def test_mincore_of_a_vast_mapping_takes_no_vast_memory(world: World, t: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was once made at once: an empty mapping of many terabytes took our memory."""
    monkeypatch.setattr(m, "MINCORE_STEP", 5)
    assert result(world, t, call("mincore", STACK - 0x10000, 0x10000, DATA)) == 0
    assert t.mem.read(DATA, 17) == b"\1" * 16 + b"\0"


def test_the_limit_of_locked_memory_is_for_those_without_the_capability(world: World) -> None:
    t = world.process(creds=ROOT.changed(effective=ALL_CAPS & ~(1 << 14)))
    t.tg.rlimits.set(RLIMIT_MEMLOCK, PAGE, PAGE)
    assert [result(world, t, call("mlock", DATA, n)) for n in (PAGE, PAGE + 1)] == [0, -ENOMEM.code]
    assert result(world, t, call("mlock", DATA + 1, PAGE)) == -ENOMEM.code  # two pages
    t.tg.rlimits.set(RLIMIT_MEMLOCK, 0, 0)
    assert result(world, t, call("mlock", DATA, PAGE)) == -EPERM.code
    assert result(world, t, call("mlockall", 1)) == -EPERM.code
    t.creds = ROOT
    assert [result(world, t, call(name, DATA, 8 * PAGE)) for name in ("mlock", "munlock")] == [0, 0]


def test_brk_answers_with_the_heaps_end(world: World, t: Task) -> None:
    t.mm.brk_start = t.mm.brk = FREE
    t.tg.rlimits.set(RLIMIT_DATA, 16 * PAGE, 16 * PAGE)
    assert result(world, t, call("brk", 0)) == FREE
    assert result(world, t, call("brk", FREE + 10)) == FREE + 10
    assert result(world, t, call("brk", FREE + 17 * PAGE)) == FREE + 10
    assert result(world, t, call("brk", FREE - 1)) == FREE + 10
    assert result(world, t, call("brk", FREE)) == FREE
