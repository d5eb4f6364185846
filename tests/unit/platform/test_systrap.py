"""What is the systrap platform's own: that its filter asks about every call, which calls it lets through, placement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import pytest

from platform_ptrace.core._core import lib
from platform_ptrace.platform import STUB_START
from platform_systrap.platform import LET_THROUGH, TRACED, SystrapContext, SystrapPlatform, probe
from sentry.abi.errno import EFAULT
from sentry.abi.nr_x86_64 import NAMES
from sentry.platform import PAGE_SIZE, FaultTrap, SyscallTrap
from tests.bare import CALL_RAX, CODE, COUNT, DATA, FIXED, INT80, LOOP, NOP, READ_WRITE, STACK, Bare, call, mov
from tests.descriptors import open_descriptors
from tests.integration.platforms import opened, place, wait_until, word

# A platform waits for any child and for SIGCHLD: the process is to have no other children and no other threads.
pytestmark = pytest.mark.own_process

NUMBERS = {name: number for number, name in NAMES.items()}
# Linux passes these two by every filter; they refuse whoever is not in a trampoline of the kernel's own.
UNFILTERED = {"uprobe", "uretprobe"}
GADGET = STUB_START + 0x1000 + 2  # behind the entry's int3 and hlt


@pytest.fixture
def platform() -> Iterator[SystrapPlatform]:
    with opened(probe, SystrapPlatform) as platform:
        yield platform


@pytest.fixture
def bare(platform: SystrapPlatform) -> Iterator[Bare]:
    bare = Bare(platform)
    yield bare
    bare.close()


def stub(context: Any) -> SystrapContext:
    return cast(SystrapContext, context)


@pytest.mark.parametrize("instruction", [b"\x0f\x05", INT80], ids=["syscall", "int80"])
def test_every_call_asks(bare: Bare, instruction: bytes) -> None:
    """Numbers of every kind, known and unknown, x32 ones included: each traps, and none has been carried out."""
    context = bare.load(NOP)
    pid = stub(context).c.pid
    numbers = sorted({*(NUMBERS[name] for name in set(NUMBERS) - UNFILTERED), 600, 1 << 30 | 39, 0x7FFFFFFF})
    for number in numbers:
        place(context, CODE, call(number, -1, -2, -3, instruction=instruction))
        context.regs.rip = CODE
        trap = bare.syscall(context)
        assert (trap.number, trap.native) == (number, instruction != INT80)
        context.set_result(-38)
    assert os.path.exists(f"/proc/{pid}")


def test_the_gadget_is_no_way_around_the_filter(bare: Bare) -> None:
    """The application can jump there: the call it makes is one like any other."""
    for name in ("munmap", "clone", "exit", "getpid"):
        context = bare.load(
            mov("rdi", DATA) + mov("rsi", PAGE_SIZE) + mov("rcx", GADGET) + mov("rax", NUMBERS[name]) + b"\xff\xe1"
        )
        trap = bare.syscall(context)
        assert (trap.number, trap.args[:2]) == (NUMBERS[name], (DATA, PAGE_SIZE))
        context.set_result(-1)
        assert bare.run(context) == FaultTrap(5, 0x80, 0), "the int3 behind it is the application's, too"
        assert context.space.read(DATA, 1) == b"\0"
        context.release()


def test_a_call_that_is_let_through_is_carried_out_by_the_host_with_its_result(bare: Bare) -> None:
    args = (0, PAGE_SIZE, 3, 0x22, (1 << 64) - 1, 0)
    context = bare.load(call(NUMBERS["mmap"], *args) + b"\x48\x89\xc7" + call(1))  # mov %rax, %rdi
    bare.syscall(context)
    assert context.let_through("mmap", args[:4])
    addr = bare.syscall(context).args[0]
    context.space.write(addr, b"there")
    assert any(mapping.start <= addr < mapping.end for mapping in context.space.mappings())


def test_the_hosts_error_is_the_calls_result(bare: Bare) -> None:
    args = (DATA + 1, PAGE_SIZE, 1)
    context = bare.load(call(NUMBERS["mprotect"], *args) + b"\x48\x89\xc7" + call(1))
    bare.syscall(context)
    assert context.let_through("mprotect", args)
    assert bare.syscall(context).args[0] == (1 << 64) - 22


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("munmap", (DATA, 2 * PAGE_SIZE)),
        ("munmap", (DATA + (1 << 63), PAGE_SIZE)),
        ("mprotect", (DATA, PAGE_SIZE)),
        ("write", (DATA, PAGE_SIZE)),
    ],
    ids=["another length", "another address", "another call", "a call never let through"],
)
def test_only_the_very_call_that_was_approved_is_let_through(bare: Bare, name: str, args: tuple[int, ...]) -> None:
    context = bare.load(call(NUMBERS["munmap"], DATA, PAGE_SIZE) + call(1))
    bare.syscall(context)
    assert not context.let_through(name, args)
    context.set_result(0)
    assert bare.syscall(context).number == 1
    assert context.space.read(DATA, 1) == b"\0"


def test_no_call_of_another_abi_is_let_through(bare: Bare) -> None:
    context = bare.load(call(NUMBERS["munmap"], 0, 0, instruction=INT80) + call(1))
    trap = bare.syscall(context)
    assert not context.let_through("munmap", trap.args)


def test_what_is_let_through_points_nowhere() -> None:
    assert set(LET_THROUGH.values()) == {"mmap", "munmap", "mprotect", "mremap", "madvise", "arch_prctl"}
    assert not set(LET_THROUGH.values()) & set(TRACED)


RDI_FROM_RESULT = b"\x48\x89\xc7"  # mov %rax, %rdi
NO_FD = (1 << 64) - 1
ANYWHERE = (0, PAGE_SIZE, 3, 0x22, NO_FD, 0)


def approved(bare: Bare, code: bytes) -> SystrapContext:
    """A context before code, whose ordinary memory calls are approved."""
    context = stub(bare.load(call(1) + code))
    bare.syscall(context)
    context.approve_memory(True)
    return context


def next_other(bare: Bare, context: SystrapContext) -> SyscallTrap:
    """The next trap that is none of the approved calls, which are reported now and then."""
    while (trap := bare.syscall(context)).number in LET_THROUGH:
        assert context.let_through(LET_THROUGH[trap.number], trap.args)
    return trap


def test_ordinary_memory_calls_are_carried_out_unasked_with_the_hosts_result(bare: Bare) -> None:
    context = approved(
        bare,
        call(NUMBERS["mmap"], *ANYWHERE) + RDI_FROM_RESULT + call(2)
        + call(NUMBERS["mprotect"], DATA, PAGE_SIZE, 1) + RDI_FROM_RESULT + call(3)
        + call(NUMBERS["madvise"], STACK - PAGE_SIZE, PAGE_SIZE, 4) + RDI_FROM_RESULT + call(4)
        + call(NUMBERS["munmap"], DATA, PAGE_SIZE) + RDI_FROM_RESULT + call(5)
        + call(NUMBERS["madvise"], DATA, PAGE_SIZE, 4) + RDI_FROM_RESULT + call(6),
    )  # fmt: skip
    context.space.write(DATA, b"data")
    trap = next_other(bare, context)
    assert trap.number == 2
    context.space.write(trap.args[0], b"there")
    assert [next_other(bare, context).args[0] for _ in range(3)] == [0, 0, 0]
    with pytest.raises(EFAULT):
        context.space.read(DATA, 1)
    assert next_other(bare, context).args[0] == (1 << 64) - 12


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("mmap", (DATA, PAGE_SIZE, 3, 0x32, NO_FD, 0)),
        ("mmap", (DATA, PAGE_SIZE, 3, 0x22, NO_FD, 0)),
        ("mmap", (0, PAGE_SIZE, 3, 0x21, NO_FD, 0)),
        ("mmap", (0, PAGE_SIZE, 3, 0x2, 3, 0)),
        ("mmap", (0, PAGE_SIZE, 3, 0x8022, NO_FD, 0)),
        ("mmap", (0, PAGE_SIZE, 3, 0x22, NO_FD, PAGE_SIZE)),
        ("mmap", (0, PAGE_SIZE, 3, 1 << 32 | 0x22, NO_FD, 0)),
        ("mmap", (0, PAGE_SIZE, 8, 0x22, NO_FD, 0)),
        ("mmap", (0, 0, 3, 0x22, NO_FD, 0)),
        ("mmap", (0, 1 << 40, 3, 0x22, NO_FD, 0)),
        ("munmap", (DATA, 0)),
        ("munmap", (DATA + 1, PAGE_SIZE)),
        ("munmap", (STUB_START - PAGE_SIZE, PAGE_SIZE + 1)),
        ("munmap", (STUB_START, PAGE_SIZE)),
        ("munmap", (DATA, 1 << 63)),
        ("munmap", ((1 << 64) - PAGE_SIZE, 2 * PAGE_SIZE)),
        ("mprotect", (STUB_START + PAGE_SIZE, PAGE_SIZE, 7)),
        ("mprotect", (DATA, PAGE_SIZE, 0x01000001)),
        ("mprotect", (DATA, PAGE_SIZE, 1 << 32 | 1)),
        ("madvise", (DATA, PAGE_SIZE, 10)),
        ("madvise", (DATA, PAGE_SIZE, 1 << 32 | 4)),
        ("madvise", (STUB_START, PAGE_SIZE, 4)),
        ("mremap", (DATA, PAGE_SIZE, PAGE_SIZE, 0, 0)),
        ("arch_prctl", (0x1002, 0)),
    ],
)
def test_other_memory_calls_ask(bare: Bare, name: str, args: tuple[int, ...]) -> None:
    context = approved(bare, call(NUMBERS[name], *args) + call(2))
    trap = bare.syscall(context)
    assert (trap.number, trap.args[: len(args)]) == (NUMBERS[name], args)
    context.set_result(-1)
    assert bare.syscall(context).number == 2


def test_ordinary_memory_calls_ask_unless_approved_and_those_of_another_abi_always(bare: Bare) -> None:
    code = call(NUMBERS["munmap"], DATA, PAGE_SIZE)
    context = approved(bare, code + call(11, DATA, PAGE_SIZE, instruction=INT80) + code)
    context.approve_memory(False)
    assert bare.syscall(context).number == NUMBERS["munmap"]
    context.approve_memory(True)
    assert not bare.syscall(context).native
    assert context.space.read(DATA, 1) == b"\0"
    context.approve_memory(False)
    assert bare.syscall(context).number == NUMBERS["munmap"]


def test_clones_are_approved_as_they_are_made(bare: Bare) -> None:
    context = approved(bare, call(NUMBERS["munmap"], DATA, PAGE_SIZE) + call(2))
    clones = [
        context.clone(share_space=share, same_process=same)
        for share, same in ((False, False), (True, False), (True, True), (True, True))
    ]
    for clone in clones:
        assert next_other(bare, stub(clone)).number == 2
        clone.release()


def test_who_makes_nothing_but_such_calls_is_heard_of(bare: Bare) -> None:
    code = call(NUMBERS["madvise"], DATA, PAGE_SIZE, 4)
    context = approved(bare, code + b"\xeb" + bytes((256 - len(code) - 2,)))
    for _ in range(3):
        assert bare.syscall(context).number == NUMBERS["madvise"]
        context.set_result(0)


def test_registers_looked_at_make_the_call_that_was_let_through(bare: Bare) -> None:
    """A signal comes before the application runs on: its frame needs the result, and the call happens once only."""
    args = (0, PAGE_SIZE, 3, 0x22, (1 << 64) - 1, 0)
    context = bare.load(call(NUMBERS["mmap"], *args) + b"\x48\x89\xc7" + call(1))
    bare.syscall(context)
    before = len(context.space.mappings())
    assert context.let_through("mmap", args[:4])
    addr = context.regs.rax
    context.space.write(addr, b"there")
    assert bare.syscall(context).args[0] == addr
    assert len(context.space.mappings()) - before <= 1


def test_a_thread_with_an_answer_to_come_gives_its_registers(bare: Bare) -> None:
    context = bare.load(call(NUMBERS["getpid"]) + b"\x48\x89\xc7" + call(1), rbx=77)
    bare.syscall(context)
    assert context.regs.rbx == 77
    context.regs.rbx = 78
    context.set_result(5)
    trap = bare.syscall(context)
    assert (trap.args[0], context.regs.rbx) == (5, 78)


def test_a_vsyscall_is_a_call(bare: Bare) -> None:
    context = bare.load(mov("rdi", DATA) + mov("rax", 0xFFFFFFFFFF600000) + CALL_RAX + call(1))
    trap = bare.syscall(context)
    assert (trap.number, trap.args[0]) == (NUMBERS["gettimeofday"], DATA)
    context.set_result(0)
    assert bare.syscall(context).number == 1


def processors_of(tid: int) -> set[int]:
    return os.sched_getaffinity(tid)


def test_a_stub_runs_on_the_sentrys_processor(bare: Bare) -> None:
    context = bare.load(call(1) + call(2))
    everywhere = os.sched_getaffinity(0)
    try:
        for processor in sorted(everywhere)[:2]:
            os.sched_setaffinity(0, {processor})
            context.regs.rip = CODE
            bare.syscall(context)
            assert processors_of(stub(context).c.tid) == {processor}
    finally:
        os.sched_setaffinity(0, everywhere)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_stubs_that_compute_at_the_same_time_are_set_free(bare: Bare) -> None:
    everywhere = os.sched_getaffinity(0)
    parent = bare.load(call(1) + call(2))
    bare.syscall(parent)
    counters = []
    for index in range(2):
        child = parent.clone(share_space=True, same_process=True)
        if not index:
            place(child, CODE + 0x200, COUNT)
        child.regs.rip, child.regs.rdi = CODE + 0x200, DATA + 64 * index
        child.regs.rsp = STACK - 4096 * (index + 1)
        bare.start(child)
        counters.append(child)
    wait_until(lambda: bool(bare.turn(0.01)) or all(processors_of(stub(c).c.tid) == everywhere for c in counters))
    assert all(word(parent, DATA + 64 * index) for index in range(2))


def test_a_stub_holds_no_descriptor_and_no_privilege(bare: Bare) -> None:
    context = bare.load(NOP)
    context.space.map(0, PAGE_SIZE, READ_WRITE, FIXED & ~0x10, -1, 0)
    pid = stub(context).c.pid
    assert os.listdir(f"/proc/{pid}/fd") == []
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":\t", 1) for line in file)
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_the_sentry_lets_go_of_its_processor_when_no_stub_runs(bare: Bare) -> None:
    everywhere = os.sched_getaffinity(0)
    context = bare.load(50 * call(1) + LOOP)
    for _ in range(50):  # not for each call does it sleep, nor is it bound in each sleep
        bare.syscall(context)
        if os.sched_getaffinity(0) != everywhere:
            break
    assert len(os.sched_getaffinity(0)) == 1
    assert bare.turn(0.1) == []  # not at once: a gofer's answer may be under way
    assert os.sched_getaffinity(0) == everywhere


def test_probing_leaves_nothing(platform: SystrapPlatform) -> None:
    fds = open_descriptors()
    assert probe() == "" and lib.pt_probe(0) == 0
    assert open_descriptors() <= fds
