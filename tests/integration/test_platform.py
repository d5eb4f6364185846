"""What sentry/platform.py promises, of every platform, with real machine code and without a kernel above."""

from __future__ import annotations

import os
import select
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import platform_ptrace.platform as ptrace
from sentry.abi.errno import EAGAIN, EEXIST, EFAULT, EINVAL, ENAMETOOLONG, ENODEV, ENOMEM, LinuxError
from sentry.mm.mm import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
)
from sentry.platform import (
    PAGE_SIZE,
    Context,
    ExitTrap,
    FaultTrap,
    InterruptTrap,
    Platform,
    SpaceGone,
    SyscallTrap,
    Trap,
)
from tests.bare import (
    AWAIT,
    BREAKPOINT,
    CALL_RAX,
    CODE,
    COUNT,
    DATA,
    DIVIDE,
    FIXED,
    HALT,
    INT80,
    JUMP_RAX,
    LOAD,
    LOOP,
    MASK64,
    NOP,
    RAX_TO_XMM,
    READ_WRITE,
    STACK,
    STORE,
    SYSCALL,
    SYSENTER,
    UNDEFINED,
    XMM_TO_RAX,
    Bare,
    call,
    mov,
)

# A platform waits for any child and for SIGCHLD: the process is to have no other children and no other threads.
pytestmark = pytest.mark.own_process

SHARED = MAP_SHARED
# Behind this the processor runs 32-bit code: push $0x23; push $target; lretq
COMPAT = (b"\x6a\x23\x68" + struct.pack("<I", CODE + 0x10) + b"\x48\xcb").ljust(0x10, NOP)
ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS


@dataclass(frozen=True)
class Subject:
    """A platform under test.  host_pid: the host process that a context's space would die with."""

    name: str
    probe: Callable[[], str]
    make: Callable[[int], Platform]
    host_pid: Callable[[Any], int]


SUBJECTS = (Subject("ptrace", ptrace.probe, ptrace.PtracePlatform, lambda context: int(context.c.pid)),)


@pytest.fixture(params=SUBJECTS, ids=lambda subject: str(subject.name))
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A platform, with this thread's signal state put back afterwards: platforms set up SIGCHLD for themselves."""
    chosen: Subject = request.param
    handler, mask = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    reason = chosen.probe()
    if reason:
        pytest.skip(f"{chosen.name}: {reason}")
    try:
        yield chosen
    finally:
        signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def bare(subject: Subject) -> Iterator[Bare]:
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    bare = Bare(subject.make(proc))
    try:
        yield bare
    finally:
        bare.close()
        os.close(proc)


def word(context: Context, addr: int) -> int:
    return int.from_bytes(context.space.read(addr, 8), "little")


def place(context: Context, addr: int, code: bytes) -> None:
    """Put code into the page of the program."""
    context.space.protect(CODE, PAGE_SIZE, READ_WRITE)
    context.space.write(addr, code)
    context.space.protect(CODE, PAGE_SIZE, PROT_READ | PROT_EXEC)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """For states of host processes, which nothing announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.001)


def host_state(pid: int) -> str:
    """The letter in /proc/PID/stat; "gone" if there is no such process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "gone"


# -- system calls --


def test_a_system_call_traps_with_its_number_and_arguments(bare: Bare) -> None:
    context = bare.load(call(1234, 1, 2, 3, 4, 5, MASK64))
    assert bare.run(context) == SyscallTrap(1234, (1, 2, 3, 4, 5, MASK64), True)
    assert context.regs.rip == CODE + len(call(1234, 1, 2, 3, 4, 5, 6))


def test_the_result_is_what_the_application_finds_in_its_register(bare: Bare) -> None:
    context = bare.load(call(1) + b"\x48\x89\xc7" + call(2))  # mov %rax, %rdi
    for result in (-14, 0, (1 << 63) - 1):
        context.regs.rip = CODE
        bare.syscall(context)
        context.set_result(result)
        assert bare.syscall(context).args[0] == result & MASK64


def test_the_result_holds_when_registers_are_looked_at_before_or_after(bare: Bare) -> None:
    context = bare.load(call(1) + call(2) + LOOP)
    bare.syscall(context)
    assert context.regs.rip
    context.set_result(-2)
    assert context.regs.rax == -2 & MASK64
    bare.syscall(context)
    context.set_result(-3)
    assert context.regs.rax == -3 & MASK64


def test_the_application_keeps_its_other_registers_over_a_call(bare: Bare) -> None:
    kept = {name: 0x1000 + n for n, name in enumerate(("rbx", "rbp", "rdx", "rsi", "rdi", "r8", "r10", "r12", "r15"))}
    context = bare.load(mov("rax", 39) + SYSCALL + SYSCALL, **kept)
    bare.syscall(context)
    context.set_result(99)
    assert bare.syscall(context).number == 99
    assert {name: getattr(context.regs, name) for name in kept} == kept


def test_minus_one_is_a_call_like_any_other(bare: Bare) -> None:
    """The host's own entry code takes it for "no call": it must not be lost."""
    context = bare.load(call(-1) + LOOP)
    assert bare.syscall(context).number in (-1, MASK64)


def test_int_80_traps_and_is_not_native(bare: Bare) -> None:
    context = bare.load(mov("rbx", 7) + mov("rax", 20) + INT80 + call(3))
    trap = bare.syscall(context)
    assert (trap.number, trap.native, trap.args[0]) == (20, False, 7)
    context.set_result(-38)
    following = bare.syscall(context)
    assert (following.number, following.native) == (3, True)


def test_an_x32_number_keeps_its_bit(bare: Bare) -> None:
    context = bare.load(call(0x40000000 | 39))
    assert bare.syscall(context).number == 0x40000000 | 39


def test_a_call_from_32_bit_code_is_not_native(bare: Bare) -> None:
    """Far return to the host's 32-bit code segment, then int $0x80 there."""
    trap = bare.run(bare.load(COMPAT + b"\xb8\x14\0\0\0" + INT80))  # mov $20, %eax
    assert isinstance(trap, SyscallTrap)
    assert (trap.number, trap.native) == (20, False)


def test_sysenter_reaches_no_system_call(bare: Bare) -> None:
    """A processor's other way into the kernel leads to the i386 table, or faults."""
    context = bare.load(mov("rax", 20) + mov("rbp", STACK - 0x100) + SYSENTER + LOOP)
    trap = bare.run(context)
    assert isinstance(trap, FaultTrap) or (isinstance(trap, SyscallTrap) and not trap.native)
    assert context.space.map(0, PAGE_SIZE, READ_WRITE, ANONYMOUS, -1, 0)
    context.set_result(-38)
    assert isinstance(bare.run(context), FaultTrap)


def test_memory_can_be_changed_while_the_application_is_in_32_bit_code(bare: Bare) -> None:
    """The ptrace platform's own code is 64-bit code: it once waited for ever for an injected call."""
    context = bare.load(COMPAT + b"\xb8\x14\0\0\0" + INT80 + INT80)
    for number in (20, 21):
        trap = bare.run(context)
        assert isinstance(trap, SyscallTrap)
        assert (trap.number, trap.native) == (number, False)
        context.set_result(21)
        assert context.space.map(0, PAGE_SIZE, READ_WRITE, ANONYMOUS, -1, 0)


@pytest.mark.parametrize(("addr", "number"), [(0xFFFFFFFFFF600000, 96), (0xFFFFFFFFFF600400, 201)])
def test_a_call_of_the_vsyscall_page_is_that_system_call(bare: Bare, addr: int, number: int) -> None:
    """Whatever the host makes of that page (emulate, xonly, none), statically linked old programs use it."""
    context = bare.load(mov("rax", addr) + mov("rdi", DATA) + CALL_RAX + b"\x48\x89\xc7" + call(5))
    trap = bare.syscall(context)
    assert (trap.number, trap.native, trap.args[0]) == (number, True, DATA)
    context.set_result(77)
    following = bare.syscall(context)
    assert (following.number, following.args[0]) == (5, 77)
    assert context.regs.rsp == STACK - 64


# -- faults --

FAULTS = {
    "unmapped": (mov("rdi", 0x1000) + LOAD, signal.SIGSEGV, 1, 0x1000),
    "write to code": (mov("rdi", CODE) + STORE, signal.SIGSEGV, 2, CODE),
    "jump to data": (mov("rax", DATA) + JUMP_RAX, signal.SIGSEGV, 2, DATA),
    "not canonical": (mov("rdi", 1 << 62) + LOAD, signal.SIGSEGV, 0x80, 0),
    "kernel address": (mov("rdi", 0xFFFF880000000000) + LOAD, signal.SIGSEGV, 1, 0xFFFF880000000000),
    "privileged": (HALT, signal.SIGSEGV, 0x80, 0),
    "undefined": (UNDEFINED, signal.SIGILL, 2, CODE),
    "division": (mov("rdi", 0) + DIVIDE, signal.SIGFPE, 1, CODE + 10),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_exception_is_a_fault_described_as_the_host_does(bare: Bare, name: str) -> None:
    code, signo, si_code, addr = FAULTS[name]
    context = bare.load(code)
    assert bare.run(context) == FaultTrap(signo, si_code, addr)
    assert context.regs.rip in (addr, CODE, CODE + 10)


def test_running_at_an_impossible_address_is_a_fault(bare: Bare) -> None:
    for addr in (1 << 47, 1 << 62, 0xFFFF880000000000):
        trap = bare.run(bare.load(NOP, rip=addr))
        assert isinstance(trap, FaultTrap) and trap.signo == signal.SIGSEGV


@pytest.mark.parametrize("name", ["fs_base", "gs_base", "cs", "ss"])
def test_registers_that_the_host_refuses_end_the_context(bare: Bare, name: str) -> None:
    """A context that could neither run nor trap would keep its task waiting for ever."""
    assert isinstance(bare.run(bare.load(LOOP, **{name: 1 << 62})), ExitTrap | FaultTrap)


def test_a_breakpoint_is_a_trap_behind_it(bare: Bare) -> None:
    context = bare.load(NOP + BREAKPOINT)
    trap = bare.run(context)
    assert isinstance(trap, FaultTrap) and trap.signo == signal.SIGTRAP and trap.code > 0
    assert context.regs.rip == CODE + 2


def test_single_stepping_stops_after_one_instruction(bare: Bare) -> None:
    context = bare.load(NOP * 4, eflags=0x302)
    trap = bare.run(context)
    assert isinstance(trap, FaultTrap) and trap.signo == signal.SIGTRAP and trap.code > 0
    assert context.regs.rip == CODE + 1


def test_a_fault_can_be_mended_and_the_instruction_run_again(bare: Bare) -> None:
    context = bare.load(mov("rax", 42) + mov("rdi", DATA + PAGE_SIZE) + STORE + call(1))
    assert bare.run(context) == FaultTrap(signal.SIGSEGV, 1, DATA + PAGE_SIZE)
    context.space.map(DATA + PAGE_SIZE, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
    bare.syscall(context)
    assert word(context, DATA + PAGE_SIZE) == 42


def test_past_the_end_of_a_mapped_file_is_a_bus_error(bare: Bare) -> None:
    context = bare.load(mov("rdi", DATA + PAGE_SIZE) + LOAD)
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
        file.flush()
        context.space.map(DATA, 2 * PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.fileno(), 0)
    assert bare.run(context) == FaultTrap(signal.SIGBUS, 2, DATA + PAGE_SIZE)


# -- interrupts --


def test_an_interrupt_stops_running_code_which_goes_on_afterwards(bare: Bare) -> None:
    context = bare.load(COUNT, rdi=DATA)
    bare.start(context)
    bare.turn()
    for _ in range(3):
        context.space.write(DATA, bytes(8))
        wait_until(lambda: word(context, DATA) > 0)
        context.interrupt()
        assert bare.collect(context) == [InterruptTrap()]
        bare.start(context)
        bare.turn()


def test_an_interrupt_of_a_stopped_context_is_nothing(bare: Bare) -> None:
    context = bare.load(call(1) + call(2))
    bare.syscall(context)
    context.interrupt()
    assert bare.syscall(context).number == 2


def test_an_interrupt_between_switch_and_wait_is_not_lost(bare: Bare) -> None:
    context = bare.load(LOOP)
    bare.start(context)
    context.interrupt()
    assert bare.collect(context) == [InterruptTrap()]


def test_an_interrupt_that_comes_too_late_disturbs_nothing(bare: Bare, subject: Subject) -> None:
    """The context has trapped, but wait() has not said so yet.  Then the kernel maps a file for that very call.

    The ptrace platform once waited for ever then: the stub stopped for the interrupt before it asked for the file.
    """
    context = bare.load(AWAIT + call(1) + call(2), rdi=DATA)
    bare.start(context)
    bare.turn()
    context.space.write(DATA, b"\1")
    wait_until(lambda: host_state(subject.host_pid(context)) == "t")
    context.interrupt()
    trap = bare.collect(context)[0]
    if trap == InterruptTrap():
        trap = bare.run(context)
    assert isinstance(trap, SyscallTrap) and trap.number == 1
    with tempfile.TemporaryFile() as file:
        file.write(b"contents")
        file.flush()
        addr = context.space.map(0, PAGE_SIZE, PROT_READ, MAP_PRIVATE, file.fileno(), 0)
    assert context.space.read(addr, 8) == b"contents"
    assert context.space.cmpxchg32(DATA, 1, 2) == 1
    trap = bare.run(context)
    if trap == InterruptTrap():
        trap = bare.run(context)
    assert isinstance(trap, SyscallTrap) and trap.number == 2


def test_signals_of_host_processes_mean_nothing(bare: Bare, subject: Subject) -> None:
    context = bare.load(COUNT, rdi=DATA)
    bare.start(context)
    bare.turn()
    for signo in (signal.SIGUSR1, signal.SIGTERM, signal.SIGSEGV, signal.SIGSTOP, signal.SIGCONT):
        os.kill(subject.host_pid(context), signo)
    seen = word(context, DATA)
    for _ in range(50):
        for _, trap in bare.turn(0.01):
            assert trap == InterruptTrap()
            bare.start(context)
        if word(context, DATA) > seen + 1000:
            break
    context.interrupt()
    assert bare.collect(context) == [InterruptTrap()]
    assert word(context, DATA) > seen


# -- waiting --


def test_wait_ends_at_its_timeout(bare: Bare) -> None:
    bare.turn(0)
    before = time.monotonic()
    turns = 0
    while time.monotonic() - before < 0.05:
        assert bare.turn(0.05) == []
        turns += 1
    assert turns < 5


def test_wait_ends_when_the_watched_epoll_is_ready(bare: Bare) -> None:
    r, w = os.pipe()
    with select.epoll() as epoll:
        epoll.register(r, select.EPOLLIN)
        bare.platform.watch(epoll.fileno())
        os.write(w, b"x")
        before = time.monotonic()
        assert [bare.turn(10) for _ in range(3)] == [[], [], []]
        assert time.monotonic() - before < 5
    os.close(r)
    os.close(w)


def test_contexts_run_at_the_same_time(bare: Bare) -> None:
    contexts = [bare.load(call(n)) for n in range(5)]
    spinning = bare.load(LOOP)
    for context in (spinning, *contexts):
        bare.start(context)
    traps = bare.collect(*contexts)
    assert [trap.number for trap in traps if isinstance(trap, SyscallTrap)] == [0, 1, 2, 3, 4]


def test_a_context_knows_its_owner_and_its_space(bare: Bare) -> None:
    context = bare.load(call(1))
    context.owner = self = object()
    assert context.owner is self
    bare.syscall(context)
    assert context.owner is self and context.space.end > 1 << 46


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
        shared = space.map(0, 2 * PAGE_SIZE, READ_WRITE, SHARED, file.fileno(), 0)
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


# -- clones --


def test_a_fork_copies_memory_and_registers(bare: Bare) -> None:
    parent = bare.load(call(1) + b"\x48\x89\xc7" + call(2) + LOOP, rbx=5, r15=6)
    bare.syscall(parent)
    parent.space.write(DATA, b"before")
    child = parent.clone(share_space=False, same_process=False)
    assert child.space is not parent.space
    child.space.write(DATA, b"child ")
    assert (parent.space.read(DATA, 6), child.space.read(DATA, 6)) == (b"before", b"child ")
    parent.set_result(100)
    child.set_result(0)
    assert (bare.syscall(parent).args[0], bare.syscall(child).args[0]) == (100, 0)
    for context in (parent, child):
        assert (context.regs.rbx, context.regs.r15, context.regs.rsp) == (5, 6, STACK - 64)


@pytest.mark.parametrize("same_process", [False, True])
def test_a_clone_that_shares_the_space_sees_every_change(bare: Bare, same_process: bool) -> None:
    parent = bare.load(call(1) + call(2))
    bare.syscall(parent)
    child = parent.clone(share_space=True, same_process=same_process)
    assert child.space is parent.space
    child.regs.rip = CODE
    child.regs.rsp -= 1024
    bare.syscall(child)
    child.space.write(DATA, b"child")
    assert parent.space.read(DATA, 5) == b"child"
    child.release()
    parent.space.write(DATA, b"alone")
    assert bare.syscall(parent).number == 2


def test_threads_run_at_the_same_time_and_memory_can_be_changed_meanwhile(bare: Bare) -> None:
    parent = bare.load(call(1) + call(2))
    bare.syscall(parent)
    child = parent.clone(share_space=True, same_process=True)
    child.space.write(DATA, b"\0" * 8)
    child.regs.rip, child.regs.rdi = CODE + 0x200, DATA
    place(child, CODE + 0x200, COUNT)
    bare.start(child)
    bare.turn()
    wait_until(lambda: word(parent, DATA) > 0)
    extra = parent.space.map(0, PAGE_SIZE, READ_WRITE, ANONYMOUS, -1, 0)
    parent.space.write(extra, b"x")
    assert bare.syscall(parent).number == 2
    child.interrupt()
    assert bare.collect(child) == [InterruptTrap()]


def test_a_running_thread_can_be_released(bare: Bare) -> None:
    parent = bare.load(call(1) + call(2) + call(3))
    bare.syscall(parent)
    child = parent.clone(share_space=True, same_process=True)
    child.regs.rip = CODE + 0x200
    place(child, CODE + 0x200, LOOP)
    bare.start(child)
    bare.turn()
    child.release()
    assert bare.syscall(parent).number == 2
    bare.turn(0.01)
    assert bare.syscall(parent).number == 3


def test_a_thread_with_a_late_interrupt_can_be_released(bare: Bare, subject: Subject) -> None:
    parent = bare.load(call(1) + AWAIT + call(2) + call(3), rdi=DATA)
    bare.syscall(parent)
    pid = subject.host_pid(parent)
    tasks = set(os.listdir(f"/proc/{pid}/task"))
    child = parent.clone(share_space=True, same_process=True)
    (tid,) = set(os.listdir(f"/proc/{pid}/task")) - tasks
    bare.start(child)
    bare.turn()
    child.space.write(DATA, b"\1")
    wait_until(lambda: host_state(int(tid)) == "t")
    child.interrupt()
    bare.collect(child)
    child.release()
    wait_until(lambda: bare.turn(0.001) == [] and set(os.listdir(f"/proc/{pid}/task")) == tasks)
    assert bare.syscall(parent).number == 2


def test_the_first_thread_can_go_before_the_others(bare: Bare) -> None:
    first = bare.load(call(1) + call(2) + call(3))
    bare.syscall(first)
    second = first.clone(share_space=True, same_process=True)
    first.release()
    assert bare.syscall(second).number == 2
    space = second.space
    space.map(DATA + PAGE_SIZE, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
    space.write(DATA, b"alive")
    assert space.read(DATA, 5) == b"alive"
    assert DATA in [m.start for m in space.mappings()]
    assert space.resident_pages()[0] > 0
    assert bare.syscall(second).number == 3
    third = second.clone(share_space=False, same_process=False)
    assert third.space.read(DATA, 5) == b"alive"


# -- the extended state --


def test_the_extended_state_is_read_and_replaced(bare: Bare) -> None:
    context = bare.load(mov("rax", 0x1122334455667788) + RAX_TO_XMM + call(1) + XMM_TO_RAX + SYSCALL)
    bare.syscall(context)
    state = bytearray(context.read_xstate())
    assert state[160:168] == struct.pack("<Q", 0x1122334455667788)  # XMM0 of the FXSAVE area
    state[160:168] = struct.pack("<Q", 4321)
    context.write_xstate(bytes(state))
    assert bare.syscall(context).number == 4321


def test_a_short_extended_state_is_the_old_fxsave_format(bare: Bare) -> None:
    context = bare.load(mov("rax", 7) + RAX_TO_XMM + call(1) + XMM_TO_RAX + SYSCALL)
    bare.syscall(context)
    state = bytearray(context.read_xstate()[:512])
    state[160:168] = struct.pack("<Q", 1234)
    context.write_xstate(bytes(state))
    assert bare.syscall(context).number == 1234


def test_a_clone_has_the_extended_state(bare: Bare) -> None:
    context = bare.load(mov("rax", 0x77) + RAX_TO_XMM + call(1) + XMM_TO_RAX + SYSCALL)
    bare.syscall(context)
    child = context.clone(share_space=False, same_process=False)
    assert bare.syscall(child).number == 0x77


def test_an_extended_state_the_processor_refuses_is_einval(bare: Bare) -> None:
    context = bare.load(mov("rax", 0x55) + RAX_TO_XMM + call(1) + XMM_TO_RAX + SYSCALL)
    bare.syscall(context)
    state = bytearray(context.read_xstate())
    state[24:28] = b"\xff" * 4  # MXCSR with reserved bits
    with pytest.raises(EINVAL):
        context.write_xstate(bytes(state))
    assert bare.syscall(context).number == 0x55


# -- ends --


def test_a_space_killed_while_it_runs_is_an_exit(bare: Bare, subject: Subject) -> None:
    context = bare.load(LOOP)
    bare.start(context)
    bare.turn()
    os.kill(subject.host_pid(context), signal.SIGKILL)
    assert bare.collect(context) == [ExitTrap(signal.SIGKILL)]


def test_a_space_killed_while_it_is_stopped_is_gone(bare: Bare, subject: Subject) -> None:
    context = bare.load(call(1) + LOOP)
    bare.syscall(context)
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE_SIZE)
        os.kill(subject.host_pid(context), signal.SIGKILL)
        wait_until(lambda: host_state(subject.host_pid(context)) in "ZX")
        operations: list[Callable[[], object]] = [
            lambda: context.space.map(0, PAGE_SIZE, PROT_READ, ANONYMOUS, -1, 0),
            lambda: context.space.map(0, PAGE_SIZE, PROT_READ, MAP_PRIVATE, file.fileno(), 0),
            lambda: context.space.read(DATA, 1),
            lambda: context.space.write(DATA, b"x"),
            lambda: context.space.cmpxchg32(DATA, 0, 1),
            lambda: context.clone(share_space=False, same_process=False),
            context.read_xstate,
        ]
        for operation in operations:
            with pytest.raises((SpaceGone, EFAULT)):
                operation()
    assert context.cpu_ns() >= 0
    assert bare.run(context) == ExitTrap(signal.SIGKILL)
    context.release()


def test_a_space_killed_while_it_changes_is_gone(bare: Bare, subject: Subject) -> None:
    """As the OOM killer does it: while the host finds memory for an mmap(2) with MAP_POPULATE."""
    context = bare.load(call(1))
    bare.syscall(context)
    killer = threading.Timer(0.005, os.kill, (subject.host_pid(context), signal.SIGKILL))
    killer.start()
    with pytest.raises(SpaceGone):
        for _ in range(1000):
            addr = context.space.map(0, 64 << 20, READ_WRITE, ANONYMOUS | 0x8000, -1, 0)
            context.space.unmap(addr, 64 << 20)
    killer.join()
    with pytest.raises(SpaceGone):
        context.space.unmap(DATA, PAGE_SIZE)
    assert (context.space.mappings(), context.space.resident_pages()) == ([], (0, 0, 0))
    with pytest.raises(EFAULT):
        context.space.read(DATA, 1)
    assert bare.run(context) == ExitTrap(signal.SIGKILL)
    context.release()


def test_every_thread_of_a_killed_space_ends(bare: Bare, subject: Subject) -> None:
    first = bare.load(call(1) + LOOP)
    bare.syscall(first)
    threads = [first, *(first.clone(share_space=True, same_process=True) for _ in range(3))]
    for thread in threads:
        bare.start(thread)
    bare.turn()
    os.kill(subject.host_pid(first), signal.SIGKILL)
    traps: list[Trap] = bare.collect(*threads)
    assert traps == [ExitTrap(signal.SIGKILL)] * 4
    for thread in threads:
        thread.release()


def test_what_was_released_is_gone_after_the_next_waits(bare: Bare, subject: Subject) -> None:
    context = bare.load(call(1))
    bare.syscall(context)
    child = context.clone(share_space=True, same_process=False)
    pids = {subject.host_pid(context), subject.host_pid(child)}
    child.release()
    context.release()
    wait_until(lambda: bare.turn(0.001) == [] and all(host_state(pid) == "gone" for pid in pids))


def test_spaces_come_and_go_without_a_trace(bare: Bare) -> None:
    def cycle() -> None:
        context = bare.load(call(1) + call(2))
        bare.syscall(context)
        child = context.clone(share_space=False, same_process=False)
        thread = child.clone(share_space=True, same_process=True)
        child.space.mappings()
        for each in (thread, child, context):
            each.release()
        bare.turn()

    cycle()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        cycle()
    assert len(os.listdir("/proc/self/fd")) == before


def children_of(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_close_leaves_no_process_and_no_descriptor(subject: Subject) -> None:
    before = set(os.listdir("/proc/self/fd")), children_of(os.getpid())
    proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    bare = Bare(subject.make(proc))
    running = bare.load(call(1) + LOOP)
    bare.syscall(running)
    stopped = running.clone(share_space=False, same_process=False)
    thread = running.clone(share_space=True, same_process=True)
    released = running.clone(share_space=True, same_process=False)
    bare.start(running)
    bare.start(thread)
    bare.turn()
    released.release()
    assert stopped.space.read(CODE, 1)
    bare.close()
    os.close(proc)
    assert (set(os.listdir("/proc/self/fd")), children_of(os.getpid())) == before


def test_processor_time_and_size_are_counted(bare: Bare) -> None:
    context = bare.load(COUNT, rdi=DATA)
    bare.start(context)
    bare.turn()
    wait_until(lambda: word(context, DATA) > 10_000_000)
    context.interrupt()
    bare.collect(context)
    used = context.cpu_ns()
    assert used > 100_000
    assert context.cpu_ns() >= used
    size, resident, shared = context.space.resident_pages()
    assert size >= 18 and 2 <= resident <= size and shared <= resident


def test_a_host_that_has_no_room_says_so(bare: Bare) -> None:
    space = bare.empty().space
    with pytest.raises((ENOMEM, EAGAIN)):
        space.map(0, 1 << 47, READ_WRITE, ANONYMOUS, -1, 0)
