"""The page-fault error code of x86-64, reconstructed.

The host delivers a fault to us as a siginfo, without the error code that a handler finds in
its ucontext (REG_ERR), which some emulators and collectors read to tell a store from a load.
It follows from the mapping where that is enough, else from the instruction itself: enough of
the opcode map is here to say whether an instruction stores to its memory operand.
Manual: Intel SDM volume 3, 4.7 (error code), volume 2, appendix A (opcode maps).
"""

from __future__ import annotations

from typing import Final

from sentry.abi.errno import LinuxError
from sentry.abi.signal import SEGV_ACCERR
from sentry.platform import AddressSpace

PRESENT: Final = 1
WRITE: Final = 2
USER: Final = 4
FETCH: Final = 16
LONGEST_INSTRUCTION: Final = 15

_PREFIXES: Final = frozenset((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, *range(0x40, 0x50)))
# One-byte opcodes that store whatever follows: arithmetic to memory, mov, xchg, string stores, push, call.
_STORES: Final = frozenset(
    (
        *(op + form for op in range(0x00, 0x38, 8) for form in (0, 1)),
        *(0x86, 0x87, 0x88, 0x89, 0x8C, 0xA2, 0xA3, 0xA4, 0xA5, 0xAA, 0xAB, 0x6C, 0x6D),
        *(0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x68, 0x6A, 0x9C, 0xE8, 0xC8),
        *(0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3, 0xC6, 0xC7),
    )
)
# Opcodes whose ModRM.reg field decides: opcode -> the values of it that store.
_GROUPS: Final = {
    0x80: frozenset(range(7)),  # all but cmp
    0x81: frozenset(range(7)),
    0x83: frozenset(range(7)),
    0xF6: frozenset((2, 3)),  # not, neg
    0xF7: frozenset((2, 3)),
    0xFE: frozenset((0, 1)),  # inc, dec
    0xFF: frozenset((0, 1, 2, 6)),  # inc, dec, call, push
    0x8F: frozenset((0,)),
}
# Two-byte opcodes (0F xx): vector stores, setcc, exchanges, bit changes.
_STORES_0F: Final = frozenset(
    (
        *(0x11, 0x13, 0x17, 0x29, 0x2B, 0x7E, 0x7F, 0xC3, 0xD6, 0xE7, 0xF7),
        *range(0x90, 0xA0),
        *(0xA4, 0xA5, 0xAB, 0xAC, 0xAD, 0xB0, 0xB1, 0xB3, 0xBB, 0xC0, 0xC1, 0xC7),
    )
)


def stores(code: bytes) -> bool:
    """Does the instruction that begins code write to memory?"""
    at = 0
    while at < len(code) - 2 and code[at] in _PREFIXES:
        at += 1
    if at >= len(code) - 1:
        return False
    opcode = code[at]
    if opcode == 0x0F:
        return code[at + 1] in _STORES_0F
    if opcode == 0xC5 and len(code) > at + 2:
        return code[at + 2] in _STORES_0F
    if opcode == 0xC4 and len(code) > at + 3:
        return code[at + 1] & 31 == 1 and code[at + 3] in _STORES_0F
    if opcode == 0x62 and len(code) > at + 4:
        return code[at + 1] & 7 == 1 and code[at + 4] in _STORES_0F
    group = _GROUPS.get(opcode)
    if group is not None:
        return code[at + 1] >> 3 & 7 in group
    return opcode in _STORES


def error_code(space: AddressSpace, rip: int, addr: int, code: int) -> int:
    """What the processor pushed for a fault at addr, by the instruction at rip; code: siginfo's si_code."""
    error = USER | (PRESENT if code == SEGV_ACCERR else 0)
    if rip <= addr < rip + LONGEST_INSTRUCTION and not _readable(space, rip):
        return error | FETCH
    if _readable(space, addr):
        return error | WRITE
    try:
        return error | (WRITE if stores(space.read_some(rip, LONGEST_INSTRUCTION)) else 0)
    except LinuxError:
        return error


def _readable(space: AddressSpace, addr: int) -> bool:
    try:
        space.read(addr, 1)
    except LinuxError:
        return False
    return True
