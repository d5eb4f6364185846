"""Limits and figures of a container, by the real shim: Update, Stats, and the news of memory's end."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from proto.containerd import metrics_v1_pb2, metrics_v2_pb2, task_pb2
from proto.ttrpc.status import FAILED_PRECONDITION, INVALID_ARGUMENT, RpcError
from shim.service import RESOURCES_TYPE
from tests.integration.daemon import Daemon, until
from tests.integration.platforms import skip_without
from tests.integration.shims import RealShims, cgroup_roots
from tests.shimtest.harness import Task, fails

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
]

SLEEP = ["sleep", "1000"]
EAT = "x=x; while :; do x=$x$x; done"
MIB = 1 << 20


class Figures:
    """A container's metrics, of either version, in one form."""

    def __init__(self, stats: Any) -> None:
        if stats.type_url == "io.containerd.cgroups.v1.Metrics":
            v1 = metrics_v1_pb2.Metrics.FromString(stats.value)
            self.cpu_ns, self.memory, self.limit = v1.cpu.usage.total, v1.memory.usage.usage, v1.memory.usage.limit
            self.inactive, self.rss = v1.memory.total_inactive_file, v1.memory.total_rss
            self.pids, self.pids_limit = v1.pids.current, v1.pids.limit
            self.oom_kills = v1.memory_oom_control.oom_kill
            assert v1.HasField("blkio") or not v1.blkio.io_service_bytes_recursive
        else:
            assert stats.type_url == "io.containerd.cgroups.v2.Metrics"
            v2 = metrics_v2_pb2.Metrics.FromString(stats.value)
            self.cpu_ns, self.memory, self.limit = v2.cpu.usage_usec * 1000, v2.memory.usage, v2.memory.usage_limit
            self.inactive, self.rss = v2.memory.inactive_file, v2.memory.anon
            self.pids, self.pids_limit = v2.pids.current, v2.pids.limit
            self.oom_kills = v2.memory_events.oom_kill


async def figures(task: Task) -> Figures:
    return Figures((await task.call("Stats", task_pb2.StatsResponse)).stats)


async def update(task: Task, **resources: object) -> None:
    given = Any(type_url=RESOURCES_TYPE, value=json.dumps(resources).encode())
    await task.call("Update", Empty, resources=given)


def in_cgroup(shims: RealShims, name: str) -> str:
    """What a file of the container's cgroup says, in whatever hierarchy it lies."""
    [path] = {path for root in cgroup_roots() for path in root.glob(f"{shims.namespace}/c1/{name}")}
    return path.read_text().strip()


async def end(task: Task) -> None:
    if (await task.state()).status != task_pb2.STOPPED:
        await task.kill(signal.SIGKILL)
    await task.wait()
    await task.delete()
    await task.shutdown()


async def running(shims: RealShims, *args: str) -> Task:
    task = await shims.make(list(args))
    await task.start()
    return task


async def output(task: Task, exec_id: str, *args: str) -> bytes:
    """What a command says that is run in the container."""
    out = task.bundle.fifo(exec_id)
    reader = task.bundle.reader(out)
    await task.exec(exec_id, args, stdout=out)
    await task.start(exec_id)
    await task.wait(exec_id)
    await task.delete(exec_id)
    return await reader.rest()


async def test_update_reaches_the_cgroup_and_the_container(shims: RealShims) -> None:
    task = await running(shims, *SLEEP)
    await update(task, memory={"limit": 64 * MIB}, pids={"limit": 40})
    now = await figures(task)
    assert (now.limit, now.pids_limit) == (64 * MIB, 40)
    assert (await output(task, "e1", "head", "-1", "/proc/meminfo")).split()[1] == b"65536"
    await update(task, memory={"limit": 32 * MIB})
    now = await figures(task)
    assert (now.limit, now.pids_limit) == (32 * MIB, 40)
    await update(task, memory={"limit": -1})
    assert (await figures(task)).limit > 1 << 60
    await end(task)


async def test_processes_that_an_update_forbids_cannot_be_forked(shims: RealShims) -> None:
    task = await running(shims, *SLEEP)
    await update(task, pids={"limit": 3})
    script = "exec 3>&1 >/dev/null 2>&1; sleep 100 3>&- & sleep 100 3>&- & sleep 100 3>&- & echo not refused >&3"
    assert b"not refused" not in await output(task, "e1", "sh", "-c", script)
    await update(task, pids={"limit": -1})
    assert b"not refused" in await output(task, "e2", "sh", "-c", script)
    await end(task)


async def test_refused_update_changes_nothing(shims: RealShims) -> None:
    task = await running(shims, *SLEEP)
    await update(task, cpu={"shares": 512, "quota": 50_000, "period": 100_000})
    await fails(INVALID_ARGUMENT, update(task, cpu={"shares": 256, "period": 5}))
    await fails(INVALID_ARGUMENT, update(task, cpu={"cpus": "1000"}))
    await fails(INVALID_ARGUMENT, update(task, memory={"limit": -5}))
    await fails(INVALID_ARGUMENT, update(task, memory={"limit": 64 * MIB, "swap": 32 * MIB}))
    if "v1" in (await task.call("Stats", task_pb2.StatsResponse)).stats.type_url:
        assert in_cgroup(shims, "cpu.shares") == "512"
        assert (in_cgroup(shims, "cpu.cfs_quota_us"), in_cgroup(shims, "cpu.cfs_period_us")) == ("50000", "100000")
    else:
        assert in_cgroup(shims, "cpu.max") == "50000 100000"
    await update(task, devices=[{"allow": False, "access": "rwm"}], hugepageLimits=[{"pageSize": "2MB", "limit": 0}])
    await end(task)


async def test_update_of_created_paused_and_stopped_containers(shims: RealShims) -> None:
    task = await shims.make(SLEEP)
    await update(task, pids={"limit": 40})
    await task.start()
    await task.call("Pause", Empty)
    await update(task, pids={"limit": 50})
    assert (await figures(task)).pids_limit == 50
    await task.call("Resume", Empty)
    await task.kill(signal.SIGKILL)
    await task.wait()
    await fails(FAILED_PRECONDITION, update(task, pids={"limit": 60}))
    await end(task)


async def test_figures_are_the_containers_own_and_stay_until_it_is_deleted(shims: RealShims) -> None:
    task = await running(shims, "sh", "-c", "sleep 1000 & i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; wait")
    while not ((before := await figures(task)).cpu_ns and before.rss) or before.pids != 2:
        await asyncio.sleep(0.01)  # until they are the shell and its child; cgroup v1 counts the rest in batches
    assert before.memory > before.inactive
    assert before.rss <= before.memory
    await task.kill(signal.SIGKILL)
    await task.wait()
    while (after := await figures(task)).pids:  # its other processes are killed with the first, but may take a moment
        await asyncio.sleep(0.01)
    assert after.cpu_ns >= before.cpu_ns
    await task.delete()
    with pytest.raises(RpcError):
        await figures(task)
    await task.shutdown()


async def test_figures_of_a_container_whose_sentry_has_died(shims: RealShims) -> None:
    task = await running(shims, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000")
    while not (before := await figures(task)).cpu_ns:
        await asyncio.sleep(0.01)
    os.kill((await task.state()).pid, signal.SIGKILL)
    assert await task.wait() == 137
    assert (await figures(task)).cpu_ns >= before.cpu_ns
    await end(task)


async def test_child_that_takes_all_memory_is_told_of_once(shims: RealShims) -> None:
    task = await shims.make(["sh", "-c", f"sh -c '{EAT}'; sleep 1000"])
    await update(task, memory={"limit": 32 * MIB, "swap": 32 * MIB})
    await task.start()
    await shims.events.wait_for("TaskOOM")
    assert (await task.state()).status == task_pb2.RUNNING
    assert (await figures(task)).oom_kills == 1
    await task.kill(signal.SIGKILL)
    await task.wait()
    await end(task)
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names == ["TaskCreate", "TaskStart", "TaskOOM", "TaskExit c1", "TaskDelete"]


@pytest.mark.parametrize("platform", ["systrap", "kvm"])
async def test_container_that_takes_all_memory_is_told_of_before_its_exit(shims: RealShims, platform: str) -> None:
    skip_without(platform)
    bundle = shims.container("c1", ["awk", "BEGIN { while (1) a[i++] = i }"])
    config = json.loads((bundle.path / "config.json").read_text())
    config["annotations"]["dev.pysc.platform"] = platform
    (bundle.path / "config.json").write_text(json.dumps(config))
    task = await shims.start(bundle)
    await task.create(rootfs=shims.rootfs)
    await update(task, memory={"limit": 32 * MIB, "swap": 32 * MIB})
    await task.start()
    assert await task.wait() == 137
    assert (await figures(task)).oom_kills == 1
    await end(task)
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names == ["TaskCreate", "TaskStart", "TaskOOM", "TaskExit c1", "TaskDelete"]


def test_metrics_as_ctr_shows_them(daemon: Daemon) -> None:
    name = daemon.start_detached("sh", "-c", "sleep 1000 & i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; wait")

    def shown() -> dict[str, int]:
        rows = [line.split() for line in daemon.ctr("task", "metrics", name).stdout.splitlines()]
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}

    assert until(lambda: shown().get("pids.current") == 2)
    assert until(lambda: shown().get("cpuacct.usage", 0) or shown().get("cpu.usage_usec", 0))
    now = shown()
    assert now.get("memory.usage_in_bytes", 0) or now.get("memory.usage", 0)


def test_pause_and_its_events_as_ctr_shows_them(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    daemon.ctr("task", "pause", name)
    assert daemon.status(name) == "PAUSED"
    assert daemon.ctr("task", "exec", "--exec-id", "e1", name, "true", check=False).returncode != 0
    assert daemon.ctr("task", "pause", name, check=False).returncode != 0
    daemon.ctr("task", "resume", name)
    assert daemon.status(name) == "RUNNING"
    assert daemon.ctr("task", "exec", "--exec-id", "e2", name, "true", check=False).returncode == 0
    done = daemon.ctr("task", "checkpoint", name, check=False)
    assert done.returncode != 0
    assert "not implemented" in done.stderr
    assert daemon.status(name) == "RUNNING"
