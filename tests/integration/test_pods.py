"""Containers of a pod share one sandbox, and in it what they share on Linux; the rest is each one's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from tests.integration.cri import NAMESPACE, CriDaemon, cri_daemon
from tests.integration.daemon import command_line, processes_in, runs, until
from tests.integration.guest import build
from tests.integration.kubelet import pods as kubelet
from tests.integration.kubelet import runtime_pb2 as api
from tests.integration.kubelet.pods import Container, Kubelet

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


class Pod(kubelet.Pod):
    """A running pod whose containers all have its folder, with a program for volumes in it."""

    def __init__(self, node: Kubelet) -> None:
        super().__init__(node, "pod")
        shutil.copy(build("volume"), self.volume / "volume")
        self.run()
        self.ids = [self.id]

    def begin(
        self, name: str, *command: str, pid: api.NamespaceMode = api.CONTAINER, target: str = "",
        readonly: bool = False, **limits: int,
    ) -> Container:  # fmt: skip
        """A container that runs; `limits` are members of LinuxContainerResources."""
        container = self.container(name, *command).mount(self.volume, "/volume", readonly=readonly)
        container.security.namespace_options.pid = pid
        container.security.namespace_options.target_id = target
        for member, value in limits.items():
            setattr(container.config.linux.resources, member, value)
        self.ids.append(container.start().id)
        return container

    def sleeper(self, name: str, pid: api.NamespaceMode = api.CONTAINER, target: str = "", **limits: int) -> Container:
        return self.begin(name, "sleep", "1000", pid=pid, target=target, readonly=False, **limits)


@pytest.fixture
def pod(cri: CriDaemon) -> Iterator[Pod]:
    """Afterwards it must be gone without a trace."""
    node = Kubelet(cri, HANDLER)
    pod = Pod(node)
    try:
        yield pod
    finally:
        pod.close()
        node.close()
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
    pids = {host_pid(each) for each in (pod.id, *(container.id for container in containers))}
    assert len(pids) == 4 and all(Path(f"/proc/{pid}").exists() for pid in pids)


def test_containers_are_made_at_the_same_time(pod: Pod) -> None:
    with ThreadPoolExecutor() as pool:
        containers = list(pool.map(pod.sleeper, [f"c{n}" for n in range(6)]))
    assert [each.sh("echo here") for each in containers] == ["here\n"] * 6


def test_each_container_ends_and_is_restarted_and_removed_on_its_own(pod: Pod) -> None:
    first, second, third = (pod.sleeper(f"c{n}") for n in range(3))
    first.stop()
    assert first.exit_code() == 137
    assert second.sh("echo here") == "here\n"
    first.remove()
    again = pod.begin("c0", "sh", "-c", "exit 9")
    assert until(lambda: not again.is_running())
    assert again.exit_code() == 9
    second.remove()
    assert third.sh("echo here") == "here\n"
    assert "here\n" in pod.sleeper("c4").sh("echo here")


def test_containers_see_only_their_own_processes(pod: Pod) -> None:
    first, second = pod.sleeper("c1"), pod.begin("c2", "sleep", "2000")
    assert first.sh("cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 1000 "
    assert second.sh("cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 2000 "
    assert "sleep 2000" not in first.sh("ps")
    assert first.sh("readlink /proc/self/ns/pid") != second.sh("readlink /proc/self/ns/pid")


def test_network_uts_and_ipc_namespaces_are_the_pods(pod: Pod) -> None:
    first, second = pod.sleeper("c1"), pod.sleeper("c2")
    names = "cd /proc/self/ns; readlink net uts ipc"
    assert first.sh(names) == second.sh(names)
    assert first.sh("readlink /proc/self/ns/mnt") != second.sh("readlink /proc/self/ns/mnt")


def test_a_shared_pid_namespace(cri: CriDaemon, pod: Pod) -> None:
    """Its init is the sandbox's; a container's first process takes its own along, and nobody else."""
    first = pod.sleeper("c1", pid=api.POD)
    second = pod.begin("c2", "sh", "-c", "sleep 2000 & sleep 3000 & wait", pid=api.POD)
    assert first.sh("tr '\\0' ' ' </proc/1/cmdline") == "sleep 1000000 "
    assert first.sh("readlink /proc/self/ns/pid") == second.sh("readlink /proc/self/ns/pid")
    assert until(lambda: runs(shown := first.sh("ps"), "sleep 2000") and runs(shown, "sleep 3000"))

    def listed() -> list[str]:
        return cri.ctr("--namespace", NAMESPACE, "task", "ps", second.id).stdout.splitlines()[1:]

    if HANDLER == "pysc":  # a process that has just called execve may still be there twice
        assert until(lambda: len(listed()) == 3), listed()

    second.stop()

    assert until(lambda: "sleep 2000" not in (shown := first.sh("ps")) and "sleep 3000" not in shown)
    assert first.sh("echo here") == "here\n"


def test_processes_of_a_shared_pid_namespace_signal_each_other(pod: Pod) -> None:
    first = pod.sleeper("c1", pid=api.POD)
    script = "trap 'exit 5' TERM; echo $$ >/volume/pid; while :; do sleep 0.1; done"
    second = pod.begin("c2", "sh", "-c", script, pid=api.POD)
    assert until(lambda: (pod.volume / "pid").exists() and (pod.volume / "pid").read_text().strip())
    assert int((pod.volume / "pid").read_text()) > 1
    first.sh("kill -TERM $(cat /volume/pid)")
    assert until(lambda: not second.is_running())
    assert second.exit_code() == 5
    assert first.is_running()


def test_the_pid_namespace_of_another_container(pod: Pod) -> None:
    """As an ephemeral container for debugging has it."""
    first, second = pod.begin("c1", "sleep", "2000"), pod.begin("c2", "sleep", "3000")
    debugger = pod.sleeper("debug", pid=api.TARGET, target=first.id)
    assert debugger.sh("tr '\\0' ' ' </proc/1/cmdline") == "sleep 2000 "
    assert "sleep 3000" not in debugger.sh("ps")

    first.stop()  # init of the namespace

    assert until(lambda: not debugger.is_running())
    assert debugger.exit_code() == 137
    assert second.is_running()


def test_the_nodes_pid_namespace_is_the_sandboxs(pod: Pod) -> None:
    """Nothing of the host is seen."""
    container = pod.sleeper("c1", pid=api.NODE)
    if HANDLER == "pysc":
        assert container.sh("tr '\\0' ' ' </proc/1/cmdline") == "sleep 1000000 "


def test_a_file_of_a_volume_is_one_file(pod: Pod) -> None:
    writer = pod.sleeper("c1")
    reader = pod.begin("c2", "sleep", "1000", readonly=True)
    writer.sh("echo one >/volume/file")
    assert reader.sh("cat /volume/file") == "one\n"
    writer.sh("echo two >>/volume/file; mkdir /volume/folder; mv /volume/file /volume/folder/other")
    assert reader.sh("cat /volume/folder/other; ls /volume/folder") == "one\ntwo\nother\n"
    assert "Read-only file system" in reader.sh("echo three >/volume/folder/other")
    assert writer.sh("stat -c '%d %i' /volume/folder/other") == reader.sh("stat -c '%d %i' /volume/folder/other")


def cgroups_of(container: str) -> list[Path]:
    record = json.loads(Path("/run/pysc-shim", NAMESPACE, container, "state.json").read_text())
    return [Path(path) for path in record["container"]["cgroup"]["directories"]]


def test_locks_on_a_volume_exclude_other_containers(pod: Pod) -> None:
    holder = pod.begin("holder", "/volume/volume", "hold", "/volume/lock")
    assert until(lambda: "held" in holder.printed())
    other = pod.sleeper("c2")
    assert other.sh("/volume/volume try /volume/lock") == "flock held\nposix held\nofd held\nother free\n"
    assert "flock free" in other.sh("/volume/volume try /volume/another")
    holder.stop()
    assert "held" not in other.sh("/volume/volume try /volume/lock")


def test_sockets_in_a_volume_are_reached_from_other_containers(pod: Pod) -> None:
    server = pod.begin("server", "/volume/volume", "serve", "/volume/socket")
    assert until(lambda: "serving" in server.printed())
    other = pod.sleeper("c2")
    assert other.sh("/volume/volume call /volume/socket hello") == "hellohello\n"
    assert "Connection refused" in other.sh("/volume/volume call /volume/socket hello")


def test_fifos_in_a_volume_connect_containers(pod: Pod) -> None:
    os.mkfifo(pod.volume / "fifo")
    reader = pod.begin("reader", "sh", "-c", "cat /volume/fifo; echo end")
    writer = pod.sleeper("c2")
    assert writer.sh("echo through >/volume/fifo") == ""
    assert until(lambda: reader.printed() == "through\nend\n")


@pytest.mark.parametrize("folder", ["/volume", "/dev/shm"])
def test_shared_mappings_of_two_containers_are_one_memory(pod: Pod, folder: str) -> None:
    """Futexes in it, too."""
    waiter = pod.begin("waiter", "/volume/volume", "wait", f"{folder}/word")
    assert until(lambda: "waiting" in waiter.printed())
    pod.sleeper("c2").sh(f"/volume/volume wake {folder}/word")
    assert until(lambda: "word 7" in waiter.printed())


def test_a_container_sees_limits_of_its_own(pod: Pod) -> None:
    if HANDLER != "pysc":
        pytest.skip("runc shows the host's")
    limited = pod.sleeper("c1", memory_limit_in_bytes=64 << 20, cpu_quota=100_000, cpu_period=100_000)
    free = pod.sleeper("c2")
    assert limited.sh("grep MemTotal /proc/meminfo; nproc; grep -c ^processor /proc/cpuinfo").split() == [
        "MemTotal:", "65536", "kB", "1", "1",
    ]  # fmt: skip
    assert free.sh("nproc").strip() == str(len(os.sched_getaffinity(0)))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    assert free.sh("grep MemTotal /proc/meminfo").split()[1] == str(total)


def test_files_in_memory_count_against_their_containers_limit(pod: Pod) -> None:
    if HANDLER != "pysc":
        pytest.skip("runc kills who writes")
    limited, free = pod.sleeper("c1", memory_limit_in_bytes=32 << 20), pod.sleeper("c2")
    fill = "rm -f /dev/file; dd if=/dev/zero of=/dev/file bs=1M count="
    assert "48+0 records out" in free.sh(fill + "48")
    assert "No space left" in limited.sh(fill + "48")
    assert "16+0 records out" in limited.sh(fill + "16")


def test_a_container_out_of_memory_ends_alone(pod: Pod) -> None:
    double = "BEGIN { x = 1; while (1) x = x x }"
    hungry = pod.begin("c1", "awk", double, memory_limit_in_bytes=48 << 20)
    other = pod.sleeper("c2")
    assert until(lambda: not hungry.is_running())
    assert hungry.exit_code() == 137
    assert other.sh("echo here") == "here\n"


@ours
def test_what_the_host_kills_first_is_each_containers_own(pod: Pod) -> None:
    scores = {}
    for score in (300, 700):
        container = pod.sleeper(f"c{score}", oom_score_adj=score)
        pids = {pid for path in cgroups_of(container.id) for pid in processes_in(path)}
        scores[score] = set[int]()
        for pid in pids:
            with suppress(OSError):  # one that has just ended
                scores[score].add(int(Path(f"/proc/{pid}/oom_score_adj").read_text()))
    assert scores == {300: {300}, 700: {700}}


@ours
def test_a_lost_gofer_ends_its_own_container_only(cri: CriDaemon, pod: Pod) -> None:
    victim, other = pod.sleeper("c1"), pod.sleeper("c2")
    os.kill(host_pid(victim.id), signal.SIGKILL)
    assert until(lambda: not victim.is_running())
    assert victim.exit_code() == 137
    assert other.sh("echo here") == "here\n"
    victim.remove()
    assert pod.sleeper("c3").sh("echo here") == "here\n"


@ours
def test_with_the_sentry_all_containers_end(cri: CriDaemon, pod: Pod) -> None:
    containers = [pod.sleeper(f"c{n}") for n in range(3)]
    os.kill(host_pid(pod.id), signal.SIGKILL)
    assert until(lambda: not any(each.is_running() for each in containers))
    assert [each.exit_code() for each in containers] == [137] * 3
    assert until(lambda: not processes(cri, "gofer"))


@ours
def test_with_the_sandbox_container_all_others_end(cri: CriDaemon, pod: Pod) -> None:
    containers = [pod.sleeper("c1"), pod.sleeper("c2", pid=api.POD)]
    cri.ctr("--namespace", NAMESPACE, "task", "kill", "-s", "KILL", pod.id)
    assert until(lambda: not any(each.is_running() for each in containers))
    assert [each.exit_code() for each in containers] == [137] * 2


@ours
def test_with_the_shim_all_containers_end(cri: CriDaemon, pod: Pod) -> None:
    containers = [pod.sleeper(f"c{n}") for n in range(3)]
    os.kill(shim_of(cri), signal.SIGKILL)
    assert until(lambda: not any(each.is_running() for each in containers))
    assert {each.exit_code() for each in containers} <= {137, UNKNOWN}
    assert until(lambda: not processes(cri, "gofer") and not processes(cri, "sentry"))


@ours
def test_the_delete_action_is_for_one_container(cri: CriDaemon, pod: Pod) -> None:
    """Even while it runs, as after a shim was thought dead."""
    victim, other = pod.sleeper("c1"), pod.sleeper("c2", pid=api.POD)
    bundle = cri.folder / "state" / "io.containerd.runtime.v2.task" / NAMESPACE / victim.id
    command = [str(SHIM), "-namespace", NAMESPACE, "-address", f"{cri.folder}/containerd.sock", "-id", victim.id]
    for _ in range(2):
        done = subprocess.run([*command, "-bundle", str(bundle), "delete"], cwd=bundle, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
    assert until(lambda: not victim.is_running())
    assert victim.exit_code() == 137
    assert other.sh("echo here") == "here\n"
    assert other.is_running()


def test_a_restart_of_containerd_keeps_the_pod(cri: CriDaemon, pod: Pod) -> None:
    os.mkfifo(pod.volume / "fifo")
    first, second = pod.sleeper("c1"), pod.begin("c2", "sh", "-c", "cat /volume/fifo; exit 8")
    cri.restart()
    assert until(lambda: answers(first))
    first.sh("echo >/volume/fifo")
    first.stop()
    assert first.exit_code() == 137
    third = pod.sleeper("c3")
    assert third.sh("echo here") == "here\n"
    assert until(lambda: not second.is_running())
    assert second.exit_code() == 8


def answers(container: Container) -> bool:
    try:
        return container.sh("echo here") == "here\n"
    except grpc.RpcError:
        return False


def shim_of(cri: CriDaemon) -> int:
    found = [pid for pid in cri.processes() if re.search(r"containerd-shim-pysc.* -id ", command_line(pid))]
    assert len(found) == 1
    return found[0]
