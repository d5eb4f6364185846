"""Processes and threads by the hundred where memory is short: as many pages come back as were handed out."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator

import pytest

from platform_kvm.core._core import lib
from platform_kvm.platform import KvmPlatform, Statistics
from sentry.abi.errno import EFAULT, ENOMEM, LinuxError
from sentry.mm.mm import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED
from sentry.platform import PAGE_SIZE, Context, ExitTrap, SyscallTrap
from tests.bare import CODE, DATA, FIXED, READ_WRITE, STACK, Bare, call, mov
from tests.integration.platforms import kvm_device, opened, place, probe_kvm, word

pytestmark = [pytest.mark.own_process, pytest.mark.slow]

LIMIT = 6 << 20
PRIVATE, PRIVATE_SIZE = 0x10000000, 32 * PAGE_SIZE
SHARED, SHARED_SIZE = 0x20000000, 16 * PAGE_SIZE
FILE, FILE_SIZE = 0x30000000, 8 * PAGE_SIZE
COPIED = 0x40000000  # the same file, private
HOARD, HOARD_SIZE = 0x50000000, 2 * LIMIT
MADV_DONTNEED = 4
KILLED = ExitTrap(9)
NOTHING = Statistics(0, 0, 0)


@pytest.fixture
def bare() -> Iterator[Bare]:
    def make(proc_fd: int) -> KvmPlatform:
        with kvm_device() as fd:
            return KvmPlatform(fd, LIMIT, 2)

    with opened(probe_kvm, make) as platform:
        assert platform.statistics() == NOTHING
        made = Bare(platform)
        yield made
        assert platform.statistics() == NOTHING
        made.template.close()


def fill(addr: int, size: int, value: int) -> bytes:
    return mov("rdi", addr) + mov("rcx", size // 8) + mov("rax", value) + b"\xf3\x48\xab"  # rep stosq


def count_up(addr: int) -> bytes:
    return mov("rdi", addr) + b"\xf0\x48\xff\x07"  # lock incq (%rdi)


def work(value: int) -> bytes:
    """Write all private memory, then, for those that lived so long, count in what is shared."""
    private = fill(PRIVATE, PRIVATE_SIZE, value) + fill(COPIED, FILE_SIZE, value)
    return private + count_up(SHARED + 8 * PAGE_SIZE) + count_up(FILE + PAGE_SIZE) + call(1)


def map_all(context: Context, file: int) -> None:
    space = context.space
    space.map(PRIVATE, PRIVATE_SIZE, READ_WRITE, FIXED, -1, 0)
    space.map(SHARED, SHARED_SIZE, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
    space.map(FILE, FILE_SIZE, READ_WRITE, MAP_SHARED | MAP_FIXED, file, 0)
    space.map(COPIED, FILE_SIZE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0)


def loaded(bare: Bare, code: bytes) -> Context | None:
    """None, and nothing left of it, if there is no memory even for that."""
    platform = bare.platform
    assert isinstance(platform, KvmPlatform)
    before = set(platform.contexts)
    try:
        return bare.load(code)
    except LinuxError as e:
        assert isinstance(e, ENOMEM | EFAULT)  # the latter for what could not be copied into memory
        for number in set(platform.contexts) - before:
            platform.contexts[number].release()
        return None


def new_program(bare: Bare, file: int, value: int) -> Context | None:
    """What execve makes: memory of its own, and the file's."""
    context = loaded(bare, fill(PRIVATE, PRIVATE_SIZE, value) + count_up(FILE + 2 * PAGE_SIZE) + call(2))
    if context is not None:
        map_all(context, file)
    return context


def hoard(bare: Bare) -> None:
    """A process that takes memory until there is no more: it ends, the others go on."""
    context = loaded(bare, fill(HOARD, HOARD_SIZE, 1) + call(3))
    if context is not None:
        context.space.map(HOARD, HOARD_SIZE, READ_WRITE, FIXED, -1, 0)
        assert bare.run(context) == KILLED
        context.release()


def release_half(alive: list[Context]) -> None:
    """Every other one, the last in any case."""
    for context in alive[::-2]:
        context.release()
    del alive[::-2]


def fork_and_exec(bare: Bare, times: int) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(FILE_SIZE)
        parent = bare.load(work(7))
        map_all(parent, file.fileno())
        assert isinstance(bare.run(parent), SyscallTrap)
        alive: list[Context] = []
        worked, started = 1, 0
        for n in range(times):
            try:
                child = parent.clone(share_space=False, same_process=False)
                alive.append(child)
                place(child, CODE, work(n))
            except LinuxError as e:
                assert isinstance(e, ENOMEM | EFAULT)
                release_half(alive)
                continue
            child.regs.rip = CODE
            trap = bare.run(child)
            if isinstance(trap, SyscallTrap):
                worked += 1
                assert struct.unpack("<Q", child.space.read(PRIVATE + PRIVATE_SIZE - 8, 8)) == (n,)
                program = new_program(bare, file.fileno(), n)
                if program is not None:
                    alive.append(program)
                    started += isinstance(bare.run(program), SyscallTrap)
            else:
                assert trap == KILLED
                release_half(alive)
            if not n % 16:
                hoard(bare)
        assert times // 4 < started <= worked < times
        assert (word(parent, SHARED + 8 * PAGE_SIZE), word(parent, FILE + PAGE_SIZE)) == (worked, worked)
        assert word(parent, FILE + 2 * PAGE_SIZE) == started
        assert parent.space.read(PRIVATE, PRIVATE_SIZE) == struct.pack("<Q", 7) * (PRIVATE_SIZE // 8)
        for context in (parent, *alive):
            context.release()


def test_fork_and_exec_where_memory_is_short_give_all_back(bare: Bare) -> None:
    fork_and_exec(bare, 60)


@pytest.mark.soak
def test_a_thousand_forks_and_execs_where_memory_is_short_give_all_back(bare: Bare) -> None:
    fork_and_exec(bare, 1000)


def thread_code(number: int) -> bytes:
    """Twenty times: write memory of its own, a page of everybody's, and count."""
    own = PRIVATE + number * PAGE_SIZE
    once = fill(own, PAGE_SIZE, number) + mov("rdi", SHARED + number % 8 * PAGE_SIZE) + b"\x48\x89\x47\x08"
    once += count_up(SHARED + 8 * PAGE_SIZE) + count_up(FILE + PAGE_SIZE)
    return mov("rbx", 20) + once + b"\x48\xff\xcb\x0f\x85" + struct.pack("<i", -len(once) - 9) + call(4)


def test_a_hundred_threads_where_memory_is_short_give_all_back(bare: Bare) -> None:
    """Meanwhile their space is forked, parts of it are taken away, and a process beside it takes all that is left."""
    with tempfile.TemporaryFile() as file:
        file.truncate(FILE_SIZE)
        first = bare.load(call(1))
        map_all(first, file.fileno())
        first.space.map(PRIVATE, 128 * PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
        first.space.map(DATA, 128 * PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
        bare.syscall(first)
        threads = [first.clone(share_space=True, same_process=True) for _ in range(100)]
        for number, thread in enumerate(threads):
            code = DATA + number * PAGE_SIZE
            thread.space.write(code, thread_code(number))
            thread.space.protect(code, PAGE_SIZE, 5)
            thread.regs.rip, thread.regs.rsp = code, STACK - 64
            bare.start(thread)
        copies = []
        for _ in range(5):
            copies.append(first.clone(share_space=False, same_process=False))
            first.space.advise(PRIVATE + 100 * PAGE_SIZE, 28 * PAGE_SIZE, MADV_DONTNEED)
        traps = bare.collect(*threads)
        assert [trap.number for trap in traps if isinstance(trap, SyscallTrap)] == [4] * 100
        hoard(bare)
        assert (word(first, SHARED + 8 * PAGE_SIZE), word(first, FILE + PAGE_SIZE)) == (2000, 2000)
        for number in range(100):
            assert word(first, PRIVATE + number * PAGE_SIZE) == number
        for context in (first, *threads, *copies):
            context.release()
        assert lib.kv_account_used(bare.template.account) == 0  # type: ignore[attr-defined]
