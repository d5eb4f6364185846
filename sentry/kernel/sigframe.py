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

# pretcode; uc_flags, uc_link; uc_stack; sigcontext; uc_sigmask
FRAME_HEAD: Final = struct.Struct("<Q QQ QixxxxQ")
# r8-r15 di si bp bx dx ax cx sp ip flags; cs gs fs ss; err trapno oldmask cr2 fpstate; reserved
SIGCONTEXT: Final = struct.Struct("<18Q 4H 5Q 64x")
SIGMASK: Final = struct.Struct("<Q")
UCONTEXT_OFFSET: Final = 8
FRAME_SIZE: Final = FRAME_HEAD.size + SIGCONTEXT.size + SIGMASK.size + sig.SIGINFO_SIZE
SIGINFO_OFFSET: Final = FRAME_SIZE - sig.SIGINFO_SIZE

UC_FP_XSTATE: Final = 1
UC_SIGCONTEXT_SS: Final = 2
UC_STRICT_RESTORE_SS: Final = 4

RED_ZONE: Final = 128
MAGIC1: Final = 0x46505853
MAGIC2: Final = 0x46505845
MAGIC2_SIZE: Final = 4
MAGIC2_BYTES: Final = MAGIC2.to_bytes(MAGIC2_SIZE, "little")
MAX_XSTATE_SIZE: Final = 16384 + MAGIC2_SIZE
MAX_FRAME_SIZE: Final = FRAME_SIZE + 64 + 4096  # what is beyond it is read apart
SW_RESERVED_OFFSET: Final = 464
AMX: Final = 3 << 17  # its tiles are not part of the state here
INITIAL_XSTATE: Final = struct.pack("<H22xI", 0x37F, 0x1F80).ljust(512, b"\0")  # fninit, and MXCSR's default
SW_RESERVED: Final = struct.Struct("<IIQI28x")
XCR0: Final = struct.Struct("<Q")
RSP: Final = 19  # in Context.registers()

USER_CS: Final = 0x33
USER_DS: Final = 0x2B
# Flags that rt_sigreturn may set: FIX_EFLAGS.
RESTORABLE_FLAGS: Final = 0x40000 | 0x800 | 0x400 | 0x100 | 0x80 | 0x40 | 0x10 | 0x4 | 0x1 | 0x10000
FLAG_TF: Final = 0x100
FLAG_DF: Final = 0x400
FLAG_RF: Final = 0x10000

TRAP_NUMBERS: Final = {sig.SIGSEGV: 14, sig.SIGBUS: 17, sig.SIGFPE: 0, sig.SIGILL: 6, sig.SIGTRAP: 3}


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
    values = t.context.registers()
    sp = values[RSP]
    nested = on_altstack(t, sp)
    sp -= RED_ZONE
    if action.flags & sig.SA_ONSTACK and not nested and t.altstack[2]:
        sp = t.altstack[0] + t.altstack[2]
        nested = True
        entering = True
    else:
        entering = False
    xstate = t.context.read_xstate()
    fp_addr = (sp - len(xstate) - MAGIC2_SIZE) & ~63
    frame_addr = ((fp_addr - FRAME_SIZE) & ~15) - 8
    if frame_addr < 0:
        raise EFAULT("no room below the stack pointer")
    if nested and (entering or on_altstack(t, values[RSP])) and frame_addr <= t.altstack[0]:
        raise EFAULT("alternate stack overflow")
    frame = _pack_frame(t, info, action, mask, fp_addr, values)
    t.mem.write(frame_addr, frame.ljust(fp_addr - frame_addr, b"\0") + _announced(xstate))
    if t.altstack[1] & sig.SS_AUTODISARM:
        t.altstack = (0, sig.SS_DISABLE, 0)
    r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, _, rcx, *_, orig_rax, _, _, eflags, _, _, fs, gs = values
    t.context.set_registers(
        (
            *(r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, 0, rcx),
            *(frame_addr + UCONTEXT_OFFSET, frame_addr + SIGINFO_OFFSET, info.signo, orig_rax, action.handler),
            *(USER_CS, eflags & ~(FLAG_DF | FLAG_RF | FLAG_TF), frame_addr, USER_DS, fs, gs),
        )
    )


def _announced(xstate: bytes) -> bytes:
    """With the software-reserved bytes that say its size, and the magic word behind it."""
    size = len(xstate)
    # The host puts there what the processor has (XCR0), for debuggers.
    (features,) = XCR0.unpack_from(xstate, SW_RESERVED_OFFSET)
    reserved = SW_RESERVED.pack(MAGIC1, size + MAGIC2_SIZE, features & ~AMX | 3, size)
    return xstate[:SW_RESERVED_OFFSET] + reserved + xstate[SW_RESERVED_OFFSET + SW_RESERVED.size :] + MAGIC2_BYTES


def _pack_frame(t: Task, info: SigInfo, action: Action, mask: int, fp_addr: int, values: tuple[int, ...]) -> bytes:
    r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, _, rip, cs, eflags, rsp, ss, _, _ = values
    base, flags, size = t.altstack
    if size and not flags & sig.SS_AUTODISARM:
        flags = altstack_flags(t, rsp)
    head = FRAME_HEAD.pack(
        action.restorer,
        UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
        0,
        base,
        flags if flags < 1 << 31 else flags - (1 << 32),
        size,
    )
    fault = bool(sig.bit(info.signo) & sig.SYNCHRONOUS) and info.code > 0
    trap = TRAP_NUMBERS.get(info.signo, 0) if fault else 0
    context = SIGCONTEXT.pack(
        *(r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags),
        *(cs & 0xFFFF, 0, 0, ss & 0xFFFF),
        error_code(t.mem, t.context.regs, info.addr, info.code) if trap == 14 else 0,
        trap,
        mask,
        info.addr if trap == 14 else 0,
        fp_addr,
    )
    return head + context + SIGMASK.pack(mask) + info.pack()


def pop_frame(t: Task) -> None:
    """rt_sigreturn(2): registers, mask, alternate stack and extended state from the frame at rsp - 8.  EFAULT."""
    old = t.context.registers()
    start = old[RSP] - 8
    # Usually the extended state follows, and is read with it.
    frame = t.mem.read_some(start, MAX_FRAME_SIZE)
    if len(frame) < FRAME_SIZE - sig.SIGINFO_SIZE:
        raise EFAULT
    *_, base, flags, size = FRAME_HEAD.unpack_from(frame)
    values = SIGCONTEXT.unpack_from(frame, FRAME_HEAD.size)
    (mask,) = SIGMASK.unpack_from(frame, FRAME_HEAD.size + SIGCONTEXT.size)
    r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, flags_register = values[:18]
    *_, orig_rax, _, _, eflags, _, _, fs, gs = old
    eflags = eflags & ~RESTORABLE_FLAGS | flags_register & RESTORABLE_FLAGS
    t.context.set_registers(
        (
            *(r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi),
            *(orig_rax, rip, USER_CS, eflags, rsp, USER_DS, fs, gs),
        )
    )
    # The host would refuse such a register; Linux faults on it: the task gets SIGSEGV.
    if rip >= TASK_SIZE_MAX or rsp >= TASK_SIZE_MAX:
        raise EFAULT("address in a signal frame is not canonical")
    t.sigmask = mask & ~sig.UNBLOCKABLE
    if (t.pending.mask | t.tg.pending.mask) & ~t.sigmask:
        t.attention = True
    fp_addr = values[26]
    if fp_addr:
        offset = fp_addr - start
        _restore_xstate(t, fp_addr, frame[offset:] if 0 < offset <= FRAME_SIZE + 64 else b"")
    else:
        t.context.write_xstate(INITIAL_XSTATE)
    t.altstack = _restored_altstack(t, base, flags, size)


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
