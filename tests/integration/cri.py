"""containerd's CRI service over gRPC, as the kubelet speaks to it, and a daemon that has it.

Messages are put together with the small protobuf codec of proto.ttrpc: only a few fields of a few of CRI's are needed
(k8s.io/cri-api, runtime/v1/api.proto; the numbers are those of that file).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grpc  # type: ignore[import-untyped]

from proto.ttrpc.protobuf import as_bytes, as_int, as_text, bytes_field, fields, int_field, text_field
from tests.integration.bundle import IMAGE_MAKER, PYSC, busybox_rootfs
from tests.integration.daemon import CONFIG, Daemon, until

NAMESPACE = "k8s.io"
PAUSE = "docker.io/test/pause:latest"
BUSYBOX = "docker.io/test/busybox:latest"
HOST_NETWORK = 2  # NamespaceMode NODE: no network plugin is needed
# NamespaceMode of pids: the pod's (shareProcessNamespace), one's own (the kubelet's default), the node's (hostPID),
# that of another container (ephemeral containers).
POD_PID, CONTAINER_PID, NODE_PID, TARGET_PID = 0, 1, 2, 3

CRI_CONFIG = (
    CONFIG.replace('  "io.containerd.grpc.v1.cri",\n', "")
    + f"""
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pysc]
      runtime_type = "io.containerd.pysc.v1"
      pod_annotations = ["dev.pysc.*"]
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pysc-by-runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pysc-by-runc.options]
        BinaryName = "{PYSC}"
"""
)


class ExecResult(NamedTuple):
    stdout: bytes
    stderr: bytes
    exit_code: int


@dataclass(slots=True)
class Asked:
    """What a container is to have beyond a program."""

    volumes: list[tuple[str, str, bool]] = field(default_factory=list)
    """Path on the host, path inside, read-only."""
    pid_mode: int = CONTAINER_PID
    target: str = ""
    """Whose PID namespace it is to share, with mode TARGET_PID."""
    memory: int = 0
    cpu_quota: int = 0
    """Of 100,000."""
    oom_score_adj: int = 0

    def fields(self) -> bytes:
        """Of ContainerConfig: mounts 7, linux 15 { resources 1, security_context 2 { namespace_options 3 } }"""
        mounts = b"".join(
            bytes_field(7, text_field(1, inside) + text_field(2, outside) + int_field(3, int(readonly)))
            for outside, inside, readonly in self.volumes
        )
        namespaces = int_field(1, HOST_NETWORK) + int_field(2, self.pid_mode) + text_field(4, self.target)
        resources = int_field(1, 100_000) + int_field(2, self.cpu_quota) + int_field(4, self.memory)
        resources += int_field(5, self.oom_score_adj)
        security = bytes_field(3, namespaces)
        return mounts + bytes_field(15, bytes_field(1, resources) + bytes_field(2, security))


DEFAULTS = Asked()


class CriDaemon(Daemon):
    """containerd with its CRI plugin, and a pause and a busybox image for it."""

    config = CRI_CONFIG

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.annotations: dict[str, dict[str, str]] = {}
        """Of each pod by its name, as the kubelet says them again for each container."""
        self._channel = grpc.insecure_channel(f"unix://{folder}/containerd.sock")
        root = busybox_rootfs(folder / "image-root")
        (root / "etc" / "resolv.conf").touch()  # where the kubelet's is mounted
        self._import(PAUSE, root, "sleep", "1000000")
        self._import(BUSYBOX, root)
        if not until(lambda: self._call("Status", b""), 30):
            raise RuntimeError(f"the CRI service does not come up:\n{self.tail()}")

    def _import(self, name: str, root: Path, *command: str) -> None:
        archive = self.folder / "cri-image.tar"
        subprocess.run([sys.executable, IMAGE_MAKER, "image", name, root, archive, *command], check=True)
        ctr = ["ctr", "--address", f"{self.folder}/containerd.sock", "--namespace", NAMESPACE]
        subprocess.run([*ctr, "images", "import", archive], check=True, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        self._channel.close()
        super().close()

    def _call(self, method: str, request: bytes, seconds: float = 60) -> list[tuple[int, int | bytes]]:
        call = self._channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
        return list(fields(call(request, timeout=seconds)))

    def _pod_config(self, name: str) -> bytes:
        metadata = text_field(1, name) + text_field(2, f"uid-{name}") + text_field(3, "default")
        namespaces = int_field(1, HOST_NETWORK) + int_field(2, CONTAINER_PID)
        linux = text_field(1, f"/{self.namespace}") + bytes_field(2, bytes_field(1, namespaces))
        pairs = (text_field(1, key) + text_field(2, value) for key, value in self.annotations[name].items())
        annotations = b"".join(bytes_field(7, pair) for pair in pairs)
        return bytes_field(1, metadata) + text_field(3, f"{self.folder}/logs") + annotations + bytes_field(8, linux)

    def run_pod(self, name: str, handler: str, annotations: dict[str, str] | None = None) -> str:
        """RunPodSandbox; the pod's id."""
        self.annotations[name] = annotations or {}
        request = bytes_field(1, self._pod_config(name)) + text_field(2, handler)
        return as_text(dict(self._call("RunPodSandbox", request))[1])

    def run_container(self, pod: str, pod_name: str, name: str, *command: str, asked: Asked = DEFAULTS) -> str:
        """CreateContainer and StartContainer; the container's id."""
        container = self.create_container(pod, pod_name, name, *command, asked=asked)
        self._call("StartContainer", text_field(1, container))
        return container

    def create_container(self, pod: str, pod_name: str, name: str, *command: str, asked: Asked = DEFAULTS) -> str:
        config = bytes_field(1, text_field(1, name)) + bytes_field(2, text_field(1, BUSYBOX))
        config += b"".join(text_field(3, word) for word in command) + text_field(11, f"{name}.log") + asked.fields()
        request = text_field(1, pod) + bytes_field(2, config) + bytes_field(3, self._pod_config(pod_name))
        return as_text(dict(self._call("CreateContainer", request))[1])

    def exec_sync(self, container: str, *command: str) -> ExecResult:
        request = text_field(1, container) + b"".join(text_field(2, word) for word in command) + int_field(3, 20)
        answer = dict(self._call("ExecSync", request))
        return ExecResult(as_bytes(answer.get(1, b"")), as_bytes(answer.get(2, b"")), as_int(answer.get(3, 0)))

    def log_of(self, name: str) -> str:
        """What a container has printed, in CRI's format: time, stream, flag, line."""
        return (self.folder / "logs" / f"{name}.log").read_text()

    def memory_of(self, container: str) -> int:
        """Working set in bytes, from ContainerStats: stats 1 { memory 3 { working_set_bytes 2 { value 1 } } }"""
        stats = dict(fields(as_bytes(dict(self._call("ContainerStats", text_field(1, container)))[1])))
        working_set = dict(fields(as_bytes(dict(fields(as_bytes(stats[3])))[2])))
        return as_int(working_set[1])

    def exit_code_of(self, container: str) -> int:
        """ContainerStatus: status 1 { exit_code 7 }"""
        status = dict(fields(as_bytes(dict(self._call("ContainerStatus", text_field(1, container)))[1])))
        return as_int(status.get(7, 0))

    def is_running(self, container: str) -> bool:
        """ContainerStatus: status 1 { state 3: CONTAINER_RUNNING = 1 }"""
        status = dict(fields(as_bytes(dict(self._call("ContainerStatus", text_field(1, container)))[1])))
        return as_int(status.get(3, 0)) == 1

    def stop_container(self, container: str, seconds: int = 0) -> None:
        self._call("StopContainer", text_field(1, container) + int_field(2, seconds))

    def remove_container(self, container: str) -> None:
        self._call("StopContainer", text_field(1, container))
        until(lambda: not self.is_running(container))  # of one that ends at that moment containerd notes it a bit later
        self._call("RemoveContainer", text_field(1, container))

    def remove_pod(self, pod: str) -> None:
        self._call("StopPodSandbox", text_field(1, pod))
        self._call("RemovePodSandbox", text_field(1, pod))


@contextmanager
def cri_daemon() -> Iterator[CriDaemon]:
    """One in a folder of its own, whose name is short because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="cri-", ignore_cleanup_errors=True) as folder:
        daemon = CriDaemon(Path(folder))
        try:
            yield daemon
        finally:
            daemon.close()
