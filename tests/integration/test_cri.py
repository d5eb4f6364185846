"""Pods as the kubelet makes them, through containerd's CRI service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cri import NAMESPACE, CriDaemon, cri_daemon
from tests.integration.daemon import command_line, until
from tests.integration.stubs import platform_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

HANDLER = os.environ.get("PYSC_TEST_HANDLER", "pysc")
"""runc's name here shows whether a test is right."""


@pytest.fixture(scope="module")
def cri() -> Iterator[CriDaemon]:
    with cri_daemon() as daemon:
        yield daemon


@pytest.fixture
def pod(cri: CriDaemon) -> Iterator[str]:
    """A pod named "pod"; afterwards it must be gone without a trace."""
    pod = cri.run_pod("pod", HANDLER)
    try:
        yield pod
    finally:
        cri.remove_pod(pod)
    assert until(lambda: not cri.left_behind()), cri.left_behind()
    assert not Path("/run/pysc-shim", NAMESPACE, pod).exists()


def shims(cri: CriDaemon) -> list[str]:
    return [line for line in map(command_line, cri.processes()) if "containerd-shim-" in line and " -id " in line]


def test_containers_of_a_pod(cri: CriDaemon, pod: str) -> None:
    containers = [cri.run_container(pod, "pod", f"c{n}", "sh", "-c", f"echo started {n}; sleep 1000") for n in (1, 2)]
    assert len(shims(cri)) == 1
    for n, container in enumerate(containers, 1):
        assert cri.is_running(container)
        assert until(lambda n=n: f"stdout F started {n}\n" in cri.log_of(f"c{n}"))  # type: ignore[misc]
        result = cri.exec_sync(container, "sh", "-c", "echo out; echo err >&2; exit 3")
        assert result == (b"out\n", b"err\n", 3)
        assert cri.memory_of(container) > 0
    for container in containers:
        cri.remove_container(container)
    assert len(shims(cri)) == 1


def test_container_that_ends_by_itself(cri: CriDaemon, pod: str) -> None:
    container = cri.run_container(pod, "pod", "c1", "sh", "-c", "echo done; exit 7")
    assert until(lambda: not cri.is_running(container))
    assert cri.exit_code_of(container) == 7
    assert "stdout F done\n" in cri.log_of("c1")
    again = cri.run_container(pod, "pod", "c2", "sleep", "1000")
    assert cri.is_running(again)
    for each in (container, again):
        cri.remove_container(each)


def test_hostname_of_a_pod_on_the_hosts_network(cri: CriDaemon, pod: str) -> None:
    container = cri.run_container(pod, "pod", "c1", "sleep", "1000")
    assert cri.exec_sync(container, "hostname").stdout.decode().strip() == os.uname().nodename
    cri.remove_container(container)


@pytest.mark.skipif(HANDLER != "pysc", reason="it is pysc's annotation")
def test_annotation_of_a_pod_chooses_the_platform(cri: CriDaemon) -> None:
    pod = cri.run_pod("chosen", HANDLER, {"dev.pysc.platform": "ptrace"})
    try:
        container = cri.run_container(pod, "chosen", "c1", "sleep", "1000")
        assert (platform_of(cri, pod), platform_of(cri, container)) == ("ptrace", "ptrace")
        cri.remove_container(container)
    finally:
        cri.remove_pod(pod)


def test_a_container_that_storms_leaves_the_others_of_its_pod_answering(cri: CriDaemon, pod: str) -> None:
    """Signals, forks and system calls as fast as it can."""
    storm = "trap : USR1; (while :; do kill -USR1 $$; done) & while :; do (:); cat /proc/self/stat >/dev/null; done"
    stormy = cri.run_container(pod, "pod", "c1", "sh", "-c", storm)
    quiet = cri.run_container(pod, "pod", "c2", "sleep", "1000")
    for _ in range(5):
        assert cri.exec_sync(quiet, "echo", "here") == (b"here\n", b"", 0)
        assert cri.exec_sync(stormy, "echo", "here") == (b"here\n", b"", 0)
    for container in (stormy, quiet):
        cri.remove_container(container)
