"""A container that starts thousands of processes leaves its sandbox as it was: descriptors, memory, host processes."""

from __future__ import annotations

import os
import subprocess
import time
from typing import NamedTuple

import pytest

from tests.integration.daemon import until
from tests.integration.host import Host
from tests.integration.stubs import resident_kib, stubs_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("leaks")]

# Each turn is two host processes: a fork that execs, and one that does not.
SCRIPT = """
run() { i=0; while [ $i -lt $1 ]; do /bin/true; (exit 3); i=$((i+1)); done; echo "$1"; read x; }
run 20; run %d; run %d
"""
GROWTH_KIB = 4096  # what is kept for reuse, and garbage that is not due yet


class Sample(NamedTuple):
    descriptors: int
    stubs: int
    resident_kib: int


def sample(sentry: int) -> Sample:
    """Of a container that waits."""
    until(lambda: len(stubs_of(sentry)) <= 2)  # those that have just ended are reaped soon
    return Sample(settled_descriptors(sentry), len(stubs_of(sentry)), resident_kib(sentry))


def settled_descriptors(sentry: int) -> int:
    """The fewest of some looks: what has just ended may still have its own."""
    seen = []
    for _ in range(10):
        seen.append(len(os.listdir(f"/proc/{sentry}/fd")))
        time.sleep(0.02)
    return min(seen)


def samples(host: Host, first: int, last: int) -> list[Sample]:
    """After a few turns, after `first` and after `last` of them."""
    name = host.name()
    command = host.tracked("run", "--bundle", host.bundle("sh", "-c", SCRIPT % (first, last - first)), name)
    taken: list[Sample] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            while process.stdout.readline():
                taken.append(sample(host.sentry(name)))
                process.stdin.write("\n")
                process.stdin.flush()
            assert process.wait(60) == 0
        finally:
            process.kill()
    print(host.platform, *taken, sep="\n")
    return taken


def assert_no_growth(taken: list[Sample]) -> None:
    few, first, last = taken
    assert (few.descriptors, few.stubs) == (first.descriptors, first.stubs) == (last.descriptors, last.stubs)
    assert last.resident_kib <= first.resident_kib + GROWTH_KIB


@pytest.mark.parametrize("platform", ["systrap", "ptrace"])
def test_processes_come_and_go(host: Host, platform: str) -> None:
    host.platform = platform
    assert_no_growth(samples(host, 100, 600))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_thousand_processes_come_and_go(host: Host) -> None:
    host.platform = "systrap"
    assert_no_growth(samples(host, 1000, 10000))
