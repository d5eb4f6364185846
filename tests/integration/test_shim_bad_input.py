"""What no containerd would say, said to a real shim with a running container: it answers, or hangs up, and lives on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from proto.containerd import task_pb2
from proto.ttrpc import frame
from proto.ttrpc.message import Response, decode_response, encode_request
from proto.ttrpc.status import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    RpcError,
)
from shim.service import NAMES
from tests.integration.shims import RealShims
from tests.shimtest.harness import Task, fails

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
]

SERVICE = NAMES[0]
SLEEP = ["sleep", "1000"]
PATIENCE_S = 20
METHODS = (
    *("State", "Create", "Start", "Delete", "Pids", "Pause", "Resume", "Checkpoint", "Kill", "Exec", "ResizePty"),
    *("CloseIO", "Update", "Wait", "Stats", "Connect", "Shutdown"),
)


@pytest.fixture
async def task(shims: RealShims) -> AsyncIterator[Task]:
    """A running container, which runs still when the test has done its worst."""
    task = await shims.make(SLEEP)
    pid = await task.start()
    yield task
    state = await task.state()
    assert (state.status, state.pid) == (task_pb2.RUNNING, pid)
    assert (await task.call("Connect", task_pb2.ConnectResponse)).shim_pid in shims.pids


class Raw:
    """A connection to the shim on which anything may be sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = frame.Decoder()
        self.frames: list[frame.Frame] = []

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(self, stream: int, method: str = "Connect", payload: bytes = b"", service: str = SERVICE) -> None:
        self.send(frame.encode(stream, frame.REQUEST, encode_request(service, method, payload)))

    def response(self) -> Response:
        """The next frame, which is a response."""
        while not self.frames:
            data = self.sock.recv(65536)
            assert data, "the shim hung up"
            self.frames += self.decoder.feed(data)
        received = self.frames.pop(0)
        assert received.kind == frame.RESPONSE
        return decode_response(received.stream_id, received.payload)

    def expect(self, stream: int, code: int, text: str = "") -> None:
        response = self.response()
        assert (response.stream_id, response.code) == (stream, code), response
        assert text in response.message

    def hangs_up(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


@contextmanager
def connected(task: Task) -> Iterator[Raw]:
    path = (task.bundle.path / "address").read_text().removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)  # without a time limit: a queue that is full is waited for then
        sock.settimeout(PATIENCE_S)
        yield Raw(sock)


def header(length: int, stream: int, kind: int = frame.REQUEST, flags: int = 0) -> bytes:
    return frame.HEADER.pack(length, stream, kind, flags)


# Frames.


async def test_huge_length_is_refused_before_the_payload_comes(task: Task) -> None:
    with connected(task) as raw:
        raw.send(header(0xFFFFFFFF, 1) + b"x" * 1000)
        raw.expect(1, RESOURCE_EXHAUSTED)


async def test_payload_that_is_too_large_is_skipped(task: Task) -> None:
    with connected(task) as raw:
        raw.send(header(frame.MAX_PAYLOAD + 1, 1))
        await asyncio.to_thread(raw.send, bytes(frame.MAX_PAYLOAD + 1))
        raw.request(3)
        raw.expect(1, RESOURCE_EXHAUSTED)
        raw.expect(3, 0)


async def test_empty_request_names_no_service(task: Task) -> None:
    with connected(task) as raw:
        raw.send(header(0, 1))
        raw.expect(1, UNIMPLEMENTED, "service")


async def test_request_that_is_no_message(task: Task) -> None:
    with connected(task) as raw:
        raw.send(header(4, 1) + b"\xff\xff\xff\xff")
        raw.expect(1, INVALID_ARGUMENT)
        raw.request(3)
        raw.expect(3, 0)


async def test_stream_ids_that_clients_may_not_use(task: Task) -> None:
    with connected(task) as raw:
        for stream, code in ((2, INVALID_ARGUMENT), (5, 0), (5, INVALID_ARGUMENT), (3, INVALID_ARGUMENT), (7, 0)):
            raw.request(stream)
            raw.expect(stream, code)
        raw.request(0)
        raw.expect(0, INVALID_ARGUMENT)


async def test_other_kinds_of_frames_are_ignored(task: Task) -> None:
    with connected(task) as raw:
        for kind in (0, frame.RESPONSE, frame.DATA, 4, 255):
            raw.send(header(3, 1, kind) + b"abc")
        raw.request(1)
        raw.expect(1, 0)


async def test_streaming_calls_are_not_implemented(task: Task) -> None:
    with connected(task) as raw:
        envelope = encode_request(SERVICE, "Connect", b"")
        raw.send(frame.encode(1, frame.REQUEST, envelope, frame.REMOTE_OPEN))
        raw.expect(1, UNIMPLEMENTED)


async def test_unknown_services_and_methods(task: Task) -> None:
    with connected(task) as raw:
        raw.request(1, "Nonsense")
        raw.expect(1, UNIMPLEMENTED, "method Nonsense")
        raw.request(3, "State", service="no.such.Service")
        raw.expect(3, UNIMPLEMENTED, "service no.such.Service")
        raw.request(5, "state")
        raw.expect(5, UNIMPLEMENTED)


@pytest.mark.parametrize("length", [1, 9, 10, 11, 30])
async def test_connection_that_ends_within_a_frame(task: Task, length: int) -> None:
    with connected(task) as raw:
        raw.send(frame.encode(1, frame.REQUEST, encode_request(SERVICE, "Connect", b""))[:length])
        raw.sock.shutdown(socket.SHUT_WR)
        assert raw.hangs_up()


async def test_connection_that_is_closed_while_a_call_waits(task: Task) -> None:
    with connected(task) as raw:
        raw.request(1, "Wait", task_pb2.WaitRequest(id=task.id).SerializeToString())
        raw.sock.shutdown(socket.SHUT_WR)
        assert raw.hangs_up()


async def test_request_byte_by_byte(task: Task) -> None:
    with connected(task) as raw:
        for byte in frame.encode(1, frame.REQUEST, encode_request(SERVICE, "Connect", b"")):
            raw.send(bytes([byte]))
        raw.expect(1, 0)


async def test_connections_that_say_nothing(task: Task) -> None:
    for number in range(300):
        with connected(task):
            pass
        if number % 50 == 0:
            await task.state()  # by when it has accepted them: its backlog is not endless


async def test_client_that_never_reads_holds_up_nobody(task: Task) -> None:
    with connected(task) as raw:
        request = task_pb2.StateRequest(id=task.id).SerializeToString()
        raw.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            for stream in range(1, 200_001, 2):
                raw.request(stream, "State", request)
                if stream % 1001 == 0:
                    await task.state()
            raise BlockingIOError  # it took them all
        assert (await task.state()).status == task_pb2.RUNNING


async def test_random_bytes(task: Task) -> None:
    chance = random.Random(5)
    for _ in range(100):
        with connected(task) as raw:
            try:
                raw.send(chance.randbytes(chance.randrange(1, 300)))
            except BrokenPipeError:
                pass


# Messages.


@pytest.mark.parametrize("method", METHODS)
async def test_payload_that_is_no_message(task: Task, method: str) -> None:
    with connected(task) as raw:
        for number, payload in enumerate((b"\xff\xff\xff", b"\x0a\x7fshort", b"\x0a\x02\xff\xfe")):
            raw.request(2 * number + 1, method, payload)
            raw.expect(2 * number + 1, INVALID_ARGUMENT)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("Create", "Connect", "Shutdown")])
async def test_ids_that_nobody_has(task: Task, method: str) -> None:
    fields: dict[str, object] = {"spec": Any(value=b"{}"), "exec_id": "e"} if method == "Exec" else {}
    if method == "CloseIO":
        fields["stdin"] = True
    for other in ("", "other", "../c1", "c1/", "x" * 1_000_000, "\0"):
        await fails(NOT_FOUND, task.call(method, Empty, **{"id": other, **fields}))  # type: ignore[arg-type]


async def test_connect_never_fails(task: Task) -> None:
    for other in ("", "other", "../c1", "x" * 100_000):
        assert (await task.call("Connect", task_pb2.ConnectResponse, id=other)).task_pid == 0


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "\n", "x" * 2000])
async def test_create_with_an_id_that_is_none(task: Task, shims: RealShims, name: str) -> None:
    with pytest.raises(RpcError) as e:
        await task.call("Create", Empty, id=name, bundle=str(task.bundle.path))
    assert e.value.code == INVALID_ARGUMENT
    assert [path.name for path in Path("/run/pysc-shim", shims.namespace).iterdir()] == [task.id]


@pytest.mark.parametrize("bundle", ["", "/nonexistent", "relative", "/proc/self", "/dev/null"])
async def test_create_with_a_bundle_that_is_none(task: Task, bundle: str) -> None:
    with pytest.raises(RpcError) as e:
        await task.call("Create", Empty, id="c2", bundle=bundle)
    assert e.value.code == INVALID_ARGUMENT
    await fails(NOT_FOUND, task.call("State", Empty, id="c2"))


@pytest.mark.parametrize("spec", [b"", b"{}", b"[]", b"nonsense", b'{"args": []}', b'{"args": ["true"], "cwd": 5}'])
async def test_exec_of_no_process(task: Task, spec: bytes) -> None:
    fields: dict[str, object] = {"exec_id": "e1", "spec": Any(value=spec)}
    try:
        await task.call("Exec", Empty, **fields)  # type: ignore[arg-type]
    except RpcError as e:
        assert e.code == INVALID_ARGUMENT
        return
    with pytest.raises(RpcError):  # runc's shim looks at it at the start, too
        await task.start("e1")
    await task.delete("e1")


@pytest.mark.parametrize("number", [65, 1000, 0xFFFFFFFF])
async def test_signals_that_do_not_exist(task: Task, number: int) -> None:
    await fails(INVALID_ARGUMENT, task.kill(number))
    await fails(INVALID_ARGUMENT, task.kill(number, all=True))


async def test_signal_0_asks_whether_it_is_there(task: Task) -> None:
    await task.kill(0)
    await task.kill(0, all=True)


# The same call twice.


async def outcomes(*calls: object) -> list[int]:
    """The codes with which calls end that are made at once, in order of size; 0 is success."""
    done = await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[call-overload]
    return sorted(e.code if isinstance(e, RpcError) else 0 for e in done)


async def test_everything_twice_at_once(shims: RealShims, rootfs: Path) -> None:
    task = await shims.start(shims.container("c1", SLEEP))
    assert await outcomes(*(task.create(rootfs=shims.rootfs) for _ in range(2))) == [0, ALREADY_EXISTS]
    assert await outcomes(task.start(), task.start()) == [0, FAILED_PRECONDITION]
    assert await outcomes(task.exec("e1", SLEEP), task.exec("e1", SLEEP)) == [0, ALREADY_EXISTS]
    assert await outcomes(task.start("e1"), task.start("e1")) == [0, FAILED_PRECONDITION]
    for method in ("Pause", "Resume"):
        both = await outcomes(task.call(method, Empty), task.call(method, Empty))
        assert both == [0, FAILED_PRECONDITION]
    waits = [asyncio.create_task(task.wait(exec_id)) for exec_id in ("", "e1") for _ in range(25)]
    await outcomes(task.call("CloseIO", Empty, stdin=True), task.call("CloseIO", Empty, stdin=True))
    await outcomes(task.kill(signal.SIGKILL), task.kill(signal.SIGKILL))
    assert await asyncio.gather(*waits) == [137] * 50
    assert await task.wait() == 137
    await fails(NOT_FOUND, task.kill(signal.SIGKILL))
    assert await outcomes(task.delete("e1"), task.delete("e1")) == [0, NOT_FOUND]
    assert await outcomes(task.delete(), task.delete()) == [0, NOT_FOUND]
    await fails(NOT_FOUND, task.delete())
    await task.call("Connect", task_pb2.ConnectResponse)
    await shims.events.wait_for("TaskDelete")
    started = ["TaskCreate", "TaskStart", "TaskExecAdded", "TaskExecStarted", "TaskPaused", "TaskResumed"]
    assert shims.events.names == [*started, "TaskExit e1", "TaskExit c1", "TaskDelete"]
