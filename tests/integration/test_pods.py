"""Containers of a pod share one sandbox, and in it what they share on Linux; the rest is each one's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from tests.integration.cri import NAMESPACE, NODE_PID, POD_PID, TARGET_PID, Asked, CriDaemon, cri_daemon
from tests.integration.daemon import command_line, until
from tests.integration.guest import build

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

HANDLER = os.environ.get("PYSC_TEST_HANDLER", "pysc")
"""runc's name here shows whether a test is right."""
SHIM = Path(sys.executable).parent / "containerd-shim-pysc-v1"
UNKNOWN = 255
"""The exit code that the CRI plugin notes when the shim's connection broke during its Wait."""
ours = pytest.mark.skipif(HANDLER != "pysc", reason="about processes of ours")


@pytest.fixture(scope="module")
def cri() -> Iterator[CriDaemon]:
    with cri_daemon() as daemon:
        yield daemon


class Pod:
    """A pod, and what it has."""

    def __init__(self, cri: CriDaemon) -> None:
        self.cri = cri
        self.name = "pod"
        self.id = cri.run_pod(self.name, HANDLER)
        self.volume = Path(tempfile.mkdtemp(prefix="volume-"))
        shutil.copy(build("volume"), self.volume / "volume")
        self.containers: list[str] = []
        self.ids = [self.id]

    def run(self, name: str, *command: str, asked: Asked | None = None) -> str:
        container = self.cri.run_container(self.id, self.name, name, *command, asked=asked or self.with_volume())
        self.containers.append(container)
        self.ids.append(container)
        return container

    def sleeper(self, name: str, asked: Asked | None = None) -> str:
        return self.run(name, "sleep", "1000", asked=asked)

    def with_volume(self, *, readonly: bool = False, pid_mode: int = 1, target: str = "") -> Asked:
        return Asked([(str(self.volume), "/volume", readonly)], pid_mode, target)

    def sh(self, container: str, script: str) -> str:
        """What it prints, errors too."""
        done = self.cri.exec_sync(container, "sh", "-c", f"exec 2>&1; {script}")
        return done.stdout.decode()

    def remove(self, container: str) -> None:
        self.containers.remove(container)
        self.cri.remove_container(container)

    def close(self) -> None:
        for container in list(self.containers):
            self.remove(container)
        self.cri.remove_pod(self.id)
        shutil.rmtree(self.volume)


@pytest.fixture
def pod(cri: CriDaemon) -> Iterator[Pod]:
    """Afterwards it must be gone without a trace."""
    pod = Pod(cri)
    try:
        yield pod
    finally:
        pod.close()
    assert until(lambda: not cri.left_behind()), cri.left_behind()
    assert not [each for each in pod.ids if Path("/run/pysc-shim", NAMESPACE, each).exists()]


def processes(cri: CriDaemon, role: str) -> list[int]:
    return [pid for pid in cri.processes() if f"sandbox.stage {role} " in command_line(pid)]


def host_pid(container: str) -> int:
    record = json.loads(Path("/run/pysc-shim", NAMESPACE, container, "state.json").read_text())
    which = record["sentry"] if record["id"] == record["sandbox"] else record["container"]["gofer"]
    return int(which[0])


@ours
def test_a_pod_has_one_sentry_and_a_gofer_for_each_container(cri: CriDaemon, pod: Pod) -> None:
    containers = [pod.sleeper(f"c{n}") for n in range(3)]
    assert len(processes(cri, "sentry")) == 1
    assert len(processes(cri, "gofer")) == 4
    pids = {host_pid(each) for each in [pod.id, *containers]}
    assert len(pids) == 4 and all(Path(f"/proc/{pid}").exists() for pid in pids)


def test_containers_are_made_at_the_same_time(pod: Pod) -> None:
    with ThreadPoolExecutor() as pool:
        containers = list(pool.map(pod.sleeper, [f"c{n}" for n in range(6)]))
    assert [pod.sh(each, "echo here") for each in containers] == ["here\n"] * 6


def test_each_container_ends_and_is_restarted_and_removed_on_its_own(pod: Pod) -> None:
    first, second, third = (pod.sleeper(f"c{n}") for n in range(3))
    pod.cri.stop_container(first)
    assert pod.cri.exit_code_of(first) == 137
    assert pod.sh(second, "echo here") == "here\n"
    pod.remove(first)
    again = pod.run("c0", "sh", "-c", "exit 9")
    assert until(lambda: not pod.cri.is_running(again))
    assert pod.cri.exit_code_of(again) == 9
    pod.remove(second)
    assert pod.sh(third, "echo here") == "here\n"
    assert "here\n" in pod.sh(pod.sleeper("c4"), "echo here")


def test_containers_see_only_their_own_processes(pod: Pod) -> None:
    first, second = pod.sleeper("c1"), pod.run("c2", "sleep", "2000")
    assert pod.sh(first, "cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 1000 "
    assert pod.sh(second, "cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 2000 "
    assert "sleep 2000" not in pod.sh(first, "ps")
    assert pod.sh(first, "readlink /proc/self/ns/pid") != pod.sh(second, "readlink /proc/self/ns/pid")


def test_network_uts_and_ipc_namespaces_are_the_pods(pod: Pod) -> None:
    first, second = pod.sleeper("c1"), pod.sleeper("c2")
    names = "cd /proc/self/ns; readlink net uts ipc"
    assert pod.sh(first, names) == pod.sh(second, names)
    assert pod.sh(first, "readlink /proc/self/ns/mnt") != pod.sh(second, "readlink /proc/self/ns/mnt")


def test_a_shared_pid_namespace(pod: Pod) -> None:
    """Its init is the sandbox's; a container's first process takes its own along, and nobody else."""
    first = pod.sleeper("c1", pod.with_volume(pid_mode=POD_PID))
    second = pod.run("c2", "sh", "-c", "sleep 2000 & sleep 3000 & wait", asked=pod.with_volume(pid_mode=POD_PID))
    assert pod.sh(first, "tr '\\0' ' ' </proc/1/cmdline") == "sleep 1000000 "
    assert pod.sh(first, "readlink /proc/self/ns/pid") == pod.sh(second, "readlink /proc/self/ns/pid")
    assert until(lambda: "sleep 3000" in pod.sh(first, "ps"))
    assert "sleep 2000" in pod.sh(first, "ps")
    if HANDLER == "pysc":
        listed = pod.cri.ctr("--namespace", NAMESPACE, "task", "ps", second).stdout.splitlines()[1:]
        assert len(listed) == 3, listed

    pod.cri.stop_container(second)

    assert "sleep 2000" not in pod.sh(first, "ps") and "sleep 3000" not in pod.sh(first, "ps")
    assert pod.sh(first, "echo here") == "here\n"


def test_processes_of_a_shared_pid_namespace_signal_each_other(pod: Pod) -> None:
    shared = pod.with_volume(pid_mode=POD_PID)
    first = pod.sleeper("c1", shared)
    script = "trap 'exit 5' TERM; echo $$ >/volume/pid; while :; do sleep 0.1; done"
    second = pod.run("c2", "sh", "-c", script, asked=shared)
    assert until(lambda: (pod.volume / "pid").exists() and (pod.volume / "pid").read_text().strip())
    assert int((pod.volume / "pid").read_text()) > 1
    pod.sh(first, "kill -TERM $(cat /volume/pid)")
    assert until(lambda: not pod.cri.is_running(second))
    assert pod.cri.exit_code_of(second) == 5
    assert pod.cri.is_running(first)


def test_the_pid_namespace_of_another_container(pod: Pod) -> None:
    """As an ephemeral container for debugging has it."""
    first, second = pod.run("c1", "sleep", "2000"), pod.run("c2", "sleep", "3000")
    debugger = pod.sleeper("debug", pod.with_volume(pid_mode=TARGET_PID, target=first))
    assert pod.sh(debugger, "tr '\\0' ' ' </proc/1/cmdline") == "sleep 2000 "
    assert "sleep 3000" not in pod.sh(debugger, "ps")

    pod.cri.stop_container(first)  # init of the namespace

    assert until(lambda: not pod.cri.is_running(debugger))
    assert pod.cri.exit_code_of(debugger) == 137
    assert pod.cri.is_running(second)


def test_the_nodes_pid_namespace_is_the_sandboxs(pod: Pod) -> None:
    """Nothing of the host is seen."""
    container = pod.sleeper("c1", pod.with_volume(pid_mode=NODE_PID))
    if HANDLER == "pysc":
        assert pod.sh(container, "tr '\\0' ' ' </proc/1/cmdline") == "sleep 1000000 "


def test_a_file_of_a_volume_is_one_file(pod: Pod) -> None:
    writer = pod.sleeper("c1")
    reader = pod.sleeper("c2", pod.with_volume(readonly=True))
    pod.sh(writer, "echo one >/volume/file")
    assert pod.sh(reader, "cat /volume/file") == "one\n"
    pod.sh(writer, "echo two >>/volume/file; mkdir /volume/folder; mv /volume/file /volume/folder/other")
    assert pod.sh(reader, "cat /volume/folder/other; ls /volume/folder") == "one\ntwo\nother\n"
    assert "Read-only file system" in pod.sh(reader, "echo three >/volume/folder/other")
    assert pod.sh(writer, "stat -c '%d %i' /volume/folder/other") == pod.sh(
        reader, "stat -c '%d %i' /volume/folder/other"
    )


def cgroups_of(container: str) -> list[Path]:
    record = json.loads(Path("/run/pysc-shim", NAMESPACE, container, "state.json").read_text())
    return [Path(path) for path in record["container"]["cgroup"]["directories"]]


def log_of(pod: Pod, name: str) -> str:
    return pod.cri.log_of(name) if (pod.cri.folder / "logs" / f"{name}.log").exists() else ""


def test_locks_on_a_volume_exclude_other_containers(pod: Pod) -> None:
    holder = pod.run("holder", "/volume/volume", "hold", "/volume/lock")
    assert until(lambda: "held" in log_of(pod, "holder"))
    other = pod.sleeper("c2")
    assert pod.sh(other, "/volume/volume try /volume/lock") == "flock held\nposix held\nofd held\nother free\n"
    assert "flock free" in pod.sh(other, "/volume/volume try /volume/another")
    pod.cri.stop_container(holder)
    assert "held" not in pod.sh(other, "/volume/volume try /volume/lock")


def test_sockets_in_a_volume_are_reached_from_other_containers(pod: Pod) -> None:
    pod.run("server", "/volume/volume", "serve", "/volume/socket")
    assert until(lambda: "serving" in log_of(pod, "server"))
    other = pod.sleeper("c2")
    assert pod.sh(other, "/volume/volume call /volume/socket hello") == "hellohello\n"
    assert "Connection refused" in pod.sh(other, "/volume/volume call /volume/socket hello")


def test_fifos_in_a_volume_connect_containers(pod: Pod) -> None:
    os.mkfifo(pod.volume / "fifo")
    pod.run("reader", "sh", "-c", "cat /volume/fifo; echo end")
    writer = pod.sleeper("c2")
    assert pod.sh(writer, "echo through >/volume/fifo") == ""
    assert until(lambda: "stdout F end\n" in log_of(pod, "reader"))
    assert "stdout F through\n" in log_of(pod, "reader")


@pytest.mark.parametrize("folder", ["/volume", "/dev/shm"])
def test_shared_mappings_of_two_containers_are_one_memory(pod: Pod, folder: str) -> None:
    """Futexes in it, too."""
    pod.run("waiter", "/volume/volume", "wait", f"{folder}/word")
    assert until(lambda: "waiting" in log_of(pod, "waiter"))
    pod.sh(pod.sleeper("c2"), f"/volume/volume wake {folder}/word")
    assert until(lambda: "word 7" in log_of(pod, "waiter"))


def test_a_container_sees_limits_of_its_own(pod: Pod) -> None:
    if HANDLER != "pysc":
        pytest.skip("runc shows the host's")
    limited = pod.sleeper("c1", Asked(memory=64 << 20, cpu_quota=100_000))
    free = pod.sleeper("c2", Asked())
    assert pod.sh(limited, "grep MemTotal /proc/meminfo; nproc; grep -c ^processor /proc/cpuinfo").split() == [
        "MemTotal:", "65536", "kB", "1", "1",
    ]  # fmt: skip
    assert pod.sh(free, "nproc").strip() == str(len(os.sched_getaffinity(0)))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    assert pod.sh(free, "grep MemTotal /proc/meminfo").split()[1] == str(total)


def test_files_in_memory_count_against_their_containers_limit(pod: Pod) -> None:
    if HANDLER != "pysc":
        pytest.skip("runc kills who writes")
    limited, free = pod.sleeper("c1", Asked(memory=32 << 20)), pod.sleeper("c2", Asked())
    fill = "rm -f /dev/file; dd if=/dev/zero of=/dev/file bs=1M count="
    assert "48+0 records out" in pod.sh(free, fill + "48")
    assert "No space left" in pod.sh(limited, fill + "48")
    assert "16+0 records out" in pod.sh(limited, fill + "16")


def test_a_container_out_of_memory_ends_alone(pod: Pod) -> None:
    double = "BEGIN { x = 1; while (1) x = x x }"
    hungry = pod.run("c1", "awk", double, asked=Asked(memory=48 << 20))
    other = pod.sleeper("c2")
    assert until(lambda: not pod.cri.is_running(hungry), 30)
    assert pod.cri.exit_code_of(hungry) == 137
    assert pod.sh(other, "echo here") == "here\n"


@ours
def test_what_the_host_kills_first_is_each_containers_own(pod: Pod) -> None:
    scores = {}
    for score in (300, 700):
        container = pod.sleeper(f"c{score}", Asked(oom_score_adj=score))
        procs = [path / "cgroup.procs" for path in cgroups_of(container)]
        pids = {pid for path in procs for pid in path.read_text().split()}
        scores[score] = {int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in pids}
    assert scores == {300: {300}, 700: {700}}


@ours
def test_a_lost_gofer_ends_its_own_container_only(cri: CriDaemon, pod: Pod) -> None:
    victim, other = pod.sleeper("c1"), pod.sleeper("c2")
    os.kill(host_pid(victim), signal.SIGKILL)
    assert until(lambda: not cri.is_running(victim))
    assert cri.exit_code_of(victim) == 137
    assert pod.sh(other, "echo here") == "here\n"
    pod.remove(victim)
    assert pod.sh(pod.sleeper("c3"), "echo here") == "here\n"


@ours
def test_with_the_sentry_all_containers_end(cri: CriDaemon, pod: Pod) -> None:
    containers = [pod.sleeper(f"c{n}") for n in range(3)]
    os.kill(host_pid(pod.id), signal.SIGKILL)
    assert until(lambda: not any(map(cri.is_running, containers)))
    assert [cri.exit_code_of(each) for each in containers] == [137] * 3
    assert until(lambda: not processes(cri, "gofer"))


@ours
def test_with_the_sandbox_container_all_others_end(cri: CriDaemon, pod: Pod) -> None:
    containers = [pod.sleeper("c1"), pod.sleeper("c2", pod.with_volume(pid_mode=POD_PID))]
    cri.ctr("--namespace", NAMESPACE, "task", "kill", "-s", "KILL", pod.id)
    assert until(lambda: not any(map(cri.is_running, containers)))
    assert [cri.exit_code_of(each) for each in containers] == [137] * 2


@ours
def test_with_the_shim_all_containers_end(cri: CriDaemon, pod: Pod) -> None:
    containers = [pod.sleeper(f"c{n}") for n in range(3)]
    os.kill(shim_of(cri), signal.SIGKILL)
    assert until(lambda: not any(map(cri.is_running, containers)))
    assert {cri.exit_code_of(each) for each in containers} <= {137, UNKNOWN}
    assert until(lambda: not processes(cri, "gofer") and not processes(cri, "sentry"))


@ours
def test_the_delete_action_is_for_one_container(cri: CriDaemon, pod: Pod) -> None:
    """Even while it runs, as after a shim was thought dead."""
    victim, other = pod.sleeper("c1"), pod.sleeper("c2", pod.with_volume(pid_mode=POD_PID))
    bundle = cri.folder / "state" / "io.containerd.runtime.v2.task" / NAMESPACE / victim
    command = [str(SHIM), "-namespace", NAMESPACE, "-address", f"{cri.folder}/containerd.sock", "-id", victim]
    for _ in range(2):
        done = subprocess.run([*command, "-bundle", str(bundle), "delete"], cwd=bundle, capture_output=True, timeout=5)
        assert (done.returncode, done.stderr) == (0, b"")
    assert until(lambda: not cri.is_running(victim))
    assert cri.exit_code_of(victim) == 137
    assert pod.sh(other, "echo here") == "here\n"
    assert cri.is_running(other)


def test_a_restart_of_containerd_keeps_the_pod(cri: CriDaemon, pod: Pod) -> None:
    os.mkfifo(pod.volume / "fifo")
    first, second = pod.sleeper("c1"), pod.run("c2", "sh", "-c", "cat /volume/fifo; exit 8")
    cri.restart()
    assert until(lambda: answers(pod, first), 30)
    pod.sh(first, "echo >/volume/fifo")
    pod.cri.stop_container(first)
    assert pod.cri.exit_code_of(first) == 137
    third = pod.sleeper("c3")
    assert pod.sh(third, "echo here") == "here\n"
    assert until(lambda: not cri.is_running(second))
    assert cri.exit_code_of(second) == 8


def answers(pod: Pod, container: str) -> bool:
    try:
        return pod.sh(container, "echo here") == "here\n"
    except grpc.RpcError:
        return False


def shim_of(cri: CriDaemon) -> int:
    found = [pid for pid in cri.processes() if re.search(r"containerd-shim-pysc.* -id ", command_line(pid))]
    assert len(found) == 1
    return found[0]
