"""pysc debug profile of a sandbox that works, that sleeps, and that is profiled already."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.host import Host, assert_one_line

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("command")]

BUSY = "while :; do test -e /etc/passwd; done"


@pytest.fixture
def busy(host: Host) -> Iterator[str]:
    """The name of a container that makes system calls without end."""
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle("sh", "-c", BUSY), name)
    yield name
    host.pysc("delete", "--force", name)


def test_profile_names_functions_and_calls(host: Host, busy: str) -> None:
    stacks = host.folder / "stacks"

    done = host.pysc("debug", "profile", "--seconds", "1", "--output", stacks, busy)

    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ +\d+\.\d +\d+\.\d +(newfstatat|stat|statx)$", done.stdout, re.MULTILINE), done.stdout
    assert "sentry.wait:Loop.run" in done.stdout
    assert re.fullmatch(r"[^ ;]+(;[^ ;]+)* \d+", stacks.read_text().splitlines()[0])
    assert host.status(busy) == "running"
    assert "sentry.wait" in host.pysc("debug", "profile", "--seconds", "1", busy).stdout


def test_profile_of_a_sleeper_is_empty_and_wakes_nobody(host: Host) -> None:
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle("sleep", "1000"), name)

    done = host.pysc("debug", "profile", "--seconds", "1", name)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) <= 2
    assert "SYSTEM CALL" not in done.stdout
    assert host.status(name) == "running"


def test_one_profile_at_a_time(host: Host, busy: str) -> None:
    command = host.command("debug", "profile", "--seconds", "5", busy)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    answers = sorted((process.communicate(timeout=60), process.returncode) for process in both)

    (refused, status), (measured, _) = answers  # in the order of what they printed
    assert (refused[0], status) == ("", 1)
    assert "profiled already" in refused[1]
    assert "samples of the Sentry" in measured[0]


@pytest.mark.parametrize(
    ("words", "status"), [(("profile", "no-such"), 1), (("other", "x"), 2), (("profile",), 2), ((), 2)]
)
def test_wrong_usage(host: Host, words: tuple[str, ...], status: int) -> None:
    assert_one_line(host.pysc("debug", *words), status)
