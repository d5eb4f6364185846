"""A container and its processes, as containerd knows them.

    created --start--> running --exit--> stopped --delete--> gone      (created --kill--> stopped)
                       running <--pause, resume--> paused --exit--> stopped

Who changes what: start(), pause(), resume() and delete() hold the process's lock while they do, and _watch(), the task
that waits for the exit, takes it before it records one; so the start of a process is always published before its exit.
An exit is recorded once, by _record(); whatever comes second is ignored.  The container's own exit is recorded after
those of all its execs.  No lock is held while waiting for input or output, except by the start that opens them, and
reading the state takes no lock at all.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from proto.containerd import events_pb2, task_pb2
from proto.ttrpc.status import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    NOT_FOUND,
    UNKNOWN,
    ConnectionLost,
    RpcError,
)
from sandbox.cgroup_stats import Stats
from sandbox.errors import SandboxError
from sandbox.sandbox import Sandbox
from sandbox.spec import Resources
from shim.control import ControlClient
from shim.events import timestamp
from shim.oom import OomWatcher
from shim.stdio import Owner, StdioNames, Streams, open_streams
from shim.tasks import Background

log = logging.getLogger(__name__)

CREATED, RUNNING, STOPPED = task_pb2.CREATED, task_pb2.RUNNING, task_pb2.STOPPED
PAUSING, PAUSED = task_pb2.PAUSING, task_pb2.PAUSED

KILLED = 128 + 9
START_FAILED = 128
EXECS_TIMEOUT_S = 5.0


def not_found(message: str) -> RpcError:
    """What is meant does not exist (any more); containerd strips and adds the last words itself."""
    return RpcError(NOT_FOUND, f"{message}: not found")


def wrong_state(message: str) -> RpcError:
    """It exists, but this cannot be done with it now."""
    return RpcError(FAILED_PRECONDITION, f"{message}: failed precondition")


def _failed(what: str, e: RpcError | ConnectionLost) -> RpcError:
    """The Sentry refused, or is gone."""
    if isinstance(e, ConnectionLost):
        return not_found(f"{what}: process already finished")
    code = e.code if e.code in (FAILED_PRECONDITION, NOT_FOUND) else UNKNOWN
    return RpcError(code, f"{what}: {e.message}")


@dataclass(slots=True)
class Exit:
    """How a process ended."""

    status: int
    """0..255; 128 + signal when killed."""
    at_ns: int


@dataclass(slots=True)
class Process:
    """A container's first process (exec_id "") or an exec."""

    exec_id: str
    names: StdioNames
    spec: dict[str, Any] = field(default_factory=dict)
    """The OCI process object of an exec."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    # Changed under the lock.
    status: task_pb2.Status = CREATED
    pid: int = 0
    exit: Exit | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    streams: Streams | None = None

    # Changed by CloseIO and ResizePty, which may come before the start.
    stdin_closed: bool = False
    size: tuple[int, int] = (0, 0)


class Container:
    """One container and its sandbox.  Its methods raise RpcError."""

    def __init__(
        self,
        sandbox: Sandbox,
        control: ControlClient,
        init: Process,
        owner: Owner,
        publish: Callable[[Message], None],
    ) -> None:
        self.id = owner.container_id
        self.sandbox = sandbox
        self.init = init
        self.execs: dict[str, Process] = {}
        self._control = control
        self._owner = owner
        self._background: Background = owner.background
        self._publish = publish
        self._ended = False  # the first process has ended: no exec may start
        self._deleted = False
        self._frozen: task_pb2.Status | None = None
        """PAUSING or PAUSED; changed under the first process's lock."""
        self._last_stats: Stats | None = None
        """Of a container whose cgroup is gone."""
        self._oom = OomWatcher(sandbox.cgroup(), self._out_of_memory)
        owner.given_up = lambda: self._ended
        self._background.spawn(self._watch(init))

    def process(self, exec_id: str) -> Process:
        """The first process or an exec; NOT_FOUND if there is none of this id."""
        if not exec_id:
            return self.init
        process = self.execs.get(exec_id)
        if process is None:
            raise not_found(f"exec {exec_id} in container {self.id}")
        return process

    def status(self, process: Process) -> task_pb2.Status:
        """As containerd is told it: all processes of a paused container are paused, whatever else they are."""
        if self._frozen is not None and self.init.status == RUNNING:
            return self._frozen
        return process.status

    # Starting.

    async def start(self, exec_id: str) -> int:
        """Let a created process run; its pid."""
        process = self.process(exec_id)
        async with process.lock:
            if process.status != CREATED:
                raise wrong_state(f"process {exec_id or self.id} has been started before")
            if self._frozen is not None:
                raise wrong_state(f"container {self.id} is paused")
            if exec_id:
                await self._start_exec(process)
            else:
                await self._start_init()
            process.status = RUNNING
        return process.pid

    async def _start_init(self) -> None:
        try:
            with self._owner.reaper.hold():  # for the hooks
                await asyncio.to_thread(self.sandbox.start)
        except (SandboxError, OSError) as e:
            # Not back to created: clients refuse to delete a created task that has a pid.
            self._fail_start(self.init, START_FAILED)
            raise RpcError(UNKNOWN, f"failed to start container: {e}") from None
        self._publish(events_pb2.TaskStart(container_id=self.id, pid=self.init.pid))

    async def _start_exec(self, process: Process) -> None:
        if self._ended:
            self._fail_start(process, START_FAILED)  # or who waits for it would wait until it is deleted
            raise wrong_state(f"container {self.id} has ended")
        try:
            streams = await open_streams(process.names, self._owner, process.stdin_closed, process.size)
            process.streams = streams
            process.pid = await self._control.exec(
                process.exec_id, process.spec, process.names.terminal, streams.donations
            )
        except (RpcError, ConnectionLost) as e:
            self._close_streams(process)
            self._fail_start(process, START_FAILED)
            code = FAILED_PRECONDITION if isinstance(e, RpcError) and e.code == FAILED_PRECONDITION else UNKNOWN
            raise RpcError(code, f"failed to exec in container: {e}") from None
        streams.donated()
        if process.stdin_closed:  # it may have come while the call was under way
            streams.close_stdin()
        self._publish(events_pb2.TaskExecStarted(container_id=self.id, exec_id=process.exec_id, pid=process.pid))
        self._background.spawn(self._watch(process))

    def _fail_start(self, process: Process, status: int) -> None:
        """Make a process that could not be started look ended; there is no event, as it never ran."""
        process.status = STOPPED
        process.exit = Exit(status, time.time_ns())
        process.exited.set()

    # Ending.

    async def _watch(self, process: Process) -> None:
        """Wait for the end of a process and make it known."""
        ended = await self._wait(process)
        if process is self.init:
            self._ended = True
            await self._end_execs()
            await self._tell_if_out_of_memory(ended)
        if process.streams is not None:
            await process.streams.finish()
        async with process.lock:
            self._record(process, ended)

    async def _wait(self, process: Process) -> Exit:
        try:
            answer = await self._control.wait(process.exec_id)
            return Exit(answer.exit_status, answer.exited_at_ns)
        except ConnectionLost:
            if process is self.init:
                await self._bury()
        except RpcError as e:
            log.error("container %s: waiting for %r: %s", self.id, process.exec_id, e)
        return Exit(KILLED, time.time_ns())

    async def _bury(self) -> None:
        """The Sentry has died, and with it everything that ran on it: remove what it left."""
        if self._deleted:
            return
        log.warning("container %s: its sandbox has died", self.id)
        try:
            self._last_stats = await self._read_stats()
            self._oom.check()
        except (SandboxError, OSError) as e:
            log.warning("container %s: its last figures are lost: %s", self.id, e)
        try:
            await self._destroy()
        except (SandboxError, OSError) as e:
            log.error("container %s: %s", self.id, e)

    async def _tell_if_out_of_memory(self, ended: Exit) -> None:
        """Before the exit: whoever hears of that asks at once for the reason."""
        self._oom.check()
        self._oom.close()
        if ended.status != KILLED or self._oom.told:
            return
        try:
            if (await self.statistics()).oom_kills:  # a platform may keep the limit itself
                self._out_of_memory()
        except RpcError as e:
            log.debug("container %s: %s", self.id, e)

    def _out_of_memory(self) -> None:
        self._publish(events_pb2.TaskOOM(container_id=self.id))

    async def _end_execs(self) -> None:
        """Wait until the exits of all started execs are recorded; they were killed with the first process."""
        deadline = time.monotonic() + EXECS_TIMEOUT_S
        for process in list(self.execs.values()):
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    async with process.lock:
                        is_running = process.status == RUNNING
                    if is_running:
                        await process.exited.wait()
            except TimeoutError:
                log.error("container %s: exec %s does not end", self.id, process.exec_id)
                self._record(process, Exit(KILLED, time.time_ns()))

    def _record(self, process: Process, ended: Exit) -> None:
        """Note how a process ended, release its waiters and publish it; the first to come is the one that counts."""
        if process.exit is not None:
            return
        process.exit = ended
        process.status = STOPPED
        if process is self.init:
            self._frozen = None
        process.exited.set()
        if self._deleted:
            return  # deleted before it was started
        self._publish(
            events_pb2.TaskExit(
                container_id=self.id,
                id=process.exec_id or self.id,
                pid=process.pid,
                exit_status=ended.status,
                exited_at=timestamp(ended.at_ns),
            )
        )

    async def kill(self, exec_id: str, signal: int, all_processes: bool) -> None:
        """Send a signal to a process, or to all of the container."""
        process = self.process(exec_id)
        if process.exit is not None:
            raise not_found("process already finished")
        if exec_id and process.status == CREATED:
            raise wrong_state("process not created")
        try:
            await self._control.signal(exec_id, signal, all_processes)
        except ConnectionLost:
            raise not_found("process already finished") from None
        except RpcError as e:
            raise not_found(e.message) if e.code == NOT_FOUND else e from None

    async def delete(self) -> Exit:
        """Remove the container, unless it runs: processes, cgroup, files.  The root filesystem is the caller's."""
        async with self.init.lock:
            if self._deleted:
                raise not_found(f"container {self.id}")
            if self.init.status == RUNNING:
                raise wrong_state(f"container {self.id} is running")
            self._deleted = True
            try:
                await self._destroy()
            except (SandboxError, OSError) as e:
                self._deleted = False
                raise RpcError(UNKNOWN, f"failed to delete container: {e}") from None
            self._oom.close()
            self._control.close()
            for process in (self.init, *self.execs.values()):
                self._record(process, Exit(KILLED, time.time_ns()))
                self._close_streams(process)
        assert self.init.exit is not None
        return self.init.exit

    async def _destroy(self) -> None:
        with self._owner.reaper.hold():  # it waits for children of its own: hooks
            await asyncio.to_thread(self.sandbox.destroy)

    async def delete_exec(self, exec_id: str) -> Process:
        """Forget an exec that has ended or was never started."""
        process = self.process(exec_id)
        async with process.lock:
            if self.execs.get(exec_id) is not process:
                raise not_found(f"exec {exec_id} in container {self.id}")
            if process.status == RUNNING:
                raise wrong_state(f"exec {exec_id} is running")
            if process.exit is None:
                process.exit = Exit(0, time.time_ns())
                process.status = STOPPED
                process.exited.set()
            self._close_streams(process)
            del self.execs[exec_id]
        return process

    # Pausing.

    async def pause(self) -> None:
        """Freeze all processes; returns when none runs."""
        async with self.init.lock:
            if self.init.status != RUNNING:
                raise wrong_state(f"container {self.id} is not running")
            if self._frozen is not None:
                raise wrong_state(f"container {self.id} is paused already")
            self._frozen = PAUSING
            try:
                await self._control.pause()
            except (RpcError, ConnectionLost) as e:
                self._frozen = None
                raise _failed(f"cannot pause container {self.id}", e) from None
            self._frozen = PAUSED
            self._publish(events_pb2.TaskPaused(container_id=self.id))

    async def resume(self) -> None:
        """Let all processes run on."""
        async with self.init.lock:
            if self.init.status != RUNNING or self._frozen is None:
                raise wrong_state(f"container {self.id} is not paused")
            try:
                await self._control.resume()
            except (RpcError, ConnectionLost) as e:
                raise _failed(f"cannot resume container {self.id}", e) from None
            self._frozen = None
            self._publish(events_pb2.TaskResumed(container_id=self.id))

    async def update(self, resources: Resources) -> None:
        """New limits; what is not named stays as it is."""
        if self.init.status == STOPPED or self._deleted:
            raise wrong_state(f"container {self.id} is stopped")
        try:
            await asyncio.to_thread(self.sandbox.update, resources)
        except SandboxError as e:
            raise RpcError(e.code, f"cannot update container {self.id}: {e}") from None
        except OSError as e:
            raise RpcError(UNKNOWN, f"cannot update container {self.id}: {e}") from None

    def _close_streams(self, process: Process) -> None:
        if process.streams is not None:
            process.streams.close(self._background)
            process.streams = None

    # What needs no lock.

    def add_exec(self, exec_id: str, spec: dict[str, Any], names: StdioNames) -> None:
        """Register an exec; nothing is started."""
        if self.init.status == STOPPED or self._ended:
            raise wrong_state(f"container {self.id} is not running")
        if self._frozen is not None:
            raise wrong_state(f"container {self.id} is paused")
        if exec_id in self.execs:
            raise RpcError(ALREADY_EXISTS, f"exec {exec_id}: already exists")
        self.execs[exec_id] = Process(exec_id, names, spec)
        self._publish(events_pb2.TaskExecAdded(container_id=self.id, exec_id=exec_id))

    async def resize(self, exec_id: str, rows: int, cols: int) -> None:
        """Set the size of a process's terminal; without one nothing happens."""
        process = self.process(exec_id)
        if not (rows and cols and process.names.terminal):
            return
        process.size = rows, cols
        if process.streams is None or process.exit is not None:
            return
        assert process.streams.console is not None
        process.streams.console.resize(rows, cols)
        if process.status == RUNNING or process is self.init:  # which the Sentry has since Create
            try:
                await self._control.resize(exec_id, rows, cols)
            except (RpcError, ConnectionLost):
                log.debug("container %s: resize of a process that has ended", self.id)

    def close_stdin(self, exec_id: str) -> None:
        """No more input will come; remembered if the process has not been started yet."""
        process = self.process(exec_id)
        process.stdin_closed = True
        if process.streams is not None:
            process.streams.close_stdin()

    async def statistics(self) -> Stats:
        """What the container's cgroup says; also after its end, until it is deleted."""
        try:
            return self._last_stats or await self._read_stats()
        except (SandboxError, OSError) as e:
            raise wrong_state(f"no statistics of container {self.id}: {e}") from None

    async def _read_stats(self) -> Stats:
        return await asyncio.to_thread(self.sandbox.stats)

    async def other_host_pids(self) -> dict[int, int]:
        """Of all processes but the first the container's pid and the host's; none if the sandbox does not answer."""
        try:
            rows = await self._control.processes()
        except (RpcError, ConnectionLost) as e:
            log.debug("container %s: processes: %s", self.id, e)
            return {}
        return await asyncio.to_thread(self.sandbox.host_pids, [row for row in rows if not row.is_first])
