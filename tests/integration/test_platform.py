"""What sentry/platform.py promises of traps, of every platform, with real machine code and no kernel above."""

from __future__ import annotations

import os
import select
import signal
import struct
import tempfile
import time

import pytest

from sentry.abi.errno import EINVAL
from sentry.mm.mm import MAP_FIXED, MAP_PRIVATE, PROT_READ
from sentry.platform import PAGE_SIZE, ExitTrap, FaultTrap, InterruptTrap, SyscallTrap
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
from tests.integration.platforms import ANONYMOUS, Subject, host_state, wait_until, word

# A platform waits for any child and for SIGCHLD: the process is to have no other children and no other threads.
pytestmark = pytest.mark.own_process

# Behind this the processor runs 32-bit code: ljmp *(%rip), to the address and the selector that follow. A far return
# would do too, but qemu's emulated processor lets it read the stack with the kernel's rights.
COMPAT = (b"\xff\x2d" + struct.pack("<IIH", 0, CODE + 0x10, 0x23)).ljust(0x10, NOP)


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
    """Far jump to the host's 32-bit code segment, then int $0x80 there."""
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
    wait_until(lambda: host_state(subject.host_pid(context)) in "tS")
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


# -- the extended state --


def test_the_extended_state_is_read_and_replaced(bare: Bare) -> None:
    context = bare.load(mov("rax", 0x1122334455667788) + RAX_TO_XMM + call(1) + XMM_TO_RAX + SYSCALL)
    bare.syscall(context)
    state = bytearray(context.read_xstate())
    assert state[160:168] == struct.pack("<Q", 0x1122334455667788)  # XMM0 of the FXSAVE area
    state[160:168] = struct.pack("<Q", 4321)
    context.write_xstate(bytes(state))
    assert bare.syscall(context).number == 4321


def test_an_extended_state_is_put_back_whether_or_not_it_is_there(bare: Bare) -> None:
    """A platform may leave alone what is so already; it has to notice whenever it is not."""
    again = call(1) + XMM_TO_RAX + SYSCALL
    context = bare.load(mov("rax", 1) + RAX_TO_XMM + again + (RAX_TO_XMM + again) * 100)
    bare.syscall(context)
    state = context.read_xstate()
    for i in range(100):
        context.write_xstate(state)
        assert bare.syscall(context).number == 1
        context.regs.rax = 2 + i // 10 % 3 - i % 2 if i > 60 else 1  # for XMM0: what it is already, or something else
        bare.syscall(context)


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
