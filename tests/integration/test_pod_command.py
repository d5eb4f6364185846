"""Pods as an engine makes them that calls the command (CRI-O, podman, containerd's runc shim), on each platform."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import hostcalls
from tests.integration.daemon import runs, until
from tests.integration.host import Host, assert_one_line
from tests.integration.platforms import SUBJECTS, Subject

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pod-command")]

TYPE, ID = "io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"
KILLED = 137


class Pod:
    """A root container that sleeps, and others that are added to it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.root = host.name()
        self.volume = host.folder / f"volume-{self.root}"
        self.volume.mkdir()
        self._create(self.root, {TYPE: "sandbox", ID: self.root}, "sleep", "1000")
        assert host.pysc("start", self.root).returncode == 0

    def _create(self, name: str, annotations: dict[str, str], *args: str, **linux: Any) -> None:
        bundle = self.host.bundle(*args, annotations=annotations)
        config = json.loads((bundle / "config.json").read_text())
        config["linux"] |= linux
        volume = {"type": "bind", "source": str(self.volume), "destination": "/volume", "options": ["rbind"]}
        config["mounts"].append(volume)
        (bundle / "config.json").write_text(json.dumps(config))
        self.host.background("create", "--pid-file", self.pid_file(name), "--bundle", bundle, name)

    def add(self, *args: str, start: bool = True, **linux: Any) -> str:
        name = self.host.name()
        self._create(name, {TYPE: "container", ID: self.root}, *args, **linux)
        if start:
            assert self.host.pysc("start", name).returncode == 0
        return name

    def sharing_pids_with(self, name: str) -> dict[str, Any]:
        path = f"/proc/{self.pid(name)}/ns/pid"
        return {"namespaces": [{"type": "pid", "path": path}, *({"type": kind} for kind in ("network", "mount"))]}

    def pid_file(self, name: str) -> Path:
        return self.host.folder / f"{name}.pid"

    def pid(self, name: str) -> int:
        return int(self.pid_file(name).read_text())

    def sh(self, name: str, script: str) -> str:
        return self.host.pysc("exec", name, "sh", "-c", script).stdout


@pytest.fixture(params=SUBJECTS, ids=lambda subject: str(subject.name))
def pod(request: pytest.FixtureRequest, host: Host) -> Iterator[Pod]:
    subject: Subject = request.param
    if reason := subject.probe():
        pytest.skip(f"{subject.name}: {reason}")
    host.platform = subject.name
    hostcalls.prctl(hostcalls.PR_SET_CHILD_SUBREAPER, 1)  # as conmon is, to hear of the ends
    try:
        yield Pod(host)
    finally:
        hostcalls.prctl(hostcalls.PR_SET_CHILD_SUBREAPER, 0)
        host.platform = "auto"


def ended(pid: int) -> int:
    """The exit status of a pid from a pid file, whose parent we have become."""
    found: list[int] = []

    def reaped() -> bool:
        pid_found, status = os.waitpid(pid, os.WNOHANG)
        found.append(status)
        return pid_found == pid

    assert until(reaped)
    return os.waitstatus_to_exitcode(found[-1])


def test_life_of_a_pod(pod: Pod) -> None:
    host = pod.host
    first, second = pod.add("sleep", "2000"), pod.add("sh", "-c", "read x </volume/go; exit 6", start=False)
    states = {each["id"]: each for each in json.loads(host.pysc("list", "--format", "json").stdout)}
    assert {name: states[name]["status"] for name in (pod.root, first, second)} == {
        pod.root: "running", first: "running", second: "created",
    }  # fmt: skip
    assert len({states[name]["pid"] for name in states}) == 3
    assert all(states[name]["pid"] == pod.pid(name) for name in states)
    assert pod.sh(first, "tr '\\0' ' ' </proc/1/cmdline") == "sleep 2000 "
    assert "sleep 2000" in host.pysc("ps", first).stdout
    assert "sleep 2000" not in host.pysc("ps", pod.root).stdout

    os.mkfifo(pod.volume / "go")
    assert host.pysc("start", second).returncode == 0
    assert pod.sh(first, "echo >/volume/go; echo went") == "went\n"
    assert ended(pod.pid(second)) == 6
    assert host.status(second) == "stopped"
    assert host.pysc("delete", second).returncode == 0

    assert host.pysc("kill", first, "KILL").returncode == 0
    assert ended(pod.pid(first)) == 137
    assert host.pysc("delete", first).returncode == 0
    assert host.status(pod.root) == "running"


def test_the_pod_ends_with_its_root(pod: Pod) -> None:
    first, second = pod.add("sleep", "2000"), pod.add("sleep", "3000", start=False)
    assert pod.host.pysc("kill", pod.root, "KILL").returncode == 0
    assert [ended(pod.pid(name)) for name in (pod.root, first, second)] == [137] * 3
    assert [pod.host.status(name) for name in (pod.root, first, second)] == ["stopped"] * 3
    for name in (pod.root, second, first):
        assert pod.host.pysc("delete", name).returncode == 0


def test_a_shared_pid_namespace(pod: Pod) -> None:
    target = pod.add("sleep", "2000")
    other = pod.add("sh", "-c", "sleep 4000 & sleep 3000", **pod.sharing_pids_with(target))
    assert pod.sh(other, "tr '\\0' ' ' </proc/1/cmdline") == "sleep 2000 "
    assert until(lambda: runs(pod.sh(target, "ps"), "sleep 4000"))
    assert "sleep 2000" not in pod.host.pysc("ps", other).stdout

    assert pod.host.pysc("kill", other, "KILL").returncode == 0
    assert ended(pod.pid(other)) == 137
    assert until(lambda: "sleep 4000" not in pod.sh(target, "ps"))

    another = pod.add("sleep", "5000", **pod.sharing_pids_with(target))
    assert pod.host.pysc("kill", target, "KILL").returncode == 0
    assert ended(pod.pid(another)) == 137
    assert pod.host.status(pod.root) == "running"


def test_kill_all_reaches_the_containers_processes_only(pod: Pod) -> None:
    script = "trap '' TERM; sleep 2000 & sleep 3000 & wait"
    target = pod.add("sleep", "1500")
    other = pod.add("sh", "-c", script, **pod.sharing_pids_with(target))
    assert until(lambda: runs(shown := pod.sh(target, "ps"), "sleep 2000") and runs(shown, "sleep 3000"))
    assert pod.host.pysc("kill", "--all", other, "KILL").returncode == 0
    assert ended(pod.pid(other)) == 137
    assert "sleep 1500" in pod.sh(target, "ps")


@pytest.mark.parametrize("role", ["gofer", "deputy"])
def test_a_lost_process_ends_its_own_container_only(pod: Pod, role: str) -> None:
    victim, other = pod.add("sleep", "2000"), pod.add("sleep", "3000")
    os.kill(pod.host.process(victim, role), signal.SIGKILL)
    assert ended(pod.pid(victim)) == (-signal.SIGKILL if role == "deputy" else KILLED)
    assert until(lambda: pod.host.status(victim) == "stopped")
    assert pod.sh(other, "echo here") == "here\n"


@pytest.mark.parametrize("role", ["sentry", "gofer", "deputy"])
def test_what_the_pod_lives_by_ends_all(pod: Pod, role: str) -> None:
    other = pod.add("sleep", "2000")
    os.kill(pod.host.process(pod.root, role), signal.SIGKILL)
    # The other's deputy may have been told, or have lost the Sentry.
    assert all(ended(pod.pid(name)) in (KILLED, -signal.SIGKILL) for name in (pod.root, other))
    assert pod.host.status(other) == "stopped"
    assert pod.host.pysc("delete", other).returncode == 0


def test_an_exec_that_is_running_ends_with_its_container(pod: Pod) -> None:
    target = pod.add("sleep", "2000")
    other = pod.add("sleep", "3000", **pod.sharing_pids_with(target))
    command = pod.host.command("exec", other, "sleep", "4000")
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        assert until(lambda: runs(pod.sh(target, "ps"), "sleep 4000"))
        pod.host.pysc("kill", other, "KILL")
        assert running.wait(60) == 137
    finally:
        running.kill()
        running.wait()


def test_a_container_whose_sandbox_is_not_there_is_refused(host: Host) -> None:
    annotations = {TYPE: "container", ID: "nobody"}
    done = host.pysc("create", "--bundle", host.bundle("true", annotations=annotations), host.name())
    assert "the pod's sandbox nobody does not exist" in assert_one_line(done)
