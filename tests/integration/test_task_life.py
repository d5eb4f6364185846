"""The life of processes by the real shim: every exit and every event once and in order, however short a life is."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from google.protobuf.empty_pb2 import Empty

from proto.containerd import task_pb2
from proto.containerd.runc_pb2 import ProcessDetails
from proto.ttrpc import aio
from proto.ttrpc.status import FAILED_PRECONDITION, NOT_FOUND
from tests.integration.daemon import command_line
from tests.integration.shims import RealShims
from tests.shimtest.harness import Task, fails, wait_gone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
]

SLEEP = ["sleep", "1000"]
TRAPS = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done"


async def running(shims: RealShims, *args: str) -> Task:
    task = await shims.make(list(args))
    await task.start()
    return task


async def end(task: Task, shims: RealShims) -> None:
    """Kill, delete, and see the shim go."""
    if (await task.state()).status != task_pb2.STOPPED:
        await task.kill(signal.SIGKILL)
    await task.wait()
    await task.delete()
    await task.shutdown()
    for pid in shims.pids:
        await asyncio.to_thread(wait_gone, pid)


async def test_process_that_ends_at_once(shims: RealShims) -> None:
    """Its start is told before its end, and its pid is told all the same."""
    task = await shims.make(["true"])
    waiting = asyncio.create_task(task.wait())
    assert await task.start() > 0
    assert await waiting == 0
    assert (await task.state()).pid > 0
    await end(task, shims)
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names == ["TaskCreate", "TaskStart", "TaskExit c1", "TaskDelete"]


async def test_many_short_execs_at_once(shims: RealShims) -> None:
    task = await running(shims, *SLEEP)

    async def one(number: int) -> int:
        exec_id = f"e{number}"
        await task.exec(exec_id, ["sh", "-c", f"exit {number}"])
        waiting = asyncio.create_task(task.wait(exec_id))
        assert await task.start(exec_id) > 0
        status = await waiting
        assert (await task.delete(exec_id)).exit_status == status
        return status

    assert await asyncio.gather(*map(one, range(30))) == list(range(30))
    await end(task, shims)
    await shims.events.wait_for("TaskDelete")
    for number in range(30):
        told = [event for event in shims.events.received if getattr(event, "exec_id", "") == f"e{number}"]
        exits = [event for event in shims.events.received if getattr(event, "id", "") == f"e{number}"]
        order = [shims.events.received.index(event) for event in (*told, *exits)]
        names = [event.DESCRIPTOR.name for event in (*told, *exits)]
        assert names == ["TaskExecAdded", "TaskExecStarted", "TaskExit"]
        assert order == sorted(order)


async def test_container_that_ends_while_execs_begin(shims: RealShims) -> None:
    """None of them is left without an end, and the container's own is the last."""
    task = await running(shims, *SLEEP)
    for number in range(10):
        await task.exec(f"e{number}", SLEEP)
    starts = [asyncio.create_task(task.start(f"e{number}")) for number in range(10)]
    await task.kill(signal.SIGKILL)
    assert await task.wait() == 137
    started = [not isinstance(done, Exception) for done in await asyncio.gather(*starts, return_exceptions=True)]
    for number in range(10):
        assert await task.wait(f"e{number}") in ((137,) if started[number] else (128,))
    await end(task, shims)
    await shims.events.wait_for("TaskDelete")
    exits = [name for name in shims.events.names if name.startswith("TaskExit")]
    assert sorted(exits[:-1]) == sorted(f"TaskExit e{number}" for number in range(10) if started[number])
    assert exits[-1] == "TaskExit c1"


async def test_exec_with_a_terminal(shims: RealShims) -> None:
    task = await running(shims, *SLEEP)
    bundle = task.bundle
    stdin, out = bundle.fifo("e-in"), bundle.fifo("e-out")
    reader = bundle.reader(out)
    await task.exec("e1", ["sh"], stdin=stdin, stdout=out, terminal=True)
    assert (await task.state("e1")).terminal
    await task.call("ResizePty", Empty, exec_id="e1", width=80, height=24)
    await task.start("e1")
    client = os.open(stdin, os.O_WRONLY)
    await reader.until(b"/ # ")
    os.write(client, b"stty size; tty\r")
    await reader.until(b"24 80\r\n/dev/pts/")
    await task.call("ResizePty", Empty, exec_id="e1", width=132, height=50)
    os.write(client, b"stty size\r")
    await reader.until(b"50 132\r\n")
    os.write(client, b"exit 7\r")
    assert await task.wait("e1") == 7
    await reader.rest()
    os.close(client)
    await task.call("ResizePty", Empty, exec_id="e1", width=10, height=10)
    await task.delete("e1")
    await fails(NOT_FOUND, task.call("ResizePty", Empty, exec_id="e1", width=10, height=10))
    await end(task, shims)


async def test_signals_reach_whom_they_are_meant_for(shims: RealShims) -> None:
    bundle = shims.container("c1", ["sh", "-c", TRAPS])
    task = await shims.start(bundle)
    out, exec_out = bundle.fifo("out"), bundle.fifo("e-out")
    reader, exec_reader = bundle.reader(out), bundle.reader(exec_out)
    await task.create(rootfs=shims.rootfs, stdout=out)
    await task.start()
    await task.exec("e1", ["sh", "-c", TRAPS], stdout=exec_out)
    await fails(FAILED_PRECONDITION, task.kill(signal.SIGUSR1, "e1"))
    await task.start("e1")
    await reader.until(b"ready\n")
    await exec_reader.until(b"ready\n")
    await task.kill(signal.SIGUSR1, "e1")
    assert await task.wait("e1") == 9
    assert (await exec_reader.rest()).endswith(b"caught\n")
    assert (await task.state()).status == task_pb2.RUNNING
    await fails(NOT_FOUND, task.kill(signal.SIGUSR1, "e1"))
    await task.kill(signal.SIGUSR1)
    assert await task.wait() == 9
    assert (await reader.rest()).endswith(b"caught\n")
    await end(task, shims)


async def test_signal_to_all(shims: RealShims) -> None:
    bundle = shims.container("c1", ["sh", "-c", f'sh -c "{TRAPS}" & {TRAPS}'])
    task = await shims.start(bundle)
    out, exec_out = bundle.fifo("out"), bundle.fifo("e-out")
    reader, exec_reader = bundle.reader(out), bundle.reader(exec_out)
    await task.create(rootfs=shims.rootfs, stdout=out)
    await task.start()
    await task.exec("e1", ["sh", "-c", TRAPS], stdout=exec_out)
    await task.start("e1")
    await reader.until(b"ready\nready\n")
    await exec_reader.until(b"ready\n")
    await task.kill(signal.SIGUSR1, all=True)
    assert [await task.wait(), await task.wait("e1")] in ([9, 9], [9, 137])
    assert b"caught\n" in await reader.rest()
    await end(task, shims)


async def test_pids_are_all_processes(shims: RealShims) -> None:
    """As the host has them: what stands for the container, and what runs each other process, under its name."""
    task = await running(shims, "sh", "-c", "sleep 1001 & sleep 1002 & wait")
    await task.exec("e1", SLEEP)
    await task.start("e1")
    sleeps = ["sleep 1000 ", "sleep 1001 ", "sleep 1002 "]
    while True:
        rows = (await task.call("Pids", task_pb2.PidsResponse)).processes
        shown = [command_line(row.pid) for row in rows[1:]]
        if sorted(shown) == sleeps:  # else they have not called execve yet, or are about to leave for a new process
            break
        await asyncio.sleep(0.02)
    assert rows[0].pid == (await task.state()).pid
    details = {row.pid: ProcessDetails.FromString(row.info.value).exec_id for row in rows if row.info.value}
    assert list(details.values()) == ["e1"]
    assert set(details) <= {row.pid for row in rows[1:]}
    await task.kill(signal.SIGKILL)
    await task.wait()
    await end(task, shims)


async def test_wait_before_during_and_after(shims: RealShims) -> None:
    task = await shims.make(["sh", "-c", "exit 6"])
    waits = [asyncio.create_task(task.wait()) for _ in range(20)]
    await task.start()
    waits += [asyncio.create_task(task.wait()) for _ in range(20)]
    assert set(await asyncio.gather(*waits)) == {6}
    state = await task.state()
    answer = await task.call("Wait", task_pb2.WaitResponse)
    assert (answer.exit_status, answer.exited_at) == (6, state.exited_at)
    await task.delete()
    await fails(NOT_FOUND, task.wait())
    await task.shutdown()


async def test_delete_of_execs_in_each_state(shims: RealShims) -> None:
    task = await running(shims, *SLEEP)
    await task.exec("created", ["true"])
    assert (await task.delete("created")).exit_status == 0
    await task.exec("running", SLEEP)
    await task.start("running")
    await fails(FAILED_PRECONDITION, task.delete("running"))
    await fails(FAILED_PRECONDITION, task.delete())
    await task.kill(signal.SIGKILL, "running")
    assert await task.wait("running") == 137
    answer = await task.delete("running")
    assert (answer.exit_status, answer.pid) == (137, answer.pid)
    await fails(NOT_FOUND, task.delete("running"))
    await task.exec("running", ["true"])  # its id is free again
    await end(task, shims)
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names.count("TaskExit running") == 1


async def test_exec_in_a_container_that_does_not_run(shims: RealShims) -> None:
    task = await shims.make(SLEEP)
    await task.exec("early", ["true"])
    await fails(FAILED_PRECONDITION, task.start("early"))
    await task.kill(signal.SIGKILL)
    await task.wait()
    await fails(FAILED_PRECONDITION, task.exec("late", ["true"]))
    await end(task, shims)


async def test_output_goes_on_when_its_reader_comes_back(shims: RealShims) -> None:
    """As after a restart of containerd: the connection and all readers go, then all are made anew."""
    bundle = shims.container("c1", ["sh", "-c", "i=0; while read x; do i=$((i+1)); echo line $i; done"])
    task = await shims.start(bundle)
    stdin, out = bundle.fifo("in"), bundle.fifo("out")
    first = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    await task.create(rootfs=shims.rootfs, stdin=stdin, stdout=out)
    await task.start()
    client = os.open(stdin, os.O_WRONLY)
    os.write(client, b"\n")
    while True:
        try:
            assert os.read(first, 100) == b"line 1\n"
            break
        except BlockingIOError:
            await asyncio.sleep(0.02)
    task.client.close()
    os.close(first)
    os.close(client)
    client = os.open(stdin, os.O_WRONLY)
    os.write(client, b"\n" * 3)
    path = (bundle.path / "address").read_text().removeprefix("unix://")
    task.client = await aio.Client.connect(path)
    state = await task.state()
    assert (state.status, state.stdin, state.stdout) == (task_pb2.RUNNING, stdin, out)
    reader = bundle.reader(out)
    await reader.until(b"line 2\nline 3\nline 4\n")
    os.write(client, b"\n")
    await reader.until(b"line 5\n")
    os.close(client)
    await task.call("CloseIO", Empty, stdin=True)
    assert await task.wait() == 0
    assert await reader.rest() == b"line 2\nline 3\nline 4\nline 5\n"
    await end(task, shims)
