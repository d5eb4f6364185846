"""What is the ptrace platform's own: its stubs' seccomp filter, cgroup membership, the start of a template."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import pytest

from platform_ptrace.core._core import lib
from platform_ptrace.platform import STUB_START, PtraceContext, PtracePlatform, probe
from sentry.abi.nr_x86_64 import NAMES
from sentry.platform import PlatformError, SpaceGone
from tests.bare import CODE, DATA, FIXED, INT80, LOOP, NOP, READ_WRITE, Bare, call
from tests.descriptors import open_descriptors
from tests.integration.platforms import opened

# A platform waits for any child and for SIGCHLD: the process is to have no other children and no other threads.
pytestmark = pytest.mark.own_process

PTRACE_CONT = 7
NUMBERS = {name: number for number, name in NAMES.items()}
# Numbers that may be issued from the gadget; dup is answered through the notification.
ALLOWED = {"mmap", "munmap", "mprotect", "mremap", "madvise", "msync", "mlock", "munlock", "close", "clone"}
ENDING = {"exit", "exit_group"}
# Linux passes these two by every filter; they refuse whoever is not in a trampoline of the kernel's own.
UNFILTERED = {"uprobe", "uretprobe"}


@pytest.fixture
def platform() -> Iterator[PtracePlatform]:
    with opened(probe, PtracePlatform) as platform:
        yield platform


@pytest.fixture
def bare(platform: PtracePlatform) -> Iterator[Bare]:
    bare = Bare(platform)
    yield bare
    bare.close()


def stub(context: Any) -> PtraceContext:
    return cast(PtraceContext, context)


def let_run_untraced(context: Any) -> int:
    """Resume with PTRACE_CONT, as no code of ours ever does: calls reach the host.  Returns the wait status."""
    c = stub(context).c
    assert lib.pt_store_regs(c) == 0
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_CONT, c.tid, None, None) == 0
    _, status = os.waitpid(c.tid, 0x40000000)
    return status


@pytest.mark.parametrize(
    "code",
    [
        call(NUMBERS["getpid"]),
        call(NUMBERS["mmap"], 0, 4096, 3, FIXED, -1, 0),
        call(NUMBERS["exit_group"], 0),
        call(NUMBERS["gettimeofday"] | 0x40000000),
        call(20, instruction=INT80),
        call(NUMBERS["rt_sigreturn"]),
    ],
    ids=["getpid", "mmap", "exit_group", "x32", "int80", "rt_sigreturn"],
)
def test_the_filter_kills_a_call_from_outside_the_gadget(bare: Bare, code: bytes) -> None:
    """Were a stub ever resumed by mistake so that its calls reach the host, none would be carried out."""
    status = let_run_untraced(bare.load(code))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS


def test_a_call_of_the_vsyscall_page_stops_for_the_tracer_instead(bare: Bare) -> None:
    """The host emulates that page before SYSEMU sees anything, so that its three calls are not killed but traced."""
    context = bare.load(b"\xff\xd0" + LOOP, rax=0xFFFFFFFFFF600000, rdi=DATA)
    status = let_run_untraced(context)
    assert os.WIFSTOPPED(status)
    assert context.space.read(DATA, 16) == bytes(16)


@pytest.mark.slow
def test_the_filter_kills_every_other_call_from_the_gadget(bare: Bare) -> None:
    for name in sorted(set(NUMBERS) - ALLOWED - ENDING - UNFILTERED - {"dup"}):
        context = bare.load(NOP)
        assert lib.pt_inject(stub(context).c, NUMBERS[name], *[0] * 6) < 0
        assert stub(context).gone, name
        with pytest.raises(SpaceGone):
            context.space.unmap(DATA, 4096)
        context.release()


@pytest.mark.parametrize("name", sorted(ALLOWED - {"clone"}))
def test_the_filter_lets_calls_about_memory_through(bare: Bare, name: str) -> None:
    context = bare.load(NOP)
    lib.pt_inject(stub(context).c, NUMBERS[name], 0x7000_0000, *[0] * 5)
    assert not stub(context).gone
    assert context.space.read(CODE, 1) == NOP


def test_an_x32_number_from_the_gadget_is_killed(bare: Bare) -> None:
    context = bare.load(NOP)
    assert lib.pt_inject(stub(context).c, NUMBERS["mmap"] | 0x40000000, *[0] * 6) < 0
    assert stub(context).gone


def test_the_hidden_region_cannot_be_written_by_the_application(bare: Bare) -> None:
    context = bare.load(b"\x48\x89\x07", rdi=STUB_START + 0x1000)
    trap = bare.run(context)
    assert (getattr(trap, "signo", 0), getattr(trap, "code", 0)) == (signal.SIGSEGV, 2)


def test_a_stub_holds_no_descriptor_and_no_privilege(bare: Bare) -> None:
    context = bare.load(NOP)
    context.space.map(0, 4096, READ_WRITE, FIXED & ~0x10, -1, 0)
    pid = stub(context).c.pid
    assert os.listdir(f"/proc/{pid}/fd") == []
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":\t", 1) for line in file)
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


def test_a_template_joins_its_cgroups_before_it_runs(platform: PtracePlatform) -> None:
    r, w = os.pipe()
    template = platform.new_template((w, w))
    assert os.read(r, 10) == b"00"
    template.close()
    os.close(r)
    os.close(w)


def test_a_template_that_cannot_join_its_cgroup_is_an_error_and_leaves_nothing(platform: PtracePlatform) -> None:
    r, w = os.pipe()
    fds = open_descriptors()
    for _ in range(3):
        with pytest.raises(PlatformError):
            platform.new_template((r,))
    assert open_descriptors() <= fds
    os.close(r)
    os.close(w)
    assert probe() == ""
