"""Ring 3 code that tries everything against ring 0: it gets Linux's signals, and nobody else notices.

Every test runs on the ptrace platform, too: there Linux answers, so what is expected here is what Linux does.  Tests
try many things each, because a virtual machine takes longer to make than a hundred traps.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from platform_kvm.platform import is_emulated
from sentry.abi.errno import LinuxError
from sentry.mm.mm import PROT_EXEC
from sentry.platform import PAGE_SIZE, Context, FaultTrap, InterruptTrap, SyscallTrap
from tests.bare import (
    CALL_RAX,
    CODE,
    DATA,
    FIXED,
    INT80,
    JUMP_RAX,
    LOAD,
    LOOP,
    MASK64,
    NOP,
    READ_WRITE,
    STACK,
    STORE,
    SYSCALL,
    UNDEFINED,
    Bare,
    call,
    mov,
)
from tests.integration import hostile
from tests.integration.hostile import (
    AC,
    CPU_BASE,
    CPU_SIZE,
    CTX_BASE,
    DIRECT_BASE,
    FLAGS,
    IOPL,
    KERNEL_BASE,
    KERNEL_CS,
    MAX_CPUS,
    MAX_CTX,
    NT,
    PARAMS_ADDR,
    POP_RDI,
    POPF,
    PUSHF,
    REFUSED,
    TEXT_SIZE,
    TF,
    TSS,
    USER32_CS,
    USER_CS,
    USER_SS,
    Wall,
    far_call,
    far_jump,
    far_return,
    interrupt_return,
    push,
)
from tests.integration.platforms import SUBJECTS, Subject

pytestmark = pytest.mark.own_process

COMPARED = [subject for subject in SUBJECTS if subject.name in ("ptrace", "kvm")]
READABLE = (USER32_CS, USER_SS, USER_CS)
BEHIND = CODE + 0x100  # where nothing is, or an undefined instruction
UNDEFINED_BEHIND = FaultTrap(signal.SIGILL, 2, BEHIND)


@pytest.fixture(params=COMPARED, ids=lambda subject: str(subject.name))
def subject(request: pytest.FixtureRequest) -> Subject:
    chosen: Subject = request.param
    reason = chosen.probe()
    if reason:
        pytest.skip(f"{chosen.name}: {reason}")
    return chosen


@pytest.fixture
def wall(bare: Bare) -> Iterator[Wall]:
    made = Wall(bare)
    yield made
    made.holds()


@pytest.fixture
def emulated(wall: Wall) -> bool:
    """Is this a host that plays ring 0 itself?  There SYSCALL is a jump to ring 0's entry, which anybody can do."""
    return isinstance(wall.attempt(b"", rip=KERNEL_BASE, rax=1)[0], SyscallTrap)


def not_mapped(addr: int) -> FaultTrap:
    return FaultTrap(signal.SIGSEGV, 1, addr)


# -- the upper half --


def touch(bare: Bare, context: Context, addr: int) -> list[object]:
    """The traps of a load, a store and a jump."""
    traps: list[object] = []
    for rip in (CODE, CODE + len(LOAD), addr):
        context.regs.rip, context.regs.rdi = rip, addr
        traps.append(bare.run(context))
    return traps


def unexpected(wall: Wall, addresses: Iterator[int] | list[int]) -> dict[str, list[object]]:
    context = wall.attacker(LOAD + STORE)
    found = {}
    for addr in addresses:
        traps = touch(wall.bare, context, addr)
        if traps != [not_mapped(addr)] * 3:
            found[hex(addr)] = traps
    context.release()
    wall.witness.look()
    return found


def test_every_part_of_the_upper_half_is_as_if_nothing_were_there(wall: Wall) -> None:
    """A touch for each entry of the top table, and another in its last page but one."""
    entries = [0xFFFF800000000000 + (entry << 39) for entry in range(256)]
    assert unexpected(wall, [addr + 0x10 for addr in entries]) == {}
    assert unexpected(wall, [addr + (1 << 39) - 0x1FF0 for addr in entries]) == {}


def test_every_page_of_ring_0_is_as_if_it_were_not_there(wall: Wall) -> None:
    regions = [
        range(KERNEL_BASE, KERNEL_BASE + 2 * TEXT_SIZE, PAGE_SIZE),
        range(CPU_BASE, CPU_BASE + MAX_CPUS * CPU_SIZE, PAGE_SIZE),
        [PARAMS_ADDR],
        range(CTX_BASE, CTX_BASE + 32 * PAGE_SIZE, PAGE_SIZE),
        range(CTX_BASE, CTX_BASE + MAX_CTX * PAGE_SIZE, 4 << 20),
        range(DIRECT_BASE, DIRECT_BASE + 32 * PAGE_SIZE, PAGE_SIZE),
        range(DIRECT_BASE, DIRECT_BASE + (4 << 30), 64 << 20),
    ]
    assert unexpected(wall, [page + 0x18 for region in regions for page in region]) == {}


def test_no_instruction_of_ring_0_can_be_jumped_to(wall: Wall, emulated: bool) -> None:
    context = wall.attacker(b"", r11=MASK64, rcx=CODE, rax=1)
    found = []
    for addr in range(KERNEL_BASE, KERNEL_BASE + 0x3000, 16):
        context.regs.rip = addr
        if wall.bare.run(context) != not_mapped(addr):
            found.append(addr)
    assert found == ([KERNEL_BASE] if emulated else [])


def test_what_looks_like_a_system_call_gives_no_rights(wall: Wall) -> None:
    """On hosts that play ring 0, jumping to its entry is one: with flags, too, that SYSCALL would not take there."""
    code = PUSHF + POP_RDI + mov("rax", 5) + SYSCALL
    for number, answer in ((1, {}), (39, {"getpid": 77}), (228, {"clock_gettime": 0})):
        for rcx in (CODE, KERNEL_BASE + 0x1000, 1 << 62, MASK64):
            context = wall.attacker(code, rip=KERNEL_BASE, rax=number, rcx=rcx, r11=MASK64 & ~TF, rsi=DATA)
            context.keep_answers(answer)
            trap = wall.bare.run(context)
            if isinstance(trap, SyscallTrap) and trap.number == number:
                trap = wall.bare.run(context)
            if isinstance(trap, SyscallTrap):
                assert (trap.number, trap.args[0] & IOPL, context.regs.eflags & IOPL) == (5, 0, 0)
            else:
                assert isinstance(trap, FaultTrap) and trap.signo == signal.SIGSEGV
            context.release()
            wall.witness.look()


def test_memory_of_ring_0_is_no_stack_and_no_string(wall: Wall) -> None:
    target = CPU_BASE + 0x2F00
    for code, registers in {
        "push": (b"\x50", {"rsp": target + 8}),
        "pop": (b"\x58", {"rsp": target}),
        "call": (b"\xe8\0\0\0\0", {"rsp": target + 8}),
        "ret": (b"\xc3", {"rsp": target}),
        "enter": (b"\xc8\0\0\0", {"rsp": target + 8}),
    }.values():
        trap, at = wall.attempt(code, **registers)
        assert trap in (not_mapped(target), FaultTrap(signal.SIGBUS, hostile.SI_KERNEL, 0)) and at == 0
    for code, registers in {
        "rep movsb into": (b"\xf3\xa4", {"rdi": target, "rsi": DATA, "rcx": 8}),
        "rep movsb out of": (b"\xf3\xa4", {"rdi": DATA, "rsi": target, "rcx": 8}),
        "lock cmpxchg": (b"\xf0\x48\x0f\xb1\x07", {"rdi": target}),
        "lock xadd": (b"\xf0\x48\x0f\xc1\x07", {"rdi": target}),
        "movups": (b"\x0f\x10\x07", {"rdi": target}),
    }.values():
        assert wall.attempt(code, **registers) == (not_mapped(target), 0)
    trap, at = wall.attempt(b"\x0f\xae\x07", rdi=target)  # FXSAVE, of 512 bytes: some processors begin at the end
    assert isinstance(trap, FaultTrap) and target <= trap.addr < target + 512 and at == 0
    assert wall.attempt(b"\x0f\x18\x0f", rdi=target)[1] == 3  # prefetcht0 of anything is nothing


# -- instructions --


def test_input_and_output_are_refused_whatever_the_port(wall: Wall) -> None:
    found = {name: wall.attempt(code) for name, code in hostile.PORTS.items()}
    assert {name: traps for name, traps in found.items() if traps[0] != REFUSED} == {}


def test_privileged_instructions_are_refused(wall: Wall) -> None:
    found = {name: wall.attempt(code) for name, code in hostile.PRIVILEGED.items()}
    assert {name: traps for name, traps in found.items() if traps[0] != REFUSED} == {}


def test_instructions_that_not_all_processors_have_are_refused(wall: Wall) -> None:
    found = {}
    for name, code in hostile.PRIVILEGED_IF_KNOWN.items():
        trap, at = wall.attempt(code)
        if at >= len(code) or trap not in (REFUSED, FaultTrap(signal.SIGILL, 2, CODE + at)):
            found[name] = trap
    assert found == {}


def reads_behind_data(trap: object) -> bool:
    """A processor that has tiles reads the three pages of its largest state before it looks what is wrong with it."""
    return (
        isinstance(trap, FaultTrap)
        and (trap.signo, trap.code) == (signal.SIGSEGV, 1)
        and DATA + PAGE_SIZE <= trap.addr < DATA + 3 * PAGE_SIZE
    )


def test_extended_state_that_no_processor_takes_is_refused_or_is_ring_3s_own_trouble(wall: Wall) -> None:
    for name, code in hostile.BAD_STATE.items():
        context = wall.attacker(code + SYSCALL + SYSCALL)
        trap = wall.bare.run(context)
        if isinstance(trap, SyscallTrap):
            wall.witness.look()
            wall.bare.run(context)
        else:
            undefined = FaultTrap(signal.SIGILL, 2, context.regs.rip)
            assert trap in (REFUSED, undefined) or reads_behind_data(trap), name
            assert CODE <= context.regs.rip < CODE + len(code), name
        context.release()
        wall.witness.look()


def test_instructions_that_tell_of_ring_0_change_nothing(wall: Wall) -> None:
    for name, code in hostile.TELLING.items():
        trap, at = wall.attempt(code)
        assert (trap, at) == (REFUSED, 0) or at == len(code), name


def test_hypercalls_do_nothing(wall: Wall) -> None:
    """KVM answers its processor's own with an error, and refuses the other maker's, which it mends for ring 0 alone."""
    for code in hostile.HYPERCALLS.values():
        for number in (0, 1, 5, 9, 11, 12):
            trap, at = wall.attempt(code, rax=number, rbx=DATA, rcx=DATA)
            assert at == len(code) or (isinstance(trap, FaultTrap) and trap.signo in (signal.SIGILL, signal.SIGSEGV))


def test_hypercalls_in_a_writable_page_stay_as_they_are(wall: Wall) -> None:
    """In ring 0 KVM writes its processor's own over the other maker's (KVM_X86_QUIRK_FIX_HYPERCALL_INSN).

    Where ring 0 is emulated, it does so for ring 3 as well: the trouble of that program alone, which may write there.
    """
    if wall.name == "ptrace":
        pytest.skip("what a host under the host makes of it is not ours")
    for code in hostile.HYPERCALLS.values():
        context = wall.attacker(code)
        context.space.protect(CODE, PAGE_SIZE, READ_WRITE | PROT_EXEC)
        trap = wall.bare.run(context)
        assert isinstance(trap, FaultTrap) and trap.signo in (signal.SIGILL, signal.SIGSEGV)
        left = context.space.read(CODE, len(code) + len(UNDEFINED))
        assert left.endswith(UNDEFINED)
        mended = wall.name == "kvm" and is_emulated() and left[: -len(UNDEFINED)] in hostile.HYPERCALLS.values()
        assert left == code + UNDEFINED or mended
        context.release()
        wall.witness.look()


def test_returns_to_selectors_of_ring_0_are_refused(wall: Wall, emulated: bool) -> None:
    for cs in (KERNEL_CS, KERNEL_CS | 3, TSS, TSS | 3, USER_SS, 0, 3, USER_CS & ~3, 0x37, 0xFFFB):
        assert wall.attempt(interrupt_return(BEHIND, cs, 0x3202, STACK - 64, USER_SS))[0] == REFUSED, hex(cs)
        assert wall.attempt(far_return(BEHIND, cs))[0] == REFUSED, hex(cs)
    for ss in (KERNEL_CS + 8, TSS, USER_CS, USER32_CS, USER_SS & ~3, 0, 0x2F):
        trap, _ = wall.attempt(interrupt_return(BEHIND, USER_CS, 0x3202, STACK - 64, ss).ljust(0x100, NOP))
        # A host that plays ring 0 does not mind a stack of code, as long as it is ring 3's.
        assert trap == REFUSED or (emulated and ss in READABLE and trap == UNDEFINED_BEHIND), hex(ss)


def test_far_jumps_and_calls_reach_no_selector_of_ring_0(wall: Wall, emulated: bool) -> None:
    for selector in (0, KERNEL_CS, KERNEL_CS | 3, KERNEL_CS + 8, TSS, TSS | 3, TSS + 8, USER_SS, 0x34, 0x37, 0xFFFB):
        for code in (far_jump(BEHIND, selector), far_call(BEHIND, selector)):
            trap, at = wall.attempt(code)
            # A host that plays ring 0 knows no system segments: to it the instruction is none.
            unknown = emulated and selector & ~7 in (TSS, TSS + 8) and trap == FaultTrap(signal.SIGILL, 2, CODE + at)
            assert (trap == REFUSED or unknown) and at == len(code) - 2, hex(selector)


def test_flags_that_are_ring_0s_stay_as_they_are(wall: Wall) -> None:
    """IOPL and IF, by POPF and by an IRET to ring 3 itself."""
    looked = PUSHF + POP_RDI + mov("rax", 5) + SYSCALL
    behind = len(interrupt_return(0, 0, 0, 0, 0))
    for flags in (IOPL, IOPL | FLAGS, 0, MASK64 & ~TF & ~NT & ~AC):
        attempts = (push(flags) + POPF, interrupt_return(CODE + behind, USER_CS, flags, STACK - 64, USER_SS))
        for code in attempts:
            trap, _ = wall.attempt(code + looked)
            if isinstance(trap, SyscallTrap):
                assert trap.args[0] & (IOPL | 0x202) == FLAGS
            else:
                assert trap == REFUSED  # virtual 8086 mode, which there is not
        assert wall.attempt(push(IOPL | FLAGS) + POPF + b"\xfa")[0] == REFUSED


# -- selectors --

LOADS = {"ds": b"\x8e\xd8", "es": b"\x8e\xc0", "fs": b"\x8e\xe0", "gs": b"\x8e\xe8", "ss": b"\x8e\xd0"}
CPU_NUMBER = range(0x78, 0x7C)  # Linux keeps the processor's number in that descriptor's limit; we have no need to


def loads(register: str, selector: int) -> bool:
    if register == "ss":
        return selector == USER_SS
    return selector < 4 or selector | 3 in READABLE


@pytest.mark.parametrize("register", LOADS)
def test_only_ring_3s_selectors_can_be_loaded(wall: Wall, register: str) -> None:
    selectors = [n for n in range(0x100) if n not in CPU_NUMBER] + [0x7FF8, 0xFFF8, 0xFFFB, 0xFFFF]
    wrong = []
    for selector in selectors:
        trap, _ = wall.attempt(LOADS[register] + SYSCALL, rax=selector)
        if not isinstance(trap, SyscallTrap) if loads(register, selector) else trap != REFUSED:
            wrong.append((hex(selector), trap))
    assert wrong == []


def test_registers_with_any_selectors_run_or_are_refused(wall: Wall, emulated: bool) -> None:
    """As a debugger could set them: what ring 0 can't load must not stop it."""
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        for selector in [*range(0x60), 0xFFF8, 0xFFFF]:
            trap, _ = wall.attempt(SYSCALL, **{name: selector})
            if isinstance(trap, FaultTrap):
                # Not every processor has SYSCALL in 32-bit code; and a host that plays ring 0 takes data for such.
                undefined = name == "cs" and (selector == USER32_CS or (emulated and selector in READABLE))
                assert trap.signo in (signal.SIGSEGV, signal.SIGBUS, undefined and signal.SIGILL), (name, selector)
            else:  # Linux does not take all of them from a debugger
                assert isinstance(trap, SyscallTrap) or wall.name == "ptrace", (name, selector)


def test_bases_that_point_to_ring_0_or_nowhere_harm_nobody(wall: Wall, emulated: bool) -> None:
    """wrfsbase and wrgsbase, where ring 3 may use them: they take any canonical address, which then can't be used."""
    for write, use in (
        (b"\xf3\x48\x0f\xae\xd7", b"\x64\x48\x8b\x04\x25\0\0\0\0"),  # wrfsbase %rdi; mov %fs:0, %rax
        (b"\xf3\x48\x0f\xae\xdf", b"\x65\x48\x8b\x04\x25\0\0\0\0"),
    ):
        for addr in (KERNEL_BASE, CPU_BASE, MASK64 - 4095):
            context = wall.attacker(write + SYSCALL + SYSCALL + use, rdi=addr)
            trap = wall.bare.run(context)
            if trap == hostile.NO_INSTRUCTION:
                return
            assert isinstance(trap, SyscallTrap)
            wall.witness.look()
            assert isinstance(wall.bare.run(context), SyscallTrap)
            # A host that plays ring 0 has no such instructions in it, so ring 0 does not know what ring 3 did.
            assert wall.bare.run(context) == not_mapped(0 if emulated else addr)
            context.release()
            wall.witness.look()
        for addr in (1 << 47, 1 << 62, 1 << 63):
            trap, at = wall.attempt(write + SYSCALL, rdi=addr)
            assert (trap, at) == (REFUSED, 0) or at == len(write + SYSCALL)  # a processor in software takes it


# -- addresses that are none --

NOT_CANONICAL = (1 << 47, 1 << 62, 0x8000000000000000, 0xFFFF7FFFFFFFFFFF)


def test_jumps_to_impossible_addresses_are_faults(wall: Wall) -> None:
    for addr in NOT_CANONICAL:
        for code in (JUMP_RAX, CALL_RAX, b"\x50\xc3"):  # push; ret
            trap, _ = wall.attempt(mov("rax", addr) + code)
            assert isinstance(trap, FaultTrap) and trap.signo == signal.SIGSEGV, hex(addr)
        for flags in (FLAGS, FLAGS | TF, FLAGS | AC | NT):
            trap, _ = wall.attempt(b"", rip=addr, eflags=flags)
            assert isinstance(trap, FaultTrap) and trap.signo == signal.SIGSEGV, hex(addr)


def test_a_system_call_at_the_very_end_of_memory_returns_to_a_fault(wall: Wall) -> None:
    """The return address is the end.  Were it not canonical, SYSRET would fault in ring 0, on a bad stack."""
    if wall.name == "ptrace":
        pytest.skip("there the end is where the platform's own code begins")
    for answer in ({}, {"getpid": 77}):
        context = wall.attacker(b"", rax=39, rsp=CPU_BASE + 0x3000)
        end = context.space.end
        context.space.map(end - PAGE_SIZE, PAGE_SIZE, READ_WRITE | PROT_EXEC, FIXED, -1, 0)
        context.space.write(end - 2, SYSCALL)
        context.keep_answers(answer)
        context.regs.rip = end - 2
        trap = wall.bare.run(context)
        if isinstance(trap, SyscallTrap):
            context.set_result(77)
            trap = wall.bare.run(context)
        assert trap == not_mapped(end)
        assert (context.regs.rip, context.regs.rax) == (end, 77)
        context.release()
        wall.witness.look()


# -- stacks --

NO_STACKS = (0, 8, 1 << 62, MASK64, CODE + 64)
RING_0S = (KERNEL_BASE, CPU_BASE + 0x3000, CPU_BASE + 0x3400, CTX_BASE, DIRECT_BASE)


def test_entries_with_a_bad_stack_are_entries_like_any_other(wall: Wall) -> None:
    bare = wall.bare
    for rsp in NO_STACKS + RING_0S:
        context = wall.attacker(SYSCALL + INT80 + LOAD + SYSCALL + LOOP, rsp=rsp, rax=1, rdi=0x1000)
        for native in (True, False):
            trap = bare.syscall(context)
            assert (trap.native, context.regs.rsp) == (native, rsp)
            context.set_result(2)
        assert bare.run(context) == not_mapped(0x1000)
        context.regs.rip += len(LOAD)
        bare.syscall(context)
        bare.start(context)
        bare.turn()
        context.interrupt()
        assert bare.collect(context) == [InterruptTrap()]
        assert context.regs.rsp == rsp
        context.release()
        wall.witness.look()


def test_a_page_that_is_stack_and_code_at_once_runs(wall: Wall) -> None:
    """Each push writes the instructions that come next: the last makes a call, and its stack is the code it runs in."""
    context = wall.attacker(b"")
    context.space.map(DATA, PAGE_SIZE, READ_WRITE | PROT_EXEC, FIXED, -1, 0)
    context.space.write(DATA, b"\x50" + UNDEFINED * 8)
    number = int.from_bytes(SYSCALL + UNDEFINED + NOP * 4, "little")
    context.regs.rip, context.regs.rsp, context.regs.rax = DATA, DATA + 9, number
    trap = wall.bare.run(context)
    assert isinstance(trap, SyscallTrap) and trap.number == number & 0x7FFFFFFF | -(number & 0x80000000)
    assert context.regs.rsp == DATA + 1
    context.release()


# -- flags --


def test_single_steps_over_system_calls_stop_behind_the_next_instruction(wall: Wall) -> None:
    load_ss = b"\x8c\xd1\x8e\xd1"  # mov %ss, %ecx; mov %ecx, %ss
    for code in (SYSCALL, load_ss + SYSCALL):
        context = wall.attacker(code + NOP + NOP, rax=7, eflags=FLAGS | TF)
        if code != SYSCALL:
            assert wall.bare.run(context) == FaultTrap(signal.SIGTRAP, 2, CODE + 2)
        assert wall.bare.syscall(context).number == 7
        assert context.regs.eflags & TF
        context.set_result(0)
        trap = wall.bare.run(context)
        assert isinstance(trap, FaultTrap) and trap.signo == signal.SIGTRAP
        assert context.regs.rip == CODE + len(code) + 1
        context.release()
        wall.witness.look()


def test_a_debug_exception_that_waits_for_ring_0_is_lost_there(wall: Wall) -> None:
    """Loading SS holds it back for one instruction.  If that enters the kernel, it may come in the kernel's midst."""
    load_ss = b"\x8c\xd1\x8e\xd1"  # mov %ss, %ecx; mov %ecx, %ss
    for code, signo in ((INT80, 0), (b"\xcc", 5), (b"\xcd\x20", 11), (UNDEFINED, 4), (b"\xf4", 11), (SYSCALL, 0)):
        context = wall.attacker(load_ss + code, rax=9, eflags=FLAGS | TF)
        traps = [wall.bare.run(context), wall.bare.run(context)]
        assert traps[0] == FaultTrap(signal.SIGTRAP, 2, CODE + 2)
        if signo:
            assert isinstance(traps[1], FaultTrap) and traps[1].signo == signo
        else:
            assert isinstance(traps[1], SyscallTrap)
        context.release()
        wall.witness.look()


def test_the_trap_flag_from_the_stack_works_after_one_instruction(wall: Wall) -> None:
    code = push(FLAGS | TF) + POPF
    assert wall.attempt(code + NOP + NOP) == (FaultTrap(signal.SIGTRAP, 2, CODE + len(code) + 1), len(code) + 1)
    code = interrupt_return(BEHIND, USER_CS, FLAGS | TF, STACK - 64, USER_SS).ljust(0x100, NOP)
    assert wall.attempt(code + NOP + NOP)[1] == 0x101
    # ICEBP, which not all emulators know, nor all hosts under the host step over.
    stepped = [(FaultTrap(signal.SIGTRAP, 1, CODE + at), at) for at in (1, 0)]
    assert wall.attempt(b"\xf1") in (*stepped, (hostile.NO_INSTRUCTION, 0))


def test_alignment_is_checked_in_ring_3_and_hinders_no_entry(wall: Wall) -> None:
    """The flag also lets ring 0 touch the application's memory: it must not have it there."""
    aligned, bare = push(FLAGS | AC) + POPF, wall.bare
    trap, at = wall.attempt(aligned + mov("rdi", DATA + 1) + LOAD)
    unchecked = at == len(aligned) + 10 + len(LOAD)  # by a processor in software
    assert unchecked or (trap, at) == (FaultTrap(signal.SIGBUS, 1, 0), len(aligned) + 10)
    code = aligned + call(7) + mov("rdi", DATA + PAGE_SIZE) + LOAD + call(228, 1, DATA) + PUSHF + POP_RDI + call(8)
    context = wall.attacker(code)
    context.space.map(DATA + PAGE_SIZE, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
    context.keep_answers({"clock_gettime": 0})
    assert bare.syscall(context).number == 7
    assert context.regs.eflags & AC
    trap = bare.run(context)
    if isinstance(trap, SyscallTrap) and trap.number == 228:
        trap = bare.run(context)
    assert isinstance(trap, SyscallTrap) and trap.number == 8
    assert context.regs.eflags & AC
    context.release()


def test_the_nested_task_flag_is_the_applications_own_trouble(wall: Wall, emulated: bool) -> None:
    nested, bare = push(FLAGS | NT) + POPF, wall.bare
    assert wall.attempt(nested + interrupt_return(CODE, USER_CS, FLAGS, STACK, USER_SS))[0] == REFUSED
    context = wall.attacker(nested + call(7) + mov("rdi", 0x1000) + LOAD + INT80)
    assert bare.syscall(context).number == 7
    context.set_result(0)
    assert bare.run(context) == not_mapped(0x1000)
    context.regs.rip += len(LOAD)
    assert isinstance(bare.run(context), SyscallTrap)
    assert context.regs.eflags & NT or emulated  # such a host clears it on its way to ring 0
    context.release()


# -- int --


def test_int_n_is_what_linux_makes_of_it_for_every_n(wall: Wall, emulated: bool) -> None:
    found = {}
    # A host that plays ring 0 brings some there as if their exception had happened, or takes them for nothing.
    harmless = (REFUSED, FaultTrap(signal.SIGILL, 2, CODE + 2)) if emulated else ()
    for n in range(256):
        trap, at = wall.attempt(bytes((0xCD, n)), rax=1)
        if n == 0x80:
            assert isinstance(trap, SyscallTrap) and not trap.native
        elif n == 3:
            assert (trap, at) == (FaultTrap(signal.SIGTRAP, hostile.SI_KERNEL, 0), 2)
        elif (trap, at) != (REFUSED, 2 if n == 4 else 0) and not (at == 2 and trap in harmless):
            found[n] = (trap, at)
    assert found == {}


# -- memory --


def test_whoever_overwrites_all_that_he_can_write_harms_himself(wall: Wall) -> None:
    """Each page that can be had writable: among them the vDSO and the page of the time, which then are copies."""
    context = wall.attacker(b"\xf3\xaa" + SYSCALL)  # rep stosb
    neighbour = wall.bare.load(call(1))

    def code_of_neighbour() -> list[bytes]:
        space = neighbour.space
        return [space.read(m.start, m.end - m.start) for m in space.mappings() if m.kind == "vdso"]

    before = code_of_neighbour()
    own = [mapping for mapping in context.space.mappings() if mapping.start != CODE]
    written = 0
    for mapping in own:
        try:
            context.space.protect(mapping.start, mapping.end - mapping.start, READ_WRITE)
        except LinuxError:
            continue
        regs = context.regs
        regs.rip, regs.rdi, regs.rcx, regs.rax = CODE, mapping.start, mapping.end - mapping.start, 0xCC
        trap = wall.bare.run(context)
        if isinstance(trap, SyscallTrap):
            assert set(context.space.read(mapping.start, PAGE_SIZE)) == {0xCC}
            written += 1
    assert written >= 2
    assert code_of_neighbour() == before != []
    context.release()
    neighbour.release()
