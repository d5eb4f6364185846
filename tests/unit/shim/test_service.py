"""The whole shim, from its command line to its end, with a fake sandbox; the test plays containerd and its client."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from proto.containerd import events_pb2, metrics_v1_pb2, task_pb2
from proto.containerd.runc_pb2 import ProcessDetails
from proto.ttrpc import aio
from proto.ttrpc.status import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    UNIMPLEMENTED,
    UNKNOWN,
    RpcError,
)
from shim import address
from tests.shimtest.harness import Shims, Task, wait_gone

SLEEP = ["sleep", "1000"]


async def make(shims: Shims, args: list[str], **fields: object) -> Task:
    """A created container c1."""
    task = await shims.start(shims.bundle("c1", args))
    await task.create(**fields)
    return task


async def fails(code: int, call: object) -> str:
    """The message of a call that must fail with that code."""
    with pytest.raises(RpcError) as e:
        await call  # type: ignore[misc]
    assert e.value.code == code, e.value
    return e.value.message


async def test_life_of_a_container(shims: Shims) -> None:
    bundle = shims.bundle("c1", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    task = await shims.start(bundle)
    assert (bundle.path / "address").read_text().startswith(f"unix://{shims.sockets}/")
    out, err = bundle.fifo("out"), bundle.fifo("err")
    readers = [bundle.reader(out), bundle.reader(err)]
    pid = await task.create(stdout=out, stderr=err)
    connect = await task.call("Connect", task_pb2.ConnectResponse)
    assert connect.task_pid == pid
    os.kill(pid, 0)
    state = await task.state()
    assert (state.id, state.status, state.pid, state.stdout) == ("c1", task_pb2.CREATED, pid, out)
    assert state.bundle == str(bundle.path)

    waiting = asyncio.create_task(task.wait())
    assert await task.start() == pid
    assert await waiting == 3
    assert [await reader.rest() for reader in readers] == [b"out\n", b"err\n"]
    state = await task.state()
    assert (state.status, state.exit_status, state.pid) == (task_pb2.STOPPED, 3, pid)
    assert state.exited_at.seconds > 0

    answer = await task.delete()
    assert (answer.exit_status, answer.pid, answer.exited_at) == (3, pid, state.exited_at)
    await fails(NOT_FOUND, task.state())
    await task.shutdown()
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names == ["TaskCreate", "TaskStart", "TaskExit c1", "TaskDelete"]
    assert shims.events.namespaces == {shims.namespace}
    [shim_pid] = shims.pids
    await asyncio.to_thread(wait_gone, shim_pid)
    assert list(shims.sockets.iterdir()) == []


async def test_plain_address_for_older_containerd(shims: Shims) -> None:
    bundle = shims.bundle("c1", ["true"])
    done = await shims.action(bundle, "start")
    assert (done.returncode, done.stdout) == (0, (bundle.path / "address").read_bytes())
    path = address.socket_path(str(shims.folder / "containerd.sock"), shims.namespace, "c1")
    assert done.stdout.decode() == f"unix://{path}"
    task = Task(bundle, await aio.Client.connect(path))
    shims.tasks.append(task)
    connect = await task.call("Connect", task_pb2.ConnectResponse)
    shims.pids.add(connect.shim_pid)
    assert connect.task_pid == 0
    await task.shutdown()
    await asyncio.to_thread(wait_gone, connect.shim_pid)
    assert not Path(path).exists()


async def test_start_fails_loudly(shims: Shims) -> None:
    bundle = shims.bundle("c1", ["true"])
    (bundle.path / "config.json").write_text('{"io.kubernetes.cri.sandbox-id"')
    done = await shims.action(bundle, "start")
    assert done.returncode == 1
    assert b"config.json" in done.stdout


async def test_missing_executable_fails_create_and_leaves_nothing(shims: Shims) -> None:
    bundle = shims.bundle("c1", ["nosuch"])
    task = await shims.start(bundle)
    message = await fails(UNKNOWN, task.create())
    assert message == 'failed to create container: exec: "nosuch": executable file not found in $PATH'
    assert not any(Path("/run/pysc-shim").glob(f"{shims.namespace}/*"))
    await fails(NOT_FOUND, task.state())
    await task.shutdown()
    [shim_pid] = shims.pids
    await asyncio.to_thread(wait_gone, shim_pid)
    assert shims.events.names == []


async def test_invalid_configuration_fails_create(shims: Shims) -> None:
    bundle = shims.bundle("c1", [])
    task = await shims.start(bundle)
    assert "process.args" in await fails(INVALID_ARGUMENT, task.create())


async def test_same_id_twice_is_refused(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await fails(ALREADY_EXISTS, task.create())


async def test_unknown_names_are_not_found_and_unknown_methods_unimplemented(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    for method in ("State", "Start", "Kill", "Delete", "Wait", "ResizePty"):
        await fails(NOT_FOUND, task.call(method, Empty, id="other"))
        await fails(NOT_FOUND, task.call(method, Empty, exec_id="none"))
    await fails(NOT_FOUND, task.call("Stats", Empty, id="other"))
    with pytest.raises(RpcError, match=r"^method Nonsense$") as e:
        await task.client.call("containerd.task.v2.Task", "Nonsense", b"")
    assert e.value.code == UNIMPLEMENTED
    await fails(UNIMPLEMENTED, task.call("State", Empty, service="containerd.runtime.sandbox.v1.Sandbox"))


async def test_version_3_of_the_service_is_the_same(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    state = await task.call("State", task_pb2.StateResponse, service="containerd.task.v3.Task")
    assert state.status == task_pb2.CREATED


async def test_wrong_states_are_refused(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.start()
    await fails(FAILED_PRECONDITION, task.start())
    await fails(FAILED_PRECONDITION, task.delete())
    await task.kill(signal.SIGKILL)
    assert await task.wait() == 137
    await fails(FAILED_PRECONDITION, task.start())
    assert "process already finished" in await fails(NOT_FOUND, task.kill(signal.SIGTERM))
    await fails(FAILED_PRECONDITION, task.exec("e1", ["true"]))
    await task.delete()
    await fails(NOT_FOUND, task.delete())


async def test_created_container_can_be_killed(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    waiting = asyncio.create_task(task.wait())
    await task.kill(signal.SIGKILL)
    assert await waiting == 137
    assert (await task.state()).status == task_pb2.STOPPED
    await task.delete()
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names == ["TaskCreate", "TaskExit c1", "TaskDelete"]


async def test_created_container_can_be_deleted(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    waiting = asyncio.create_task(task.wait())
    await task.state()  # by now the Wait is on its way too
    assert (await task.delete()).exit_status == 137
    assert await waiting == 137
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names == ["TaskCreate", "TaskDelete"]


async def test_shutdown_with_a_container_left_changes_nothing(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.shutdown()
    assert (await task.state()).status == task_pb2.CREATED


async def test_sigterm_ends_only_an_empty_shim(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    [shim_pid] = shims.pids
    os.kill(shim_pid, signal.SIGTERM)
    assert (await task.state()).status == task_pb2.CREATED
    await task.delete()
    os.kill(shim_pid, signal.SIGTERM)
    await asyncio.to_thread(wait_gone, shim_pid)


async def test_connection_lost_and_made_anew(shims: Shims) -> None:
    """containerd restarts: it connects again, asks, and waits again."""
    task = await make(shims, SLEEP)
    pid = await task.start()
    waiting = asyncio.create_task(task.wait())
    await asyncio.sleep(0)
    task.client.close()
    with pytest.raises(Exception, match="closed"):
        await waiting
    again = await shims.start(task.bundle)
    assert (await again.call("Connect", task_pb2.ConnectResponse)).task_pid == pid
    await again.kill(signal.SIGKILL)
    assert await again.wait() == 137


# Execs.


async def test_life_of_an_exec(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.start()
    bundle = task.bundle
    out = bundle.fifo("e-out")
    reader = bundle.reader(out)
    await task.exec("e1", ["sh", "-c", "echo hello; exit 4"], stdout=out)
    state = await task.state("e1")
    assert (state.id, state.exec_id, state.status, state.stdout) == ("e1", "e1", task_pb2.CREATED, out)
    await fails(ALREADY_EXISTS, task.exec("e1", ["true"]))
    await fails(FAILED_PRECONDITION, task.kill(signal.SIGTERM, "e1"))
    waiting = asyncio.create_task(task.wait("e1"))
    assert await task.start("e1") > 0
    assert await waiting == 4
    assert await reader.rest() == b"hello\n"
    assert (await task.delete("e1")).exit_status == 4
    await fails(NOT_FOUND, task.delete("e1"))
    await shims.events.wait_for("TaskExit e1")
    assert shims.events.names[2:] == ["TaskExecAdded", "TaskExecStarted", "TaskExit e1"]
    assert (await task.state()).status == task_pb2.RUNNING


async def test_exec_of_a_missing_program_fails_at_start_and_releases_wait(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.start()
    out = task.bundle.fifo("e-out")
    reader = task.bundle.reader(out)
    await task.exec("e1", ["nosuch"], stdout=out)
    waiting = asyncio.create_task(task.wait("e1"))
    message = await fails(UNKNOWN, task.start("e1"))
    assert message == 'failed to exec in container: exec: "nosuch": executable file not found in $PATH'
    assert await waiting != 0
    assert await reader.rest() == b""  # the client waits for it
    await task.delete("e1")


async def test_exec_that_was_never_started_can_be_deleted(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.start()
    await task.exec("e1", ["true"])
    assert (await task.delete("e1")).exit_status == 0


async def test_exits_of_execs_come_before_that_of_the_container(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.start()
    for exec_id in ("e1", "e2"):
        await task.exec(exec_id, SLEEP)
        await task.start(exec_id)
    await task.kill(signal.SIGKILL)
    assert [await task.wait(exec_id) for exec_id in ("", "e1", "e2")] == [137, 137, 137]
    await shims.events.wait_for("TaskExit c1")
    assert sorted(shims.events.names[-3:-1]) == ["TaskExit e1", "TaskExit e2"]
    assert shims.events.names[-1] == "TaskExit c1"


async def test_exec_waiting_for_its_reader_does_not_hold_up_the_end(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.start()
    await task.exec("e1", ["true"], stdout=task.bundle.fifo("e-out"))
    starting = asyncio.create_task(task.start("e1"))
    await task.state()
    await task.kill(signal.SIGKILL)
    assert await task.wait() == 137
    assert "has ended" in await fails(FAILED_PRECONDITION, starting)


async def test_pids_are_those_of_the_container_and_its_execs(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    pid = await task.start()
    await task.exec("e1", SLEEP)
    exec_pid = await task.start("e1")
    rows = (await task.call("Pids", task_pb2.PidsResponse)).processes
    assert [row.pid for row in rows] == [pid, exec_pid]
    assert rows[1].info.type_url == "containerd.runc.v1.ProcessDetails"
    assert ProcessDetails.FromString(rows[1].info.value).exec_id == "e1"


async def test_process_that_ends_at_once_has_its_events_in_order(shims: Shims) -> None:
    task = await make(shims, ["true"])
    assert await task.start() > 0
    assert await task.wait() == 0
    await shims.events.wait_for("TaskExit c1")
    assert shims.events.names == ["TaskCreate", "TaskStart", "TaskExit c1"]


# Input and terminals.


async def test_input_reaches_the_process_until_close_io(shims: Shims) -> None:
    bundle = shims.bundle("c1", ["cat"])
    task = await shims.start(bundle)
    stdin, out = bundle.fifo("in"), bundle.fifo("out")
    reader = bundle.reader(out)
    await task.create(stdin=stdin, stdout=out)
    await task.start()
    for text in (b"one ", b"two"):  # a client may detach and another attach
        client = os.open(stdin, os.O_WRONLY)
        os.write(client, text)
        os.close(client)
        await reader.until(text)
    await task.call("CloseIO", Empty, stdin=True)
    assert await task.wait() == 0
    assert await reader.rest() == b"one two"


async def test_close_io_before_start(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.start()
    await task.exec("e1", ["cat"], stdin=task.bundle.fifo("e-in"))
    await task.call("CloseIO", Empty, exec_id="e1", stdin=True)
    await task.start("e1")
    assert await task.wait("e1") == 0


async def test_close_io_while_the_container_is_in_the_making(shims: Shims) -> None:
    """nerdctl's input may end at once; it asks for the state first, and sends nothing if there is none."""
    bundle = shims.bundle("c1", ["cat"])
    task = await shims.start(bundle)
    stdin, out = bundle.fifo("in"), bundle.fifo("out")
    creation = asyncio.create_task(task.create(stdin=stdin, stdout=out))  # it waits for a reader
    while True:
        try:
            state = await task.state()
            break
        except RpcError:
            await asyncio.sleep(0.01)
    assert (state.status, state.pid, state.stdin, state.stdout) == (task_pb2.CREATED, 0, stdin, out)
    await task.call("CloseIO", Empty, stdin=True)
    reader = bundle.reader(out)
    await creation
    await task.start()
    assert await task.wait() == 0
    assert await reader.rest() == b""


async def test_terminal_with_its_size(shims: Shims) -> None:
    script = "stty size; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"
    bundle = shims.bundle("c1", ["sh", "-c", script])
    task = await shims.start(bundle)
    stdin, out = bundle.fifo("in"), bundle.fifo("out")
    reader = bundle.reader(out)
    await task.create(stdin=stdin, stdout=out, terminal=True)
    await task.call("ResizePty", Empty, width=80, height=24)
    await task.start()
    await reader.until(b"ready\n")
    await task.call("ResizePty", Empty, width=132, height=50)
    assert await task.wait() == 0
    assert await reader.rest() == b"24 80\nready\n50 132\n"


async def test_terminal_input(shims: Shims) -> None:
    bundle = shims.bundle("c1", ["head", "-n", "1"])
    task = await shims.start(bundle)
    stdin, out = bundle.fifo("in"), bundle.fifo("out")
    reader = bundle.reader(out)
    await task.create(stdin=stdin, stdout=out, terminal=True)
    await task.start()
    client = os.open(stdin, os.O_WRONLY)
    os.write(client, b"typed\n")
    assert await task.wait() == 0
    assert await reader.rest() == b"typed\n"
    os.close(client)


# Pods.


async def test_containers_of_a_pod_share_a_shim(shims: Shims) -> None:
    annotations = {"io.kubernetes.cri.sandbox-id": "pod1"}
    pod = await shims.start(shims.bundle("pod1", SLEEP, annotations))
    member = await shims.start(shims.bundle("c1", SLEEP, annotations))
    assert len(shims.pids) == 1
    assert (member.bundle.path / "address").read_bytes() == (pod.bundle.path / "address").read_bytes()
    for task in (pod, member):
        await task.create()
        await task.start()
    await member.kill(signal.SIGKILL)
    assert await member.wait() == 137
    await member.delete()
    await member.shutdown()
    member.client.close()
    done = await shims.action(member.bundle, "delete", b"", "-bundle", str(member.bundle.path))
    assert done.returncode == 0
    assert (await pod.state()).status == task_pb2.RUNNING


async def test_hostname_without_a_uts_namespace_is_the_hosts(shims: Shims) -> None:
    await (await shims.start(bundle := shims.bundle("c1", SLEEP))).create()
    assert (Path("/run/pysc-shim", shims.namespace) / bundle.id / "hostname").read_text() == os.uname().nodename


# Figures.


async def test_stats_until_delete(shims: Shims) -> None:
    task = await make(shims, ["true"])
    await task.start()
    await task.wait()
    stats = (await task.call("Stats", task_pb2.StatsResponse)).stats
    assert stats.type_url == "io.containerd.cgroups.v1.Metrics"
    assert metrics_v1_pb2.Metrics.FromString(stats.value).cpu.usage.total == 7


async def test_out_of_memory_is_told_before_the_exit(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    await task.start()
    counter = Path("/run/pysc-shim", shims.namespace, task.bundle.id, "cgroup/memory.oom_control")
    counter.write_text("oom_kill 1\n")
    await task.kill(signal.SIGKILL)
    assert await task.wait() == 137
    await shims.events.wait_for("TaskExit c1")
    assert shims.events.names[2:] == ["TaskOOM", "TaskExit c1"]


# Deaths.


async def test_death_of_the_sandbox_is_one_exit_each(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    pid = await task.start()
    await task.exec("e1", SLEEP)
    await task.start("e1")
    os.kill(pid, signal.SIGKILL)
    assert [await task.wait(), await task.wait("e1")] == [137, 137]
    await fails(NOT_FOUND, task.kill(signal.SIGTERM))
    assert (await task.call("Stats", task_pb2.StatsResponse)).stats.value  # as they were
    assert (await task.delete()).exit_status == 137
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names[4:] == ["TaskExit e1", "TaskExit c1", "TaskDelete"]
    with pytest.raises(ProcessLookupError):  # reaped
        os.kill(pid, 0)


async def test_delete_action_cleans_up_after_a_dead_shim(shims: Shims) -> None:
    task = await make(shims, SLEEP)
    pid = await task.start()
    [shim_pid] = shims.pids
    os.kill(shim_pid, signal.SIGKILL)
    await asyncio.to_thread(wait_gone, shim_pid)
    for _ in range(2):
        done = await shims.action(task.bundle, "delete", b"", "-bundle", str(task.bundle.path))
        assert (done.returncode, done.stderr) == (0, b"")
        answer = task_pb2.DeleteResponse.FromString(done.stdout)
        assert answer.exit_status == 137
        assert answer.exited_at.seconds > 0
    await asyncio.to_thread(wait_gone, pid)
    assert not any(Path("/run/pysc-shim").glob(f"{shims.namespace}/*"))
    assert list(shims.sockets.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_rootfs_is_mounted_by_create_and_unmounted_by_delete(shims: Shims, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    task = await shims.start(shims.bundle("c1", ["true"]))
    await task.create(rootfs=[{"type": "bind", "source": str(tmp_path), "options": ["rbind", "ro"]}])
    assert (task.bundle.rootfs / "file").exists()
    await task.delete()
    assert list(task.bundle.rootfs.iterdir()) == []
    await shims.events.wait_for("TaskDelete")
    created = shims.events.received[0]
    assert isinstance(created, events_pb2.TaskCreate)
    assert created.rootfs[0].source == str(tmp_path)


async def test_version_and_info(shims: Shims) -> None:
    bundle = shims.bundle("c1", ["true"])
    assert b"Version" in (await shims.action(bundle, "start", b"", "-v")).stdout
    done = await shims.action(bundle, "start", b"", "-info")
    assert b"io.containerd.pysc.v1" in done.stdout
