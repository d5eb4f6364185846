"""`pysc update` and `pysc events` on each platform: new limits hold, and the figures are the container's."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.integration import guest
from tests.integration.daemon import until
from tests.integration.host import Host, assert_one_line

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("update")]

MIB = 1 << 20
EAT = ("/flood", "private")


def start(host: Host, *args: str) -> str:
    shutil.copy2(guest.build("flood"), host.rootfs / "flood")
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle(*args), name)
    return name


def update(host: Host, name: str, **resources: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        host.tracked("update", "--resources", "-", name), input=json.dumps(resources), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


def do(host: Host, *words: str) -> None:
    done = host.pysc(*words)
    assert (done.returncode, done.stderr) == (0, "")


def figures(host: Host, name: str) -> Any:
    event = json.loads(host.pysc("events", "--stats", name).stdout)
    assert (event["type"], event["id"]) == ("stats", name)
    return event["data"]


def test_new_memory_limit_is_shown_and_holds(host: Host, platform: str) -> None:
    name = start(host, "sleep", "1000")
    do(host, "update", "--memory", "48m", "--memory-swap", "48M", name)
    assert host.pysc("exec", name, "head", "-1", "/proc/meminfo").stdout.split()[1] == str(48 * 1024)
    assert host.pysc("exec", name, *EAT).returncode == 137
    done = host.pysc("exec", name, "echo", "still here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")
    do(host, "update", "--memory", "-1", name)
    total = host.pysc("exec", name, "head", "-1", "/proc/meminfo").stdout.split()[1]
    assert int(total) > 48 * 1024


def test_new_limit_of_processes_holds(host: Host, platform: str) -> None:
    name = start(host, "sleep", "1000")
    script = "for n in 1 2 3 4; do sleep 1000 >/dev/null 2>&1 & done; echo all"
    do(host, "update", "--pids-limit", "4", name)
    assert "all" not in host.pysc("exec", name, "sh", "-c", script).stdout
    do(host, "update", "--pids-limit", "-1", name)
    assert "all" in host.pysc("exec", name, "sh", "-c", script).stdout


def test_figures(host: Host, platform: str) -> None:
    name = start(host, "sh", "-c", "sleep 1000 & sleep 1000 & i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; wait")
    assert until(lambda: figures(host, name)["cpu"]["usage"]["total"] > 10_000_000)
    assert until(lambda: figures(host, name)["pids"]["current"] == 3)
    assert figures(host, name)["memory"]["usage"]["usage"] > 0


def test_events_again_and_again_until_the_end(host: Host) -> None:
    name = start(host, "sleep", "1000")
    events = subprocess.Popen(
        host.tracked("events", "--interval", "50ms", name), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert events.stdout is not None
    try:
        for _ in range(3):
            assert json.loads(events.stdout.readline())["type"] == "stats"
        assert host.pysc("kill", name, "KILL").returncode == 0
        rest = [json.loads(line)["type"] for line in events.stdout]
        assert set(rest) <= {"stats"}
        assert events.wait(60) == 0
    finally:
        events.kill()
        events.communicate()


def test_events_tell_of_memory_that_ran_out(host: Host) -> None:
    name = start(host, "sleep", "1000")
    do(host, "update", "--memory", "32m", "--memory-swap", "32m", name)
    events = subprocess.Popen(
        host.tracked("events", "--interval", "50ms", name), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert events.stdout is not None
    try:
        assert json.loads(events.stdout.readline())["type"] == "stats"
        assert host.pysc("exec", name, *EAT).returncode != 0
        for line in events.stdout:
            event = json.loads(line)
            if event["type"] == "oom":
                assert event == {"type": "oom", "id": name}
                break
    finally:
        events.kill()
        events.communicate()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--memory", "x"], "--memory"),
        (["--memory", "-2"], "--memory"),
        (["--cpu-period", "5"], "refuses"),
        (["--cpu-period", "x"], "--cpu-period"),
        (["--cpu-quota", "-7"], "cpu quota"),
        (["--cpuset-cpus", "1000"], "refuses"),
        (["--cpuset-cpus", "nonsense"], "refuses"),
        (["--memory", "2g", "--memory-swap", "1g"], "memory swap"),
        (["--cpu-rt-runtime", "5"], "not implemented"),
        (["--blkio-weight", "50"], "not implemented"),
        (["--resources", "/nonexistent"], "/nonexistent"),
    ],
)
def test_nonsense_changes_nothing(host: Host, flags: list[str], reason: str) -> None:
    name = start(host, "sh", "-c", "sleep 1000")
    before = figures(host, name)["memory"]["usage"]["limit"]
    assert reason in assert_one_line(host.pysc("update", *flags, name))
    assert figures(host, name)["memory"]["usage"]["limit"] == before
    assert host.status(name) == "running"


def test_limit_below_what_is_in_use_can_be_refused(host: Host) -> None:
    """cgroup v1 always refuses; v2 takes what it can and kills, unless it is looked at before."""
    name = start(host, "sleep", "1000")
    assert "more is in use" in assert_one_line(update(host, name, memory={"limit": 1, "checkBeforeUpdate": True}))
    assert host.status(name) == "running"


def test_what_engines_repeat_from_the_configuration_is_left_alone(host: Host) -> None:
    name = start(host, "sleep", "1000")
    done = update(
        host, name, devices=[{"allow": False, "access": "rwm"}], hugepageLimits=[{"pageSize": "2MB", "limit": 0}],
        memory={"limit": 64 * MIB, "kernel": 7, "swappiness": 5, "disableOOMKiller": False}, network={}, rdma={},
        cpu={"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""}, pids={"limit": 0}, blockIO={},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert figures(host, name)["memory"]["usage"]["limit"] == 64 * MIB
    assert update(host, name, memory={"limit": 0, "swap": 0}).returncode == 0  # from Docker, which means: as it is
    assert figures(host, name)["memory"]["usage"]["limit"] == 64 * MIB
    assert host.pysc("exec", name, "head", "-1", "/proc/meminfo").stdout.split()[1] == str(64 * 1024)


def test_what_is_not_there_or_has_ended(host: Host) -> None:
    for words in (["update", "--memory", "64m"], ["events", "--stats"], ["events"]):
        assert "does not exist" in assert_one_line(host.pysc(*words, "nobody"), 1)
    name = start(host, "true")
    assert until(lambda: host.status(name) == "stopped")
    assert "stopped" in assert_one_line(host.pysc("update", "--memory", "64m", name), 1)
    assert "not running" in assert_one_line(host.pysc("events", name), 1)
    for interval in ("0s", "x", "-1s"):
        assert "--interval" in assert_one_line(host.pysc("events", "--interval", interval, name), 2)
