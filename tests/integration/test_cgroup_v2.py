"""Limits, figures and the news of memory's end with cgroup v2: their tests, in the machine that has it."""

from __future__ import annotations

import sys

import pytest

from tests.integration.daemon import CGROUPS
from tests.integration.platforms import skip_without_machine
from tests.kvm import machine
from tests.kvm.suite import NO_OTHERS, PYTEST, SLOWNESS
from tests.slowness import VARIABLE

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("kvm-machine")]

SECONDS = 1800
TESTS = (
    "tests/unit/shim/test_oom.py",
    "tests/integration/test_task_figures.py",
    "tests/integration/test_update.py::test_limit_below_what_is_in_use_can_be_refused",
)
NOT_THERE = "not (kvm or ctr)"  # one platform is enough, and containerd would be slow


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.skipif((CGROUPS / "cgroup.controllers").exists(), reason="this host has cgroup v2: they run here anyway")
def test_limits_and_figures_with_cgroup_v2() -> None:
    skip_without_machine()
    output = bytearray()
    plugins = ("-p", "pytest_asyncio.plugin")
    command = [sys.executable, *PYTEST, *plugins, "-q", "-k", NOT_THERE, *TESTS]
    status = machine.run(command, SECONDS, output.extend, {VARIABLE: str(SLOWNESS)} | NO_OTHERS)
    assert status == 0, output.decode(errors="replace")
