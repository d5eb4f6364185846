"""Signal frames: pushed as Linux lays them out, and popped to where the application was."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentry.abi import signal as sig
from sentry.abi.errno import EFAULT, EINVAL, ENOMEM
from sentry.kernel.sigframe import FRAME_SIZE, altstack_flags, checked_altstack, on_altstack, pop_frame, push_frame
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import Task
from tests.fakes import Registers
from tests.unit.kernel.world import DATA, MASK64, STACK, STACK_SIZE, World, context

HANDLER, RESTORER = 0x410000, 0x420000
ALT, ALT_SIZE = DATA + 0x1000, 0x4000
GENERAL = ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx")
SHADOWED = sig.bit(sig.SIGUSR1) | sig.bit(sig.SIGHUP)


@pytest.fixture
def t(world: World) -> Task:
    t = world.process()
    regs = context(t).regs
    for n, name in enumerate(GENERAL):
        setattr(regs, name, 0x1111_0000_0000 + n)
    regs.rip, regs.rsp, regs.eflags = 0x401234, STACK - 0x1008, 0x246
    context(t).xstate = xstate(b"vector registers")
    return t


def xstate(text: bytes) -> bytes:
    """An XSAVE area with text in XMM0 and both legacy components in use."""
    area = bytearray(832)
    area[160 : 160 + len(text)] = text
    area[464:472] = struct.pack("<Q", 7)  # what the processor has, as the host puts it there
    area[512:520] = struct.pack("<Q", 3)
    return bytes(area)


def push(t: Task, flags: int = 0, info: SigInfo | None = None, mask: int = SHADOWED) -> None:
    action = Action(HANDLER, flags | sig.SA_RESTORER | sig.SA_SIGINFO, RESTORER, 0)
    push_frame(t, info or SigInfo(sig.SIGUSR1, pid=7, uid=8), action, mask)


def enter_restorer(t: Task) -> None:
    """The handler's `ret`, then the restorer's rt_sigreturn."""
    regs = context(t).regs
    assert int.from_bytes(t.mem.read(regs.rsp, 8), "little") == RESTORER
    regs.rsp += 8


def words(t: Task, addr: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}Q", t.mem.read(addr, 8 * count))


# -- what the handler finds --


def test_a_handler_gets_its_three_arguments_and_a_stack_aligned_as_after_a_call(t: Task) -> None:
    push(t)
    regs = context(t).regs
    assert (regs.rip, regs.rdi, regs.rax) == (HANDLER, sig.SIGUSR1, 0)
    assert regs.rsp % 16 == 8
    assert regs.rdx == regs.rsp + 8
    assert regs.rsi == regs.rsp + FRAME_SIZE - sig.SIGINFO_SIZE
    assert t.mem.read(regs.rsi, sig.SIGINFO_SIZE) == SigInfo(sig.SIGUSR1, pid=7, uid=8).pack()


def test_the_red_zone_is_left_alone(t: Task) -> None:
    sp = context(t).regs.rsp
    t.mem.write(sp - 128, b"z" * 128)
    push(t)
    assert t.mem.read(sp - 128, 128) == b"z" * 128


def test_the_ucontext_is_laid_out_as_linux_does(t: Task) -> None:
    """struct ucontext and struct sigcontext of arch/x86/include/uapi/asm."""
    before = context(t).regs.all()
    t.altstack = (ALT, 0, ALT_SIZE)
    push(t)
    at = context(t).regs.rdx
    flags, link, ss_sp, ss_flags, ss_size = struct.unpack("<QQQixxxxQ", t.mem.read(at, 40))
    assert (flags, link, ss_sp, ss_flags, ss_size) == (7, 0, ALT, 0, ALT_SIZE)
    general = words(t, at + 40, 18)
    assert general == tuple(before[name] for name in (*GENERAL, "rsp", "rip", "eflags"))
    assert struct.unpack("<4H", t.mem.read(at + 184, 8)) == (0x33, 0, 0, 0x2B)
    error, trap, old_mask, cr2, fpstate = words(t, at + 192, 5)
    assert (error, trap, old_mask, cr2) == (0, 0, SHADOWED, 0)
    assert words(t, at + 296, 1) == (SHADOWED,)
    assert fpstate % 64 == 0 and context(t).regs.rsp < fpstate < before["rsp"] - 128


def test_the_extended_state_announces_its_size_and_ends_with_a_magic_word(t: Task) -> None:
    push(t)
    (fpstate,) = words(t, context(t).regs.rdx + 224, 1)
    size = len(context(t).xstate)
    magic, extended, features, xsize = struct.unpack("<IIQI", t.mem.read(fpstate + 464, 20))
    assert (magic, extended, features, xsize) == (0x46505853, size + 4, 7, size)
    assert t.mem.read(fpstate + size, 4) == struct.pack("<I", 0x46505845)
    assert t.mem.read(fpstate + 160, 16) == b"vector registers"


def test_a_fault_says_where_and_what(t: Task) -> None:
    push(t, info=SigInfo(sig.SIGSEGV, sig.SEGV_MAPERR, addr=0xBAD000))
    error, trap, _, cr2, _ = words(t, context(t).regs.rdx + 192, 5)
    assert (error & 5, trap, cr2) == (4, 14, 0xBAD000)


def test_a_handler_starts_without_direction_trap_and_resume_flags(t: Task) -> None:
    context(t).regs.eflags = 0x246 | 0x400 | 0x100 | 0x10000
    push(t)
    assert context(t).regs.eflags == 0x246


def test_without_a_restorer_there_is_no_frame(t: Task) -> None:
    """x86-64 has no other way back: Linux fails there, and the process gets SIGSEGV."""
    with pytest.raises(EFAULT):
        push_frame(t, SigInfo(sig.SIGUSR1), Action(HANDLER, 0, 0, 0), 0)


@pytest.mark.parametrize("sp", [0, 8, 0x100, STACK - STACK_SIZE + 64, DATA + 64, MASK64, 1 << 63])
def test_no_room_for_the_frame_is_efault_and_changes_nothing(t: Task, sp: int) -> None:
    context(t).regs.rsp = sp
    before = context(t).regs.all()
    with pytest.raises(EFAULT):
        push(t)
    assert context(t).regs.all() == before


# -- and back --


def test_a_round_trip_restores_everything(t: Task) -> None:
    t.sigmask = SHADOWED
    t.altstack = (ALT, 0, ALT_SIZE)
    before, state = context(t).regs.all(), context(t).xstate
    push(t)
    regs = context(t).regs
    for name in (*GENERAL, "eflags"):
        setattr(regs, name, 0x55)
    context(t).xstate = xstate(b"the handler's own")
    t.sigmask = 0
    enter_restorer(t)
    pop_frame(t)
    after = context(t).regs.all()
    assert {**after, "eflags": after["eflags"] | 0x202} == before
    assert (t.sigmask, t.altstack, t.attention) == (SHADOWED, (ALT, 0, ALT_SIZE), False)
    assert context(t).xstate[160:176] == state[160:176]


def test_what_the_frame_unblocks_is_delivered_next(t: Task) -> None:
    push(t, mask=SHADOWED)
    t.sigmask = MASK64 & ~sig.UNBLOCKABLE
    for signo, wanted in ((sig.SIGHUP, False), (sig.SIGUSR2, True)):
        t.pending.add(SigInfo(signo))
        sp = context(t).regs.rsp
        enter_restorer(t)
        pop_frame(t)
        assert t.attention == wanted
        context(t).regs.rsp = sp


def test_frames_nest(t: Task) -> None:
    before = context(t).regs.all()
    push(t)
    context(t).regs.rbx = 5
    inner = context(t).regs.all()
    push(t, mask=0)
    enter_restorer(t)
    pop_frame(t)
    assert context(t).regs.all() == inner
    enter_restorer(t)
    pop_frame(t)
    assert context(t).regs.all() == before


def test_a_handler_may_change_what_it_returns_to(t: Task) -> None:
    push(t)
    at = context(t).regs.rdx
    t.mem.write(at + 40 + 8 * 13, struct.pack("<Q", 99))  # rax
    t.mem.write(at + 40 + 8 * 16, struct.pack("<Q", 0x404040))  # rip
    t.mem.write(at + 296, struct.pack("<Q", MASK64))
    enter_restorer(t)
    pop_frame(t)
    assert (context(t).regs.rax, context(t).regs.rip) == (99, 0x404040)
    assert t.sigmask == MASK64 & ~sig.UNBLOCKABLE


def test_flags_that_only_the_kernel_sets_do_not_come_from_a_frame(t: Task) -> None:
    push(t)
    t.mem.write(context(t).regs.rdx + 40 + 8 * 17, struct.pack("<Q", MASK64))
    enter_restorer(t)
    pop_frame(t)
    assert context(t).regs.eflags & ~0x202 == 0x40000 | 0x10000 | 0xDD5
    assert not context(t).regs.eflags & 0x3000  # IOPL


def test_segments_do_not_come_from_a_frame(t: Task) -> None:
    push(t)
    t.mem.write(context(t).regs.rdx + 184, struct.pack("<4H", 0x10, 1, 2, 0x18))
    enter_restorer(t)
    pop_frame(t)
    assert (context(t).regs.cs, context(t).regs.ss) == (0x33, 0x2B)


@pytest.mark.parametrize("offset", [15, 16])
@pytest.mark.parametrize("value", [1 << 47, 1 << 63, MASK64])
def test_an_impossible_address_in_a_frame_is_efault(t: Task, offset: int, value: int) -> None:
    push(t)
    t.mem.write(context(t).regs.rdx + 40 + 8 * offset, struct.pack("<Q", value))
    enter_restorer(t)
    with pytest.raises(EFAULT):
        pop_frame(t)


def test_a_frame_that_cannot_be_read_is_efault(t: Task) -> None:
    for sp in (0, 4, 8, STACK - 16, MASK64):
        context(t).regs.rsp = sp
        with pytest.raises(EFAULT):
            pop_frame(t)


def test_a_state_that_the_processor_refuses_is_efault(t: Task) -> None:
    push(t)
    (fpstate,) = words(t, context(t).regs.rdx + 224, 1)
    t.mem.write(fpstate + 24, b"\xff" * 4)  # MXCSR
    enter_restorer(t)
    with pytest.raises(EFAULT):
        pop_frame(t)


@pytest.mark.parametrize("damage", [(464, 4), (468, 4), (480, 4), (832, 4)])
def test_a_damaged_announcement_leaves_the_old_512_bytes(t: Task, damage: tuple[int, int]) -> None:
    """As Linux: what can't be trusted is read as a plain FXSAVE area."""
    push(t)
    (fpstate,) = words(t, context(t).regs.rdx + 224, 1)
    t.mem.write(fpstate + 160, b"changed")
    t.mem.write(fpstate + damage[0], bytes(damage[1]))
    enter_restorer(t)
    pop_frame(t)
    assert context(t).xstate[160:167] == b"changed"
    assert not any(context(t).xstate[512:])


def test_no_state_in_the_frame_is_the_initial_state(t: Task) -> None:
    push(t)
    t.mem.write(context(t).regs.rdx + 224, bytes(8))
    enter_restorer(t)
    pop_frame(t)
    state = context(t).xstate
    assert not any(state[160:416])
    assert struct.unpack_from("<H22xI", state) == (0x37F, 0x1F80)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.binary(min_size=312, max_size=312), sp=st.sampled_from([STACK - 0x2000, STACK - 8, DATA]))
def test_no_frame_does_more_than_fail(t: Task, data: bytes, sp: int) -> None:
    """Whatever the application puts there, our registers stay such that the host takes them."""
    t.mem.write(STACK - 0x2000, data)
    context(t).regs.rsp = sp + 8
    try:
        pop_frame(t)
    except EFAULT:
        pass
    regs: Registers = context(t).regs
    assert (regs.cs, regs.ss) == (0x33, 0x2B)
    assert not t.sigmask & sig.UNBLOCKABLE


# -- the alternate stack --


def test_a_handler_may_run_on_the_alternate_stack(t: Task) -> None:
    t.altstack = (ALT, 0, ALT_SIZE)
    before = context(t).regs.all()
    push(t, sig.SA_ONSTACK)
    regs = context(t).regs
    assert ALT < regs.rsp < ALT + ALT_SIZE
    assert on_altstack(t, regs.rsp) and altstack_flags(t, regs.rsp) == sig.SS_ONSTACK
    enter_restorer(t)
    pop_frame(t)
    assert context(t).regs.all() == before


def test_only_handlers_that_ask_for_it_use_it(t: Task) -> None:
    t.altstack = (ALT, 0, ALT_SIZE)
    push(t)
    assert STACK - STACK_SIZE < context(t).regs.rsp < STACK


def test_a_nested_handler_goes_on_where_the_first_one_is(t: Task) -> None:
    t.altstack = (ALT, 0, ALT_SIZE)
    push(t, sig.SA_ONSTACK)
    first = context(t).regs.rsp
    push(t, sig.SA_ONSTACK)
    assert ALT < context(t).regs.rsp < first - FRAME_SIZE


def test_an_overflow_of_the_alternate_stack_is_efault(t: Task) -> None:
    """Even though there is writable memory below it."""
    t.altstack = (ALT, 0, ALT_SIZE)
    push(t, sig.SA_ONSTACK)
    for _ in range(50):
        try:
            push(t, sig.SA_ONSTACK)
        except EFAULT:
            break
    else:
        raise AssertionError("overflow was not noticed")
    assert context(t).regs.rsp > ALT


def test_a_too_small_alternate_stack_is_efault(t: Task) -> None:
    t.altstack = (ALT, 0, 1024)
    with pytest.raises(EFAULT):
        push(t, sig.SA_ONSTACK)


def test_autodisarm_takes_the_stack_away_until_the_handler_returns(t: Task) -> None:
    t.altstack = (ALT, sig.SS_AUTODISARM, ALT_SIZE)
    push(t, sig.SA_ONSTACK)
    assert ALT < context(t).regs.rsp < ALT + ALT_SIZE
    assert t.altstack == (0, sig.SS_DISABLE, 0)
    (flags,) = struct.unpack("<I", t.mem.read(context(t).regs.rdx + 24, 4))
    assert flags & sig.SS_AUTODISARM
    enter_restorer(t)
    pop_frame(t)
    assert t.altstack == (ALT, sig.SS_AUTODISARM, ALT_SIZE)


def test_a_bad_stack_in_a_frame_is_ignored(t: Task) -> None:
    t.altstack = (ALT, 0, ALT_SIZE)
    push(t)
    t.mem.write(context(t).regs.rdx + 24, struct.pack("<I", 77))
    enter_restorer(t)
    pop_frame(t)
    assert t.altstack == (ALT, 0, ALT_SIZE)


@pytest.mark.parametrize(
    ("flags", "size", "result"),
    [
        (0, 0x2000, (ALT, 0, 0x2000)),
        (sig.SS_ONSTACK, 0x2000, (ALT, 0, 0x2000)),
        (sig.SS_AUTODISARM, 0x2000, (ALT, sig.SS_AUTODISARM, 0x2000)),
        (sig.SS_DISABLE, 5, (0, sig.SS_DISABLE, 0)),
        (sig.SS_DISABLE | sig.SS_AUTODISARM, 5, (0, sig.SS_DISABLE, 0)),
        (0, sig.MINSIGSTKSZ - 1, ENOMEM),
        (3, 0x2000, EINVAL),
        (4, 0x2000, EINVAL),
    ],
)
def test_what_sigaltstack_accepts(flags: int, size: int, result: object) -> None:
    if isinstance(result, tuple):
        assert checked_altstack(ALT, flags, size) == result
    else:
        with pytest.raises((ENOMEM, EINVAL)) as raised:
            checked_altstack(ALT, flags, size)
        assert raised.type is result
