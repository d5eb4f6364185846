"""A platform without a kernel above it: pieces of x86-64 machine code, and a driver for contexts.

For tests of what sentry/platform.py promises.  A program is bytes put together from the
pieces below; it lies at CODE, with a page of data at DATA and a stack below STACK.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Coroutine
from typing import Any, Final

from sentry.mm.mm import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE
from sentry.platform import PAGE_SIZE, Context, Platform, SyscallTrap, Template, Trap
from tests.slowness import SLOWNESS

CODE: Final = 0x400000
DATA: Final = 0x500000
STACK: Final = 0x610000
STACK_SIZE: Final = 0x10000
MASK64: Final = (1 << 64) - 1
FIXED: Final = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
READ_WRITE: Final = PROT_READ | PROT_WRITE

# -- machine code --

REGISTERS: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
ARGUMENTS: Final = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
SYSCALL: Final = b"\x0f\x05"
SYSENTER: Final = b"\x0f\x34"
INT80: Final = b"\xcd\x80"
LOOP: Final = b"\xeb\xfe"  # jmp to itself
NOP: Final = b"\x90"
BREAKPOINT: Final = b"\xcc"
HALT: Final = b"\xf4"
UNDEFINED: Final = b"\x0f\x0b"
LOAD: Final = b"\x48\x8b\x07"  # mov (%rdi), %rax
STORE: Final = b"\x48\x89\x07"  # mov %rax, (%rdi)
DIVIDE: Final = b"\x48\xf7\xf7"  # div %rdi
CALL_RAX: Final = b"\xff\xd0"
JUMP_RAX: Final = b"\xff\xe0"
XMM_TO_RAX: Final = b"\x66\x48\x0f\x7e\xc0"  # movq %xmm0, %rax
RAX_TO_XMM: Final = b"\x66\x48\x0f\x6e\xc0"  # movq %rax, %xmm0
AWAIT: Final = b"\x48\x83\x3f\x00\x74\xfa"  # cmpq $0, (%rdi); je to itself
COUNT: Final = b"\x48\xff\x07\xeb\xfb"  # incq (%rdi), for ever


def mov(register: str, value: int) -> bytes:
    """Load a 64-bit constant."""
    number = REGISTERS.index(register)
    return bytes((0x49 if number > 7 else 0x48, 0xB8 + (number & 7))) + struct.pack("<Q", value & MASK64)


def call(number: int, *args: int, instruction: bytes = SYSCALL) -> bytes:
    """A system call with constant arguments, as a compiler would write it: a platform may know the form."""
    moves = (mov(register, value) for register, value in zip(ARGUMENTS, args))
    load = b"\xb8" + struct.pack("<I", number) if 0 <= number < 1 << 31 else mov("rax", number)
    return b"".join(moves) + load + instruction


# -- the driver --


async def _switch(context: Context) -> Trap:
    return await context.switch()


class Bare:
    """Runs contexts of one template by hand, with deadlines."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.template: Template = platform.new_template(())
        self._running: dict[Context, Coroutine[Any, Any, Trap]] = {}

    def empty(self) -> Context:
        return self.template.new_space()

    def load(self, code: bytes, **registers: int) -> Context:
        """A context in a new space that is about to run code."""
        context = self.empty()
        space = context.space
        file = os.memfd_create("code", os.MFD_CLOEXEC)  # as programs' code is a file's
        os.truncate(file, PAGE_SIZE)
        space.map(CODE, PAGE_SIZE, READ_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0)
        os.close(file)
        space.write(CODE, code)
        space.protect(CODE, PAGE_SIZE, PROT_READ | PROT_EXEC)
        space.map(DATA, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
        space.map(STACK - STACK_SIZE, STACK_SIZE, READ_WRITE, FIXED, -1, 0)
        regs = context.regs
        regs.rip, regs.rsp, regs.eflags = CODE, STACK - 64, 0x202
        for name, value in registers.items():
            setattr(regs, name, value & MASK64)
        return context

    def start(self, context: Context) -> None:
        """Switch to it; the trap comes from turn(), or was there at once and comes from turn() as well."""
        coro = _switch(context)
        coro.send(None)
        self._running[context] = coro

    def turn(self, seconds: float = 0) -> list[tuple[Context, Trap]]:
        """One wait of the platform's, as the loop does it."""
        traps = list(self.platform.wait(int(seconds * 1e9)))
        for context, trap in traps:
            try:
                self._running.pop(context).send(trap)
            except StopIteration as end:
                assert end.value is trap
        return traps

    def collect(self, *contexts: Context, seconds: float = 60) -> list[Trap]:
        """The next trap of each of contexts, in that order."""
        deadline = time.monotonic() + seconds * SLOWNESS
        seen: dict[Context, Trap] = {}
        while any(context not in seen for context in contexts):
            left = deadline - time.monotonic()
            assert left > 0, "no trap in time"
            seen.update(self.turn(left))
        return [seen[context] for context in contexts]

    def run(self, context: Context) -> Trap:
        """Run it to its next trap."""
        coro = _switch(context)
        try:
            coro.send(None)
        except StopIteration as end:
            trap: Trap = end.value
            return trap
        self._running[context] = coro
        return self.collect(context)[0]

    def syscall(self, context: Context) -> SyscallTrap:
        """Run it to its next system call."""
        trap = self.run(context)
        assert isinstance(trap, SyscallTrap), trap
        return trap

    def close(self) -> None:
        for coro in self._running.values():
            coro.close()
        self.template.close()
        self.platform.close()
