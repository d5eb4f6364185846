"""A paused container on each platform: nothing in it runs, nothing in it is lost, and only death gets through."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.integration.daemon import until
from tests.integration.host import Host, assert_one_line

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pause")]

MOMENT_S = 0.3
COUNTING = "i=0; while :; do i=$((i+1)); echo $i > /mnt/count; done"


def start(host: Host, shared: Path, script: str) -> str:
    """A container that runs a shell script and shares a folder with the test; its name."""
    mount = {"destination": "/mnt", "type": "bind", "source": str(shared), "options": ["rbind", "rw"]}
    bundle = host.bundle("sh", "-c", script)
    config = json.loads((bundle / "config.json").read_text())
    config["mounts"].append(mount)
    (bundle / "config.json").write_text(json.dumps(config))
    name = host.name()
    host.background("run", "--detach", "--bundle", bundle, name)
    return name


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def total_cpu_ns(host: Host, name: str) -> int:
    return int(json.loads(host.pysc("events", "--stats", name).stdout)["data"]["cpu"]["usage"]["total"])


def do(host: Host, *words: str) -> None:
    done = host.pysc(*words)
    assert (done.returncode, done.stderr) == (0, "")


def test_calls_and_files_stand_still(host: Host, platform: str, tmp_path: Path) -> None:
    name = start(host, tmp_path, COUNTING)
    assert until(lambda: text(tmp_path / "count"))
    do(host, "pause", name)
    assert host.status(name) == "paused"
    before = text(tmp_path / "count")
    time.sleep(MOMENT_S)
    assert text(tmp_path / "count") == before
    do(host, "resume", name)
    assert host.status(name) == "running"
    assert until(lambda: text(tmp_path / "count") not in ("", before))


def test_computing_threads_of_many_processes_stand_still(host: Host, platform: str, tmp_path: Path) -> None:
    """They make no calls: only being stopped from outside makes them stand."""
    loop = "while :; do :; done"
    name = start(host, tmp_path, f"for n in 1 2 3; do ({loop}) & done; touch /mnt/ready; {loop}")
    assert until((tmp_path / "ready").exists)
    do(host, "pause", name)
    before = total_cpu_ns(host, name)
    time.sleep(MOMENT_S)
    assert total_cpu_ns(host, name) == before
    do(host, "resume", name)
    assert until(lambda: total_cpu_ns(host, name) > before)


def test_sleeper_whose_time_has_come_wakes_at_resume(host: Host, platform: str, tmp_path: Path) -> None:
    """It has to be paused while it sleeps: on a host on which that takes too long it sleeps longer."""
    for seconds in (0.5, 5, 50):
        folder = tmp_path / str(seconds)
        folder.mkdir()
        name = start(host, folder, f"touch /mnt/ready; sleep {seconds}; echo $? > /mnt/woken; sleep 1000")
        assert until((folder / "ready").exists)
        do(host, "pause", name)
        if text(folder / "woken") == "":
            break
    time.sleep(seconds + MOMENT_S)
    assert text(folder / "woken") == ""
    do(host, "resume", name)
    assert until(lambda: text(folder / "woken") == "0\n")


def test_signal_is_delivered_at_resume(host: Host, platform: str, tmp_path: Path) -> None:
    script = "trap 'echo caught > /mnt/caught; exit 0' TERM; touch /mnt/ready; while :; do sleep 0.05; done"
    name = start(host, tmp_path, script)
    assert until((tmp_path / "ready").exists)
    do(host, "pause", name)
    do(host, "kill", name, "TERM")
    time.sleep(MOMENT_S)
    assert text(tmp_path / "caught") == ""
    assert host.status(name) == "paused"
    do(host, "resume", name)
    assert until(lambda: host.status(name) == "stopped")
    assert text(tmp_path / "caught") == "caught\n"


def test_kill_ends_a_paused_container(host: Host, platform: str, tmp_path: Path) -> None:
    name = start(host, tmp_path, f"({COUNTING}) & sleep 1000 & while :; do :; done")
    assert until(lambda: text(tmp_path / "count"))
    do(host, "pause", name)
    do(host, "kill", name, "KILL")
    assert until(lambda: host.status(name) == "stopped")
    do(host, "delete", name)


def test_paused_container_can_be_deleted_by_force(host: Host, platform: str, tmp_path: Path) -> None:
    name = start(host, tmp_path, "sleep 1000")
    do(host, "pause", name)
    assert "paused" in assert_one_line(host.pysc("delete", name))
    do(host, "delete", "--force", name)


def test_what_a_paused_container_refuses(host: Host, platform: str, tmp_path: Path) -> None:
    name = start(host, tmp_path, "sleep 1000")
    assert "not paused" in assert_one_line(host.pysc("resume", name))
    do(host, "pause", name)
    assert "paused already" in assert_one_line(host.pysc("pause", name))
    assert "paused" in assert_one_line(host.pysc("exec", name, "true"))
    assert "sleep 1000" in host.pysc("ps", name).stdout
    do(host, "update", "--pids-limit", "50", name)
    do(host, "resume", name)
    assert host.pysc("exec", name, "true").returncode == 0


def test_paused_again_and_again(host: Host, platform: str, tmp_path: Path) -> None:
    """Wherever the processes are just then: computing, in calls, being forked, ending."""
    name = start(host, tmp_path, "while :; do (true | cat; sleep 0.001); echo x >> /mnt/count; done")
    for _ in range(10):
        before = text(tmp_path / "count")
        assert until(lambda before=before: text(tmp_path / "count") != before)  # type: ignore[misc]
        do(host, "pause", name)
        do(host, "resume", name)
    assert host.status(name) == "running"


def test_pausing_what_does_not_run(host: Host) -> None:
    name = host.name()
    host.background("create", "--bundle", host.bundle("true"), name)
    for command in ("pause", "resume"):
        assert_one_line(host.pysc(command, name), 1)
        assert "does not exist" in assert_one_line(host.pysc(command, "nobody"), 1)
    do(host, "start", name)
    assert until(lambda: host.status(name) == "stopped")
    for command in ("pause", "resume"):
        assert "container not running" in assert_one_line(host.pysc(command, name), 1)


@pytest.mark.parametrize("command", ["checkpoint", "restore"])
def test_checkpoints_are_refused_in_one_line(host: Host, command: str) -> None:
    done = host.pysc(command, "--image-path", "/tmp/nowhere", "--bundle", "/", "nobody")
    assert "not implemented" in assert_one_line(done, 1)
