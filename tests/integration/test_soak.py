"""Containers and pods that come and go leave no process, mount, socket, FIFO or cgroup, and nobody who stays grows."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from shim.address import socket_path
from tests.integration.census import Census, figures_of, growth, settled
from tests.integration.cri import NAMESPACE, CriDaemon
from tests.integration.daemon import Daemon, until
from tests.integration.kubelet.pods import Kubelet, Pod

HANDLER = os.environ.get("PYSC_TEST_HANDLER", "pysc")

pytestmark = pytest.mark.slow

GROWTH_KIB = 4096  # what is kept for reuse, and garbage that is not due yet
CONTAINERD_GROWTH_KIB = 65536  # a heap that Go gives back when it likes


class Turns(NamedTuple):
    """How often, up to the first look and up to the last one."""

    first: int
    last: int

    def parts(self) -> tuple[int, int]:
        return self.first, self.last - self.first


def soak(first: int, last: int) -> object:
    return pytest.param(Turns(first, last), marks=[pytest.mark.soak, pytest.mark.timeout(3600)])


@pytest.mark.xdist_group("containerd")
@pytest.mark.parametrize("turns", [Turns(20, 60), soak(100, 1000)], ids=str)
def test_containers_come_and_go(daemon: Daemon, tmp_path: Path, turns: Turns) -> None:
    """Twenty at a time."""

    def one(_: int) -> int:
        command = daemon.run_command("true", options=("--fifo-dir", str(tmp_path / "fifos")))
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.returncode

    def stays() -> list[int]:
        return [daemon.process.pid, *daemon.warm_parents()]

    taken: list[Census] = []
    for count in turns.parts():
        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(one, range(count))) == 0
        assert until(lambda: not daemon.left_behind(), seconds=20), daemon.left_behind()
        assert list((tmp_path / "fifos").glob("*")) == []
        taken.append(settled(stays, taken[0] if taken else None))
        print(turns, taken[-1])
    assert growth(taken[0], taken[1], CONTAINERD_GROWTH_KIB) == []


def left_of_pods(cri: CriDaemon, ids: set[str]) -> list[str]:
    """Beside what any daemon's containers may leave: sockets and states of these, and the folders of CRI itself."""
    sockets = [socket_path(f"{cri.folder}/containerd.sock", NAMESPACE, each) for each in ids]
    left = cri.left_behind() + list(filter(os.path.exists, sockets))
    left += [str(path) for each in ids if (path := Path("/run/pysc-shim", NAMESPACE, each)).exists()]
    kept = "io.containerd.grpc.v1.cri/*/*"
    return left + [str(path) for top in ("root", "state") for path in (cri.folder / top).glob(kept)]


@pytest.mark.xdist_group("cri")
@pytest.mark.parametrize("turns", [Turns(4, 10), soak(100, 200)], ids=str)
def test_pods_of_three_containers_come_and_go(cri_session: CriDaemon, turns: Turns) -> None:
    """Four at a time."""
    cri, kubelet = cri_session, Kubelet(cri_session, HANDLER)
    ids: set[str] = set()

    def one(number: int) -> None:
        pod = Pod(kubelet, f"pod{number}").run()
        containers = [pod.started(f"c{n}", "sh", "-c", f"echo {n}; sleep 1000") for n in range(3)]
        ids.update((pod.id, *(container.id for container in containers)))
        for n, container in enumerate(containers):
            assert until(lambda n=n, each=container: each.printed() == f"{n}\n", 60)  # type: ignore[misc]
        assert all(container.is_running() for container in containers)
        for container in containers[:2]:
            container.stop()
            container.remove()
        pod.close()  # with a container in it, which is then CRI's to remove

    taken: list[Census] = []
    done = 0
    for count in turns.parts():
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, range(done, done + count)))
        done += count
        assert until(lambda: not left_of_pods(cri, ids), seconds=20), left_of_pods(cri, ids)
        taken.append(settled(lambda: [cri.process.pid, *cri.warm_parents()], taken[0] if taken else None))
        print(turns, taken[-1])
    kubelet.close()
    assert growth(taken[0], taken[1], CONTAINERD_GROWTH_KIB) == []


@pytest.mark.xdist_group("cri")
@pytest.mark.parametrize("turns", [Turns(5, 20), soak(100, 1000)], ids=str)
def test_containers_come_and_go_in_a_pod_that_stays(cri_session: CriDaemon, turns: Turns) -> None:
    """Its shim, its Sentry, its gofer hold after many as much as after a few."""
    cri, kubelet = cri_session, Kubelet(cri_session, HANDLER)
    pod = Pod(kubelet, "long").run()
    ids = {pod.id}
    try:
        stays = pod.started("stays", "sleep", "100000")
        ids.add(stays.id)
        taken: list[Census] = []
        done = 0
        for count in turns.parts():
            for number in range(done, done + count):
                ids.add(one_container(pod, number))
                assert stays.exec("sh", "-c", f"exit {number % 256}").exit_code == number % 256
            done += count
            taken.append(settled(cri.processes, taken[0] if taken else None))
            print(turns, taken[-1])
        assert growth(taken[0], taken[1], GROWTH_KIB) == []
    finally:
        pod.close()
        kubelet.close()
    assert until(lambda: not left_of_pods(cri, ids), seconds=20), left_of_pods(cri, ids)


def one_container(pod: Pod, number: int) -> str:
    """Every other one ends by itself; its id, when it is gone."""
    ends = number % 2 == 0
    container = pod.started(f"c{number}", "sh", "-c", f"exit {number % 256}" if ends else "sleep 1000")
    if ends:
        assert container.ended(30).exit_code == number % 256
    container.stop()
    container.remove()
    return container.id


def test_census_sees_what_grows() -> None:
    """That what the others here compare is not always the same."""
    before = {"self": [figures_of(os.getpid())]}
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            ends = os.pipe()
            after = {"self": [figures_of(os.getpid())]}
            assert after["self"][0].descriptors == before["self"][0].descriptors + 2
            assert len(growth(before, after, GROWTH_KIB)) == 1
            assert len(growth(before, after | {"other": after["self"]}, GROWTH_KIB)) == 2
            assert growth(after, after, GROWTH_KIB) == []
            for fd in ends:
                os.close(fd)
        finally:
            process.kill()
