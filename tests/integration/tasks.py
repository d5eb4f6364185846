"""containerd's own gRPC services, for what ctr does in one go: a task step by step, its FIFOs in the test's hands.

Messages are put together with the small protobuf codec of proto.ttrpc (containerd's api/services/containers/v1 and
api/services/tasks/v1; the numbers are those of these files).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc  # type: ignore[import-untyped]

from proto.ttrpc.protobuf import as_bytes, as_int, bytes_field, fields, int_field, text_field
from tests.integration.bundle import MOUNTS, Process
from tests.integration.daemon import RUNTIME, Daemon

STATUS_NAMES = ("UNKNOWN", "CREATED", "RUNNING", "STOPPED", "PAUSED", "PAUSING")
SECONDS = 60.0

Fields = dict[int, int | bytes]


class Stdio(NamedTuple):
    """Names of FIFOs or URIs; "" is none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""

    def to_fields(self, first: int) -> bytes:
        """Three string fields that follow each other."""
        return b"".join(text_field(number, name) for number, name in enumerate(self, first))


NO_STDIO = Stdio()


class Client:
    """A connection to a daemon; survives the daemon's restart."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        # A new daemon is to be tried at once, not after a back-off.
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.insecure_channel(f"unix://{daemon.folder}/containerd.sock", options=options)

    def close(self) -> None:
        self._channel.close()

    def call(self, service: str, method: str, request: bytes, seconds: float = SECONDS) -> Fields:
        """Raises grpc.RpcError."""
        call = self._channel.unary_unary(f"/containerd.services.{service}/{method}")
        metadata = [("containerd-namespace", self.daemon.namespace)]
        answer: bytes = call(request, timeout=seconds, metadata=metadata, wait_for_ready=True)
        return dict(fields(answer))

    def container(self, rootfs: Path, args: Sequence[str], runtime: str = RUNTIME, **changes: Any) -> Task:
        """A new container without a task.  `changes` replace members of its spec."""
        name = f"g{uuid.uuid4().hex[:10]}"
        self.daemon.names.add(name)
        spec: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": Process(list(args)).to_spec(),
            "root": {"path": "rootfs", "readonly": False},
            "hostname": "guest",
            "mounts": MOUNTS,
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
                "cgroupsPath": f"/{self.daemon.namespace}/{name}",
            },
            **changes,
        }
        url = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
        packed = text_field(1, url) + bytes_field(2, json.dumps(spec).encode())
        made = text_field(1, name) + bytes_field(4, text_field(1, runtime)) + bytes_field(5, packed)
        self.call("containers.v1.Containers", "Create", bytes_field(1, made))
        return Task(self, name, rootfs)


class Task:
    """One container and its task.  Every call raises grpc.RpcError."""

    def __init__(self, client: Client, name: str, rootfs: Path) -> None:
        self.client = client
        self.name = name
        self.rootfs = rootfs

    def _call(self, method: str, *more: bytes, seconds: float = SECONDS) -> Fields:
        return self.client.call("tasks.v1.Tasks", method, text_field(1, self.name) + b"".join(more), seconds)

    def create(self, stdio: Stdio = NO_STDIO) -> int:
        """Create; the pid."""
        mount = text_field(1, "bind") + text_field(2, str(self.rootfs))
        mount += text_field(4, "rbind") + text_field(4, "ro")
        return as_int(self._call("Create", bytes_field(3, mount), stdio.to_fields(4)).get(2, 0))

    def start(self, exec_id: str = "") -> int:
        return as_int(self._call("Start", text_field(2, exec_id)).get(1, 0))

    def exec(self, exec_id: str, args: Sequence[str], stdio: Stdio = NO_STDIO) -> None:
        """Exec: `start` is what runs it."""
        url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
        process = text_field(1, url) + bytes_field(2, json.dumps(Process(list(args)).to_spec()).encode())
        self._call("Exec", stdio.to_fields(2), bytes_field(6, process), text_field(7, exec_id))

    def kill(self, signo: int = 9, exec_id: str = "") -> None:
        self._call("Kill", text_field(2, exec_id), int_field(3, signo))

    def wait(self, exec_id: str = "", seconds: float = SECONDS) -> int:
        """The exit status, once there is one."""
        return as_int(self._call("Wait", text_field(2, exec_id), seconds=seconds).get(1, 0))

    def close_stdin(self, exec_id: str = "") -> None:
        self._call("CloseIO", text_field(2, exec_id), int_field(3, 1))

    def delete(self, exec_id: str = "") -> int:
        """Delete or DeleteProcess; the exit status."""
        method = "DeleteProcess" if exec_id else "Delete"
        return as_int(self._call(method, text_field(2, exec_id)).get(3, 0))

    def status(self, exec_id: str = "") -> str:
        """ "" if there is no such task or process."""
        try:
            process = dict(fields(as_bytes(self._call("Get", text_field(2, exec_id))[1])))
        except grpc.RpcError as e:
            if e.code() == grpc.StatusCode.NOT_FOUND:
                return ""
            raise
        return STATUS_NAMES[as_int(process.get(4, 0))]

    def remove(self) -> None:
        """The container, whose task must be gone."""
        self.client.call("containers.v1.Containers", "Delete", text_field(1, self.name))

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *_: object) -> None:
        """Away with all that is left of it."""
        for step in (self.kill, self.wait, self.delete, self.remove):
            try:
                step()
            except grpc.RpcError:
                continue


def make_fifos(folder: Path, *names: str) -> Stdio:
    """Of these streams; the client's ends are for the test to open."""
    folder.mkdir(exist_ok=True)
    for name in names:
        os.mkfifo(folder / name)
    return Stdio(**{name: str(folder / name) for name in names})
