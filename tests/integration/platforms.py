"""The platforms under test, and what their tests share."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

import platform_kvm.platform as kvm
import platform_ptrace.platform as ptrace
import platform_systrap.platform as systrap
from sentry.mm.mm import MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_READ
from sentry.platform import PAGE_SIZE, Context, Platform
from tests.bare import CODE, READ_WRITE
from tests.kvm import machine
from tests.kvm.kernel import Unavailable, kernel
from tests.slowness import SLOWNESS

P = TypeVar("P", bound=Platform)
ANONYMOUS: Final = MAP_PRIVATE | MAP_ANONYMOUS


@dataclass(frozen=True)
class Subject:
    """A platform under test.  pid_of: the host process that a context's space would die with, where there is one."""

    name: str
    probe: Callable[[], str]
    make: Callable[[int], Platform]
    pid_of: Callable[[Any], int] | None

    def host_pid(self, context: Any) -> int:
        if self.pid_of is None:
            pytest.skip(f"{self.name} has no host process for each space")
        return self.pid_of(context)


@contextmanager
def kvm_device() -> Iterator[int]:
    fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@functools.cache
def kvm_slowness() -> int:
    """How much longer things take where each of ring 0's instructions is emulated: a system call is 0.2 ms there."""
    with signals_restored(), kvm_device() as fd:
        platform = kvm.KvmPlatform(fd, 1 << 30, 1)
        platform.close()
    return 10 if kvm.is_emulated() else 1


def probe_kvm() -> str:
    try:
        with kvm_device() as fd:
            return kvm.probe(fd)
    except OSError as e:
        return f"/dev/kvm: {e.strerror}"


def make_kvm(proc_fd: int) -> Platform:
    with kvm_device() as fd:
        return kvm.KvmPlatform(fd, 1 << 30, os.cpu_count() or 1)


def make_eager(proc_fd: int) -> Platform:
    return systrap.SystrapPlatform(proc_fd, variant="eager")


SUBJECTS: Final = (
    Subject("ptrace", ptrace.probe, ptrace.PtracePlatform, lambda context: int(context.c.pid)),
    Subject("systrap", systrap.probe, systrap.SystrapPlatform, lambda context: int(context.c.pid)),
    Subject("systrap:eager", systrap.probe, make_eager, lambda context: int(context.c.pid)),
    Subject("kvm", probe_kvm, make_kvm, None),
)


@contextmanager
def signals_restored() -> Iterator[None]:
    """This thread's signal state is put back afterwards: platforms set up SIGCHLD for themselves."""
    handler, mask = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def opened(probe: Callable[[], str], make: Callable[[int], P]) -> Iterator[P]:
    """A platform, closed in the end; skips where it does not work."""
    reason = probe()
    if reason:
        pytest.skip(reason)
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with signals_restored():
        platform = make(proc)
        try:
            yield platform
        finally:
            platform.close()
            os.close(proc)


def word(context: Context, addr: int) -> int:
    return int.from_bytes(context.space.read(addr, 8), "little")


def place(context: Context, addr: int, code: bytes) -> None:
    """Put code into the page of the program."""
    context.space.protect(CODE, PAGE_SIZE, READ_WRITE)
    context.space.write(addr, code)
    context.space.protect(CODE, PAGE_SIZE, PROT_READ | PROT_EXEC)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """For states of host processes, which nothing announces."""
    deadline = time.monotonic() + seconds * SLOWNESS
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.001)


def host_state(pid: int) -> str:
    """The letter in /proc/PID/stat; "gone" if there is no such process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "gone"


@functools.cache
def reason_against(name: str) -> str:
    """Why the platform does not work here; empty if it does."""
    (subject,) = (subject for subject in SUBJECTS if subject.name == name)
    with signals_restored():
        return subject.probe()


def skip_without(name: str) -> None:
    """Skip a test for which the platform is needed."""
    if reason := reason_against(name):
        pytest.skip(f"{name}: {reason}")


def skip_without_machine() -> None:
    """Skip a test for which the machine with software SVM is needed, and its kernel."""
    if reason := machine.missing():
        pytest.skip(reason)
    try:
        kernel()
    except Unavailable as e:
        pytest.skip(str(e))
