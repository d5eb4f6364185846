"""tests/guest/hammer.c for longer than the guest tests run it, and with the host meddling."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from tests.integration import guest
from tests.integration.daemon import until
from tests.integration.host import Host
from tests.integration.stubs import interference

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("hammer")]

SOAK_SECONDS = 60
END_SECONDS = 60


@pytest.fixture(params=("systrap", "systrap:eager", "ptrace"))
def hammer_host(request: pytest.FixtureRequest, host: Host) -> Iterator[Host]:
    shutil.copy2(guest.build("hammer"), host.rootfs / "hammer")
    host.platform = str(request.param)
    yield host
    host.platform = "auto"


def hammer(host: Host, load: str, seconds: int, meddling: bool = False) -> None:
    """It has to end well; what it counted is shown."""
    name = host.name()
    command = host.tracked("run", "--bundle", host.bundle("/hammer", load, str(seconds)), name)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert until(lambda: host.sentry(name))
        with interference(host.sentry(name)) if meddling else nullcontext():
            output, _ = process.communicate(timeout=seconds + END_SECONDS)
    finally:
        process.kill()
        process.communicate()
    print(f"{host.platform} {load} {seconds}: {output}")
    assert (process.returncode, output.splitlines()[-1:]) == (0, ["ok"])


def test_signals_and_freezers_of_the_host_disturb_nothing(hammer_host: Host) -> None:
    hammer(hammer_host, "--signals", 3, meddling=True)


@pytest.mark.soak
@pytest.mark.parametrize("load", ["--plain", "--signals"])
def test_a_minute(hammer_host: Host, load: str) -> None:
    hammer(hammer_host, load, SOAK_SECONDS)


@pytest.mark.soak
def test_a_minute_with_the_host_meddling(hammer_host: Host) -> None:
    hammer(hammer_host, "--signals", SOAK_SECONDS, meddling=True)
