"""The Task service: one method for each call of containerd, in the order of task.proto's requests.

The containers of a pod share this process and one sandbox; each has its own connection to it, so that no call waits for
another container's.  A method decodes, finds the container, acts and encodes; what an action means is in `container`.
"""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from proto.containerd import events_pb2, task_pb2
from proto.containerd.runc_pb2 import ProcessDetails
from proto.ttrpc import aio
from proto.ttrpc.message import Request
from proto.ttrpc.status import (
    ALREADY_EXISTS,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    PERMISSION_DENIED,
    UNIMPLEMENTED,
    UNKNOWN,
    RpcError,
)
from sandbox.errors import SandboxError
from sandbox.limits import parse_resources
from sandbox.sandbox import Sandbox, Stdio
from sandbox.spawn import Nursery
from sandbox.spec import Resources, load_spec
from shim import rootfs, stats
from shim.container import CREATED, Container, Process, not_found
from shim.control import ControlClient
from shim.events import Publisher, timestamp
from shim.info import VERSION
from shim.options import sandbox_options
from shim.reaper import Reaper
from shim.start import GROUP_ANNOTATIONS
from shim.stdio import Owner, StdioNames, open_streams
from shim.tasks import Background

log = logging.getLogger(__name__)

OWN_ANNOTATIONS = "dev.pysc."

RESOURCES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")

Req = TypeVar("Req", bound=Message)


@dataclass(slots=True)
class Surroundings:
    """What the service works with."""

    namespace: str
    state_root: str
    debug: bool
    publisher: Publisher
    reaper: Reaper
    background: Background
    nursery: Nursery
    stop: Callable[[], None]
    """Ends the shim once outstanding calls are answered."""


@dataclass(slots=True)
class Creation:
    """A container in the making."""

    request: task_pb2.CreateTaskRequest
    task: asyncio.Task[Container]
    stdin_closed: bool = False
    """CloseIO has come already.  Clients send it when their own input ends, which may be at once."""

    def state(self) -> Message:
        """What State says meanwhile.  A client that got NOT_FOUND would not send CloseIO later either."""
        return task_pb2.StateResponse(
            id=self.request.id,
            bundle=self.request.bundle,
            status=CREATED,
            stdin=self.request.stdin,
            stdout=self.request.stdout,
            stderr=self.request.stderr,
            terminal=self.request.terminal,
        )


class TaskService:
    """All containers of one shim."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._with = surroundings
        self._containers: dict[str, Container] = {}
        self._creating: dict[str, Creation] = {}
        self._occupied = asyncio.Event()
        self._empty = asyncio.Event()
        self._note_occupancy()

    @property
    def is_empty(self) -> bool:
        """Whether there is no container, nor one in the making."""
        return not self._containers and not self._creating

    async def gets_container(self, within_s: float) -> bool:
        """Wait until there is a container, or one in the making; False if it takes longer than that."""
        try:
            async with asyncio.timeout(within_s):
                await self._occupied.wait()
        except TimeoutError:
            return False
        return True

    async def gets_empty(self) -> None:
        """Wait until there is none."""
        await self._empty.wait()

    def _note_occupancy(self) -> None:
        now, no_longer = (self._empty, self._occupied) if self.is_empty else (self._occupied, self._empty)
        now.set()
        no_longer.clear()

    def methods(self) -> dict[str, aio.Handler]:
        """The table for the server."""
        return {
            "State": _handler(task_pb2.StateRequest, self.state),
            "Create": _handler(task_pb2.CreateTaskRequest, self.create),
            "Start": _handler(task_pb2.StartRequest, self.start),
            "Delete": _handler(task_pb2.DeleteRequest, self.delete),
            "Pids": _handler(task_pb2.PidsRequest, self.pids),
            "Pause": _handler(task_pb2.PauseRequest, self.pause),
            "Resume": _handler(task_pb2.ResumeRequest, self.resume),
            "Checkpoint": _handler(task_pb2.CheckpointTaskRequest, self.checkpoint),
            "Kill": _handler(task_pb2.KillRequest, self.kill),
            "Exec": _handler(task_pb2.ExecProcessRequest, self.exec),
            "ResizePty": _handler(task_pb2.ResizePtyRequest, self.resize_pty),
            "CloseIO": _handler(task_pb2.CloseIORequest, self.close_io),
            "Update": _handler(task_pb2.UpdateTaskRequest, self.update),
            "Wait": _handler(task_pb2.WaitRequest, self.wait),
            "Stats": _handler(task_pb2.StatsRequest, self.stats),
            "Connect": _handler(task_pb2.ConnectRequest, self.connect),
            "Shutdown": _handler(task_pb2.ShutdownRequest, self.shutdown),
        }

    async def state(self, request: task_pb2.StateRequest) -> Message:
        """Cheap: containerd asks before every operation on an exec.  Echoes the stdio names, which CRI reopens."""
        making = self._making(request.id, request.exec_id)
        if making is not None:
            return making.state()
        container = self._container(request.id)
        process = container.process(request.exec_id)
        names = process.names
        answer = task_pb2.StateResponse(
            id=request.exec_id or request.id,
            bundle=str(container.sandbox.bundle),
            pid=process.pid,
            status=container.status(process),
            stdin=names.stdin,
            stdout=names.stdout,
            stderr=names.stderr,
            terminal=names.terminal,
            exec_id=request.exec_id,
        )
        if process.exit is not None:
            answer.exit_status = process.exit.status
            answer.exited_at.CopyFrom(timestamp(process.exit.at_ns))
        return answer

    async def create(self, request: task_pb2.CreateTaskRequest) -> Message:
        """Make the container up to the point where its process is ready to run."""
        if request.checkpoint:
            raise RpcError(UNIMPLEMENTED, "restoring a checkpoint: not implemented")
        if request.id in self._containers or request.id in self._creating:
            raise RpcError(ALREADY_EXISTS, f"container {request.id}: already exists")
        task = self._with.background.spawn(self._make(request))
        self._creating[request.id] = Creation(request, task)
        self._note_occupancy()
        task.add_done_callback(lambda _: self._made_or_not(request.id))
        container = await asyncio.shield(task)
        return task_pb2.CreateTaskResponse(pid=container.init.pid)

    def _made_or_not(self, container_id: str) -> None:
        self._creating.pop(container_id)
        self._note_occupancy()

    async def _make(self, request: task_pb2.CreateTaskRequest) -> Container:
        try:
            async with AsyncExitStack() as undo:
                container = await self._build(request, undo)
                undo.pop_all()
        except SandboxError as e:
            # NOT_FOUND and PERMISSION_DENIED mean the executable here, not the container: say only that it failed.
            code = UNKNOWN if e.code in (NOT_FOUND, PERMISSION_DENIED, INTERNAL) else e.code
            raise RpcError(code, f"failed to create container: {e}") from None
        except OSError as e:
            raise RpcError(UNKNOWN, f"failed to create container: {e}") from None
        self._containers[request.id] = container
        if self._creating[request.id].stdin_closed:
            container.close_stdin("")
        io = events_pb2.TaskIO(
            stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal
        )
        self._with.publisher.publish(
            events_pb2.TaskCreate(
                container_id=request.id, bundle=request.bundle, rootfs=request.rootfs, io=io, pid=container.init.pid
            )
        )
        return container

    async def _build(self, request: task_pb2.CreateTaskRequest, undo: AsyncExitStack) -> Container:
        """Make one thing after the other, each with its undoing."""
        bundle = request.bundle
        spec = load_spec(bundle)
        if "uts" not in spec.namespaces:
            spec.hostname = spec.hostname or os.uname().nodename
        options = sandbox_options(request.options, spec, request.id, self._with.debug)
        options.nursery = self._with.nursery
        mounts = [rootfs.Mount(m.type, m.source, m.options, m.target) for m in request.rootfs]
        if mounts:
            await asyncio.to_thread(rootfs.mount, mounts, f"{bundle}/rootfs")
            undo.push_async_callback(asyncio.to_thread, rootfs.unmount, f"{bundle}/rootfs")

        names = StdioNames(request.stdin, request.stdout, request.stderr, request.terminal)
        init = Process("", names)
        owner = Owner(request.id, self._with.namespace, self._with.reaper, self._with.background)
        streams = await open_streams(names, owner, size=spec.console_size or (0, 0))
        undo.callback(streams.close, self._with.background)

        with self._with.reaper.hold():
            sandbox = await asyncio.to_thread(
                Sandbox.create,
                self._with.state_root,
                request.id,
                bundle,
                spec,
                options,
                Stdio(**streams.donations),
            )
        undo.push_async_callback(asyncio.to_thread, sandbox.destroy)
        if not any(name in spec.annotations for name in GROUP_ANNOTATIONS):
            self._with.nursery.close()  # a container alone: no other will come
        streams.donated()
        control = ControlClient(await asyncio.to_thread(sandbox.connect), request.id)
        init.streams = streams
        init.pid = sandbox.pid
        return Container(sandbox, control, init, owner, self._with.publisher.publish)

    async def start(self, request: task_pb2.StartRequest) -> Message:
        """Let a process run; returns when it does."""
        container = await self._made(request.id)
        pid = await self._with.background.uninterrupted(container.start(request.exec_id))
        return task_pb2.StartResponse(pid=pid)

    async def delete(self, request: task_pb2.DeleteRequest) -> Message:
        """Forget an exec, or remove a container that has ended or was never started."""
        if request.exec_id:
            process = await self._container(request.id).delete_exec(request.exec_id)
        else:
            process = await self._with.background.uninterrupted(self._remove(request.id))
        assert process.exit is not None
        return task_pb2.DeleteResponse(
            pid=process.pid, exit_status=process.exit.status, exited_at=timestamp(process.exit.at_ns)
        )

    async def _remove(self, container_id: str) -> Process:
        container = await self._made(container_id)
        root = f"{container.sandbox.bundle}/rootfs"
        ended = await container.delete()
        try:
            await asyncio.to_thread(rootfs.unmount, root)
        except OSError as e:
            log.error("container %s: %s", container_id, e)  # containerd tries again when it removes the bundle
        self._containers.pop(container_id, None)
        self._note_occupancy()
        self._with.publisher.publish(
            events_pb2.TaskDelete(
                container_id=container_id,
                pid=container.init.pid,
                exit_status=ended.status,
                exited_at=timestamp(ended.at_ns),
            )
        )
        return container.init

    async def pids(self, request: task_pb2.PidsRequest) -> Message:
        """Pids of the host: for the first process what stands for the container, then what runs each of the others.

        Clients look them up there (`nerdctl top`); a process for which the host has none of its own is not listed.
        """
        container = self._container(request.id)
        answer = task_pb2.PidsResponse()
        answer.processes.add(pid=container.init.pid)
        exec_ids = {process.pid: process.exec_id for process in container.execs.values() if process.pid}
        for pid, host_pid in (await container.other_host_pids()).items():
            info = answer.processes.add(pid=host_pid)
            if pid in exec_ids:
                details = ProcessDetails(exec_id=exec_ids[pid])
                info.info.type_url = details.DESCRIPTOR.full_name
                info.info.value = details.SerializeToString()
        return answer

    async def pause(self, request: task_pb2.PauseRequest) -> Message:
        """Freeze a container's processes."""
        await self._with.background.uninterrupted(self._container(request.id).pause())
        return Empty()

    async def resume(self, request: task_pb2.ResumeRequest) -> Message:
        """Let them run on."""
        await self._with.background.uninterrupted(self._container(request.id).resume())
        return Empty()

    async def checkpoint(self, request: task_pb2.CheckpointTaskRequest) -> Message:
        """What runs here cannot be saved."""
        self._container(request.id)
        raise RpcError(UNIMPLEMENTED, "saving the state of a running container: not implemented")

    async def kill(self, request: task_pb2.KillRequest) -> Message:
        """Deliver a signal; does not wait for its effect."""
        container = await self._made(request.id)
        await container.kill(request.exec_id, request.signal, request.all)
        return Empty()

    async def exec(self, request: task_pb2.ExecProcessRequest) -> Message:
        """Register an exec; Start runs it."""
        container = await self._made(request.id)
        if not request.exec_id:
            raise RpcError(INVALID_ARGUMENT, "exec without an id: invalid argument")
        try:
            spec: Any = json.loads(request.spec.value)
        except ValueError as e:
            raise RpcError(INVALID_ARGUMENT, f"process of exec {request.exec_id}: {e}: invalid argument") from None
        if not isinstance(spec, dict):
            raise RpcError(INVALID_ARGUMENT, f"process of exec {request.exec_id}: object expected: invalid argument")
        spec["terminal"] = request.terminal
        names = StdioNames(request.stdin, request.stdout, request.stderr, request.terminal)
        container.add_exec(request.exec_id, spec, names)
        return Empty()

    async def resize_pty(self, request: task_pb2.ResizePtyRequest) -> Message:
        """Set a terminal's size."""
        await self._container(request.id).resize(request.exec_id, request.height, request.width)
        return Empty()

    async def close_io(self, request: task_pb2.CloseIORequest) -> Message:
        """Say that no more input comes."""
        if not request.stdin:
            return Empty()
        making = self._making(request.id, request.exec_id)
        if making is not None:
            making.stdin_closed = True
        else:
            self._container(request.id).close_stdin(request.exec_id)
        return Empty()

    async def update(self, request: task_pb2.UpdateTaskRequest) -> Message:
        """New limits.  Annotations may come with them, for other runtimes; ours cannot change at run time."""
        container = self._container(request.id)
        for name in request.annotations:
            if name.startswith(OWN_ANNOTATIONS):
                raise RpcError(UNIMPLEMENTED, f"annotation {name} of a container that exists: not implemented")
        await self._with.background.uninterrupted(container.update(decode_resources(request.resources)))
        return Empty()

    async def wait(self, request: task_pb2.WaitRequest) -> Message:
        """Answer when the process has ended."""
        process = (await self._made(request.id)).process(request.exec_id)
        await process.exited.wait()
        assert process.exit is not None
        return task_pb2.WaitResponse(exit_status=process.exit.status, exited_at=timestamp(process.exit.at_ns))

    async def stats(self, request: task_pb2.StatsRequest) -> Message:
        """The figures of the container's cgroup."""
        answer = task_pb2.StatsResponse()
        metrics = stats.metrics(await self._container(request.id).statistics())
        answer.stats.type_url = metrics.DESCRIPTOR.full_name
        answer.stats.value = metrics.SerializeToString()
        return answer

    async def connect(self, request: task_pb2.ConnectRequest) -> Message:
        """Never fails: containerd's probe after a restart, and where it takes a task's pid from."""
        container = self._containers.get(request.id)
        return task_pb2.ConnectResponse(
            shim_pid=os.getpid(), task_pid=container.init.pid if container else 0, version=VERSION
        )

    async def shutdown(self, request: task_pb2.ShutdownRequest) -> Message:
        """End the shim, unless containers are left."""
        if request.now or self.is_empty:
            self._with.stop()
        return Empty()

    async def close(self) -> None:
        """Destroy the containers that are left; for a shutdown that was told not to mind them."""
        if self._creating:
            await asyncio.wait([making.task for making in self._creating.values()])
        for container_id, container in reversed(list(self._containers.items())):  # a pod's root was its first
            try:
                if container.init.exit is None and container.init.status != CREATED:
                    await container.kill("", 9, True)
                    await container.init.exited.wait()
                await self._remove(container_id)
            except RpcError as e:
                log.error("container %s: %s", container_id, e)

    def _making(self, container_id: str, exec_id: str) -> Creation | None:
        """A container in the making, if it is its first process that is meant."""
        return self._creating.get(container_id) if container_id not in self._containers and not exec_id else None

    async def _made(self, container_id: str) -> Container:
        """A container, waited for if it is in the making.

        State tells of such a one.  So a client that never got an answer from Create, because it was restarted or lost
        patience, may go on from there.
        """
        making = self._creating.get(container_id)
        if making is not None:
            await asyncio.wait([making.task])
        return self._container(container_id)

    def _container(self, container_id: str) -> Container:
        container = self._containers.get(container_id)
        if container is None:
            raise not_found(f"container {container_id}")
        return container


def decode_resources(given: AnyMessage) -> Resources:
    """linux.resources as JSON in an Any.  Raises RpcError."""
    if given.type_url and given.type_url != RESOURCES_TYPE:
        raise RpcError(INVALID_ARGUMENT, f"resources of type {given.type_url}: invalid argument")
    try:
        return parse_resources(json.loads(given.value))
    except (ValueError, RecursionError) as e:
        raise RpcError(INVALID_ARGUMENT, f"resources: not JSON: {e}: invalid argument") from None
    except SandboxError as e:
        raise RpcError(e.code, e.message) from None


def _handler(kind: type[Req], method: Callable[[Req], Awaitable[Message]]) -> aio.Handler:
    """A method as the server calls it: bytes in, bytes out."""

    async def handle(request: Request) -> bytes:
        try:
            decoded = kind.FromString(request.payload)
        except DecodeError as e:
            raise RpcError(INVALID_ARGUMENT, f"{request.method}: {e}") from None
        answer = await method(decoded)
        log.debug("%s %s", request.method, getattr(decoded, "id", ""))
        return answer.SerializeToString()

    return handle
