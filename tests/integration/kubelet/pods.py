"""What the kubelet asks of containerd's CRI service, in its own words: pods, containers, commands, figures."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]

from tests.integration.cri import BUSYBOX, CriDaemon
from tests.integration.daemon import until
from tests.integration.kubelet import runtime_pb2 as api

Reply = TypeVar("Reply")
CALL_SECONDS = 120
MIB = 1 << 20


class Kubelet:
    """The service of a daemon, used with one runtime handler."""

    def __init__(self, daemon: CriDaemon, handler: str) -> None:
        self.daemon = daemon
        self.handler = handler
        self._channel = grpc.insecure_channel(f"unix://{daemon.folder}/containerd.sock")

    def close(self) -> None:
        self._channel.close()

    def call(self, method: str, request: Any, reply: type[Reply]) -> Reply:
        """One call; a status other than OK is a grpc.RpcError."""
        decode = reply.FromString  # type: ignore[attr-defined]
        function = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}", type(request).SerializeToString, decode
        )
        answer: Reply = function(request, timeout=CALL_SECONDS)
        return answer


class Pod:
    """A pod on the node's network (no plugin is needed then), with a folder of the host for its volumes."""

    def __init__(self, kubelet: Kubelet, name: str) -> None:
        self.kubelet = kubelet
        self.name = name
        self.id = ""
        self.volume = Path(tempfile.mkdtemp(prefix="volume-"))
        self.config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default", attempt=1),
            log_directory=str(self.volume / "logs"),
            linux=api.LinuxPodSandboxConfig(cgroup_parent=f"/{kubelet.daemon.namespace}"),
        )
        self.namespaces = self.config.linux.security_context.namespace_options
        self.namespaces.network = api.NODE
        self.namespaces.pid = api.CONTAINER

    def run(self) -> Pod:
        """RunPodSandbox, once the configuration is as the test wants it."""
        request = api.RunPodSandboxRequest(config=self.config, runtime_handler=self.kubelet.handler)
        self.id = self.kubelet.call("RunPodSandbox", request, api.RunPodSandboxResponse).pod_sandbox_id
        return self

    def stop(self) -> None:
        self.kubelet.call("StopPodSandbox", api.PodSandboxRequest(pod_sandbox_id=self.id), api.Empty)

    def close(self) -> None:
        """Takes the pod and all its containers away."""
        try:
            if self.id:
                self.stop()
                self.kubelet.call("RemovePodSandbox", api.PodSandboxRequest(pod_sandbox_id=self.id), api.Empty)
        finally:
            shutil.rmtree(self.volume)

    def status(self) -> api.PodSandboxStatus:
        request = api.PodSandboxRequest(pod_sandbox_id=self.id)
        return self.kubelet.call("PodSandboxStatus", request, api.PodSandboxStatusResponse).status

    def stats(self) -> api.PodSandboxStats:
        request = api.PodSandboxRequest(pod_sandbox_id=self.id)
        return self.kubelet.call("PodSandboxStats", request, api.PodSandboxStatsResponse).stats

    def container(self, name: str, *command: str) -> Container:
        """One to be configured further, and then created or started; without a command it sleeps."""
        return Container(self, name, command or ("sleep", "1000"))

    def started(self, name: str, *command: str) -> Container:
        return self.container(name, *command).start()


class Container:
    """A container of a pod: its configuration before it is created, its calls afterwards."""

    def __init__(self, pod: Pod, name: str, command: tuple[str, ...]) -> None:
        self.pod = pod
        self.kubelet = pod.kubelet
        self.id = ""
        self.config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image=BUSYBOX),
            command=command,
            log_path=f"{name}.log",
        )
        self.security = self.config.linux.security_context
        self.security.namespace_options.CopyFrom(pod.namespaces)

    def mount(self, outside: Path, inside: str, *, readonly: bool = False) -> Container:
        self.config.mounts.add(container_path=inside, host_path=str(outside), readonly=readonly)
        return self

    def create(self) -> Container:
        request = api.CreateContainerRequest(
            pod_sandbox_id=self.pod.id, config=self.config, sandbox_config=self.pod.config
        )
        self.id = self.kubelet.call("CreateContainer", request, api.CreateContainerResponse).container_id
        return self

    def start(self) -> Container:
        """StartContainer, and CreateContainer before where nobody did that."""
        if not self.id:
            self.create()
        self.kubelet.call("StartContainer", api.ContainerRequest(container_id=self.id), api.Empty)
        return self

    def stop(self, seconds: int = 0) -> None:
        request = api.StopContainerRequest(container_id=self.id, timeout=seconds)
        self.kubelet.call("StopContainer", request, api.Empty)

    def remove(self) -> None:
        self.kubelet.call("RemoveContainer", api.ContainerRequest(container_id=self.id), api.Empty)

    def status(self) -> api.ContainerStatus:
        request = api.ContainerRequest(container_id=self.id)
        return self.kubelet.call("ContainerStatus", request, api.ContainerStatusResponse).status

    def is_running(self) -> bool:
        return self.status().state == api.CONTAINER_RUNNING

    def exit_code(self) -> int:
        return self.status().exit_code

    def ended(self, seconds: float = 60) -> api.ContainerStatus:
        """The status, once the container has ended by itself."""
        assert until(lambda: self.status().state == api.CONTAINER_EXITED, seconds), self.status()
        return self.status()

    def exec(self, *command: str, seconds: int = 60) -> api.ExecSyncResponse:
        request = api.ExecSyncRequest(container_id=self.id, cmd=command, timeout=seconds)
        return self.kubelet.call("ExecSync", request, api.ExecSyncResponse)

    def sh(self, script: str) -> str:
        """What it prints, errors too."""
        return self.exec("sh", "-c", f"exec 2>&1; {script}").stdout.decode()

    def stats(self) -> api.ContainerStats:
        request = api.ContainerRequest(container_id=self.id)
        return self.kubelet.call("ContainerStats", request, api.ContainerStatsResponse).stats

    def update(self, **limits: int) -> None:
        """UpdateContainerResources with members of LinuxContainerResources."""
        linux = api.LinuxContainerResources(**limits)
        request = api.UpdateContainerResourcesRequest(container_id=self.id, linux=linux)
        self.kubelet.call("UpdateContainerResources", request, api.Empty)

    def log(self) -> list[tuple[str, str, str]]:
        """Stream, flag (F: a line, P: a part of one) and text of each entry in the log."""
        path = self.pod.volume / "logs" / self.config.log_path
        rows = [line.split(" ", 3) for line in path.read_text().splitlines()] if path.exists() else []
        return [(stream, flag, text) for _, stream, flag, text in rows]

    def wait_printed(self, text: str, stream: str = "stdout") -> None:
        """Until exactly that is in the log: a moment after the container's end, perhaps, or after a client has it."""
        assert until(lambda: self.printed(stream) == text), self.log()

    def printed(self, stream: str = "stdout") -> str:
        """All that it has written to a stream, from the log."""
        ends = {"F": "\n", "P": ""}
        return "".join(text + ends[flag] for each, flag, text in self.log() if each == stream)
