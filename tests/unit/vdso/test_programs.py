"""Programs that nobody prepared find our vDSO by themselves, through AT_SYSINFO_EHDR, and tell its time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sentry.abi.time import NSEC
from sentry.vdso.calibration import Calibration
from tests.unit.vdso.mapped import FILE, Mapped

AHEAD_S = 3_600
CLOSE_S = 60

TELL = r"""
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

int main(void)
{
	struct timespec ts;
	struct timeval tv;

	clock_gettime(CLOCK_REALTIME, &ts);
	gettimeofday(&tv, NULL);
	printf("%ld %ld %ld\n", ts.tv_sec, tv.tv_sec, time(NULL));
	return 0;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has launch, and a program linked in both ways, which tells the time by three functions."""
    made = tmp_path_factory.mktemp("programs")
    (made / "tell.c").write_text(TELL)
    launch = Path(__file__).with_name("launch.c")
    for name, *source in (("launch", launch), ("dynamic", made / "tell.c"), ("static", "-static", made / "tell.c")):
        subprocess.run(["gcc", "-O2", "-Wall", "-o", made / name, *source], check=True)
    return made


def told(folder: Path, mapped: Mapped, *command: str | Path) -> list[int]:
    """The seconds that the program tells, under our vDSO."""
    launch = [folder / "launch", str(mapped.fd), FILE, *command]
    done = subprocess.run(launch, pass_fds=[mapped.fd], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("program", ["dynamic", "static"])
def test_a_c_program_tells_the_pages_time(folder: Path, mapped: Mapped, calibrated: Calibration, program: str) -> None:
    """Which is an hour ahead here, as the kernel's is not."""
    mapped.params.real_ns += AHEAD_S * NSEC
    seconds = told(folder, mapped, folder / program)
    assert len(seconds) == 3
    assert all(abs(told_s - time.time() - AHEAD_S) < CLOSE_S for told_s in seconds)


def test_an_interpreter_tells_the_pages_time(folder: Path, mapped: Mapped, calibrated: Calibration) -> None:
    mapped.params.real_ns += AHEAD_S * NSEC
    interpreter = os.path.realpath(sys.executable)
    (seconds,) = told(folder, mapped, interpreter, "-c", "import time; print(int(time.time()))")
    assert abs(seconds - time.time() - AHEAD_S) < CLOSE_S


def test_a_program_with_an_unusable_page_tells_the_kernels_time(folder: Path, mapped: Mapped) -> None:
    mapped.params.real_ns += AHEAD_S * NSEC
    seconds = told(folder, mapped, folder / "static")
    assert len(seconds) == 3
    assert all(abs(told_s - time.time()) < CLOSE_S for told_s in seconds)
