"""What sentry/platform.py promises of clones and ends, of every platform."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from platform_ptrace.platform import MAX_REUSED
from sentry.abi.errno import EFAULT
from sentry.mm.mm import MAP_PRIVATE, PROT_READ
from sentry.platform import PAGE_SIZE, Context, ExitTrap, InterruptTrap, SpaceGone, SyscallTrap, Trap
from tests.bare import (
    AWAIT,
    CODE,
    COUNT,
    DATA,
    FIXED,
    LOOP,
    RAX_TO_XMM,
    READ_WRITE,
    STACK,
    XMM_TO_RAX,
    Bare,
    call,
)
from tests.descriptors import open_descriptors
from tests.integration.daemon import own_cgroup
from tests.integration.platforms import ANONYMOUS, Subject, host_state, place, wait_until, word

# A platform waits for any child and for SIGCHLD: the process is to have no other children and no other threads.
pytestmark = pytest.mark.own_process

# -- clones --


def test_a_fork_copies_memory_and_registers(bare: Bare) -> None:
    parent = bare.load(call(1) + b"\x48\x89\xc7" + call(2) + LOOP, rbx=5, r15=6)
    bare.syscall(parent)
    parent.space.write(DATA, b"before")
    child = parent.clone(share_space=False, same_process=False)
    assert child.space is not parent.space
    child.space.write(DATA, b"child ")
    assert (parent.space.read(DATA, 6), child.space.read(DATA, 6)) == (b"before", b"child ")
    parent.set_result(100)
    child.set_result(0)
    assert (bare.syscall(parent).args[0], bare.syscall(child).args[0]) == (100, 0)
    for context in (parent, child):
        assert (context.regs.rbx, context.regs.r15, context.regs.rsp) == (5, 6, STACK - 64)


def test_spaces_go_while_others_are_entered(bare: Bare) -> None:
    """On kvm a processor entered ring 0 on the tables of the space it had left, and these could be gone by then."""
    parent = bare.load(call(1) + call(2))
    bare.syscall(parent)
    running: set[Context] = set()
    for number in range(1000):
        child = parent.clone(share_space=False, same_process=False)
        child.space.write(DATA, b"touched")
        bare.start(child)
        running.add(child)
        while running and (number == 999 or len(running) > 5):
            for context, trap in bare.turn(10):
                assert isinstance(trap, SyscallTrap) and trap.number == 2
                running.remove(context)
                context.release()
    assert bare.syscall(parent).number == 2


@pytest.mark.parametrize("same_process", [False, True])
def test_a_clone_that_shares_the_space_sees_every_change(bare: Bare, same_process: bool) -> None:
    parent = bare.load(call(1) + call(2))
    bare.syscall(parent)
    child = parent.clone(share_space=True, same_process=same_process)
    assert child.space is parent.space
    child.regs.rip = CODE
    child.regs.rsp -= 1024
    bare.syscall(child)
    child.space.write(DATA, b"child")
    assert parent.space.read(DATA, 5) == b"child"
    child.release()
    parent.space.write(DATA, b"alone")
    assert bare.syscall(parent).number == 2


def test_threads_run_at_the_same_time_and_memory_can_be_changed_meanwhile(bare: Bare) -> None:
    parent = bare.load(call(1) + call(2))
    bare.syscall(parent)
    child = parent.clone(share_space=True, same_process=True)
    child.space.write(DATA, b"\0" * 8)
    child.regs.rip, child.regs.rdi = CODE + 0x200, DATA
    place(child, CODE + 0x200, COUNT)
    bare.start(child)
    bare.turn()
    wait_until(lambda: word(parent, DATA) > 0)
    extra = parent.space.map(0, PAGE_SIZE, READ_WRITE, ANONYMOUS, -1, 0)
    parent.space.write(extra, b"x")
    assert bare.syscall(parent).number == 2
    child.interrupt()
    assert bare.collect(child) == [InterruptTrap()]


def test_a_running_thread_can_be_released(bare: Bare) -> None:
    parent = bare.load(call(1) + call(2) + call(3))
    bare.syscall(parent)
    child = parent.clone(share_space=True, same_process=True)
    child.regs.rip = CODE + 0x200
    place(child, CODE + 0x200, LOOP)
    bare.start(child)
    bare.turn()
    child.release()
    assert bare.syscall(parent).number == 2
    bare.turn(0.01)
    assert bare.syscall(parent).number == 3


def test_a_thread_with_a_late_interrupt_can_be_released(bare: Bare, subject: Subject) -> None:
    parent = bare.load(call(1) + AWAIT + call(2) + call(3), rdi=DATA)
    bare.syscall(parent)
    pid = subject.host_pid(parent)
    tasks = set(os.listdir(f"/proc/{pid}/task"))
    child = parent.clone(share_space=True, same_process=True)
    (tid,) = set(os.listdir(f"/proc/{pid}/task")) - tasks
    bare.start(child)
    bare.turn()
    child.space.write(DATA, b"\1")
    wait_until(lambda: host_state(int(tid)) in "tS")
    child.interrupt()
    bare.collect(child)
    child.release()
    again = parent.clone(share_space=True, same_process=True)
    again.regs.rip = CODE + len(call(1) + AWAIT + call(2))
    bare.start(again)
    while (traps := bare.collect(again)) == [InterruptTrap()]:
        bare.start(again)
    assert traps == [SyscallTrap(3, (DATA, 0, 0, 0, 0, 0))]
    assert bare.syscall(parent).number == 2


def test_a_thread_that_follows_another_is_a_copy_of_its_maker(bare: Bare) -> None:
    """It may be the same thread of the host's."""
    parent = bare.load(call(1) + RAX_TO_XMM + call(2) + XMM_TO_RAX + b"\x48\x89\xc7" + call(3), rbx=5)
    bare.syscall(parent)
    parent.set_result(7)
    bare.syscall(parent)
    for number in range(5):
        child = parent.clone(share_space=True, same_process=True)
        assert (child.regs.rbx, child.regs.rip) == (5, parent.regs.rip)
        child.regs.rbx, child.regs.r15, child.regs.fs_base = 6, 6, DATA
        assert bare.syscall(child) == SyscallTrap(3, (7, 0, 0, 0, 0, 0))
        child.write_xstate(bytes(160) + number.to_bytes(1, "little") * 16 + bytes(400))
        child.release()
    assert bare.syscall(parent) == SyscallTrap(3, (7, 0, 0, 0, 0, 0))


def test_a_threads_time_is_not_that_of_the_one_before(bare: Bare) -> None:
    parent = bare.load(call(1) + call(2) + call(3))
    bare.syscall(parent)
    first = parent.clone(share_space=True, same_process=True)
    first.regs.rip, first.regs.rdi = CODE + 0x200, DATA
    place(first, CODE + 0x200, COUNT)
    bare.start(first)
    wait_until(lambda: bare.turn(0.01) == [] and first.cpu_ns() > 50_000_000)
    first.interrupt()
    bare.collect(first)
    first.release()
    second = parent.clone(share_space=True, same_process=True)
    assert second.cpu_ns() < 20_000_000
    bare.syscall(second)
    assert 0 < second.cpu_ns() < 20_000_000
    assert parent.process_cpu_ns() > 50_000_000


def test_few_threads_that_ended_stay_on_the_host(bare: Bare, subject: Subject) -> None:
    before = open_descriptors()
    parent = bare.load(call(1) + call(2))
    bare.syscall(parent)
    pid = subject.host_pid(parent)
    for _ in range(3):
        threads = [parent.clone(share_space=True, same_process=True) for _ in range(20)]
        for thread in threads:
            bare.syscall(thread)
            thread.release()
        wait_until(lambda: bare.turn(0.001) == [] and len(os.listdir(f"/proc/{pid}/task")) <= 2)
    assert len(open_descriptors() - before) <= MAX_REUSED
    parent.release()
    wait_until(lambda: bare.turn(0.001) == [] and host_state(pid) == "gone")
    assert open_descriptors() <= before


def test_a_thread_that_ended_goes_with_its_process(bare: Bare, subject: Subject) -> None:
    parent = bare.load(call(1) + call(2))
    bare.syscall(parent)
    pid = subject.host_pid(parent)
    thread = parent.clone(share_space=True, same_process=True)
    bare.syscall(thread)
    thread.release()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: host_state(pid) in "ZX")
    with pytest.raises(SpaceGone):
        parent.clone(share_space=True, same_process=True)
    parent.release()
    wait_until(lambda: bare.turn(0.001) == [] and host_state(pid) == "gone")


def test_the_first_thread_can_go_before_the_others(bare: Bare) -> None:
    first = bare.load(call(1) + call(2) + call(3))
    bare.syscall(first)
    second = first.clone(share_space=True, same_process=True)
    first.release()
    assert bare.syscall(second).number == 2
    space = second.space
    space.map(DATA + PAGE_SIZE, PAGE_SIZE, READ_WRITE, FIXED, -1, 0)
    space.write(DATA, b"alive")
    assert space.read(DATA, 5) == b"alive"
    assert DATA in [m.start for m in space.mappings()]
    assert space.resident_pages()[0] > 0
    assert bare.syscall(second).number == 3
    third = second.clone(share_space=False, same_process=False)
    assert third.space.read(DATA, 5) == b"alive"


# -- what the host does to stubs --


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup of the host's whose members can be frozen."""
    cgroup = own_cgroup()
    if not (cgroup / "cgroup.freeze").exists():
        cgroup.rmdir()
        pytest.skip("needs cgroup v2, at least beside v1")
    yield cgroup
    (cgroup / "cgroup.freeze").write_text("0")
    wait_until(lambda: not (cgroup / "cgroup.procs").read_text())
    cgroup.rmdir()


def set_frozen(freezer: Path, frozen: bool) -> None:
    (freezer / "cgroup.freeze").write_text(str(int(frozen)))
    wait_until(lambda: f"frozen {int(frozen)}\n" in (freezer / "cgroup.events").read_text())


CALLS = call(1) + b"\x48\x89\xc7" + call(2) + b"\x48\x89\xc7" + call(3)  # each with the result of the one before


@pytest.mark.parametrize("look", ["at nothing", "for traps", "at registers"])
def test_a_call_outlives_that_its_stub_is_frozen(freezer: Path, bare: Bare, subject: Subject, look: str) -> None:
    """The host takes a stub out of its notification then, and it asks again."""
    context = bare.load(CALLS)
    bare.syscall(context)
    (freezer / "cgroup.procs").write_text(str(subject.host_pid(context)))
    for _ in range(3):
        if subject.name == "systrap":  # a traced stub is stopped, and that is all
            set_frozen(freezer, True)
            set_frozen(freezer, False)
        if look == "for traps":
            assert bare.turn(0.02) == []
        elif look == "at registers":
            assert context.regs.rip == CODE + len(call(1))
    context.set_result(77)
    trap = bare.syscall(context)
    assert (trap.number, trap.args[0]) == (2, 77)


def test_an_answer_reaches_a_stub_that_is_frozen(freezer: Path, bare: Bare, subject: Subject) -> None:
    context = bare.load(CALLS)
    bare.syscall(context)
    (freezer / "cgroup.procs").write_text(str(subject.host_pid(context)))
    (freezer / "cgroup.freeze").write_text("1")
    if subject.name == "systrap":
        set_frozen(freezer, True)
    context.set_result(77)
    bare.start(context)
    assert bare.turn(0.02) == []
    (freezer / "cgroup.freeze").write_text("0")
    assert bare.collect(context) == [SyscallTrap(2, (77, 0, 0, 0, 0, 0))]
    context.set_result(78)
    assert bare.syscall(context).args[0] == 78


def test_signals_of_host_processes_do_not_disturb_what_the_kernel_does(bare: Bare, subject: Subject) -> None:
    """Neither injected calls nor clones, which Linux itself begins again when a signal comes."""
    context = bare.load(call(1) + call(56) + call(3))
    bare.syscall(context)
    done = threading.Event()
    pid = subject.host_pid(context)

    def pester() -> None:
        signals = itertools.cycle((signal.SIGUSR1, signal.SIGTRAP, signal.SIGSTOP, signal.SIGCONT, signal.SIGSEGV))
        while not done.wait(0.0002):
            os.kill(pid, next(signals))

    thread = threading.Thread(target=pester)
    thread.start()
    try:
        for _ in range(200):
            addr = context.space.map(0, PAGE_SIZE, READ_WRITE, ANONYMOUS, -1, 0)
            context.space.write(addr, b"\7")
            assert context.space.cmpxchg32(addr, 7, 8) == 7
            context.space.unmap(addr, PAGE_SIZE)
            context.clone(share_space=False, same_process=False).release()
            bare.turn(0)
    finally:
        done.set()
        thread.join()


# -- ends --


def test_a_space_killed_while_it_runs_is_an_exit(bare: Bare, subject: Subject) -> None:
    context = bare.load(LOOP)
    bare.start(context)
    bare.turn()
    os.kill(subject.host_pid(context), signal.SIGKILL)
    assert bare.collect(context) == [ExitTrap(signal.SIGKILL)]


def test_a_space_killed_while_it_is_stopped_is_gone(bare: Bare, subject: Subject) -> None:
    context = bare.load(call(1) + LOOP)
    bare.syscall(context)
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE_SIZE)
        os.kill(subject.host_pid(context), signal.SIGKILL)
        wait_until(lambda: host_state(subject.host_pid(context)) in "ZX")
        operations: list[Callable[[], object]] = [
            lambda: context.space.map(0, PAGE_SIZE, PROT_READ, ANONYMOUS, -1, 0),
            lambda: context.space.map(0, PAGE_SIZE, PROT_READ, MAP_PRIVATE, file.fileno(), 0),
            lambda: context.space.read(DATA, 1),
            lambda: context.space.write(DATA, b"x"),
            lambda: context.space.cmpxchg32(DATA, 0, 1),
            lambda: context.clone(share_space=False, same_process=False),
            context.read_xstate,
        ]
        for operation in operations:
            with pytest.raises((SpaceGone, EFAULT)):
                operation()
    assert context.cpu_ns() >= 0
    assert bare.run(context) == ExitTrap(signal.SIGKILL)
    context.release()


def test_a_space_killed_while_it_changes_is_gone(bare: Bare, subject: Subject) -> None:
    """As the OOM killer does it: while the host finds memory for an mmap(2) with MAP_POPULATE."""
    context = bare.load(call(1))
    bare.syscall(context)
    killer = threading.Timer(0.005, os.kill, (subject.host_pid(context), signal.SIGKILL))
    killer.start()
    with pytest.raises(SpaceGone):
        for _ in range(1000):
            addr = context.space.map(0, 64 << 20, READ_WRITE, ANONYMOUS | 0x8000, -1, 0)
            context.space.unmap(addr, 64 << 20)
    killer.join()
    with pytest.raises(SpaceGone):
        context.space.unmap(DATA, PAGE_SIZE)
    assert (context.space.mappings(), context.space.resident_pages()) == ([], (0, 0, 0))
    with pytest.raises(EFAULT):
        context.space.read(DATA, 1)
    assert bare.run(context) == ExitTrap(signal.SIGKILL)
    context.release()


def test_every_thread_of_a_killed_space_ends(bare: Bare, subject: Subject) -> None:
    first = bare.load(call(1) + LOOP)
    bare.syscall(first)
    threads = [first, *(first.clone(share_space=True, same_process=True) for _ in range(3))]
    for thread in threads:
        bare.start(thread)
    bare.turn()
    os.kill(subject.host_pid(first), signal.SIGKILL)
    traps: list[Trap] = bare.collect(*threads)
    assert traps == [ExitTrap(signal.SIGKILL)] * 4
    for thread in threads:
        thread.release()


def test_what_was_released_is_gone_after_the_next_waits(bare: Bare, subject: Subject) -> None:
    context = bare.load(call(1))
    bare.syscall(context)
    child = context.clone(share_space=True, same_process=False)
    pids = {subject.host_pid(context), subject.host_pid(child)}
    child.release()
    context.release()
    wait_until(lambda: bare.turn(0.001) == [] and all(host_state(pid) == "gone" for pid in pids))


def test_spaces_come_and_go_without_a_trace(bare: Bare) -> None:
    def cycle() -> None:
        context = bare.load(call(1) + call(2))
        bare.syscall(context)
        child = context.clone(share_space=False, same_process=False)
        thread = child.clone(share_space=True, same_process=True)
        child.space.mappings()
        for each in (thread, child, context):
            each.release()
        bare.turn()

    cycle()
    before = open_descriptors()
    for _ in range(20):
        cycle()
    assert open_descriptors() <= before


def children_of(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_close_leaves_no_process_and_no_descriptor(subject: Subject) -> None:
    before, children = open_descriptors(), children_of(os.getpid())
    proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    bare = Bare(subject.make(proc))
    running = bare.load(call(1) + LOOP)
    bare.syscall(running)
    stopped = running.clone(share_space=False, same_process=False)
    thread = running.clone(share_space=True, same_process=True)
    released = running.clone(share_space=True, same_process=False)
    bare.start(running)
    bare.start(thread)
    bare.turn()
    released.release()
    assert stopped.space.read(CODE, 1)
    bare.close()
    os.close(proc)
    assert open_descriptors() <= before
    assert children_of(os.getpid()) == children


def test_processor_time_and_size_are_counted(bare: Bare) -> None:
    context = bare.load(COUNT, rdi=DATA)
    context.space.write(DATA, bytes(8))  # Linux before 6.2 counts pages that a process touches itself in batches
    bare.start(context)
    bare.turn()
    wait_until(lambda: word(context, DATA) > 10_000_000)
    context.interrupt()
    bare.collect(context)
    used = context.cpu_ns()
    assert used > 100_000
    assert context.cpu_ns() >= used
    size, resident, shared = context.space.resident_pages()
    assert size >= 18 and 2 <= resident <= size and shared <= resident
