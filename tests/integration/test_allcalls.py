"""No system call of an application is acted on by the host, by whichever instruction it is made.

tests/guest/allcalls.c issues all numbers in three ways, with a mark in an argument. The host's own tracepoint sees the
mark when the program runs natively, which shows that the method works, and must not see it from the sandbox.
"""

from __future__ import annotations

import re
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.integration import guest
from tests.integration.bundle import PYSC, Process, write_bundle
from tests.integration.hosttrace import Trace, Unavailable, tracing

MARK = 0x70797363
NUMBERS = range(601)
ENOSYS = -38
SIGSYS = 31
GETPID, GETTID, GETPPID = 39, 186, 110

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("allcalls")]


def marked(trace: Trace) -> set[int]:
    """The numbers that the host's kernel saw with the mark in the sixth argument."""
    trace.set("events/raw_syscalls/sys_enter/enable", "0")
    assert trace.lost() == 0, "the trace buffer is too small"
    return {call.number for call in trace.calls() if call.args[5] == MARK}


def run_native(*args: str) -> str:
    namespaces = ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--mount-proc", "--kill-child"]
    return guest.output_of([*namespaces, str(guest.build("allcalls")), *args], {})


def run_sandboxed(scratch: Path, *args: str) -> str:
    rootfs = scratch / "rootfs"
    guest.install(rootfs / "guest", ["allcalls"])
    bundle = write_bundle(scratch / "bundle", rootfs, Process(["/guest/allcalls", *args]))
    command = [str(PYSC), "--root", str(scratch / "state"), "run", "--bundle", str(bundle)]
    return guest.output_of([*command, f"allcalls-{uuid.uuid4().hex[:8]}"], {})


def answers(output: str, way: str) -> dict[int, str]:
    """What came back for each number: "= RESULT", "killed SIGNAL", "exited N" or "hung 0"."""
    return {int(number): what for number, what in re.findall(rf"^{way} (\d+) (.*)$", output, re.MULTILINE)}


@pytest.fixture(scope="module")
def sandboxed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, set[int]]:
    """What the program printed in the sandbox, and which of its calls the host saw."""
    scratch = tmp_path_factory.mktemp("allcalls")
    try:
        with tracing() as trace:
            output = run_sandboxed(scratch)
            return output, marked(trace)
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


def test_the_host_sees_no_call_of_the_sandbox(sandboxed: tuple[str, set[int]]) -> None:
    output, seen = sandboxed
    assert answers(output, "syscall").keys() == set(NUMBERS), output[-2000:]
    assert seen == set()


def test_no_call_meets_the_hosts_filter(sandboxed: tuple[str, set[int]]) -> None:
    output, _ = sandboxed
    assert f"killed {SIGSYS}" not in output


@pytest.mark.parametrize("way", ["int80", "x32"])
def test_other_tables_are_not_there(sandboxed: tuple[str, set[int]], way: str) -> None:
    found = answers(sandboxed[0], way)
    assert found.keys() == set(NUMBERS), sandboxed[0][-2000:]
    assert {number: what for number, what in found.items() if what != f"= {ENOSYS}"} == {}


def test_identity_is_the_sentrys(sandboxed: tuple[str, set[int]]) -> None:
    """The program is process 1 of its namespace, and the children that make the calls are the next few."""
    found = answers(sandboxed[0], "syscall")
    assert found[GETPPID] == "= 1"
    for number in (GETPID, GETTID):
        assert 2 <= int(found[number].removeprefix("= ")) < 40


def test_effects_stay_inside(tmp_path: Path) -> None:
    name = f"pysc-effect-{uuid.uuid4().hex[:8]}"
    output = run_sandboxed(tmp_path, "--effects", name)
    assert "getpid 1\n" in output, output
    assert subprocess.run(["hostname"], capture_output=True, text=True).stdout.strip() != name
    assert not Path("/", name).exists()
    assert not Path("/dev/shm", name).exists()
    assert name not in Path("/proc/mounts").read_text()
    assert name not in Path("/proc/keys").read_text()
    assert str(MARK) not in Path("/proc/sysvipc/shm").read_text()
