"""The machine with software SVM: platforms work in it, it says how commands end, and nothing is left of it.

Here it runs a handful of tests, so that it is known to work and that the platform is; make test-kvm runs them all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemon import until
from tests.integration.platforms import SUBJECTS, skip_without_machine
from tests.kvm import machine, suite
from tests.kvm.kernel import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kvm-machine")]

SECONDS = 200
# The platform that the machine is for, as soon as it is among those under test.
PLATFORM = "kvm" if "kvm" in [subject.name for subject in SUBJECTS] else "systrap"
HANDFUL = f"{PLATFORM} and (test_platform.py or (gofer and (pipe or signal)))"


@pytest.fixture(scope="module", autouse=True)
def available() -> None:
    skip_without_machine()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For temporary files; none may be left in it, and no process whose arguments name it."""
    yield tmp_path
    until(lambda: not processes_naming(tmp_path))
    assert processes_naming(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def processes_naming(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.kvm", *words]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(SECONDS + 40)
def test_a_handful_of_tests_passes_in_the_machine() -> None:
    output = bytearray()
    status = suite.run_tests(PLATFORM, ["-k", HANDFUL, "-q"], SECONDS, output.extend)
    assert status == 0, output.decode(errors="replace")


def test_output_and_status_of_a_command_come_out_of_the_machine(folder: Path) -> None:
    process = start(folder, "sh", "-c", "pwd; test -c /dev/kvm && exit 7")
    output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == (f"{ROOT}\n", "", 7)


def test_a_machine_that_dies_is_reported_with_its_console(folder: Path) -> None:
    process = start(folder, "sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 125
    assert "the machine ended before the command did" in errors
    assert "sysrq triggered crash" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_machine_leaves_nothing(folder: Path, number: int) -> None:
    process = start(folder, "sleep", "1000")
    assert until(lambda: any(machine.QEMU in words for words in processes_naming(folder)))
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 128 + number


def test_a_machine_that_takes_too_long_is_ended(folder: Path) -> None:
    process = start(folder, "--seconds", "2", "sleep", "1000")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 125
    assert "no end within 2 s" in errors
