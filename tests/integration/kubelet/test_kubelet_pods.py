"""Pods themselves: status and list, what is theirs of names and namespaces, their figures, their end."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from tests.integration.cri import NAMESPACE
from tests.integration.daemon import command_line, until
from tests.integration.kubelet import runtime_pb2 as api
from tests.integration.kubelet.network import NetworkDaemon
from tests.integration.kubelet.pods import MIB, Container, Kubelet, Pod
from tests.integration.kubelet.streams import opened
from tests.integration.stubs import platform_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

NewPod = Callable[[str], Pod]


@pytest.fixture(scope="module")
def network_daemon() -> Iterator[NetworkDaemon]:
    with tempfile.TemporaryDirectory(prefix="cri-", ignore_cleanup_errors=True) as folder:
        daemon = NetworkDaemon(Path(folder))
        try:
            yield daemon
        finally:
            daemon.close()


@pytest.fixture
def networked(network_daemon: NetworkDaemon, kubelet: Kubelet) -> Iterator[Pod]:
    """One with a network of its own, still to be run."""
    mine = Kubelet(network_daemon, kubelet.handler)
    pod = Pod(mine, "networked")
    pod.namespaces.network = api.POD
    yield pod
    pod.close()
    mine.close()
    assert until(lambda: not network_daemon.left_behind()), network_daemon.left_behind()


def listed(kubelet: Kubelet, **wanted: object) -> dict[str, int]:
    """State by id."""
    request = api.ListPodSandboxRequest(filter=api.PodSandboxFilter(**wanted))  # type: ignore[arg-type]
    items = kubelet.call("ListPodSandbox", request, api.ListPodSandboxResponse).items
    return {each.id: each.state for each in items}


def test_status_and_list(new_pod: NewPod, kubelet: Kubelet) -> None:
    before = time.time_ns()
    pod = new_pod("pod")
    pod.config.labels["tier"] = "front"
    pod.config.annotations["dev.example/a"] = "b"
    pod.run()
    status = pod.status()
    assert (status.id, status.state, status.runtime_handler) == (pod.id, api.SANDBOX_READY, kubelet.handler)
    assert (status.metadata.name, status.metadata.uid, status.metadata.attempt) == ("pod", "uid-pod", 1)
    assert (dict(status.labels), dict(status.annotations)) == ({"tier": "front"}, {"dev.example/a": "b"})
    assert before < status.created_at < time.time_ns()
    assert listed(kubelet, label_selector={"tier": "front"}) == {pod.id: api.SANDBOX_READY}
    pod.stop()
    assert listed(kubelet, id=pod.id) == {pod.id: api.SANDBOX_NOTREADY}


def shims(kubelet: Kubelet) -> list[str]:
    lines = map(command_line, kubelet.daemon.processes())
    return [line for line in lines if "containerd-shim-" in line and " -id " in line]


def test_one_shim_serves_all_containers(pod: Pod) -> None:
    containers = [pod.started(name) for name in ("one", "two")]
    assert len(shims(pod.kubelet)) == 1
    for container in containers:
        container.remove()
    assert len(shims(pod.kubelet)) == 1


def test_annotation_of_a_pod_chooses_the_platform(new_pod: NewPod, kubelet: Kubelet) -> None:
    if kubelet.handler != "pysc":
        pytest.skip("it is pysc's annotation")
    pod = new_pod("chosen")
    pod.config.annotations["dev.pysc.platform"] = "ptrace"
    container = pod.run().started("main")
    assert {platform_of(kubelet.daemon, each) for each in (pod.id, container.id)} == {"ptrace"}


def test_a_container_that_storms_leaves_the_others_of_its_pod_answering(pod: Pod) -> None:
    """Signals, forks and system calls as fast as it can."""
    storm = "trap : USR1; (while :; do kill -USR1 $$; done) & while :; do (:); cat /proc/self/stat >/dev/null; done"
    stormy, quiet = pod.started("stormy", "sh", "-c", storm), pod.started("quiet")
    for _ in range(5):
        assert quiet.exec("echo", "here").stdout == b"here\n"
        assert stormy.exec("echo", "here").stdout == b"here\n"


def test_containers_end_with_their_pod(pod: Pod) -> None:
    containers = [pod.started(name) for name in ("one", "two")]
    for _ in range(2):
        pod.stop()
    assert [each.status().state for each in containers] == [api.CONTAINER_EXITED] * 2
    with pytest.raises(grpc.RpcError):
        pod.container("late").create().start()


def test_one_pod_ends_and_another_goes_on(new_pod: NewPod) -> None:
    first, second = new_pod("first").run(), new_pod("second").run()
    other = second.started("main")
    first.started("main")
    first.stop()
    assert other.sh("echo here") == "here\n"
    assert second.status().state == api.SANDBOX_READY


def test_names_of_hosts_are_looked_up_where_the_pod_says(new_pod: NewPod) -> None:
    pod = new_pod("pod")
    pod.config.dns_config.servers.extend(["10.96.0.10", "10.96.0.11"])
    pod.config.dns_config.searches.extend(["default.svc.cluster.local", "svc.cluster.local"])
    pod.config.dns_config.options.append("ndots:5")
    assert pod.run().started("main").sh("cat /etc/resolv.conf") == (
        "search default.svc.cluster.local svc.cluster.local\n"
        "nameserver 10.96.0.10\nnameserver 10.96.0.11\noptions ndots:5\n"
    )


def test_hostname_of_a_pod_on_the_nodes_network(pod: Pod) -> None:
    assert pod.started("main").sh("hostname").strip() == os.uname().nodename


def test_hostname_of_a_pod_with_a_network_of_its_own(networked: Pod) -> None:
    networked.config.hostname = "web-0"
    container = networked.run().started("main")
    assert container.sh("hostname; uname -n; cat /etc/hostname; echo $HOSTNAME") == "web-0\n" * 4
    other = networked.container("other")
    other.security.run_as_user.value = 1000
    assert other.start().sh("hostname") == "web-0\n"


async def test_forward_of_a_port_into_the_pods_network(networked: Pod) -> None:
    """containerd itself connects in there; an application of pysc has no network yet, and is told so."""
    container = networked.run().started("main", "nc", "-l", "-p", "8080", "-e", "cat")
    request = api.PortForwardRequest(pod_sandbox_id=networked.id, port=[8080])
    url = f"{networked.kubelet.call('PortForward', request, api.StreamResponse).url}?port=8080"
    if networked.kubelet.handler == "pysc":
        assert container.ended().exit_code == 1
        container.wait_printed("nc: socket: Address family not supported by protocol\n", "stderr")
        async with opened(url) as stream:
            await stream.until(lambda: b"refused" in stream.received.get(1, b""))
        return
    assert until(lambda: ":1F90 " in container.sh("cat /proc/net/tcp /proc/net/tcp6"))
    async with opened(url) as stream:
        await stream.send(0, b"hello")
        await stream.until(lambda: stream.received.get(0, b"")[2:] == b"hello")  # the port comes first


def pid_of(pod: Pod) -> str:
    """Of the pod's sandbox container on the host."""
    rows = pod.kubelet.daemon.ctr("--namespace", NAMESPACE, "task", "ls").stdout.splitlines()
    (pid,) = (row.split()[1] for row in rows if row.startswith(pod.id))
    return pid


def test_kernel_parameters_of_the_pods_network(networked: Pod) -> None:
    """They are set in its network namespace; what pysc's kernel shows of them are values of its own."""
    networked.config.linux.sysctls["net.ipv4.ip_unprivileged_port_start"] = "80"
    container = networked.run().started("main")
    show = ["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]
    inside = ["nsenter", f"--net=/proc/{pid_of(networked)}/ns/net", *show]
    assert subprocess.run(inside, capture_output=True, check=True).stdout == b"80\n"
    if networked.kubelet.handler == "runc":
        assert container.exec(*show).stdout == b"80\n"


def test_kernel_parameters_that_the_kernel_may_lack(new_pod: NewPod, kubelet: Kubelet) -> None:
    pod = new_pod("pod")
    pod.config.linux.sysctls["kernel.shm_rmid_forced"] = "1"
    if kubelet.handler == "pysc":  # which has no System V shared memory
        with pytest.raises(grpc.RpcError, match=r"kernel\.shm_rmid_forced: the sandbox's kernel has no such setting"):
            pod.run()
    else:
        assert pod.run().started("main").sh("cat /proc/sys/kernel/shm_rmid_forced") == "1\n"


def test_processes_are_shared_if_asked_for(new_pod: NewPod) -> None:
    """shareProcessNamespace."""
    pod = new_pod("pod")
    pod.namespaces.pid = api.POD
    pod.run()
    one, _ = pod.started("one"), pod.started("two", "sleep", "4321")
    assert "sleep 4321" in one.sh("ps")
    assert one.sh("tr '\\0' ' ' </proc/1/cmdline") == "sleep 1000000 "


def test_namespaces_of_the_node(new_pod: NewPod, kubelet: Kubelet) -> None:
    """hostPID and hostIPC: with pysc they are the sandbox's.  /dev/shm is the node's: containerd mounts it."""
    pod = new_pod("pod")
    pod.namespaces.pid = pod.namespaces.ipc = api.NODE
    one = pod.run().started("one")
    ours = one.sh(f"tr '\\0' ' ' </proc/{os.getpid()}/cmdline")
    command = Path("/proc/self/cmdline").read_text().replace("\0", " ")
    assert (ours == command) == (kubelet.handler == "runc")
    with tempfile.NamedTemporaryFile("w", dir="/dev/shm") as file:
        file.write("of the node")
        file.flush()
        assert one.sh(f"cat {file.name}") == "of the node"


def test_shared_memory_of_the_pod_is_its_containers(pod: Pod) -> None:
    one, two = pod.started("one"), pod.started("two")
    one.sh("echo hello >/dev/shm/word")
    assert two.sh("cat /dev/shm/word") == "hello\n"


def test_figures_of_containers(pod: Pod) -> None:
    limited = pod.container("limited")
    limited.config.linux.resources.memory_limit_in_bytes = 96 * MIB
    limited.start()
    free = pod.started("free")
    assert until(lambda: limited.stats().cpu.usage_core_nano_seconds.value > 0)
    assert until(lambda: limited.stats().memory.working_set_bytes.value > 0)  # cgroup v1 counts in batches
    stats = limited.stats()
    assert (stats.attributes.id, stats.attributes.metadata.name) == (limited.id, "limited")
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert 0 < stats.memory.working_set_bytes.value <= stats.memory.usage_bytes.value < 96 * MIB
    assert stats.memory.rss_bytes.value <= stats.memory.usage_bytes.value
    assert stats.memory.available_bytes.value == 96 * MIB - stats.memory.working_set_bytes.value
    request = api.ListContainerStatsRequest(filter=api.ContainerStatsFilter(pod_sandbox_id=pod.id))
    all_of_them = pod.kubelet.call("ListContainerStats", request, api.ListContainerStatsResponse).stats
    assert {each.attributes.id for each in all_of_them} == {limited.id, free.id}


def test_figures_grow_with_use(pod: Pod) -> None:
    busy = pod.started("busy", "sh", "-c", "while :; do :; done")
    before = busy.stats().cpu.usage_core_nano_seconds.value
    assert until(lambda: busy.stats().cpu.usage_core_nano_seconds.value > before + 100_000_000)
    idle = pod.started("idle")
    used = idle.stats().memory.usage_bytes.value
    idle.sh("head -c 8000000 /dev/zero >/dev/shm/block")
    holder = pod.started(
        "holder", "awk", 'BEGIN { x = "y"; while (length(x) < 8000000) x = x x; system("sleep 1000") }'
    )
    assert until(lambda: holder.stats().memory.usage_bytes.value > used + 8_000_000)


def test_figures_of_a_pod(pod: Pod, new_pod: NewPod) -> None:
    containers = [pod.started(name) for name in ("one", "two")]
    other = new_pod("other").run()
    stats = pod.stats()
    assert stats.attributes.id == pod.id
    assert stats.linux.cpu.usage_core_nano_seconds.value > 0
    assert stats.linux.memory.working_set_bytes.value > 0
    assert {each.attributes.id for each in stats.linux.containers} == {each.id for each in containers}
    request = api.ListPodSandboxStatsRequest()
    all_of_them = pod.kubelet.call("ListPodSandboxStats", request, api.ListPodSandboxStatsResponse).stats
    assert {each.attributes.id for each in all_of_them} == {pod.id, other.id}


def in_cgroups(container: Container, v1: str, v2: str) -> str:
    """What a file of the container's cgroup says; its name depends on the version."""
    folders = [path for path in container.kubelet.daemon.cgroups() if path.name == container.id]
    (found,) = (path.read_text() for folder in folders for path in (folder / v1, folder / v2) if path.exists())
    return found.strip()


def test_limits_that_change(pod: Pod) -> None:
    container = pod.container("main")
    container.config.linux.resources.memory_limit_in_bytes = 64 * MIB
    container.start()
    container.update(memory_limit_in_bytes=128 * MIB, cpu_quota=50_000, cpu_period=100_000, cpu_shares=512)
    assert in_cgroups(container, "memory.limit_in_bytes", "memory.max") == str(128 * MIB)
    assert in_cgroups(container, "cpu.cfs_quota_us", "cpu.max") in ("50000", "50000 100000")
    assert in_cgroups(container, "cpu.shares", "cpu.weight") in ("512", "20")
    stats = container.stats().memory
    assert stats.available_bytes.value + stats.working_set_bytes.value == 128 * MIB
    hungry = container.exec("awk", "BEGIN { x = 1; while (length(x) < 16000000) x = x x; print length(x) }")
    assert hungry.exit_code == 0
    if pod.kubelet.handler == "pysc":  # runc shows the host's
        assert container.sh("grep MemTotal /proc/meminfo").split()[1] == str(128 * MIB // 1024)


def test_a_limit_that_became_too_low_ends_the_container(pod: Pod) -> None:
    script = "until [ -e /tmp/go ]; do sleep 0.1; done; exec awk 'BEGIN { x = 1; while (1) x = x x }'"
    container = pod.container("main", "sh", "-c", script)
    container.config.linux.resources.memory_limit_in_bytes = 512 * MIB
    container.start()
    container.update(memory_limit_in_bytes=48 * MIB)
    container.sh("touch /tmp/go")
    status = container.ended(30)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
