"""The vsyscall page of x86-64, which has addresses for three system calls that old programs jump to.

Where nobody has mapped it, or only to be executed, jumping there is a fault that names an entry: the kernel does what
the code there did.  Linux: arch/x86/entry/vsyscall/vsyscall_64.c.
"""

from __future__ import annotations

from typing import Final

from sentry.abi.errno import EFAULT
from sentry.platform import AddressSpace, FaultTrap, Regs, SyscallTrap, Trap

ENTRIES: Final = {0xFFFFFFFFFF600000: 96, 0xFFFFFFFFFF600400: 201, 0xFFFFFFFFFF600800: 309}
WORD: Final = 8


def vsyscall_trap(regs: Regs, space: AddressSpace, addr: int) -> Trap | None:
    """Do the entry's `ret` and report its call; None: a fault at addr is something else."""
    number = ENTRIES.get(addr)
    if number is None or regs.rip != addr:
        return None
    try:
        regs.rip = int.from_bytes(space.read(regs.rsp, WORD), "little")
    except EFAULT:
        return FaultTrap(11, 1, regs.rsp)
    regs.rsp += WORD
    return SyscallTrap(number, (regs.rdi, regs.rsi, regs.rdx, 0, 0, 0))
