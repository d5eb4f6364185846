"""Pause, resume and update: which state allows what, and what is published; with a fake sandbox."""

import asyncio
import json
import signal
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from proto.containerd import task_pb2
from proto.ttrpc.status import FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED
from shim.service import RESOURCES_TYPE
from tests.shimtest.harness import Shims, Task, fails

SLEEP = ["sleep", "1000"]


async def running(shims: Shims) -> Task:
    task = await shims.start(shims.bundle("c1", SLEEP))
    await task.create()
    await task.start()
    return task


def resources(**content: object) -> AnyMessage:
    return AnyMessage(type_url=RESOURCES_TYPE, value=json.dumps(content).encode())


async def test_paused_container_and_its_execs_say_so(shims: Shims) -> None:
    task = await running(shims)
    await task.exec("e1", SLEEP)
    await task.start("e1")
    await task.call("Pause", Empty)
    assert [(await task.state(exec_id)).status for exec_id in ("", "e1")] == [task_pb2.PAUSED] * 2
    await task.call("Resume", Empty)
    assert [(await task.state(exec_id)).status for exec_id in ("", "e1")] == [task_pb2.RUNNING] * 2
    await shims.events.wait_for("TaskResumed")
    assert shims.events.names[4:] == ["TaskPaused", "TaskResumed"]


async def test_what_a_paused_container_refuses(shims: Shims) -> None:
    task = await running(shims)
    await task.exec("e1", SLEEP)
    await task.call("Pause", Empty)
    await fails(FAILED_PRECONDITION, task.call("Pause", Empty))
    await fails(FAILED_PRECONDITION, task.start())
    await fails(FAILED_PRECONDITION, task.start("e1"))
    await fails(FAILED_PRECONDITION, task.exec("e2", SLEEP))
    await fails(FAILED_PRECONDITION, task.delete())
    await task.call("ResizePty", Empty, width=80, height=24)
    await task.call("Update", Empty, resources=resources(memory={"limit": 7}))
    await task.call("Resume", Empty)
    await fails(FAILED_PRECONDITION, task.call("Resume", Empty))
    await task.start("e1")


async def test_pausing_what_does_not_run(shims: Shims) -> None:
    task = await shims.start(shims.bundle("c1", SLEEP))
    await task.create()
    for method in ("Pause", "Resume"):
        await fails(FAILED_PRECONDITION, task.call(method, Empty))
    await task.kill(signal.SIGKILL)
    await task.wait()
    for method in ("Pause", "Resume", "Update"):
        fields: Any = {"resources": resources()} if method == "Update" else {}
        await fails(FAILED_PRECONDITION, task.call(method, Empty, **fields))
        await fails(NOT_FOUND, task.call(method, Empty, id="other", **fields))


async def test_exit_of_a_paused_container_ends_the_pause(shims: Shims) -> None:
    task = await running(shims)
    waiting = asyncio.create_task(task.wait())
    await task.call("Pause", Empty)
    await task.kill(signal.SIGKILL)
    assert await waiting == 137
    assert (await task.state()).status == task_pb2.STOPPED
    await task.delete()
    await shims.events.wait_for("TaskDelete")
    assert shims.events.names[2:] == ["TaskPaused", "TaskExit c1", "TaskDelete"]


async def test_update(shims: Shims) -> None:
    task = await running(shims)
    await task.call("Update", Empty, resources=resources(memory={"limit": 7}), annotations={"other": "1"})
    assert (task.bundle.path / "updated").read_text() == "7"
    await fails(FAILED_PRECONDITION, task.call("Update", Empty, resources=resources(memory={"limit": 1})))


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", INVALID_ARGUMENT),
        (b"{", INVALID_ARGUMENT),
        (b"[]", INVALID_ARGUMENT),
        (b"[" * 100_000, INVALID_ARGUMENT),
        (b'{"memory": 5}', INVALID_ARGUMENT),
        (b'{"memory": {"limit": "5"}}', INVALID_ARGUMENT),
        (b'{"unified": {"../x": "5"}}', INVALID_ARGUMENT),
        (b'{"cpu": {"realtimeRuntime": 5}}', UNIMPLEMENTED),
        (b'{"blockIO": {"weight": 5}}', UNIMPLEMENTED),
    ],
)
async def test_update_with_nonsense(shims: Shims, value: bytes, code: int) -> None:
    task = await running(shims)
    await fails(code, task.call("Update", Empty, resources=AnyMessage(type_url=RESOURCES_TYPE, value=value)))
    assert (await task.state()).status == task_pb2.RUNNING


async def test_update_of_another_kind(shims: Shims) -> None:
    task = await running(shims)
    await fails(INVALID_ARGUMENT, task.call("Update", Empty, resources=AnyMessage(type_url="other", value=b"{}")))
    await fails(
        UNIMPLEMENTED, task.call("Update", Empty, resources=resources(), annotations={"dev.pysc.platform": "kvm"})
    )


async def test_checkpoint_is_not_implemented(shims: Shims) -> None:
    task = await running(shims)
    assert "not implemented" in await fails(UNIMPLEMENTED, task.call("Checkpoint", Empty, path="/tmp/nowhere"))
    await fails(UNIMPLEMENTED, task.create(checkpoint="/tmp/nowhere"))
