"""A shim under test: started by its command line as containerd does it, with an Events service to report to."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from proto.containerd import events_pb2, task_pb2
from proto.containerd.bootstrap_pb2 import BootstrapParams, BootstrapResult
from proto.containerd.forward_pb2 import ForwardRequest
from proto.ttrpc import aio
from proto.ttrpc.message import Request
from proto.ttrpc.status import ConnectionLost, RpcError

M = TypeVar("M", bound=Message)

FAKE_ENTRY = [sys.executable, "-m", "tests.shimtest.fake_entry"]
REAL_ENTRY = [sys.executable, "-m", "shim.main"]

REQUESTS = {
    "Create": "CreateTaskRequest",
    "Exec": "ExecProcessRequest",
    "Checkpoint": "CheckpointTaskRequest",
    "Update": "UpdateTaskRequest",
}
"""Of the methods whose requests are not called like them."""

PATIENCE_S = 60.0
ROOT = Path(__file__).resolve().parents[2]


class Events:
    """containerd's Events service; keeps what arrives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[Message] = []
        self.namespaces: set[str] = set()
        self._changed = asyncio.Event()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        self._server = aio.Server({"containerd.services.events.ttrpc.v1.Events": {"Forward": self._forward}})
        self._server.start(listener)

    def close(self) -> None:
        self._server.close()

    async def _forward(self, request: Request) -> bytes:
        envelope = ForwardRequest.FromString(request.payload).envelope
        kind = getattr(events_pb2, envelope.event.type_url.removeprefix("containerd.events."))
        self.received.append(kind.FromString(envelope.event.value))
        self.namespaces.add(envelope.namespace)
        self._changed.set()
        return b""

    @property
    def names(self) -> list[str]:
        """The kinds of events, in order of arrival; an exit with the id of whom it is about."""
        return [
            type(event).__name__ + (f" {event.id}" if isinstance(event, events_pb2.TaskExit) else "")
            for event in self.received
        ]

    async def wait_for(self, name: str) -> None:
        """Wait until an event of that name has arrived."""
        async with asyncio.timeout(PATIENCE_S):
            while name not in self.names:
                self._changed.clear()
                await self._changed.wait()


class Bundle:
    """A container's bundle and FIFOs, made as containerd and its client make them."""

    def __init__(self, folder: Path, container_id: str) -> None:
        self.id = container_id
        self.path = folder / container_id
        self.rootfs = self.path / "rootfs"
        self.rootfs.mkdir(parents=True)
        os.mkfifo(self.path / "log")
        self._log = os.open(self.path / "log", os.O_RDWR | os.O_NONBLOCK)
        self._readers: list[int] = []

    def write_config(self, args: Sequence[str], annotations: Mapping[str, str], **more: Any) -> None:
        config = {
            "ociVersion": "1.0.2",
            "process": {"args": list(args), "cwd": "/", "env": [f"PATH={os.environ['PATH']}"]},
            "root": {"path": "rootfs"},
            "annotations": dict(annotations),
            **more,
        }
        (self.path / "config.json").write_text(json.dumps(config))

    def fifo(self, name: str) -> str:
        path = self.path / name
        os.mkfifo(path)
        return str(path)

    def reader(self, path: str) -> "Reader":
        """The client's end of stdout or stderr."""
        return Reader(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    def log(self) -> str:
        """What the shim has logged so far."""
        with suppress(BlockingIOError):
            return os.read(self._log, 1 << 16).decode()
        return ""

    def lose_log(self) -> None:
        """No longer hold the log's fifo open, as when containerd has died."""
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self._log)
        os.close(null)

    def close(self) -> None:
        os.close(self._log)


class Reader:
    """Reads a FIFO on the loop, until its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.data = bytearray()
        self._seen = 0
        self._changed = asyncio.Event()
        self.ended = False
        asyncio.get_running_loop().add_reader(fd, self._readable)

    def _readable(self) -> None:
        data = os.read(self._fd, 1 << 16)
        self.data += data
        self._changed.set()
        if not data:
            self.ended = True
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    async def until(self, text: bytes) -> None:
        """Wait until text has been read, behind what an earlier call found."""
        await self._wait(lambda: self.data.find(text, self._seen) >= 0)
        self._seen = self.data.find(text, self._seen) + len(text)

    async def rest(self) -> bytes:
        """Everything, once the end of file has come."""
        await self._wait(lambda: self.ended)
        return bytes(self.data)

    async def _wait(self, condition: Any) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"read only {bytes(self.data)!r}") from None


class Shims:
    """Starts shims and cleans up after them.  Make it inside the running loop."""

    def __init__(self, entry: Sequence[str]) -> None:
        self.entry = entry
        self.folder = Path(tempfile.mkdtemp(prefix="pysc-shim-"))
        self.namespace = f"test-{uuid.uuid4().hex[:12]}"
        self.events = Events(self.folder / "events.sock")
        self.sockets = self.folder / "s"
        self.bundles: list[Bundle] = []
        self.tasks: list[Task] = []
        self.pids: set[int] = set()
        self.environment = {"PYSC_WARM_DIR": ""}
        """Of start and delete, beside what containerd's own would be."""
        self.prefix: list[str] = []
        """A command that runs them."""

    def bundle(
        self, container_id: str, args: Sequence[str], annotations: Mapping[str, str] | None = None, **more: Any
    ) -> Bundle:
        bundle = Bundle(self.folder, container_id)
        bundle.write_config(args, annotations or {}, **more)
        self.bundles.append(bundle)
        return bundle

    async def action(
        self, bundle: Bundle, action: str, stdin: bytes = b"", *flags: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the shim's start or delete; as in containerd, stderr of start belongs to the output."""
        command = [*self.prefix, *self.entry, "-namespace", self.namespace,
                   "-address", str(self.folder / "containerd.sock"), "-publish-binary", "/usr/bin/containerd",
                   "-id", bundle.id, *flags, action]  # fmt: skip
        environment = {**os.environ, "TTRPC_ADDRESS": str(self.events.path), "PYTHONPATH": str(ROOT)}
        environment |= self.environment
        return await asyncio.to_thread(
            subprocess.run, command, input=stdin, cwd=bundle.path, env=environment, timeout=PATIENCE_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT if action == "start" else subprocess.PIPE,
        )  # fmt: skip

    async def start(self, bundle: Bundle) -> "Task":
        """Run start and connect to what it names."""
        params = BootstrapParams(
            instance_id=bundle.id,
            namespace=self.namespace,
            containerd_ttrpc_address=str(self.events.path),
            socket_dir=str(self.sockets),
        )
        done = await self.action(bundle, "start", params.SerializeToString())
        assert done.returncode == 0, done.stdout
        address = BootstrapResult.FromString(done.stdout).address
        task = Task(bundle, await aio.Client.connect(address.removeprefix("unix://"), PATIENCE_S))
        self.tasks.append(task)
        self.pids.add((await task.call("Connect", task_pb2.ConnectResponse)).shim_pid)
        return task

    async def close(self) -> None:
        """End the shims, and see that they are gone."""
        for task in self.tasks:
            with suppress(ConnectionLost):
                await task.call("Shutdown", Empty, now=True)
            task.client.close()
        for pid in self.pids:
            await asyncio.to_thread(wait_gone, pid)
        self.events.close()
        for bundle in self.bundles:
            bundle.close()
        shutil.rmtree(self.folder)
        shutil.rmtree(f"/run/pysc-shim/{self.namespace}", ignore_errors=True)


async def fails(code: int, call: Awaitable[object]) -> str:
    """The message of a call that must fail with that code."""
    try:
        await call
    except RpcError as e:
        assert e.code == code, e
        return e.message
    raise AssertionError("the call did not fail")


def wait_gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    ended = poller.poll(PATIENCE_S * 1000)
    os.close(pidfd)
    assert ended, f"process {pid} is still there"


class Task:
    """A container of a shim: its calls, with the id filled in."""

    def __init__(self, bundle: Bundle, client: aio.Client) -> None:
        self.bundle = bundle
        self.id = bundle.id
        self.client = client

    async def call(self, method: str, kind: type[M], service: str = "containerd.task.v2.Task", **fields: Any) -> M:
        """Call a method of the Task service."""
        name = REQUESTS.get(method, method + "Request")
        request = getattr(task_pb2, name)(**{"id": self.id, **fields})
        payload = await self.client.call(service, method, request.SerializeToString(), PATIENCE_S)
        return kind.FromString(payload)

    async def create(self, **fields: Any) -> int:
        return (await self.call("Create", task_pb2.CreateTaskResponse, bundle=str(self.bundle.path), **fields)).pid

    async def start(self, exec_id: str = "") -> int:
        return (await self.call("Start", task_pb2.StartResponse, exec_id=exec_id)).pid

    async def wait(self, exec_id: str = "") -> int:
        return (await self.call("Wait", task_pb2.WaitResponse, exec_id=exec_id)).exit_status

    async def state(self, exec_id: str = "") -> task_pb2.StateResponse:
        return await self.call("State", task_pb2.StateResponse, exec_id=exec_id)

    async def kill(self, signal: int, exec_id: str = "", all: bool = False) -> None:
        await self.call("Kill", Empty, signal=signal, exec_id=exec_id, all=all)

    async def delete(self, exec_id: str = "") -> task_pb2.DeleteResponse:
        return await self.call("Delete", task_pb2.DeleteResponse, exec_id=exec_id)

    async def exec(self, exec_id: str, args: Sequence[str], **fields: Any) -> None:
        process = {"args": list(args), "cwd": "/", "env": [f"PATH={os.environ['PATH']}"]}
        spec = any_pb2.Any(
            type_url="types.containerd.io/opencontainers/runtime-spec/1/Process", value=json.dumps(process).encode()
        )
        await self.call("Exec", Empty, exec_id=exec_id, spec=spec, **fields)

    async def shutdown(self) -> None:
        await self.call("Shutdown", Empty)
