"""The shim with the real sandbox: the real command line, a fake containerd's Events service, a busybox root.

What the shim does by itself is tested in tests/unit/shim; here it is about the two together.
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from proto.containerd import metrics_v1_pb2, metrics_v2_pb2, task_pb2
from proto.ttrpc.status import NOT_FOUND, UNKNOWN, RpcError
from tests.integration.shims import RealShims
from tests.shimtest.harness import Task, wait_gone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
]

SLEEP = ["sleep", "1000"]


async def fails(code: int, call: object) -> str:
    """The message of a call that must fail with that code."""
    with pytest.raises(RpcError) as e:
        await call  # type: ignore[misc]
    assert e.value.code == code, e.value
    return e.value.message


async def end(task: Task, shims: RealShims) -> None:
    """Delete the container and see the shim go."""
    await task.delete()
    await task.shutdown()
    for pid in shims.pids:
        await asyncio.to_thread(wait_gone, pid)
    assert list(task.bundle.rootfs.iterdir()) == []
    assert not Path("/run/pysc-shim", shims.namespace).exists()


async def test_life_of_a_container(shims: RealShims) -> None:
    bundle = shims.container("c1", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    task = await shims.start(bundle)
    out, err = bundle.fifo("out"), bundle.fifo("err")
    readers = [bundle.reader(out), bundle.reader(err)]
    pid = await task.create(rootfs=shims.rootfs, stdout=out, stderr=err)
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    waiting = asyncio.create_task(task.wait())
    await task.start()
    assert await waiting == 3
    assert [await reader.rest() for reader in readers] == [b"out\n", b"err\n"]
    await end(task, shims)
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names == ["TaskCreate", "TaskStart", "TaskExit c1", "TaskDelete"]


async def test_large_output_arrives_whole(shims: RealShims) -> None:
    bundle = shims.container("c1", ["sh", "-c", "seq 1 60000"])
    task = await shims.start(bundle)
    out = bundle.fifo("out")
    reader = bundle.reader(out)
    await task.create(rootfs=shims.rootfs, stdout=out)
    await task.start()
    assert await task.wait() == 0
    assert await reader.rest() == b"".join(b"%d\n" % n for n in range(1, 60001))
    await end(task, shims)


async def test_input_until_close_io(shims: RealShims) -> None:
    bundle = shims.container("c1", ["cat"])
    task = await shims.start(bundle)
    stdin, out = bundle.fifo("in"), bundle.fifo("out")
    reader = bundle.reader(out)
    await task.create(rootfs=shims.rootfs, stdin=stdin, stdout=out)
    await task.start()
    for text in (b"one ", b"two"):
        client = os.open(stdin, os.O_WRONLY)
        os.write(client, text)
        os.close(client)
        await reader.until(text)
    await task.call("CloseIO", Empty, stdin=True)
    assert await task.wait() == 0
    assert await reader.rest() == b"one two"
    await end(task, shims)


async def test_missing_executable_fails_create_and_leaves_nothing(shims: RealShims) -> None:
    task = await shims.start(shims.container("c1", ["nosuch"]))
    message = await fails(UNKNOWN, task.create(rootfs=shims.rootfs))
    assert message == 'failed to create container: exec: "nosuch": executable file not found in $PATH'
    assert list(task.bundle.rootfs.iterdir()) == []


async def test_kill_created_and_running(shims: RealShims) -> None:
    task = await shims.make(SLEEP)
    await task.kill(signal.SIGKILL)
    assert await task.wait() == 137
    await end(task, shims)


async def test_kill_running(shims: RealShims) -> None:
    task = await shims.make(SLEEP)
    await task.start()
    await task.kill(signal.SIGKILL)
    assert await task.wait() == 137
    await fails(NOT_FOUND, task.kill(signal.SIGTERM))
    await end(task, shims)


async def test_exec(shims: RealShims) -> None:
    task = await shims.make(SLEEP)
    await task.start()
    out = task.bundle.fifo("e-out")
    reader = task.bundle.reader(out)
    await task.exec("e1", ["sh", "-c", "echo $$ $PPID; exit 4"], stdout=out)
    assert await task.start("e1") > 1
    assert await task.wait("e1") == 4
    assert (await reader.rest()).endswith(b" 0\n")
    await task.delete("e1")
    await task.exec("e2", ["nosuch"])
    assert "executable file not found in $PATH" in await fails(UNKNOWN, task.start("e2"))
    await task.delete("e2")
    await task.exec("e3", ["cat"], stdin=task.bundle.fifo("e-in"))
    await task.call("CloseIO", Empty, exec_id="e3", stdin=True)
    await task.start("e3")
    assert await task.wait("e3") == 0
    assert (await task.call("Pids", task_pb2.PidsResponse)).processes[0].pid == (await task.state()).pid
    await task.kill(signal.SIGKILL)
    await task.wait()
    await end(task, shims)


async def test_exits_of_execs_come_before_that_of_the_container(shims: RealShims) -> None:
    task = await shims.make(SLEEP)
    await task.start()
    await task.exec("e1", SLEEP)
    await task.start("e1")
    await task.kill(signal.SIGKILL)
    assert [await task.wait(), await task.wait("e1")] == [137, 137]
    await end(task, shims)
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names[-3:] == ["TaskExit e1", "TaskExit c1", "TaskDelete"]


async def test_terminal(shims: RealShims) -> None:
    bundle = shims.container("c1", ["sh"], terminal=True)
    task = await shims.start(bundle)
    stdin, out = bundle.fifo("in"), bundle.fifo("out")
    reader = bundle.reader(out)
    await task.create(rootfs=shims.rootfs, stdin=stdin, stdout=out, terminal=True)
    await task.call("ResizePty", Empty, width=80, height=24)
    await task.start()
    client = os.open(stdin, os.O_WRONLY)
    await reader.until(b"/ # ")
    os.write(client, b"stty size\r")
    await reader.until(b"24 80\r\n/ # ")
    await task.call("ResizePty", Empty, width=132, height=50)
    os.write(client, b"stty size\r")
    await reader.until(b"50 132\r\n/ # ")
    os.write(client, b"sh -c 'echo started; exec cat'\r")
    await reader.until(b"\nstarted\r\n")
    os.write(client, b"line\r")
    await reader.until(b"line\r\nline\r\n")
    os.write(client, b"\x03")
    await reader.until(b"^C")
    await reader.until(b"/ # ")
    os.write(client, b"exit 7\r")
    assert await task.wait() == 7
    await reader.rest()
    os.close(client)
    await end(task, shims)


async def test_stats(shims: RealShims) -> None:
    task = await shims.make(["sh", "-c", "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; sleep 1000"])
    await task.start()
    stats = (await task.call("Stats", task_pb2.StatsResponse)).stats
    if stats.type_url.endswith("v1.Metrics"):
        assert metrics_v1_pb2.Metrics.FromString(stats.value).memory.usage.usage > 0
    else:
        assert metrics_v2_pb2.Metrics.FromString(stats.value).memory.usage > 0
    await task.kill(signal.SIGKILL)
    await task.wait()
    await end(task, shims)


async def test_death_of_the_sentry_is_one_exit_each(shims: RealShims) -> None:
    task = await shims.make(SLEEP)
    pid = await task.start()
    await task.exec("e1", SLEEP)
    await task.start("e1")
    os.kill(pid, signal.SIGKILL)
    assert [await task.wait(), await task.wait("e1")] == [137, 137]
    await end(task, shims)
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names[4:] == ["TaskExit e1", "TaskExit c1", "TaskDelete"]


async def test_delete_action_cleans_up_after_a_dead_shim(shims: RealShims) -> None:
    task = await shims.make(SLEEP)
    pid = await task.start()
    [shim_pid] = shims.pids
    os.kill(shim_pid, signal.SIGKILL)
    await asyncio.to_thread(wait_gone, shim_pid)
    await asyncio.to_thread(wait_gone, pid)  # by its lifeline
    done = await shims.action(task.bundle, "delete", b"", "-bundle", str(task.bundle.path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert task_pb2.DeleteResponse.FromString(done.stdout).exit_status == 137
    assert list(task.bundle.rootfs.iterdir()) == []
