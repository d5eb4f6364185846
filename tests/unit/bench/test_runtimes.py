"""How runtimes are named and called, and how a command of one is brought to its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench.ground import finish
from bench.memory import part_of, pss_kib
from bench.runtimes import Runtime, candidates, our_platforms
from bench.table import NATIVE, OURS


def test_native_comes_first_and_every_platform_of_ours_is_known():
    names = [candidate.name for candidate in candidates([])]
    assert names[0] == NATIVE
    working = [f"{OURS}{name}" for name, reason in our_platforms().items() if not reason]
    assert [name for name in names if name.startswith(OURS)] == working


def test_another_runsc_comes_before_that_of_the_path():
    programs = [candidate.program for candidate in candidates(["/opt/runsc"]) if candidate.name == "runsc-ptrace"]
    assert programs[0] == "/opt/runsc"


def test_global_flags_come_before_the_state_and_the_command():
    runtime = Runtime("runsc-ptrace", ("runsc", "--platform=ptrace"))
    assert runtime.call(Path("/state"), "run", "id") == ["runsc", "--platform=ptrace", "--root", "/state", "run", "id"]


@pytest.mark.slow
def test_a_command_that_does_not_end_is_killed_with_its_children():
    outcome = finish(["sh", "-c", "sleep 100 & echo $!; wait"], seconds=3)
    assert (outcome.status, outcome.reason()) == (None, "no end within its time")
    assert outcome.seconds < 50
    deadline = time.monotonic() + 60
    while state_of(int(outcome.output)) not in ("Z", "gone"):  # a signal is not its effect yet
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state_of(pid: int) -> str:
    """A killed child of a killed shell may wait for init to bury it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_this_process_takes_memory_and_is_no_part_of_a_sandbox():
    assert pss_kib(os.getpid()) > 1000
    assert part_of(os.getpid()) == "stubs"
