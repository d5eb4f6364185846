"""The shim's command line against what containerd and people say to it, and shims that nobody needs any more."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToJson

from proto.containerd import task_pb2
from proto.containerd.bootstrap_pb2 import BootstrapParams, BootstrapResult
from proto.ttrpc import aio
from proto.ttrpc.protobuf import as_bytes, as_text, bytes_field, fields, text_field
from tests.integration.daemon import command_line
from tests.integration.shims import RealShims
from tests.shimtest.harness import Bundle, Task, wait_gone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
]

OPTIONS = text_field(1, "runtimeoptions.v1.Options") + bytes_field(2, b"\x12\x04/a/b")


@pytest.fixture(params=[False, True], ids=["alone", "warm"])
async def shims(request: pytest.FixtureRequest, rootfs: Path) -> AsyncIterator[RealShims]:
    shims = RealShims(rootfs, warm=request.param)
    yield shims
    await shims.close()


def params(shims: RealShims, bundle: Bundle, log_level: int = 0) -> BootstrapParams:
    given = BootstrapParams(instance_id=bundle.id, namespace=shims.namespace, log_level=log_level)
    given.socket_dir = str(shims.sockets)
    given.containerd_ttrpc_address = str(shims.events.path)
    return given


async def connect(shims: RealShims, bundle: Bundle, address: str) -> Task:
    """To a shim that `start` named; it is ended with the test."""
    assert address.startswith("unix:///")
    assert (bundle.path / "address").read_text() == address
    task = Task(bundle, await aio.Client.connect(address.removeprefix("unix://"), 60))
    shims.tasks.append(task)
    shims.pids.add((await task.call("Connect", task_pb2.ConnectResponse)).shim_pid)
    return task


@pytest.mark.parametrize("stdin", [b"", OPTIONS], ids=["nothing", "options"])
async def test_containerd_before_2_3_is_answered_by_the_address_alone(shims: RealShims, stdin: bytes) -> None:
    bundle = shims.container("c1", ["true"])
    done = await shims.action(bundle, "start", stdin)
    assert re.fullmatch(rb"unix:///run/containerd/s/[0-9a-f]{64}", done.stdout)
    await connect(shims, bundle, done.stdout.decode())


async def test_parameters_in_protobuf_are_answered_so(shims: RealShims) -> None:
    bundle = shims.container("c1", ["true"])
    done = await shims.action(bundle, "start", params(shims, bundle).SerializeToString())
    answer = BootstrapResult.FromString(done.stdout)
    assert (answer.version, answer.protocol) == (2, "ttrpc")
    await connect(shims, bundle, answer.address)


async def test_parameters_in_json_are_answered_so(shims: RealShims) -> None:
    bundle = shims.container("c1", ["true"])
    done = await shims.action(bundle, "start", MessageToJson(params(shims, bundle)).encode())
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["protocol"]) == (2, "ttrpc")
    await connect(shims, bundle, answer["address"])


async def test_level_of_the_log_comes_with_the_parameters(shims: RealShims) -> None:
    """What the shim says goes to the bundle's fifo, which containerd reads."""
    bundle = shims.container("c1", ["true"])
    done = await shims.action(bundle, "start", params(shims, bundle, log_level=-4).SerializeToString())
    task = await connect(shims, bundle, BootstrapResult.FromString(done.stdout).address)
    await task.call("Connect", task_pb2.ConnectResponse)
    lines = bundle.log().splitlines()
    assert f"shim of c1 in namespace {shims.namespace}" in lines[0]
    assert all(re.match(r'time="[^"]+Z" level=\w+ msg=".*" shim=pysc', line) for line in lines)
    assert any("level=debug" in line for line in lines)


async def test_log_that_nobody_reads_holds_up_nothing(shims: RealShims) -> None:
    bundle = shims.container("c1", ["sleep", "1000"])
    done = await shims.action(bundle, "start", params(shims, bundle, log_level=-8).SerializeToString())
    task = await connect(shims, bundle, BootstrapResult.FromString(done.stdout).address)
    for _ in range(1500):  # more than the fifo holds
        await task.call("Connect", task_pb2.ConnectResponse)
    assert len(bundle.log()) > 60_000
    bundle.lose_log()  # containerd goes: no reader is left
    await task.create(rootfs=shims.rootfs)
    await task.start()
    await task.kill(signal.SIGKILL)
    assert await task.wait() == 137
    await task.delete()


async def test_shim_without_a_container_ends_by_itself(rootfs: Path) -> None:
    shims = RealShims(rootfs, PYSC_SHIM_IDLE="3")  # in which the test has to connect to it
    task = await shims.start(shims.container("c1", ["true"]))
    [pid] = shims.pids
    await asyncio.to_thread(wait_gone, pid)
    assert list(shims.sockets.iterdir()) == []
    assert task.client.closed
    await shims.close()


async def test_shim_with_a_container_stays(rootfs: Path) -> None:
    shims = RealShims(rootfs, PYSC_SHIM_IDLE="3")
    task = await shims.make(["sleep", "5"])
    await task.start()
    assert await task.wait() == 0
    assert (await task.state()).status == task_pb2.STOPPED
    await task.delete()
    [pid] = shims.pids
    await asyncio.to_thread(wait_gone, pid)
    await shims.close()


async def test_information_about_the_runtime(rootfs: Path) -> None:
    shims = RealShims(rootfs)
    bundle = shims.container("c1", ["true"])
    for stdin in (b"", OPTIONS, b"\xff\xff"):
        done = await shims.action(bundle, "delete", stdin, "-info")
        assert (done.returncode, done.stderr) == (0, b"")
        said = dict(fields(done.stdout))
        assert as_text(said[1]) == "io.containerd.pysc.v1"
        assert as_text(dict(fields(as_bytes(said[2])))[1])
        assert said.get(3) == (OPTIONS if stdin == OPTIONS else None)
    for flag in ("-v", "--v", "-version"):
        done = await shims.action(bundle, "delete", b"", flag)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"Version:" in done.stdout
    await shims.close()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-namespace", "x", "start"], "-id"),
        (["-id", "x", "start"], "-namespace"),
        (["-namespace", "x", "-id", "x", "dance"], "dance"),
        (["-namespace", "x", "-id", "x"], "action"),
        ([], "-namespace"),
    ],
)
async def test_wrong_command_lines(rootfs: Path, words: list[str], reason: str) -> None:
    shims = RealShims(rootfs)
    process = await asyncio.create_subprocess_exec(
        *shims.entry, *words, cwd=shims.folder, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert reason in err.decode()
    assert len(err.splitlines()) == 1
    await shims.close()


async def test_flags_of_versions_to_come_are_skipped(rootfs: Path) -> None:
    shims = RealShims(rootfs)
    bundle = shims.container("c1", ["true"])
    done = await shims.action(bundle, "start", b"", "-some-switch", "--other=value", "-debug")
    assert done.stdout.startswith(b"unix://")
    await connect(shims, bundle, done.stdout.decode())
    await shims.close()


async def test_delete_removes_the_socket_of_a_shim_that_was_killed_before_anybody_came(rootfs: Path) -> None:
    shims = RealShims(rootfs)
    bundle = shims.container("c1", ["true"])
    done = await shims.action(bundle, "start")
    socket = Path(done.stdout.decode().removeprefix("unix://"))
    words = f" -namespace {shims.namespace} "
    [shim] = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and words in command_line(int(pid))]
    os.kill(shim, signal.SIGKILL)
    await asyncio.to_thread(wait_gone, shim)
    assert socket.is_socket()
    done = await shims.action(bundle, "delete", b"", "-bundle", str(bundle.path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert not socket.exists()
    await shims.close()


async def test_delete_of_what_never_was(rootfs: Path) -> None:
    shims = RealShims(rootfs)
    bundle = shims.container("c1", ["true"])
    done = await shims.action(bundle, "delete", b"", "-bundle", str(bundle.path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert task_pb2.DeleteResponse.FromString(done.stdout).exit_status == 137
    await shims.close()
