"""What the kubelet does with a running container: reads its figures, changes its limits, finds it again."""

from __future__ import annotations

from collections.abc import Iterator

import grpc  # type: ignore[import-untyped]
import pytest

from proto.ttrpc.protobuf import as_bytes, as_int, bytes_field, fields, int_field, text_field
from tests.integration.cri import CriDaemon, cri_daemon
from tests.integration.daemon import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

MIB = 1 << 20


@pytest.fixture(scope="module")
def cri() -> Iterator[CriDaemon]:
    with cri_daemon() as daemon:
        yield daemon


@pytest.fixture
def container(cri: CriDaemon, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A pod with a container that prints a line for each file that it finds; its id and its name."""
    name = str(request.node.name).replace("_", "-")
    pod = cri.run_pod(name, "pysc")
    try:
        script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"
        yield cri.run_container(pod, name, f"{name}-c", "sh", "-c", script), f"{name}-c"
    finally:
        cri.remove_pod(pod)


def value(message: bytes, number: int) -> int:
    """A member that is a UInt64Value { value 1 }."""
    return as_int(dict(fields(as_bytes(dict(fields(message))[number]))).get(1, 0))


def stats(cri: CriDaemon, container: str) -> tuple[bytes, bytes]:
    """ContainerStats: stats 1 { cpu 2, memory 3 }."""
    found = dict(fields(as_bytes(dict(cri._call("ContainerStats", text_field(1, container)))[1])))
    return as_bytes(found[2]), as_bytes(found[3])


def runs_again(cri: CriDaemon, container: str) -> bool:
    """Whether the container runs, once the service answers at all."""
    try:
        return cri.is_running(container)
    except grpc.RpcError:
        return False


def test_figures_that_the_kubelet_reads(cri: CriDaemon, container: tuple[str, str]) -> None:
    cpu, memory = stats(cri, container[0])
    assert value(cpu, 2) > 0  # usage_core_nano_seconds
    assert 0 < value(memory, 2) <= value(memory, 4)  # working set and usage
    # Resident memory and page faults: a kernel may say 0 until there is much to sum up.
    assert value(memory, 5) <= value(memory, 4)
    assert {6, 7} <= dict(fields(memory)).keys()
    later = stats(cri, container[0])[0]
    assert value(later, 2) >= value(cpu, 2)


def test_limits_that_the_kubelet_changes(cri: CriDaemon, container: tuple[str, str]) -> None:
    """UpdateContainerResources: container_id 1; linux 2 { cpu_period 1, cpu_quota 2, cpu_shares 3, memory_limit 4 }."""
    limits = int_field(1, 100_000) + int_field(2, 50_000) + int_field(3, 512) + int_field(4, 64 * MIB)
    cri._call("UpdateContainerResources", text_field(1, container[0]) + bytes_field(2, limits))
    memory = stats(cri, container[0])[1]
    assert value(memory, 3) + value(memory, 2) == 64 * MIB  # available and working set
    total = cri.exec_sync(container[0], "head", "-1", "/proc/meminfo").stdout.split()[1]
    assert int(total) >= 64 * MIB // 1024


def test_container_and_its_output_outlive_a_restart_of_containerd(cri: CriDaemon, container: tuple[str, str]) -> None:
    assert until(lambda: "line 3\n" in cri.log_of(container[1]))
    cri.restart()
    assert until(lambda: runs_again(cri, container[0]))
    before = len(cri.log_of(container[1]).splitlines())
    assert until(lambda: len(cri.log_of(container[1]).splitlines()) > before + 5)
    numbers = [int(line.split()[-1]) for line in cri.log_of(container[1]).splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))  # none is lost
    assert cri.exec_sync(container[0], "echo", "again").stdout == b"again\n"
