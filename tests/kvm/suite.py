"""python -m tests.kvm.suite [--seconds N] [PLATFORM [PYTEST WORD...]]

Runs the platform's conformance tests and the guest tests in the machine, for one platform, kvm if none is named, and
ends with pytest's status. The words narrow it down, for instance -k "kvm and not tmpfs".
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.integration import guest
from tests.kvm.command import finish, to_stdout
from tests.kvm.kernel import CACHE, ROOT, Unavailable
from tests.kvm.machine import run
from tests.slowness import VARIABLE

OFFER = CACHE / "offer"
SOURCE = ROOT / "tests" / "kvm" / "offer.c"
SLOWNESS = 8  # of Python in the machine, beside this host, if nobody else wants its processors
CROWDED = 8  # times as much at most, if others do
TIMEOUT_SECONDS = 240
# Plugins are named, because loading all that are installed takes longer than most tests; the settings of those that are
# left out are then unknown.
PYTEST = (
    *("-m", "pytest", "-p", "pytest_timeout", "-p", "xdist.plugin", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestConfigWarning", "--color=no"),
)
NO_OTHERS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
# First what the machine is for: without it there is nothing to test.
FIRST_THE_OFFER = f'{OFFER} | grep "^guest\\|_EXIT" && exec "$@"'


def test_files() -> list[str]:
    """What a platform must do; which one is chosen is seen without a machine."""
    folder = ROOT / "tests" / "integration"
    names = ("test_guest", "test_wall", "test_kvm_timing", "test_kvm_memory_pressure")
    files = {*folder.glob("test_platform*.py"), *(folder / f"{name}.py" for name in names)}
    files -= {folder / "test_platform_choice.py"}
    return [str(path.relative_to(ROOT)) for path in sorted(files)]


def slowness() -> int:
    """How many times slower than usual the machine is going to be, as busy as this host is now."""
    crowd = round(os.getloadavg()[0] / (os.cpu_count() or 1))
    return SLOWNESS * min(max(crowd, 1), CROWDED)


def run_tests(platform: str, words: Sequence[str], seconds: float, output: Callable[[bytes], object]) -> int:
    """pytest's status; the words come last, so that another -k replaces the one for the platform."""
    prepare()
    factor = slowness()
    pytest = [sys.executable, *PYTEST, f"--timeout={TIMEOUT_SECONDS * factor}", "-k", platform, *test_files(), *words]
    environment = {VARIABLE: str(factor)} | NO_OTHERS
    return run(["sh", "-c", FIRST_THE_OFFER, "tests", *pytest], seconds, output, environment)


def prepare() -> None:
    """Here and not in the machine, which takes ten times as long and forgets it: programs and Python's bytecode."""
    if shutil.which("gcc") is None:
        raise Unavailable("there is no gcc here: apt-get install gcc libc6-dev")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        built = Path(folder) / OFFER.name
        subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-o", built, SOURCE], check=True)
        built.rename(OFFER)
    for name in ["runner", *guest.PROGRAMS]:
        guest.build(name)
    environment = os.environ | NO_OTHERS
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    compiler = [sys.executable, "-m", "compileall", "-q", "-x", r"/\.|/build/", str(ROOT)]
    collector = [sys.executable, *PYTEST, "--collect-only", "-qq", *test_files()]  # compiles tests in pytest's own way
    for command in (compiler, collector):
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kvm.suite", description="Tests a platform in the machine.")
    parser.add_argument("--seconds", type=float, default=3600, help="time limit for all of it (default: 3600)")
    parser.add_argument("platform", nargs="?", default="kvm")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="for pytest")
    arguments = parser.parse_args()
    action = functools.partial(run_tests, arguments.platform, arguments.words, arguments.seconds, to_stdout)
    return finish(action)


if __name__ == "__main__":
    sys.exit(main())
