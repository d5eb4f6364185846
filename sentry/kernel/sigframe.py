"""Signal frames on x86-64: arch/x86/kernel/signal_64.c, struct rt_sigframe.

From high to low addresses: the interrupted stack, its 128-byte red zone, the extended state
(64-byte aligned, ended by a magic word), then the frame: return address, ucontext, siginfo.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EFAULT, EINVAL, ENOMEM, LinuxError
from sentry.arch.x86_64 import TASK_SIZE_MAX
from sentry.arch.x86_fault import error_code

if TYPE_CHECKING:
    from sentry.kernel.signals import Action, SigInfo
    from sentry.kernel.task import Task

# The frame up to its siginfo.  pretcode; uc_flags, uc_link; uc_stack; sigcontext: r8-r15 di si bp bx dx ax cx sp ip
# flags, cs gs fs ss, err trapno oldmask cr2 fpstate, reserved; uc_sigmask.
FRAME: Final = struct.Struct("<Q QQ QixxxxQ 18Q 4H 5Q 64x Q")
UCONTEXT_OFFSET: Final = 8
SIGINFO_OFFSET: Final = FRAME.size
FRAME_SIZE: Final = SIGINFO_OFFSET + sig.SIGINFO_SIZE

UC_FP_XSTATE: Final = 1
UC_SIGCONTEXT_SS: Final = 2
UC_STRICT_RESTORE_SS: Final = 4
UC_FLAGS: Final = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS

RED_ZONE: Final = 128
MAGIC1: Final = 0x46505853
MAGIC2: Final = 0x46505845
MAGIC2_SIZE: Final = 4
MAGIC2_BYTES: Final = MAGIC2.to_bytes(MAGIC2_SIZE, "little")
# The extended state begins at a multiple of 64, the frame 8 below one of 16.
PADDING: Final = bytes(-FRAME_SIZE % 16 + 8)
FRAME_TO_XSTATE: Final = FRAME_SIZE + len(PADDING)
MAX_XSTATE_SIZE: Final = 16384 + MAGIC2_SIZE
MAX_FRAME_SIZE: Final = FRAME_SIZE + 64 + 4096  # what is beyond it is read apart
SW_RESERVED_OFFSET: Final = 464
AMX: Final = 3 << 17  # its tiles are not part of the state here
INITIAL_XSTATE: Final = struct.pack("<H22xI", 0x37F, 0x1F80).ljust(512, b"\0")  # fninit, and MXCSR's default
SW_RESERVED: Final = struct.Struct("<IIQI28x")
SW_RESERVED_END: Final = SW_RESERVED_OFFSET + SW_RESERVED.size
XCR0: Final = struct.Struct("<Q")

ORIG_RAX: Final = 15  # in Context.registers()
USER_CS: Final = 0x33
USER_DS: Final = 0x2B
# Flags that rt_sigreturn may set: FIX_EFLAGS.
RESTORABLE_FLAGS: Final = 0x40000 | 0x800 | 0x400 | 0x100 | 0x80 | 0x40 | 0x10 | 0x4 | 0x1 | 0x10000
FLAG_TF: Final = 0x100
FLAG_DF: Final = 0x400
FLAG_RF: Final = 0x10000

PAGE_FAULT: Final = 14
TRAP_NUMBERS: Final = {sig.SIGSEGV: PAGE_FAULT, sig.SIGBUS: 17, sig.SIGFPE: 0, sig.SIGILL: 6, sig.SIGTRAP: 3}


def on_altstack(t: Task, sp: int) -> bool:
    """on_sig_stack()."""
    base, flags, size = t.altstack
    if flags & sig.SS_AUTODISARM:
        return False
    return base < sp <= base + size


def altstack_flags(t: Task, sp: int) -> int:
    """sas_ss_flags(): what sigaltstack(2) reports."""
    if not t.altstack[2]:
        return sig.SS_DISABLE
    return sig.SS_ONSTACK if on_altstack(t, sp) else 0


def push_frame(t: Task, info: SigInfo, action: Action, mask: int) -> None:
    """Make the context enter action's handler; mask is what rt_sigreturn restores.  Raises EFAULT."""
    if not action.flags & sig.SA_RESTORER:
        raise EFAULT("no restorer")
    context = t.context
    (
        r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip,
        cs, eflags, rsp, ss, fs_base, gs_base,
    ) = context.registers()  # fmt: skip
    altstack, alt_flags, alt_size = t.altstack
    sp = rsp - RED_ZONE
    on_alternate = False
    if alt_size:
        on_alternate = on_altstack(t, rsp)
        if not alt_flags & sig.SS_AUTODISARM:
            alt_flags = sig.SS_ONSTACK if on_alternate else 0
        if action.flags & sig.SA_ONSTACK and not on_alternate:
            sp = altstack + alt_size
            on_alternate = True
    xstate = context.read_xstate()
    fp_addr = (sp - len(xstate) - MAGIC2_SIZE) & ~63
    frame_addr = fp_addr - FRAME_TO_XSTATE
    if frame_addr < 0:
        raise EFAULT("no room below the stack pointer")
    if on_alternate and frame_addr <= altstack:
        raise EFAULT("alternate stack overflow")
    signo = info.signo
    error = trap = fault_addr = 0
    if info.code > 0 and sig.bit(signo) & sig.SYNCHRONOUS:
        trap = TRAP_NUMBERS.get(signo, 0)
        if trap == PAGE_FAULT:
            fault_addr = info.addr
            error = error_code(t.mem, context.regs, fault_addr, info.code)
    frame = FRAME.pack(
        action.restorer, UC_FLAGS, 0,
        altstack, alt_flags if alt_flags < 1 << 31 else alt_flags - (1 << 32), alt_size,
        r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags,
        cs & 0xFFFF, 0, 0, ss & 0xFFFF, error, trap, mask, fault_addr, fp_addr, mask,
    )  # fmt: skip
    t.mem.write(frame_addr, b"".join((frame, info.pack(), PADDING, *_announced(xstate))))
    if alt_flags & sig.SS_AUTODISARM:
        t.altstack = (0, sig.SS_DISABLE, 0)
    context.set_registers((
        r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, 0, rcx,
        frame_addr + UCONTEXT_OFFSET, frame_addr + SIGINFO_OFFSET, signo, orig_rax, action.handler,
        USER_CS, eflags & ~(FLAG_DF | FLAG_RF | FLAG_TF), frame_addr, USER_DS, fs_base, gs_base,
    ))  # fmt: skip


def _announced(xstate: bytes) -> tuple[bytes, ...]:
    """With the software-reserved bytes that say its size, and the magic word behind it.  In pieces."""
    size = len(xstate)
    # The host puts there what the processor has (XCR0), for debuggers.
    (features,) = XCR0.unpack_from(xstate, SW_RESERVED_OFFSET)
    reserved = SW_RESERVED.pack(MAGIC1, size + MAGIC2_SIZE, features & ~AMX | 3, size)
    return xstate[:SW_RESERVED_OFFSET], reserved, xstate[SW_RESERVED_END:], MAGIC2_BYTES


def pop_frame(t: Task) -> None:
    """rt_sigreturn(2): registers, mask, alternate stack and extended state from the frame at rsp - 8.  EFAULT."""
    context = t.context
    orig_rax, _, _, eflags, rsp, _, fs_base, gs_base = context.registers()[ORIG_RAX:]
    start = rsp - 8
    # Usually the extended state follows, and is read with it.
    frame = t.mem.read_some(start, MAX_FRAME_SIZE)
    if len(frame) < FRAME.size:
        raise EFAULT
    (
        _, _, _, altstack, alt_flags, alt_size,
        r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, flags,
        _, _, _, _, _, _, _, _, fp_addr, mask,
    ) = FRAME.unpack_from(frame)  # fmt: skip
    context.set_registers((
        r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip,
        USER_CS, eflags & ~RESTORABLE_FLAGS | flags & RESTORABLE_FLAGS, rsp, USER_DS, fs_base, gs_base,
    ))  # fmt: skip
    # The host would refuse such a register; Linux faults on it: the task gets SIGSEGV.
    if rip >= TASK_SIZE_MAX or rsp >= TASK_SIZE_MAX:
        raise EFAULT("address in a signal frame is not canonical")
    t.sigmask = mask & ~sig.UNBLOCKABLE
    if (t.pending.mask | t.tg.pending.mask) & ~t.sigmask:
        t.attention = True
    if fp_addr:
        offset = fp_addr - start
        _restore_xstate(t, fp_addr, frame[offset:] if 0 < offset <= FRAME_SIZE + 64 else b"")
    else:
        context.write_xstate(INITIAL_XSTATE)
    if (altstack, alt_flags, alt_size) != t.altstack:
        t.altstack = _restored_altstack(t, altstack, alt_flags, alt_size)


def _restore_xstate(t: Task, fp_addr: int, data: bytes) -> None:
    """data: what was read already from fp_addr on."""
    if len(data) < 512 or SW_RESERVED.unpack_from(data, SW_RESERVED_OFFSET)[1] > len(data):
        data = t.mem.read_some(fp_addr, MAX_XSTATE_SIZE)
        if len(data) < 512:
            raise EFAULT
    magic, extended_size, _, xstate_size = SW_RESERVED.unpack_from(data, SW_RESERVED_OFFSET)
    size = 512
    if magic == MAGIC1 and 576 <= xstate_size <= extended_size - MAGIC2_SIZE:
        if data[xstate_size : xstate_size + MAGIC2_SIZE] == MAGIC2_BYTES:
            size = xstate_size
    try:
        t.context.write_xstate(data[:size])
    except EINVAL:
        raise EFAULT("extended state") from None


def _restored_altstack(t: Task, base: int, flags: int, size: int) -> tuple[int, int, int]:
    """restore_altstack(): what does not fit is ignored."""
    try:
        return checked_altstack(base, flags & 0xFFFFFFFF, size)
    except LinuxError:
        return t.altstack


def checked_altstack(base: int, flags: int, size: int) -> tuple[int, int, int]:
    """do_sigaltstack()'s checks.  EINVAL, ENOMEM."""
    mode = flags & ~sig.SS_AUTODISARM
    if mode not in (0, sig.SS_ONSTACK, sig.SS_DISABLE):
        raise EINVAL
    if mode == sig.SS_DISABLE:
        return (0, sig.SS_DISABLE, 0)
    if size < sig.MINSIGSTKSZ:
        raise ENOMEM
    return (base, flags & sig.SS_AUTODISARM, size)
