"""The ring of the systrap platform: which call sites are patched and how, and calls that pass through shared memory."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from platform_ptrace.core._core import ffi, lib
from platform_systrap.patch import AROUND, BEFORE, Ring, Site, jump, recognise, targets
from platform_systrap.platform import NOT_POSTED, SystrapContext, SystrapPlatform, probe
from sentry.abi.errno import LinuxError
from sentry.abi.nr_x86_64 import NAMES
from sentry.mm.mm import MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE
from sentry.platform import PAGE_SIZE, AddressSpace, ExitTrap, InterruptTrap, Mapping, SyscallTrap
from tests.bare import CODE, DATA, FIXED, MASK64, NOP, READ_WRITE, SYSCALL, Bare, mov
from tests.integration.platforms import host_state, opened, wait_until

# A platform waits for any child and for SIGCHLD: the process is to have no other children and no other threads.
pytestmark = pytest.mark.own_process

READ, GETPID = 0, 39
NUMBERS = {name: number for number, name in NAMES.items()}
START_OF_SITE = CODE + 8
END_OF_SITE = START_OF_SITE + 7
ROUNDS = 2000

# What compilers make of getpid(), of read() and of syscall().  All go on with a comparison of rax.
BEHIND = b"\x48\x3d"
GETPID_SITE = b"\x90\xb8\x27\x00\x00\x00" + SYSCALL
READ_SITE = b"\x90\x90\x90\x90\x31\xc0" + SYSCALL
WRAPPER_SITE = b"\x90\x4c\x8b\x4c\x24\x08" + SYSCALL


# -- sites --


@pytest.mark.parametrize(
    ("code", "number", "site"),
    [
        (GETPID_SITE, GETPID, Site(5, GETPID, GETPID_SITE[1:6])),
        (READ_SITE, READ, Site(2, READ, b"\x31\xc0\x0f\x1f\x00")),
        (WRAPPER_SITE, 7, Site(5, -1, WRAPPER_SITE[1:6])),
        (GETPID_SITE, 40, None),
        (READ_SITE, GETPID, None),
        (b"\x41" + GETPID_SITE[1:], GETPID, None),
        (b"\x90\x90\x90\x45\x31\xc0" + SYSCALL, READ, None),
        (b"\x90\x90\x48\x89\xf8\x90" + SYSCALL, 5, None),
        (GETPID_SITE[:6] + b"\xcd\x80", GETPID, None),
    ],
    ids=[
        *("number in five bytes", "cleared number", "the wrapper", "another number", "not cleared"),
        *("mov to r8d", "xor of r8d", "number from a register", "int 0x80"),
    ],
)
def test_sites_are_known_by_their_bytes(code: bytes, number: int, site: Site | None) -> None:
    assert recognise(code + BEHIND[:1], number) == site


@pytest.mark.parametrize("behind", [0x48, 0xC3, 0x00, 0xFF])
def test_a_two_byte_jump_leaves_what_is_behind_it_alone(behind: int) -> None:
    site = Site(2, 0, b"")
    end = 0x7F00_0000_1000
    for target in (targets(site, end, behind)[0], targets(site, end, behind)[-1]):
        code = jump(site, end, target) + SYSCALL + bytes((behind,))
        assert code[0] == 0xE9
        (distance,) = struct.unpack("<i", code[1:5])
        assert end - 4 + 5 + distance == target


def test_a_five_byte_jump_reaches_its_block() -> None:
    code = jump(Site(5, 1, b""), 0x400007, 0x202000)
    assert (code[0], struct.unpack("<i", code[1:])[0]) == (0xE9, 0x202000 - 0x400005)


def test_what_is_hidden_is_cut_out_of_mappings() -> None:
    ring = Ring()
    ring.hidden = [(0x2000, 0x3000), (0x9000, 0xA000)]
    file = Mapping(0x1000, 0x5000, "r-xp", 0x7000, 1, 2, "")
    anonymous = Mapping(0x9000, 0xB000, "rw-p", 0, 0, 0, "")
    assert ring.visible([file, anonymous]) == [
        Mapping(0x1000, 0x2000, "r-xp", 0x7000, 1, 2, ""),
        Mapping(0x3000, 0x5000, "r-xp", 0x9000, 1, 2, ""),
        Mapping(0xA000, 0xB000, "rw-p", 0, 0, 0, ""),
    ]


# -- a program that calls for ever --


class Caller:
    """Runs `nops; code; jmp nops` from a file in a context, and answers its calls with their count."""

    def __init__(self, platform: SystrapPlatform, code: bytes, flags: int = MAP_PRIVATE, prot: int = 0) -> None:
        self.platform = platform
        self.bare = Bare(platform)
        self.context = cast(SystrapContext, self.bare.load(NOP))
        code = 8 * NOP + code + b"\x49\xff\xc7\x89\xc7"  # inc %r15; mov %eax, %edi
        self.text = code + b"\xe9" + struct.pack("<i", -len(code) - 5)
        self.file = os.memfd_create("code", os.MFD_CLOEXEC)
        os.write(self.file, self.text.ljust(PAGE_SIZE, NOP))
        space = self.context.space
        space.unmap(CODE, PAGE_SIZE)
        space.map(CODE, PAGE_SIZE, prot or PROT_READ | PROT_EXEC, flags | MAP_FIXED, self.file, 0)
        self.context.regs.rip = CODE
        self.count = 0

    def call(self, rounds: int = 1, number: int = GETPID) -> None:
        """Let it make so many calls; each finds in rdi what the one before was answered with."""
        for _ in range(rounds):
            self.context.resume()
            trap = self.trap()
            assert isinstance(trap, SyscallTrap), trap
            assert (trap.number, trap.native) == (number, True)
            assert not self.count or trap.args[0] == self.count, "a call was lost, or made twice"
            self.count += 1
            self.context.set_result(self.count)

    def trap(self) -> Any:
        """The next trap of the context, which runs."""
        for _ in range(100):
            for context, trap in self.platform.wait(int(1e9)):
                assert context is self.context
                return trap
        raise AssertionError("no trap")

    def make_hot(self) -> None:
        for _ in range(100):
            self.call(ROUNDS)
            if self.is_hot():
                return
        raise AssertionError("its processor was never quiet for long enough")

    def is_hot(self) -> bool:
        return bool(lib.ring_is_hot(self.context.c))

    def site(self) -> bytes:
        return self.context.space.read(START_OF_SITE, 7)

    def page(self) -> Any:
        """What both sides see, as words."""
        return ffi.cast("unsigned int *", self.context.c.ring.page)

    def close(self) -> None:
        os.close(self.file)
        self.bare.template.close()


CALL_GETPID = GETPID_SITE[1:]
CALL_READ = b"\x31\xc0" + SYSCALL + b"\x48\x89\xc0"  # mov %rax, %rax


@pytest.fixture
def platform() -> Iterator[SystrapPlatform]:
    with opened(probe, lambda proc_fd: SystrapPlatform(proc_fd, variant="eager")) as platform:
        if not platform.ring:
            pytest.skip("a second processor and rdfsbase are needed")
        yield platform


@pytest.fixture
def caller(platform: SystrapPlatform) -> Iterator[Caller]:
    caller = Caller(platform, CALL_GETPID)
    yield caller
    caller.close()


def test_a_busy_threads_calls_pass_through_the_ring(caller: Caller) -> None:
    before = lib.ring_n_calls()
    caller.make_hot()
    assert lib.ring_n_calls() > before
    assert caller.context.regs.r15 == caller.count - 1


def test_a_call_with_a_cleared_number_does_too(platform: SystrapPlatform) -> None:
    caller = Caller(platform, CALL_READ)
    before = lib.ring_n_calls()
    for _ in range(100):
        caller.call(ROUNDS, READ)
        if lib.ring_n_calls() > before:
            break
    assert lib.ring_n_calls() > before
    assert caller.site()[2:] == CALL_READ[2:]
    caller.close()


def test_only_the_instruction_before_the_call_is_changed_and_not_in_the_file(caller: Caller) -> None:
    caller.call(2)
    assert (caller.site()[0], caller.site()[5:]) == (0xE9, SYSCALL)
    assert caller.context.space.read(END_OF_SITE, 9) == caller.text[15:24]
    assert os.pread(caller.file, len(caller.text), 0) == caller.text


@pytest.mark.parametrize(
    ("flags", "prot"),
    [(MAP_SHARED, PROT_READ | PROT_EXEC), (MAP_PRIVATE, PROT_READ | PROT_WRITE | PROT_EXEC)],
    ids=["shared", "writable"],
)
def test_code_that_others_see_or_that_may_change_is_not_patched(
    platform: SystrapPlatform, flags: int, prot: int
) -> None:
    caller = Caller(platform, CALL_GETPID, flags, prot)
    caller.call(50)
    assert caller.site() == CALL_GETPID
    assert caller.context.space.ring is None
    caller.close()


def test_code_that_a_program_made_is_not_patched(platform: SystrapPlatform) -> None:
    bare = Bare(platform)
    context = cast(SystrapContext, bare.load(NOP))
    context.space.map(CODE, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
    context.space.write(CODE, 8 * NOP + CALL_GETPID + b"\xeb\xef")
    context.space.protect(CODE, PAGE_SIZE, PROT_READ | PROT_EXEC)
    context.regs.rip = CODE
    for _ in range(50):
        assert bare.syscall(context).number == GETPID
        context.set_result(0)
    assert context.space.read(START_OF_SITE, 7) == CALL_GETPID
    bare.template.close()


@pytest.mark.parametrize("name", ["munmap", "clone", "execve", "rt_sigreturn", "exit", "tgkill"])
def test_sites_of_calls_that_the_host_has_to_see_are_not_patched(platform: SystrapPlatform, name: str) -> None:
    assert name in NOT_POSTED
    site = b"\xb8" + struct.pack("<I", NUMBERS[name]) + SYSCALL
    caller = Caller(platform, site)
    caller.call(50, NUMBERS[name])
    assert caller.site() == site
    caller.close()


@pytest.mark.parametrize(("processors", "variant"), [(1, "eager"), (2, "plain")])
def test_it_is_off(processors: int, variant: str) -> None:
    with opened(probe, lambda proc_fd: SystrapPlatform(proc_fd, processors, variant)) as platform:
        assert not platform.ring
        caller = Caller(platform, CALL_GETPID)
        caller.call(ROUNDS)
        assert caller.site() == CALL_GETPID
        caller.close()


def test_no_site_is_patched_while_another_thread_runs(platform: SystrapPlatform) -> None:
    caller = Caller(platform, CALL_GETPID)
    other = caller.context.clone(share_space=True, same_process=True)
    other.regs.rip = CODE + 0x800
    caller.context.space.protect(CODE, PAGE_SIZE, READ_WRITE)
    caller.context.space.write(CODE + 0x800, b"\xeb\xfe")
    caller.context.space.protect(CODE, PAGE_SIZE, PROT_READ | PROT_EXEC)
    other.resume()
    caller.call(10)
    assert caller.site() == CALL_GETPID
    other.interrupt()
    while not platform.wait(int(1e9)):
        pass
    caller.call(40)
    assert caller.site() != CALL_GETPID
    other.release()
    caller.close()


# -- interruptions --


def test_an_interrupted_thread_is_in_the_program(caller: Caller) -> None:
    """Wherever in a block it was: it is before its call or behind it, and each is made once."""
    caller.make_hot()
    for _ in range(300):
        caller.context.resume()
        caller.context.interrupt()
        trap = caller.trap()
        regs = caller.context.regs
        assert CODE <= regs.rip < CODE + len(caller.text)
        if isinstance(trap, SyscallTrap):
            assert regs.rip == END_OF_SITE
            caller.count += 1
            caller.context.set_result(caller.count)
        else:
            assert isinstance(trap, InterruptTrap)
            assert regs.rip != END_OF_SITE or regs.rax == caller.count
    caller.call(20)


def test_a_call_that_is_not_answered_at_once_sleeps_in_the_host(caller: Caller) -> None:
    caller.make_hot()
    caller.context.resume()
    assert isinstance(caller.trap(), SyscallTrap)
    assert not caller.platform.wait(int(1e8)), "nothing else runs"
    assert not caller.is_hot()
    wait_until(lambda: host_state(caller.context.c.pid) == "S")
    caller.count += 1
    caller.context.set_result(caller.count)
    caller.call(ROUNDS)


def test_a_hot_thread_that_is_killed_is_gone(caller: Caller) -> None:
    caller.make_hot()
    os.kill(caller.context.c.pid, signal.SIGKILL)
    caller.context.resume()
    trap = caller.trap()
    while isinstance(trap, SyscallTrap):
        caller.context.set_result(0)
        caller.context.resume()
        trap = caller.trap()
    assert isinstance(trap, ExitTrap)
    assert not caller.is_hot()


def test_a_hot_thread_that_the_host_stops_goes_on_when_it_may(caller: Caller) -> None:
    for _ in range(5):
        caller.make_hot()
        os.kill(caller.context.c.pid, signal.SIGSTOP)
        caller.context.resume()
        os.kill(caller.context.c.pid, signal.SIGCONT)
        trap = caller.trap()
        if isinstance(trap, SyscallTrap):
            caller.count += 1
            caller.context.set_result(caller.count)
    caller.call(ROUNDS)


def test_a_second_thread_ends_the_heat(caller: Caller) -> None:
    other = caller.context.clone(share_space=False, same_process=False)
    other.regs.rip = CODE
    caller.context.set_result(0)
    caller.make_hot()
    other.resume()
    traps = caller.platform.wait(int(1e9))
    assert not caller.is_hot()
    assert [type(trap) for context, trap in traps if context is other] == [SyscallTrap]
    other.release()
    caller.call(20)


# -- copies --


def test_a_fork_has_a_ring_of_its_own_when_it_needs_one(caller: Caller) -> None:
    caller.make_hot()
    child = cast(SystrapContext, caller.context.clone(share_space=False, same_process=False))
    assert child.space.ring is not None
    assert child.space.ring.c.page == ffi.NULL
    mine, caller.context = caller.context, child
    page = mine.c.ring.page
    child.set_result(caller.count)
    caller.make_hot()
    assert child.c.ring.page not in (page, ffi.NULL)
    child.release()
    caller.context = mine


def changes_of(space: AddressSpace, start: int, end: int) -> list[Callable[[], object]]:
    """Every way to change what lies from start to end, or to put something else there."""
    return [
        lambda: space.unmap(start, end - start),
        lambda: space.unmap(0, space.end),
        lambda: space.protect(start - PAGE_SIZE, 2 * PAGE_SIZE, READ_WRITE),
        lambda: space.advise(start, PAGE_SIZE, 4),
        lambda: space.map(start, PAGE_SIZE, READ_WRITE, FIXED, -1, 0),
        lambda: space.remap(DATA, PAGE_SIZE, PAGE_SIZE, 3, start),
        lambda: space.remap(start, PAGE_SIZE, 2 * PAGE_SIZE, 1, 0),
    ]


def test_the_rings_memory_cannot_be_changed_and_is_in_no_list(caller: Caller) -> None:
    caller.make_hot()
    space = caller.context.space
    assert space.ring is not None
    for start, end in space.ring.hidden:
        assert all(not mapping.start <= start < mapping.end for mapping in space.mappings())
        for change in changes_of(space, start, end):
            with pytest.raises(LinuxError):
                change()
    caller.call(ROUNDS)


@pytest.mark.parametrize("name", ["mmap", "munmap", "mprotect", "mremap", "madvise"])
def test_memory_calls_on_it_are_not_let_through(platform: SystrapPlatform, name: str) -> None:
    caller = Caller(platform, CALL_GETPID)
    caller.make_hot()
    space = caller.context.space
    assert space.ring is not None
    start = space.ring.hidden[0][0]
    args = {"mmap": (start, PAGE_SIZE, 3, 0x32), "mremap": (start, PAGE_SIZE, PAGE_SIZE, 1)}.get(
        name, (start, PAGE_SIZE, 4)
    )
    assert space.hides(name, args)
    assert not space.hides(name, (DATA, PAGE_SIZE, *args[2:]))
    assert not space.hides("mmap", (start, PAGE_SIZE, 3, 0x22)), "an address that is only a hint"
    assert space.hides("mremap", (DATA, PAGE_SIZE, PAGE_SIZE, 3, start))
    core = space.ring.c
    assert [(core.hidden[n][0], core.hidden[n][1]) for n in range(core.n_hidden)] == space.ring.hidden
    caller.close()


# -- what goes with a call --


def caller_of(platform: SystrapPlatform, name: str, **registers: int) -> Caller:
    """A hot one that makes this call; its first argument is the last result, unless another register is preset."""
    caller = Caller(platform, b"\xb8" + struct.pack("<I", NUMBERS[name]) + SYSCALL)
    regs = caller.context.regs
    for register, value in registers.items():
        setattr(regs, register, value)
    return caller


def trap_in_ring(caller: Caller) -> SyscallTrap:
    """Its next call that passes through the ring."""
    for _ in range(1000 * ROUNDS):
        before = lib.ring_n_calls()
        caller.context.resume()
        trap = caller.trap()
        assert isinstance(trap, SyscallTrap)
        if lib.ring_n_calls() > before:
            return trap
        caller.context.set_result(0)
    raise AssertionError("no call passed through the ring")


def test_output_goes_with_the_answer(platform: SystrapPlatform) -> None:
    caller = caller_of(platform, "fstat", rsi=DATA, rdx=77)
    for size in (1, 7, 8, 144, PAGE_SIZE):
        trap_in_ring(caller)
        data = os.urandom(size)
        caller.context.space.write(DATA, data)
        caller.context.set_result(0)
        caller.context.resume()
        trap = caller.trap()
        assert (trap.args[0], trap.args[1], trap.args[2]) == (0, DATA, 77)
        assert caller.context.space.read(DATA, size) == data
        caller.context.set_result(0)
    caller.close()


def test_output_that_has_no_place_makes_the_call_fail(platform: SystrapPlatform) -> None:
    caller = caller_of(platform, "fstat", rsi=CODE + 0x100)
    for _ in range(5):
        trap_in_ring(caller)
        caller.context.space.write(CODE + 0x100, b"not to be written")
        caller.context.set_result(0)
        caller.context.resume()
        assert caller.trap().args[0] == (1 << 32) - 14
        caller.context.set_result(0)
    caller.close()


def test_output_is_there_when_the_answer_takes_another_way(platform: SystrapPlatform) -> None:
    """Registers are looked at before the thread runs on, for a signal's frame."""
    caller = caller_of(platform, "fstat", rsi=DATA)
    for value in range(5):
        trap_in_ring(caller)
        caller.context.space.write(DATA, bytes((value,)) * 8)
        caller.context.set_result(value)
        assert caller.context.regs.rax == value
        assert caller.context.space.read(DATA, 8) == bytes((value,)) * 8
    trap_in_ring(caller)
    caller.context.space.write(CODE, b"x")
    caller.context.set_result(0)
    assert caller.context.regs.rax == MASK64 - 13
    caller.close()


def test_a_call_with_other_effects_knows_at_once_that_output_has_no_place(platform: SystrapPlatform) -> None:
    caller = caller_of(platform, "recvfrom", rsi=CODE)
    trap_in_ring(caller)
    with pytest.raises(LinuxError):
        caller.context.space.write(CODE, b"x")
    caller.close()


def test_a_buffer_comes_with_its_call(platform: SystrapPlatform) -> None:
    caller = caller_of(platform, "pwrite64", rsi=DATA, rdx=11)
    caller.context.space.write(DATA, b"hello world")
    trap_in_ring(caller)
    space = caller.context.space
    assert space.read(DATA, 11) == b"hello world"
    assert space.read(DATA, 5) == b"hello"
    assert space.read(DATA + 6, 5) == b"world"
    assert len(space.read(DATA, 100)) == 100
    caller.context.set_result(0)
    caller.close()


# -- forgeries --


def forging(number: int, block: int) -> bytes:
    """Code that posts such a call in the page at r12, if there is one, and goes on a little later."""
    forge = (
        b"\x41\xc7\x44\x24\x08" + struct.pack("<I", number)  # movl $number, 8(%r12)
        + b"\x41\xc7\x44\x24\x0c" + struct.pack("<I", block)  # movl $block, 12(%r12)
        + b"\x41\xc7\x04\x24" + struct.pack("<I", 1)  # movl $1, (%r12)
        + b"\xb9" + struct.pack("<I", 1000) + b"\xf3\x90\xff\xc9\x75\xfa"  # 1000 times: pause
    )  # fmt: skip
    return b"\x4d\x85\xe4\x74" + bytes([len(forge)]) + forge  # test %r12, %r12; jz


@pytest.mark.parametrize(
    ("number", "block"),
    [(number, 0) for number in (NUMBERS["munmap"], NUMBERS["clone"], 0xFFFFFFFF, 1 << 30 | 39, 600)]
    + [(GETPID, 0x7FFFFFFF)],
)
def test_a_forged_post_of_such_a_call_is_not_taken(platform: SystrapPlatform, number: int, block: int) -> None:
    """And the thread's own calls stay what they are."""
    caller = Caller(platform, forging(number, block) + CALL_GETPID)
    caller.make_hot()
    caller.context.regs.r12 = caller.context.c.ring.shared_at
    caller.make_hot()
    before = lib.ring_n_calls()
    caller.call(200)
    assert lib.ring_n_calls() > before
    caller.close()


@pytest.mark.parametrize("state", [0, 1, 2, 3, 4, 5, 0xFFFFFFFF])
def test_any_state_in_the_page_leaves_the_platform_alive(caller: Caller, state: int) -> None:
    """The forged page may spoil the thread's own results, nothing else."""
    caller.make_hot()
    for _ in range(20):
        caller.page()[0] = state
        caller.context.resume()
        assert isinstance(caller.trap(), SyscallTrap)
        caller.context.set_result(0)
    bare = Bare(caller.platform)
    context = bare.load(mov("rax", 1234) + SYSCALL)
    assert bare.syscall(context).number == 1234
    context.release()
    bare.template.close()


def test_the_bytes_around_a_site_are_enough() -> None:
    assert AROUND == BEFORE + 1 == len(GETPID_SITE) + 1
