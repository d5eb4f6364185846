"""python -m tests.kvm.suite [--seconds N] [PLATFORM [PYTEST WORD...]]

Runs the platform's conformance tests and the guest tests in the machine, for one platform, kvm if none is named, and
ends with pytest's status. The words narrow it down, for instance -k "kvm and not tmpfs".
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from tests.integration import guest
from tests.kvm.kernel import CACHE, ROOT, Unavailable
from tests.kvm.machine import Failed, run
from tests.slowness import VARIABLE

OFFER = CACHE / "offer"
SOURCE = ROOT / "tests" / "kvm" / "offer.c"
SLOWNESS = 8  # of Python in the machine, beside this host
TIMEOUT_SECONDS = 240 * SLOWNESS
# Plugins are named, because loading all that are installed takes longer than most tests; the settings of those that are
# left out are then unknown.
PYTEST = (
    *("-m", "pytest", "-p", "pytest_timeout", "-p", "xdist.plugin", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestConfigWarning", "--color=no", f"--timeout={TIMEOUT_SECONDS}"),
)
NO_OTHERS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
# First what the machine is for: without it there is nothing to test.
FIRST_THE_OFFER = f'{OFFER} | grep "^guest\\|_EXIT" && exec "$@"'


def test_files() -> list[str]:
    folder = ROOT / "tests" / "integration"
    return [str(path.relative_to(ROOT)) for path in [*sorted(folder.glob("test_platform*.py")), folder / "test_guest.py"]]


def run_tests(platform: str, words: Sequence[str], seconds: float, output: Callable[[bytes], object]) -> int:
    """pytest's status; the words come last, so that another -k replaces the one for the platform."""
    prepare()
    pytest = [sys.executable, *PYTEST, "-k", platform, *test_files(), *words]
    environment = {VARIABLE: str(SLOWNESS)} | NO_OTHERS
    return run(["sh", "-c", FIRST_THE_OFFER, "tests", *pytest], seconds, output, environment)


def prepare() -> None:
    """Here and not in the machine, which takes ten times as long and forgets it: programs and Python's bytecode."""
    if shutil.which("gcc") is None:
        raise Unavailable("there is no gcc here: apt-get install gcc libc6-dev")
    OFFER.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-o", OFFER, SOURCE], check=True)
    for name in ["runner", *guest.PROGRAMS]:
        guest.build(name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | NO_OTHERS
    compiler = [sys.executable, "-m", "compileall", "-q", "-x", r"/\.|/build/", str(ROOT)]
    collection = [sys.executable, *PYTEST, "--collect-only", "-qq", *test_files()]  # pytest compiles tests in its own way
    for command in (compiler, collection):
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kvm.suite", description="Tests a platform in the machine.")
    parser.add_argument("--seconds", type=float, default=3600, help="time limit for all of it (default: 3600)")
    parser.add_argument("platform", nargs="?", default="kvm")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="for pytest")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that everything is cleared up
    try:
        return run_tests(arguments.platform, arguments.words, arguments.seconds, lambda chunk: os.write(1, chunk))
    except (Unavailable, Failed) as e:
        print(f"kvm machine: {e}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
