"""Machine code that tries to leave ring 3, and those who notice if it did.

For the platforms that run code on a processor of the application's own.  What each attempt is answered with is a table
here; the tests run it on the ptrace platform as well, where the host's Linux answers, so that the table is Linux's.
"""

from __future__ import annotations

import signal
import struct
from typing import Final

from sentry.platform import PAGE_SIZE, Context, ExitTrap, FaultTrap, Trap
from tests.bare import (
    BREAKPOINT,
    CODE,
    DATA,
    DIVIDE,
    FIXED,
    INT80,
    LOAD,
    MASK64,
    READ_WRITE,
    STACK,
    SYSCALL,
    UNDEFINED,
    Bare,
    call,
    mov,
)

# platform_kvm/core/layout.h
KERNEL_BASE: Final = 0xFFFFFF8000000000
DIRECT_BASE: Final = 0xFFFFFF0000000000
CPU_BASE: Final = KERNEL_BASE + 0x200000
CPU_SIZE: Final = 0x4000
MAX_CPUS: Final = 64
PARAMS_ADDR: Final = KERNEL_BASE + 0x3FF000
CTX_BASE: Final = KERNEL_BASE + 0x40000000
MAX_CTX: Final = 32768
TEXT_SIZE: Final = 0x10000
EXIT_PORT: Final = 0x50
KERNEL_CS: Final = 0x10
TSS: Final = 0x40
USER32_CS: Final = 0x23
USER_SS: Final = 0x2B
USER_CS: Final = 0x33

SI_KERNEL: Final = 0x80
REFUSED: Final = FaultTrap(signal.SIGSEGV, SI_KERNEL, 0)
NO_INSTRUCTION: Final = FaultTrap(signal.SIGILL, 2, CODE)

PUSHF: Final = b"\x9c"
POPF: Final = b"\x9d"
POP_RDI: Final = b"\x5f"
IRET: Final = b"\x48\xcf"
FAR_RETURN: Final = b"\x48\xcb"

IOPL: Final = 0x3000
TF: Final = 0x100
AC: Final = 0x40000
NT: Final = 0x4000
FLAGS: Final = 0x202


def _ports() -> dict[str, bytes]:
    """Each width and each way to name the port, for ports that mean something to ring 0, to KVM and to nobody."""
    found = {}
    for port in (EXIT_PORT, 0x80, 0x3F8, 0xCF8, 0xFFFF, 0):
        dx = mov("rdx", port)
        for name, code in {"in": b"\xec", "in32": b"\xed", "in16": b"\x66\xed"}.items():
            found[f"{name} {port:#x}"] = dx + code
        for name, code in {"out": b"\xee", "out32": b"\xef", "out16": b"\x66\xef"}.items():
            found[f"{name} {port:#x}"] = dx + code
        found[f"insb {port:#x}"] = dx + b"\x6c"
        found[f"rep insb {port:#x}"] = dx + mov("rcx", 16) + b"\xf3\x6c"
        found[f"outsb {port:#x}"] = dx + mov("rsi", DATA) + b"\x6e"
        found[f"rep outsb {port:#x}"] = dx + mov("rsi", DATA) + mov("rcx", 16) + b"\xf3\x6e"
    for port in (EXIT_PORT, 0x80):
        for number in (0xE4, 0xE5, 0xE6, 0xE7):
            found[f"{number:x} {port:#x}"] = bytes((number, port))
    return found


PORTS: Final = _ports()

# Each is refused because it is ring 0's alone.  rdi points to data.
PRIVILEGED: Final = {
    "cli": b"\xfa",
    "sti": b"\xfb",
    "hlt": b"\xf4",
    "clts": b"\x0f\x06",
    "invd": b"\x0f\x08",
    "wbinvd": b"\x0f\x09",
    "wrmsr LSTAR": mov("rcx", 0xC0000082) + mov("rax", CODE) + mov("rdx", 0) + b"\x0f\x30",
    "wrmsr GS": mov("rcx", 0xC0000101) + mov("rax", CODE) + mov("rdx", 0) + b"\x0f\x30",
    "rdmsr EFER": mov("rcx", 0xC0000080) + b"\x0f\x32",
    "rdpmc": mov("rcx", 0) + b"\x0f\x33",
    "sysretq": mov("rcx", CODE) + mov("r11", 0x3202) + b"\x48\x0f\x07",
    "sysretl": mov("rcx", CODE) + mov("r11", 0x3202) + b"\x0f\x07",
    "swapgs": b"\x0f\x01\xf8",
    "lgdt": b"\x0f\x01\x17",
    "lidt": b"\x0f\x01\x1f",
    "lldt": mov("rax", 0) + b"\x0f\x00\xd0",
    "ltr": mov("rax", TSS) + b"\x0f\x00\xd8",
    "lmsw": mov("rax", 0) + b"\x0f\x01\xf0",
    "invlpg": b"\x0f\x01\x3f",
    "invlpg of ring 0": mov("rdi", KERNEL_BASE) + b"\x0f\x01\x3f",
    **{f"mov to cr{n}": mov("rax", 0) + bytes((0x0F, 0x22, 0xC0 + 8 * n)) for n in (0, 2, 3, 4)},
    **{f"mov from cr{n}": bytes((0x0F, 0x20, 0xC0 + 8 * n)) for n in (0, 2, 3, 4)},
    "mov to cr8": mov("rax", 0) + b"\x44\x0f\x22\xc0",
    "mov from cr8": b"\x44\x0f\x20\xc0",
    **{f"mov to dr{n}": mov("rax", 0) + bytes((0x0F, 0x23, 0xC0 + 8 * n)) for n in (0, 3, 6, 7)},
    **{f"mov from dr{n}": bytes((0x0F, 0x21, 0xC0 + 8 * n)) for n in (0, 3, 6, 7)},
}

# Some processors do not know these, or not in the mode that ring 0 chose: then they are no instructions.
PRIVILEGED_IF_KNOWN: Final = {
    "sysexit": b"\x0f\x35",
    "invpcid": mov("rax", 2) + b"\x66\x0f\x38\x82\x07",
    "xsetbv": mov("rcx", 0) + mov("rax", 1) + mov("rdx", 0) + b"\x0f\x01\xd1",
    "monitor": mov("rax", DATA) + mov("rcx", 0) + mov("rdx", 0) + b"\x0f\x01\xc8",
    "mwait": mov("rax", 0) + mov("rcx", 0) + b"\x0f\x01\xc9",
    "clac": b"\x0f\x01\xca",
    "stac": b"\x0f\x01\xcb",
    "encls": b"\x0f\x01\xcf",
    "vmlaunch": b"\x0f\x01\xc2",
    "vmxoff": b"\x0f\x01\xc4",
    "vmptrld": b"\x0f\xc7\x37",
    "vmxon": b"\xf3\x0f\xc7\x37",
    "vmrun": mov("rax", DATA) + b"\x0f\x01\xd8",
    "vmload": mov("rax", DATA) + b"\x0f\x01\xda",
    "vmsave": mov("rax", DATA) + b"\x0f\x01\xdb",
    "stgi": b"\x0f\x01\xdc",
    "clgi": b"\x0f\x01\xdd",
    "skinit": mov("rax", DATA) + b"\x0f\x01\xde",
    "invlpga": mov("rax", KERNEL_BASE) + mov("rcx", 0) + b"\x0f\x01\xdf",
    "rsm": b"\x0f\xaa",
    "xsaves": mov("rax", MASK64) + mov("rdx", MASK64) + b"\x0f\xc7\x2f",
    "xrstors": mov("rax", MASK64) + mov("rdx", MASK64) + b"\x0f\xc7\x1f",
    "wrpkru": mov("rax", 0) + mov("rcx", 1) + mov("rdx", 0) + b"\x0f\x01\xef",
}

# What a processor does not take from memory; one in software may, and then has spoilt ring 3's own state at most.
BAD_STATE: Final = {
    "fxrstor of a bad MXCSR": mov("rax", MASK64) + b"\x48\x89\x47\x18" + b"\x0f\xae\x0f",
    "ldmxcsr of a bad MXCSR": mov("rax", MASK64) + b"\x48\x89\x07" + b"\x0f\xae\x17",
    # Bits of the header that are to be zero, and components that there are none of.
    "xrstor of a bad header": mov("rax", MASK64)
    + b"\x48\x89\x87\x08\x02\0\0\x48\x89\x87\0\x02\0\0"  # mov %rax, 520(%rdi); mov %rax, 512(%rdi)
    + mov("rdx", MASK64)
    + b"\x0f\xae\x2f",
    "xrstor of more than there is": mov("rax", 1 << 62)
    + b"\x48\x89\x87\0\x02\0\0"
    + mov("rax", MASK64)
    + mov("rdx", MASK64)
    + b"\x0f\xae\x2f",
    "xrstor that is not aligned": mov("rdi", DATA + 8) + mov("rax", 1) + mov("rdx", 0) + b"\x0f\xae\x2f",
}

# They tell where tables lie and change nothing; UMIP, where the processor has it, refuses them, and Linux then makes up
# an answer.
TELLING: Final = {
    "sgdt": b"\x0f\x01\x07",
    "sidt": b"\x0f\x01\x0f",
    "sldt": b"\x0f\x00\xc0",
    "str": b"\x0f\x00\xc8",
    "smsw": b"\x0f\x01\xe0",
}

# Answered by KVM itself, with an error, or no instructions.
HYPERCALLS: Final = {"vmcall": b"\x0f\x01\xc1", "vmmcall": b"\x0f\x01\xd9"}


def far_pointer(addr: int, selector: int) -> bytes:
    """Stores a 32-bit far pointer at DATA; rdi points to it then."""
    value = struct.pack("<IHxx", addr, selector)
    return mov("rdi", DATA) + mov("rax", int.from_bytes(value, "little")) + b"\x48\x89\x07"


def far_jump(addr: int, selector: int) -> bytes:
    return far_pointer(addr, selector) + b"\xff\x2f"


def far_call(addr: int, selector: int) -> bytes:
    return far_pointer(addr, selector) + b"\xff\x1f"


def push(*values: int) -> bytes:
    return b"".join(mov("rax", value) + b"\x50" for value in values)


def far_return(addr: int, selector: int) -> bytes:
    return push(selector, addr) + FAR_RETURN


def interrupt_return(addr: int, cs: int, flags: int, rsp: int, ss: int) -> bytes:
    return push(ss, rsp, flags, cs, addr) + IRET


class Witness:
    """A context in a space of its own that holds known values everywhere, and looks at them again and again."""

    NUMBER: Final = 0x17E55
    XMM0: Final = 0x0F1E2D3C4B5A6978
    WORDS: Final = (0x1111222233334444, 0x5555666677778888)
    NAMES: Final = ("rbx", "rbp", "rdx", "rdi", "r12", "r13", "r14", "r15")
    KEPT: Final = {name: 0xABCD0000 + n for n, name in enumerate(NAMES)}
    # Its memory by way of FS and GS, the extended state, the flags: all as arguments of a call.
    LOOK: Final = (
        b"\x64\x4c\x8b\x04\x25\0\0\0\0"  # mov %fs:0, %r8
        b"\x65\x48\x8b\x34\x25\0\0\0\0"  # mov %gs:0, %rsi
        b"\x66\x49\x0f\x7e\xc2"  # movq %xmm0, %r10
        b"\x9c\x41\x59"  # pushf; pop %r9
    )

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        code = mov("rax", self.XMM0) + b"\x66\x48\x0f\x6e\xc0" + call(1)
        looking = self.LOOK + mov("rax", self.NUMBER) + SYSCALL
        code += looking + b"\xeb" + struct.pack("b", -len(looking) - 2)
        self.context = bare.load(code, fs_base=DATA, gs_base=DATA + 8, **self.KEPT)
        self.page = struct.pack("<2Q", *self.WORDS).ljust(PAGE_SIZE, b"\x5a")
        self.context.space.write(DATA, self.page)
        self.mappings = self.context.space.mappings()
        bare.syscall(self.context)
        self.look()

    def look(self) -> None:
        trap = self.bare.syscall(self.context)
        assert trap.number == self.NUMBER and trap.native
        _, rsi, _, r10, r8, r9 = trap.args
        assert (r8, rsi) == self.WORDS
        assert r10 == self.XMM0
        assert r9 & ~0xD5 == FLAGS, hex(r9)
        regs = self.context.regs
        assert {name: getattr(regs, name) for name in self.KEPT} == self.KEPT
        assert (regs.rsp, regs.cs, regs.ss) == (STACK - 64, USER_CS, USER_SS)
        assert (regs.fs_base, regs.gs_base) == (DATA, DATA + 8)
        assert [getattr(regs, name) for name in ("ds", "es", "fs", "gs")] == [0] * 4
        self.context.set_result(0)

    def look_at_all(self) -> None:
        self.look()
        assert self.context.space.read(DATA, PAGE_SIZE) == self.page
        assert self.context.space.mappings() == self.mappings


def ways_in(bare: Bare) -> list[Trap]:
    """What each kind of entry to the kernel is reported as: all that stands in its tables that a program can try."""
    context = bare.load(INT80 + SYSCALL + BREAKPOINT + UNDEFINED, rax=20)
    traps = [bare.run(context)]
    context.regs.rax = 21
    traps += [bare.run(context) for _ in range(3)]
    context.release()
    for code, registers in {DIVIDE: {"rdi": 0}, LOAD: {"rdi": 0x1000}, b"\xf4": {}}.items():
        context = bare.load(code, **registers)
        traps.append(bare.run(context))
        context.release()
    context = bare.load(mov("rdi", DATA + PAGE_SIZE) + LOAD + call(2))
    traps.append(bare.run(context))
    context.space.map(DATA + PAGE_SIZE, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
    traps.append(bare.run(context))
    context.release()
    return traps


class Wall:
    """A platform with a witness on it.  Whatever is tried, the witness finds all as it was, before and after."""

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        self.name = bare.platform.name
        self.witness = Witness(bare)
        self.ways_in = ways_in(bare)

    def attacker(self, code: bytes, **registers: int) -> Context:
        return self.bare.load(code + UNDEFINED, **{"rdi": DATA} | registers)

    def attempt(self, code: bytes, **registers: int) -> tuple[Trap, int]:
        """The trap of this code in a space of its own, and where: how far behind its beginning."""
        context = self.attacker(code, **registers)
        trap = self.bare.run(context)
        at = -1 if isinstance(trap, ExitTrap) else context.regs.rip - CODE
        context.release()
        self.witness.look()
        return trap, at

    def holds(self) -> None:
        self.witness.look_at_all()
        assert ways_in(self.bare) == self.ways_in
