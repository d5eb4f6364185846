"""Contexts that are interrupted, moved between processors and released at any moment: they lose and double nothing."""

from __future__ import annotations

import struct
import time

import pytest

from sentry.platform import PAGE_SIZE, Context, InterruptTrap, SyscallTrap, Trap
from tests.bare import CODE, COUNT, DATA, FIXED, LOOP, MASK64, READ_WRITE, SYSCALL, Bare, call, mov
from tests.integration.platforms import SUBJECTS, Subject, place, wait_until, word
from tests.slowness import SLOWNESS

pytestmark = pytest.mark.own_process

# These count together, as memory and an XMM register do: what is lost or doubled shows as a difference between them.
COUNTED = ("rbx", "rbp", "rsi", "r8", "r9", "r10", "r12", "r13", "r14", "r15")
ALL_COUNT = b"".join(
    bytes((0x49 if n > 7 else 0x48, 0xFF, 0xC0 + (n & 7))) for n in (3, 5, 6, 8, 9, 10, 12, 13, 14, 15)
)
MEMORY_COUNTS = b"\x48\xff\x07"  # incq (%rdi)
XMM_COUNTS = b"\x66\x0f\xd4\xc1"  # paddq %xmm1, %xmm0
ONE_TO_XMM1 = mov("rax", 1) + b"\x66\x48\x0f\x6e\xc8"
XMM_TO_MEMORY = b"\x66\x0f\xd6\x47\x08"  # movq %xmm0, 8(%rdi)
MADV_DONTNEED = 4
AGAIN = struct.Struct("<Bi")


def endless(body: bytes) -> bytes:
    return body + AGAIN.pack(0xE9, -len(body) - AGAIN.size)


@pytest.fixture
def subject() -> Subject:
    (kvm,) = (subject for subject in SUBJECTS if subject.name == "kvm")
    reason = kvm.probe()
    if reason:
        pytest.skip(reason)
    return kvm


def assert_counts_agree(context: Context) -> int:
    """Each counter is ahead of the next by none, or by one if the context stands between the two."""
    counts: list[int] = [getattr(context.regs, name) for name in COUNTED]
    assert max(counts) - min(counts) in (0, 1) and counts == sorted(counts, reverse=True), counts
    return counts[-1]


def interrupted(bare: Bare, context: Context) -> Trap:
    """Let it run, and interrupt it: the trap, which is the interrupt unless something else was first."""
    bare.start(context)
    for _, trap in bare.turn():
        return trap
    context.interrupt()
    return bare.collect(context)[0]


def test_interrupts_of_a_loop_lose_and_double_no_instruction(bare: Bare) -> None:
    zero = dict.fromkeys(COUNTED, 0)
    context = bare.load(endless(ALL_COUNT), **zero)
    last = 0
    for _ in range(1000):
        assert interrupted(bare, context) == InterruptTrap()
        now = assert_counts_agree(context)
        assert now >= last
        last = now
    while not last:  # each of them came before the first instruction: a busy machine
        bare.start(context)
        bare.turn(0.01)
        context.interrupt()
        assert bare.collect(context) == [InterruptTrap()]
        last = assert_counts_agree(context)


def test_interrupts_among_answered_calls_and_page_faults_lose_and_double_nothing(bare: Bare) -> None:
    """Each round: a call that ring 0 answers, one of the time, and a page of its own that nobody has touched."""
    size = 512 * PAGE_SIZE
    base = 0x10000000
    body = (
        mov("rax", 39)
        + SYSCALL
        + b"\x4c\x01\xe0\x49\x89\xc5"  # add %r12, %rax; mov %rax, %r13
        + b"\x48\xff\xc3"  # inc %rbx
        + mov("rax", 228)
        + mov("rdi", 1)
        + mov("rsi", DATA + 64)
        + SYSCALL
        + b"\x48\x01\xc5"  # add %rax, %rbp
        + b"\x49\xff\x06"  # incq (%r14)
        + b"\x49\x81\xc6\0\x10\0\0"  # add $4096, %r14
        + b"\x4d\x39\xfe\x75\x03\x4d\x89\xce"  # cmp %r15, %r14; jne +3; mov %r9, %r14
    )
    code = endless(body)
    context = bare.load(code, rbx=0, rbp=0, r12=1000, r14=base, r15=base + size, r9=base)
    context.space.map(base, size, READ_WRITE, FIXED, -1, 0)
    context.keep_answers({"getpid": 7})
    interrupts = start = 0
    for _ in range(1500):
        trap = interrupted(bare, context)
        if isinstance(trap, SyscallTrap):
            context.set_result(0 if trap.number == 228 else 7)
        else:
            assert trap == InterruptTrap()
            interrupts += 1
            if not interrupts % 50:
                context.space.unmap(base, size)
                context.space.map(base, size, READ_WRITE, FIXED, -1, 0)
                start = (context.regs.r14 - base) // PAGE_SIZE
        assert (context.regs.rbp, context.regs.r13 in (0, 1007)) == (0, True)
    assert interrupts > 500
    # From where it was when they were new, but for that one itself, which may have been touched before.
    touched = [word(context, base + (start + n) % 512 * PAGE_SIZE) for n in range(1, 512)]
    assert touched == sorted(touched, reverse=True) and touched[0] - touched[-1] <= 1


def test_no_interrupt_is_lost_whenever_it_comes(bare: Bare) -> None:
    context = bare.load(LOOP)
    for n in range(500):
        bare.start(context)
        if n % 3:
            bare.turn()
        if n % 3 == 2:
            time.sleep(0.0001 * (n % 7))
        context.interrupt()
        context.interrupt()
        assert bare.collect(context) == [InterruptTrap()]


def test_many_contexts_on_few_processors_all_get_on_with_their_registers(bare: Bare) -> None:
    """They wander from one processor to the other: the extended state has to come with them."""
    code = ONE_TO_XMM1 + endless(MEMORY_COUNTS + XMM_COUNTS + XMM_TO_MEMORY)
    contexts = [bare.load(code, rdi=DATA) for _ in range(50)]
    for context in contexts:
        bare.start(context)
    seen = [0] * len(contexts)
    for _ in range(3):
        deadline = time.monotonic() + 20 * SLOWNESS
        while not all(word(context, DATA) > before for context, before in zip(contexts, seen)):
            assert time.monotonic() < deadline, "somebody gets no processor"
            assert bare.turn(0.02) == []
        seen = [word(context, DATA) for context in contexts]
        for context in contexts:
            context.interrupt()
        assert bare.collect(*contexts) == [InterruptTrap()] * len(contexts)
        for context in contexts:
            in_memory, in_xmm = word(context, DATA), word(context, DATA + 8)
            assert in_memory - in_xmm in (0, 1)
            bare.start(context)
    for context in contexts:
        context.release()


def test_extended_state_that_changed_on_another_processor_is_not_forgotten(bare: Bare) -> None:
    """More contexts than processors: who goes where is chance, and every call of each shows its own count."""
    body = XMM_COUNTS + b"\x66\x48\x0f\x7e\xc7" + mov("rax", 5) + SYSCALL  # movq %xmm0, %rdi
    contexts = [bare.load(ONE_TO_XMM1 + endless(body)) for _ in range(3)]
    for n in range(1, 400):
        for context in contexts:
            bare.start(context)
        for trap in bare.collect(*contexts):
            assert isinstance(trap, SyscallTrap) and trap.args[0] == n


def test_a_context_can_be_released_wherever_it_is(bare: Bare) -> None:
    """In the guest, in the queue, trapped and not told of; its memory may go at once, and its place be another's."""
    keeper = bare.load(COUNT, rdi=DATA)
    bare.start(keeper)
    for n in range(60):
        contexts = [bare.load(code, rdi=DATA) for code in (COUNT, call(1), LOOP, call(2) + LOOP)]
        for context in contexts:
            bare.start(context)
        for _ in range(n % 3):
            bare.turn()
        for context in contexts:
            context.release()
    seen = word(keeper, DATA)
    wait_until(lambda: word(keeper, DATA) > seen)
    keeper.interrupt()
    assert bare.collect(keeper) == [InterruptTrap()]


def test_memory_that_was_taken_away_is_written_no_more(bare: Bare) -> None:
    """Loading SS holds interrupts back for one instruction: the one that writes, so that it may be caught before it."""
    page = 0x10000000
    load_ss = b"\x8c\xd1" + b"\x8e\xd1"  # mov %ss, %ecx; mov %ecx, %ss
    first = bare.load(call(1) + call(2))
    bare.syscall(first)
    writers = [first.clone(share_space=True, same_process=True) for _ in range(2)]
    first.space.map(page, 16 * PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
    place(first, CODE + 0x100, endless(load_ss + b"\x48\x89\x07\x48\x89\x87\0\x10\0\0"))  # mov %rax, (%rdi); 4096(%rdi)
    for writer in writers:
        writer.regs.rip, writer.regs.rdi, writer.regs.rax = CODE + 0x100, page, MASK64
        bare.start(writer)
    bare.turn()
    victim = bare.load(call(1))
    for n in range(400):
        victim.space.map(page, 16 * PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
        wait_until(lambda: word(first, page + PAGE_SIZE) == MASK64)
        if n % 2:
            first.space.advise(page, 2 * PAGE_SIZE, MADV_DONTNEED)
        else:
            first.space.map(page, 2 * PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
        victim.space.write(page, bytes(16 * PAGE_SIZE))
        assert bare.turn() == []
        assert victim.space.read(page, 16 * PAGE_SIZE) == bytes(16 * PAGE_SIZE)
    for writer in writers:
        writer.interrupt()
    assert bare.collect(*writers) == [InterruptTrap()] * 2
