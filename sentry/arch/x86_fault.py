"""The page-fault error code of x86-64, reconstructed.

The host delivers a fault to us as a siginfo, without the error code that a handler finds in
its ucontext (REG_ERR), which some emulators and collectors read to tell a store from a load.
It follows from the mapping where that is enough, else from the instruction itself: enough of
the opcode maps is here to say whether an instruction stores to its memory operand.
Manual: Intel SDM volume 3, 4.7 (error code), volume 2, appendix A (opcode maps).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sentry.abi.errno import LinuxError
from sentry.abi.signal import SEGV_ACCERR
from sentry.arch.x86_64 import TASK_SIZE_MAX
from sentry.platform import AddressSpace, Regs

PRESENT: Final = 1
WRITE: Final = 2
USER: Final = 4
FETCH: Final = 16
LONGEST_INSTRUCTION: Final = 15
WORD: Final = 8

# Mandatory prefixes, numbered as VEX.pp and EVEX.pp number them.
NO_PREFIX, P66, PF3, PF2 = range(4)
_MANDATORY: Final = {0x66: P66, 0xF3: PF3, 0xF2: PF2}
_PREFIXES: Final = frozenset((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, *range(0x40, 0x50)))
# Opcode maps: one byte, 0F, 0F 38, 0F 3A.
ONE_BYTE, M0F, M0F38, M0F3A = range(4)

_VECTOR_0F: Final = (0x11, 0x13, 0x17, 0x29, 0x2B, 0x7E, 0x7F, 0xD6, 0xE7, 0xF7)
_EXTRACTS: Final = (0x14, 0x15, 0x16, 0x17)
_NARROWING: Final = tuple(high + low for high in (0x10, 0x20, 0x30) for low in range(6))  # vpmov*: with F3 only

# Opcodes that store whatever follows, by map.
_STORES: Final = {
    # Arithmetic to memory, mov, xchg, string stores, push, call, shifts.
    ONE_BYTE: frozenset(
        (
            *(op + form for op in range(0x00, 0x38, 8) for form in (0, 1)),
            *(0x86, 0x87, 0x88, 0x89, 0x8C, 0xA2, 0xA3, 0xA4, 0xA5, 0xAA, 0xAB, 0x6C, 0x6D),
            *(0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x68, 0x6A, 0x9C, 0xE8, 0xC8),
            *(0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3, 0xC6, 0xC7),
        )
    ),
    # Vector stores, movnti, setcc, exchanges, bit changes.
    M0F: frozenset(
        (
            *_VECTOR_0F,
            *range(0x90, 0xA0),
            *(0xA4, 0xA5, 0xAB, 0xAC, 0xAD, 0xB0, 0xB1, 0xB3, 0xBB, 0xC0, 0xC1, 0xC3),
        )
    ),
    M0F38: frozenset((0xF1, 0xF9)),  # movbe, movdiri
    M0F3A: frozenset(_EXTRACTS),
}
# The same for VEX and EVEX: kmov, masked stores, compressions, scatters, extractions, vcvtps2ph.
_VEX_STORES: Final = {
    M0F: frozenset((*_VECTOR_0F, 0x91)),
    M0F38: frozenset((0x2E, 0x2F, 0x63, 0x8A, 0x8B, 0x8E, 0xA0, 0xA1, 0xA2, 0xA3)),
    M0F3A: frozenset((*_EXTRACTS, 0x19, 0x1B, 0x1D, 0x39, 0x3B)),
}
# Opcodes whose ModRM.reg field decides: (map, opcode) -> the values of it that store.
_GROUPS: Final = {
    (ONE_BYTE, 0x80): range(7),  # all but cmp
    (ONE_BYTE, 0x81): range(7),
    (ONE_BYTE, 0x83): range(7),
    (ONE_BYTE, 0xF6): (2, 3),  # not, neg
    (ONE_BYTE, 0xF7): (2, 3),
    (ONE_BYTE, 0xFE): (0, 1),  # inc, dec
    (ONE_BYTE, 0xFF): (0, 1, 2, 3, 6),  # inc, dec, calls, push
    (ONE_BYTE, 0x8F): (0,),  # pop
    (ONE_BYTE, 0xD9): (2, 3, 6, 7),  # x87 from here on: fst, fstp, fnstenv, fnstcw
    (ONE_BYTE, 0xDB): (1, 2, 3, 7),
    (ONE_BYTE, 0xDD): (1, 2, 3, 6, 7),
    (ONE_BYTE, 0xDF): (1, 2, 3, 6, 7),
    (M0F, 0xAE): (0, 3, 4, 6),  # fxsave, stmxcsr, xsave, xsaveopt
    (M0F, 0xBA): (5, 6, 7),  # bts, btr, btc
    (M0F, 0xC7): (1, 4, 5),  # cmpxchg16b, xsavec, xsaves
}


class Instruction(NamedTuple):
    """As much as is needed: reg is ModRM.reg, prefix the mandatory one."""

    opcode_map: int
    opcode: int
    reg: int
    prefix: int
    vex: bool


def decode(code: bytes) -> Instruction:
    """The instruction that begins code; what lies behind its end counts as zeros."""
    code = code.ljust(LONGEST_INSTRUCTION + WORD, b"\0")
    at = prefix = 0
    while at < LONGEST_INSTRUCTION and code[at] in _PREFIXES:
        prefix = _MANDATORY.get(code[at], prefix)
        at += 1
    first = code[at]
    if first == 0xC5:
        return Instruction(M0F, code[at + 2], code[at + 3] >> 3 & 7, code[at + 1] & 3, True)
    if first == 0xC4:
        return Instruction(code[at + 1] & 31, code[at + 3], code[at + 4] >> 3 & 7, code[at + 2] & 3, True)
    if first == 0x62:
        return Instruction(code[at + 1] & 7, code[at + 4], code[at + 5] >> 3 & 7, code[at + 2] & 3, True)
    if first != 0x0F:
        return Instruction(ONE_BYTE, first, code[at + 1] >> 3 & 7, prefix, False)
    if code[at + 1] in (0x38, 0x3A):
        opcode_map = M0F38 if code[at + 1] == 0x38 else M0F3A
        return Instruction(opcode_map, code[at + 2], code[at + 3] >> 3 & 7, prefix, False)
    return Instruction(M0F, code[at + 1], code[at + 2] >> 3 & 7, prefix, False)


def stores(i: Instruction) -> bool:
    """Does it write to memory?"""
    if i.opcode_map == M0F and i.opcode == 0x7E and i.prefix == PF3:
        return False  # movq from memory
    if i.opcode_map == M0F38 and i.prefix == PF2 and not i.vex:
        return False  # crc32
    if i.vex and i.opcode_map == M0F38 and i.prefix == PF3 and i.opcode in _NARROWING:
        return True
    group = _GROUPS.get((i.opcode_map, i.opcode))
    if group is not None:
        return i.reg in group
    return i.opcode in (_VEX_STORES if i.vex else _STORES).get(i.opcode_map, ())


def reads_at(i: Instruction, regs: Regs, addr: int) -> bool:
    """Of an instruction that copies from memory to memory: is addr where it reads?"""
    if i.opcode_map != ONE_BYTE or i.vex:
        return False
    if i.opcode in (0xA4, 0xA5):  # movs
        return not regs.rdi <= addr < regs.rdi + WORD
    if i.opcode == 0xFF and i.reg in (2, 3, 6):  # call and push of a memory operand
        return not regs.rsp - 2 * WORD <= addr < regs.rsp
    if i.opcode == 0x8F:  # pop to memory
        return regs.rsp <= addr < regs.rsp + WORD
    return False


def error_code(space: AddressSpace, regs: Regs, addr: int, code: int) -> int:
    """What the processor pushed for a fault at addr; code: siginfo's si_code."""
    # What is mapped for the kernel, Linux does not tell: everything there counts as present.
    error = USER | (PRESENT if code == SEGV_ACCERR or addr >= TASK_SIZE_MAX else 0)
    rip = regs.rip
    if rip <= addr < rip + LONGEST_INSTRUCTION and not _executable(space, addr):
        return error | FETCH
    if _readable(space, addr):
        return error | WRITE
    try:
        instruction = decode(space.read_some(rip, LONGEST_INSTRUCTION))
    except LinuxError:
        return error
    return error | (WRITE if stores(instruction) and not reads_at(instruction, regs, addr) else 0)


def _executable(space: AddressSpace, addr: int) -> bool:
    return any(mapping.start <= addr < mapping.end and mapping.perms[2] == "x" for mapping in space.mappings())


def _readable(space: AddressSpace, addr: int) -> bool:
    try:
        space.read(addr, 1)
    except LinuxError:
        return False
    return True
