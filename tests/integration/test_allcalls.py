"""No system call of an application is acted on by the host, by whichever instruction it is made.

tests/guest/allcalls.c issues all numbers in three ways, with a mark in an argument. The host's own tracepoint sees the
mark when the program runs natively, which shows that the method works, and must not see it from the sandbox.

It comes after ptrace and seccomp, so a call that was answered by a notification is not seen, and one that the Sentry
has the host carry out is: those are memory calls, whose arguments it has examined.
"""

from __future__ import annotations

import re
import subprocess
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from platform_ptrace.core._core import lib
from tests.integration import guest
from tests.integration.bundle import PYSC, Process, write_bundle
from tests.integration.hosttrace import Trace, Unavailable, tracing

MARK = 0x70797363
NUMBERS = range(601)
ENOSYS = -38
SIGSYS = 31
GETPID, GETTID, GETPPID = 39, 186, 110
MEMORY_CALLS = {9, 10, 11, 25, 28}

# Newer Linux (6.14, 6.18) keeps uretprobe and uprobe from every filter. They take no arguments, and refuse whoever is
# not in the kernel's own trampoline.
NEVER_FILTERED = {335, 336}
PLATFORMS = ("systrap", "systrap:eager", "ptrace")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("allcalls")]


def marked(trace: Trace, mark: int = MARK) -> set[int]:
    """The numbers that the host's kernel saw with the mark in the sixth argument, where mmap has the offset."""
    trace.set("events/raw_syscalls/sys_enter/enable", "0")
    assert trace.lost() == 0, "the trace buffer is too small"
    return {call.number for call in trace.calls() if call.args[5] in (mark, mark << 12)}


def run_native(*args: str) -> str:
    namespaces = ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--mount-proc", "--kill-child"]
    return guest.output_of([*namespaces, str(guest.build("allcalls")), *args], {})


def run_sandboxed(scratch: Path, platform: str, *args: str) -> str:
    rootfs = scratch / "rootfs"
    guest.install(rootfs / "guest", ["allcalls"])
    bundle = write_bundle(scratch / "bundle", rootfs, Process(["/guest/allcalls", *args]))
    command = [str(PYSC), "--root", str(scratch / "state"), "--platform", platform, "run", "--bundle", str(bundle)]
    return guest.output_of([*command, f"allcalls-{uuid.uuid4().hex[:8]}"], {})


def answers(output: str, way: str) -> dict[int, str]:
    """What came back for each number: "= RESULT", "killed SIGNAL", "exited N" or "hung 0"."""
    return {int(number): what for number, what in re.findall(rf"^{way} (\d+) (.*)$", output, re.MULTILINE)}


class Run(NamedTuple):
    platform: str
    output: str
    seen: set[int]


@pytest.fixture(scope="module", params=PLATFORMS)
def sandboxed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the program printed in the sandbox, and which of its calls the host saw."""
    scratch = tmp_path_factory.mktemp("allcalls")
    try:
        with tracing() as trace:
            output = run_sandboxed(scratch, str(request.param))
            return Run(str(request.param), output, marked(trace))
    except Unavailable as e:
        pytest.skip(f"cannot trace this host: {e}")


def test_the_host_sees_the_calls_of_a_native_run() -> None:
    try:
        with tracing() as trace:
            output = run_native()
            seen = marked(trace)
    except Unavailable as e:
        pytest.skip(f"cannot trace this host: {e}")
    assert answers(output, "syscall").keys() == set(NUMBERS), output[-2000:]
    assert len(seen & set(NUMBERS)) > 550


def test_the_host_sees_no_call_of_the_sandbox(sandboxed: Run) -> None:
    output = sandboxed.output
    assert answers(output, "syscall").keys() == set(NUMBERS), output[-2000:]
    assert sandboxed.seen - (NEVER_FILTERED if sandboxed.platform != "ptrace" else set()) == set()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_host_sees_only_memory_calls_that_leave_the_stub_alone(tmp_path: Path, platform: str) -> None:
    stub = lib.pt_stub_start(), lib.pt_stub_end()
    try:
        with tracing() as trace:
            output = run_sandboxed(tmp_path, platform, "--memory", *map(hex, stub))
            proper, hostile = marked(trace), marked(trace, MARK + 1)
    except Unavailable as e:
        pytest.skip(f"cannot trace this host: {e}")
    assert output.endswith("alive\n"), output
    assert answers(output, "proper") == dict.fromkeys(MEMORY_CALLS, "= 0")
    assert proper == (MEMORY_CALLS if platform != "ptrace" else set())
    assert hostile == set()
    failures = re.findall(r"^hostile (\d+) = (.*)$", output, re.MULTILINE)
    assert len(failures) == 49
    assert {result for _, result in failures} == {"-1"}


def test_no_call_meets_the_hosts_filter(sandboxed: Run) -> None:
    assert f"killed {SIGSYS}" not in sandboxed.output


@pytest.mark.parametrize("way", ["int80", "x32"])
def test_other_tables_are_not_there(sandboxed: Run, way: str) -> None:
    found = answers(sandboxed.output, way)
    assert found.keys() == set(NUMBERS), sandboxed.output[-2000:]
    assert {number: what for number, what in found.items() if what != f"= {ENOSYS}"} == {}


def test_identity_is_the_sentrys(sandboxed: Run) -> None:
    """The program is process 1 of its namespace, and the children that make the calls are the next few."""
    found = answers(sandboxed.output, "syscall")
    assert found[GETPPID] == "= 1"
    for number in (GETPID, GETTID):
        assert 2 <= int(found[number].removeprefix("= ")) < 40


@pytest.mark.parametrize("platform", PLATFORMS)
def test_effects_stay_inside(tmp_path: Path, platform: str) -> None:
    name = f"pysc-effect-{uuid.uuid4().hex[:8]}"
    output = run_sandboxed(tmp_path, platform, "--effects", name)
    assert "getpid 1\n" in output, output
    assert subprocess.run(["hostname"], capture_output=True, text=True).stdout.strip() != name
    assert not Path("/", name).exists()
    assert not Path("/dev/shm", name).exists()
    assert name not in Path("/proc/mounts").read_text()
    assert name not in Path("/proc/keys").read_text()
    assert str(MARK) not in Path("/proc/sysvipc/shm").read_text()
