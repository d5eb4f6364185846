"""The control server: what the shim and the command ask of the Sentry (proto/control.py).

One job per request, since most may wait; a connection that ends forgets its open requests.
"""

from __future__ import annotations

import array
import logging
import os
import select
import time
from _socket import CMSG_SPACE, SCM_RIGHTS, SOL_SOCKET, socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from proto import control as c
from proto.ttrpc.connection import ServerConnection
from proto.ttrpc.message import Request
from sentry import sysctls
from sentry.abi import stat as st
from sentry.abi.errno import LinuxError
from sentry.abi.fcntl import O_NOCTTY, O_RDWR
from sentry.deputy import SETTLE_NS, Deputy
from sentry.fs import proc_status
from sentry.fs.console import Console, new_console
from sentry.fs.devpts import DevPts
from sentry.fs.goferclient import GoferClient
from sentry.fs.goferfs import GoferFs
from sentry.fs.hostfd import HostFile, HostFs
from sentry.fs.memdata import MEMORY, Pool
from sentry.fs.memdev import NullFile
from sentry.fs.proc_view import TaskView
from sentry.fs.tty import Tty
from sentry.fs.volumes import Volume, Volumes
from sentry.kernel.answers import approve_memory
from sentry.kernel.container import Container, Process, ProcessSpec, StartError
from sentry.kernel.kernel import Kernel, new_root_creds
from sentry.kernel.signals import SigInfo
from sentry.kernel.task import Task
from sentry.kernel.threadgroup import ThreadGroup
from sentry.kernel.utsname import UtsNamespace
from sentry.mounts import MountBuilder
from sentry.oci import max_tasks, process_spec
from sentry.platform import PAGE_SIZE
from sentry.profiler import Profiler
from sentry.reserve import reserved
from sentry.vfs.dentry import Dentry, Path
from sentry.vfs.file import File
from sentry.vfs.inode import Inode
from sentry.vfs.walk import Where, lookup_child, walk
from sentry.wait import Event

log = logging.getLogger(__name__)

MAX_FDS: Final = 253
MAX_PROFILE_MS: Final = 600_000
RECEIVE_SIZE: Final = 65536
M = TypeVar("M", bound=c.Message)


class _Fds:
    """Descriptors that came with a request, by role; whatever is not taken is closed."""

    def __init__(self, roles: list[str], fds: list[int]) -> None:
        if len(roles) != len(fds):
            for fd in fds:
                os.close(fd)
            raise StartError(c.Code.INVALID_ARGUMENT, f"{len(roles)} descriptors announced, {len(fds)} received")
        self._left = list(zip(roles, fds))

    def take(self, role: str) -> int | None:
        for i, (name, fd) in enumerate(self._left):
            if name == role:
                del self._left[i]
                return fd
        return None

    def have(self, roles: Iterable[str]) -> bool:
        return {name for name, _ in self._left}.issuperset(roles)

    def take_all(self, role: str) -> list[int]:
        fds = []
        while (fd := self.take(role)) is not None:
            fds.append(fd)
        return fds

    def close(self) -> None:
        for _, fd in self._left:
            os.close(fd)
        self._left.clear()


class _Streams:
    """Descriptors 0, 1 and 2 of a process to be started, and the console behind them, held until it has them."""

    def __init__(self, files: list[File | None], console: Console | None = None) -> None:
        self.files = [file.hold() if file is not None else None for file in files]
        self.console = console

    @property
    def tty(self) -> Tty | None:
        return self.console.tty if self.console is not None else None

    def let_go(self) -> None:
        for file in self.files:
            if file is not None:
                file.drop()
        self.files = []

    def abandon(self) -> None:
        """Nobody will use them."""
        self.let_go()
        if self.console is not None:
            self.console.close()


class _Connection:
    """One client's socket."""

    def __init__(self, server: ControlServer, sock: socket) -> None:
        self.server = server
        self.sock = sock
        self.protocol = ServerConnection()
        self.outgoing = bytearray()
        sock.setblocking(False)
        server.kernel.loop.watch_fd(sock.fileno(), select.EPOLLIN, self._event)

    def _event(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._receive()

    def _receive(self) -> None:
        try:
            with reserved():
                data, ancillary, _, _ = self.sock.recvmsg(RECEIVE_SIZE, CMSG_SPACE(MAX_FDS * 4))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        fds = _descriptors(ancillary)
        if not data:
            for fd in fds:
                os.close(fd)
            self.close()
            return
        for request in self.protocol.receive(data, fds):
            loop = self.server.kernel.loop
            loop.spawn(self._answer(request), f"control {request.method}")
        for fd in self.protocol.unclaimed_fds():
            os.close(fd)
        self.send(self.protocol.data_to_send())

    async def _answer(self, request: Request) -> None:
        protocol = self.protocol
        try:
            payload = await self.server.dispatch(request)
            self.send(protocol.respond(request.stream_id, payload))
        except StartError as e:
            self.send(protocol.error(request.stream_id, e.code, str(e)))
        except c.MessageError as e:
            self.send(protocol.error(request.stream_id, c.Code.INVALID_ARGUMENT, str(e)))
        except Exception as e:
            log.exception("control request %s failed", request.method)
            self.send(protocol.error(request.stream_id, c.Code.INTERNAL, f"{request.method}: {e}"))
        if self.server.stopping:
            self.server.kernel.loop.stop()

    def send(self, data: bytes) -> None:
        self.outgoing += data
        self._flush()

    def _flush(self) -> None:
        if self.sock.fileno() < 0:
            return
        try:
            while self.outgoing:
                sent = self.sock.send(self.outgoing)
                del self.outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        events = select.EPOLLIN | (select.EPOLLOUT if self.outgoing else 0)
        self.server.kernel.loop.watch_fd(self.sock.fileno(), events, self._event)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.server.kernel.loop.unwatch_fd(self.sock.fileno())
            self.sock.close()
            for fd in self.protocol.close():
                os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


class ControlServer:
    """Serves the listening socket for the sandbox's whole life."""

    def __init__(self, kernel: Kernel, listener: socket, config: dict[str, Any]) -> None:
        self.kernel = kernel
        self.exit_status = 0
        self.stopping = False
        self._listener = listener
        self._exit_with_init = bool(config.get("exit_with_init"))
        self._root = ""  # the id of the first container
        self._creating: set[str] = set()
        self._without_gofer: set[str] = set()
        self._doomed: set[str] = set()  # those that were to be killed while they were being started
        self._volumes = Volumes()
        self._hostname = config.get("hostname") or ""
        self._pending: dict[str, tuple[ProcessSpec, _Streams]] = {}  # created and not yet started
        self._host_fs = HostFs()
        listener.setblocking(False)
        kernel.loop.watch_fd(listener.fileno(), select.EPOLLIN, self._accept)
        self._methods: dict[str, Callable[[Any, list[int]], Awaitable[c.Message]]] = {
            "CreateContainer": self.create_container,
            "StartContainer": self.start_container,
            "Exec": self.exec,
            "Wait": self.wait,
            "Signal": self.signal,
            "Resize": self.resize,
            "Processes": self.processes,
            "State": self.state,
            "Pause": self.pause,
            "Resume": self.resume,
            "Update": self.update,
            "Usage": self.usage,
            "DestroyContainer": self.destroy_container,
            "Profile": self.profile,
            "Shutdown": self.shutdown,
        }

    def _accept(self, events: int) -> None:
        try:
            with reserved():
                fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # module socket has no other
        except OSError:
            return
        _Connection(self, socket(fileno=fd))

    async def dispatch(self, request: Request) -> bytes:
        """The response's payload.  StartError carries a status code."""
        method = self._methods.get(request.method)
        if request.service != c.SERVICE or method is None:
            for fd in request.fds:
                os.close(fd)
            raise StartError(c.Code.UNIMPLEMENTED, f"method {request.service}/{request.method}")
        kind = c.METHODS[request.method][0]
        try:
            message = kind.from_json(request.payload)
        except c.MessageError:
            for fd in request.fds:
                os.close(fd)
            raise
        return (await method(message, request.fds)).to_json()

    # -- helpers --

    def _container(self, container_id: str) -> Container:
        container = self.kernel.containers.get(container_id)
        if container is None:
            raise StartError(c.Code.NOT_FOUND, f"container {container_id!r} does not exist")
        return container

    def _process(self, container_id: str, exec_id: str) -> tuple[Container, Process]:
        container = self._container(container_id)
        process = container.processes.get(exec_id)
        if process is None:
            raise StartError(c.Code.NOT_FOUND, f"process {exec_id!r} does not exist in container {container_id!r}")
        return container, process

    async def _streams(self, container: Container, fds: _Fds, terminal: bool) -> _Streams:
        """The files for descriptors 0, 1, 2: /dev/null in the place of one that was not given, as with runc."""
        if terminal:
            return await self._terminal(container, fds)
        roles = ("stdin", "stdout", "stderr")
        null = None if fds.have(roles) else await self._null(container)
        files: list[File | None] = []
        try:
            for role in roles:
                files.append(self._host_file(fds, role) or null)
        except BaseException:
            _Streams(files).abandon()
            raise
        return _Streams(files)

    def _host_file(self, fds: _Fds, role: str) -> File | None:
        """The file of a descriptor that was given; it may take more of them than containers can have."""
        fd = fds.take(role)
        if fd is None:
            return None
        try:
            with reserved():
                return HostFile(self.kernel.loop, self._host_fs, fd)
        except BaseException:
            os.close(fd)
            raise

    async def _null(self, container: Container) -> File:
        """The container's own /dev/null, and one without a name where it has none."""
        root = container.root()
        try:
            path = await walk(Where(root, root, new_root_creds().caller(0)), "/dev/null")
            if path.inode.mode & st.S_IFMT == st.S_IFCHR and path.inode.rdev == st.DEV_NULL:
                return await path.inode.open(path, O_RDWR)
        except LinuxError:
            pass
        return NullFile(Inode(self._host_fs, st.S_IFCHR | 0o666, rdev=st.DEV_NULL), None, O_RDWR)

    async def _terminal(self, container: Container, fds: _Fds) -> _Streams:
        """A terminal in the container's /dev/pts, pumped to the donated console."""
        fd = fds.take("console")
        if fd is None:
            raise StartError(c.Code.INVALID_ARGUMENT, "terminal asked for, but no console was given")
        mount = next((m for m in container.mounts.mounts if isinstance(m.fs, DevPts)), None)
        if mount is None:
            fs = DevPts()
            mount = container.mounts.new_mount(fs, Dentry("", None, await fs.root()))
        assert isinstance(mount.fs, DevPts)
        console = new_console(mount.fs, self.kernel.loop, fd)
        path = Path(mount, await lookup_child(Path(mount, mount.root), str(console.slave.number)))
        file = await console.slave.open(path, O_RDWR | O_NOCTTY)
        return _Streams([file, file, file], console)

    # -- methods, in the contract's order --

    async def create_container(self, m: c.CreateContainer, raw_fds: list[int]) -> c.Message:
        fds = _Fds(m.fds, raw_fds)
        try:
            if m.id in self.kernel.containers or m.id in self._creating:
                raise StartError(c.Code.ALREADY_EXISTS, f"container {m.id!r} exists already")
            self._check_root()
            self._creating.add(m.id)
            try:
                await self._create(m, fds)
            except StartError:
                if m.id in self._without_gofer:
                    raise StartError(c.Code.INTERNAL, f"the gofer of container {m.id!r} is gone") from None
                raise
            finally:
                self._creating.discard(m.id)
                if m.id not in self.kernel.containers:
                    self._without_gofer.discard(m.id)
        finally:
            fds.close()
        return c.Empty()

    async def _create(self, m: c.CreateContainer, fds: _Fds) -> None:
        container: Container | None = None
        clients: list[GoferClient] = []
        try:
            container = self._new_container(m, fds.take_all("cgroup"))

            def goferfs(mount: c.Mount) -> GoferFs:
                fd = fds.take(c.gofer_role(mount.gofer or 0))
                if fd is None:
                    raise StartError(c.Code.INVALID_ARGUMENT, f"mount {mount.destination}: no gofer connection")
                client = GoferClient(self.kernel.loop, socket(fileno=fd), lambda: self._gofer_lost(m.id))
                clients.append(client)
                if mount.destination == "/":
                    return GoferFs(client)
                volume = Volume(self._volumes, mount.device) if mount.device is not None else None
                return GoferFs(client, shared=True, volume=volume)

            sysctls.apply(container, (m.spec.get("linux") or {}).get("sysctl") or {})
            await MountBuilder(container, goferfs, m.terminal).build(m.mounts, m.spec)
            spec = process_spec(m.spec.get("process") or {})
            await container.find_executable(spec)
            streams = await self._streams(container, fds, m.terminal)
            try:
                self._check_root()
                if m.id in self._without_gofer:
                    raise StartError(c.Code.INTERNAL, f"the gofer of container {m.id!r} is gone")
            except StartError:
                streams.abandon()
                raise
        except BaseException:
            if container is not None:
                container.template.close()
            for client in clients:
                client.close()
            raise
        init = container.processes[""] = Process("", Event(self.kernel.loop))
        self.kernel.containers[m.id] = container
        self._pending[m.id] = (spec, streams)
        if not self._root:
            self._root = m.id
            self.kernel.loop.spawn(self._end_pod_with(init), "end of the root container")
            if self._exit_with_init:
                self.kernel.loop.spawn(self._end_with(init), "exit with init")
        if (fd := fds.take(c.DEPUTY)) is not None:
            self._appoint(container, fd)

    def _new_container(self, m: c.CreateContainer, cgroup_fds: list[int]) -> Container:
        """Its template is in the cgroup already.  StartError: it can't share what it is to share."""
        try:
            shared = {kind: self._container(other) for kind, other in m.namespaces.items()}
            template = self.kernel.platform.new_template(tuple(cgroup_fds))
        finally:
            for fd in cgroup_fds:
                os.close(fd)
        if "uts" in shared:
            uts = shared["uts"].uts
        else:
            uts = UtsNamespace(m.spec.get("hostname") or self._hostname, m.spec.get("domainname") or "")
        container = Container(
            self.kernel,
            m.id,
            template,
            uts,
            pidns=shared["pid"].pidns if "pid" in shared else None,
            ipc=shared["ipc"].ipc if "ipc" in shared else None,
        )
        container.max_tasks = max_tasks(m.spec)
        container.facts = self.kernel.facts.seen_with(m.ncpus, m.total_ram)
        container.memory = Pool(container.facts.total_ram // PAGE_SIZE, MEMORY)
        return container

    # -- the pod --

    def _root_has_ended(self) -> bool:
        root = self.kernel.containers.get(self._root)
        return bool(self._root) and (root is None or root.status == "stopped")

    def _check_root(self) -> None:
        """StartError: the root container has ended, and with it the pod."""
        if self._root_has_ended():
            raise StartError(c.Code.FAILED_PRECONDITION, f"sandbox {self._root!r} has ended")

    async def _end_pod_with(self, init: Process) -> None:
        await init.ended.wait()
        for container in list(self.kernel.containers.values()):
            if container.id != self._root:
                self._kill(container)

    def _appoint(self, container: Container, fd: int) -> None:
        """A deputy: what happens to it happens to the container, and the other way round."""
        init = container.processes[""]

        def signalled(signo: int) -> None:
            if init.tg is not None and not init.ended.is_set:
                init.tg.send_signal(SigInfo(signo), forced=True)
            elif not init.ended.is_set:
                self._kill_created(container, init, signo)

        def lost() -> None:
            log.warning("the deputy of container %s is gone", container.id)
            if self.kernel.containers.get(container.id) is container:
                self._kill(container)

        async def tell() -> None:
            await init.ended.wait()
            deputy.end(init.status)

        deputy = Deputy(self.kernel.loop, fd, signalled, lost)
        self.kernel.loop.spawn(tell(), "tell the deputy")

    def _kill(self, container: Container) -> None:
        """End a container from outside, whatever its state."""
        process = container.processes[""]
        if process.tg is not None:
            container.kill()
        elif container.id in self._pending:
            self._abandon_pending(container.id)
            container.end(process, 137)
        elif not process.ended.is_set:
            self._doomed.add(container.id)  # it is being started

    def _gofer_lost(self, container_id: str) -> None:
        """Without its files a container can't go on; if it is the root the sandbox ends, and whoever waits hears of it.

        One that is being created fails by itself.
        """
        if self.stopping or container_id in self._without_gofer:
            return
        self._without_gofer.add(container_id)
        log.error("the gofer of container %s is gone", container_id)
        if self._root in ("", container_id):
            self.exit_status = 137
            self.kernel.loop.stop()
        elif container_id in self.kernel.containers:
            self._kill(self.kernel.containers[container_id])

    # -- methods again --

    async def start_container(self, m: c.StartContainer, fds: list[int]) -> c.Message:
        container = self._container(m.id)
        self._check_root()
        pending = self._pending.pop(m.id, None)
        if pending is None:
            what = "has ended" if container.status == "stopped" else "was started already"
            raise StartError(c.Code.FAILED_PRECONDITION, f"container {m.id!r} {what}")
        process = container.processes[""]
        try:
            await self._start(container, process, *pending)
        except StartError:
            container.end(process, 128)
            raise
        finally:
            doomed = m.id in self._doomed
            self._doomed.discard(m.id)
        if doomed:
            container.kill()
        return c.Empty()

    async def _start(self, container: Container, process: Process, spec: ProcessSpec, streams: _Streams) -> Task:
        """Start an init or an exec with its streams, which are let go in any case.  StartError."""
        try:
            t = await container.start_process(process, spec, streams.files, streams.tty)
        except BaseException:
            streams.abandon()
            raise
        streams.let_go()
        if streams.console is not None:
            self.kernel.loop.spawn(self._end_console(process, streams.console), "console")
        return t

    async def _end_console(self, process: Process, console: Console) -> None:
        """The terminal goes when its process has ended: what is left to show is shown first."""
        await process.ended.wait()
        console.close()

    async def _end_with(self, init: Process) -> None:
        await init.ended.wait()
        self.exit_status = init.status
        self.stopping = True
        self.kernel.loop.call_at(self.kernel.loop.now_ns() + SETTLE_NS, self.kernel.loop.stop)

    async def exec(self, m: c.Exec, raw_fds: list[int]) -> c.Message:
        fds = _Fds(m.fds, raw_fds)
        try:
            container = self._container(m.id)
            if container.status != "running":
                raise StartError(c.Code.FAILED_PRECONDITION, f"container {m.id!r} is not running")
            if container.frozen:
                raise StartError(c.Code.FAILED_PRECONDITION, f"cannot exec in container {m.id!r}: it is paused")
            if m.exec_id in container.processes:
                raise StartError(c.Code.ALREADY_EXISTS, f"process {m.exec_id!r} exists already")
            spec = process_spec(m.process)
            process = Process(m.exec_id, Event(self.kernel.loop))
            await container.find_executable(spec)
            streams = await self._streams(container, fds, m.terminal)
        finally:
            fds.close()
        t = await self._start(container, process, spec, streams)
        return c.ExecResponse(t.tid)

    async def wait(self, m: c.Wait, fds: list[int]) -> c.Message:
        container, process = self._process(m.id, m.exec_id)
        await process.ended.wait()
        container.forget(process)
        return c.ExitStatus(process.status, process.exited_at_ns)

    async def signal(self, m: c.Signal, fds: list[int]) -> c.Message:
        container, process = self._process(m.id, m.exec_id)
        if not 0 <= m.signal <= 64:
            raise StartError(c.Code.INVALID_ARGUMENT, f"signal {m.signal} is unknown")
        if process.ended.is_set:
            raise StartError(c.Code.NOT_FOUND, "process already finished")
        if process.tg is None:
            self._kill_created(container, process, m.signal)
        elif not m.signal:
            pass  # it is there
        elif m.all:
            container.signal_all(m.signal)
        else:
            process.tg.send_signal(SigInfo(m.signal), forced=True)
        return c.Empty()

    def _kill_created(self, container: Container, process: Process, signo: int) -> None:
        """A container that was created and not started ends with the signal that would end its waiting init."""
        if signo not in (9, 15):
            return
        self._abandon_pending(container.id)
        container.end(process, 128 + signo)

    def _abandon_pending(self, container_id: str) -> None:
        pending = self._pending.pop(container_id, None)
        if pending is not None:
            pending[1].abandon()

    async def resize(self, m: c.Resize, fds: list[int]) -> c.Message:
        _, process = self._process(m.id, m.exec_id)
        tty = process.tty
        if tty is None and not m.exec_id and m.id in self._pending:
            tty = self._pending[m.id][1].tty
        if tty is not None:
            tty.set_window(m.rows, m.cols)
        return c.Empty()

    async def processes(self, m: c.Processes, fds: list[int]) -> c.Message:
        container = self._container(m.id)
        first = container.processes[""].tg
        groups = [tg for tg in container.thread_groups() if not tg.zombie_reaped]
        return c.ProcessesResponse([self._describe(tg, tg is first) for tg in groups])

    def _describe(self, tg: ThreadGroup, is_first: bool) -> c.Process:
        ns = tg.pidns
        t = tg.leader
        age_ns = self.kernel.loop.now_ns() - tg.start_ns
        try:
            args = [a.decode("utf-8", "replace") for a in t.mm.command_line().split(b"\0")[:-1]] if not tg.dead else []
        except LinuxError:
            args = []
        return c.Process(
            pid=tg.pid,
            ppid=tg.parent.pid_in(ns) if tg.parent is not None else 0,
            tid_count=len(tg.tasks),
            uid=t.creds.uid,
            state=proc_status.state(TaskView(t, ns, whole=True)),
            tty=tg.session.tty.name if tg.session.tty is not None else "?",
            start_time_ns=time.time_ns() - age_ns,
            cpu_ns=sum(tg.cpu_ns()),
            command=t.task_name,
            args=args,
            is_first=is_first,
            host_pid=tg.tasks[0].context.host_pid if tg.tasks else 0,
        )

    async def state(self, m: c.State, fds: list[int]) -> c.Message:
        container, init = self._process(m.id, "")
        pid = init.tg.pid if init.tg is not None and not init.ended.is_set else 0
        is_paused = container.status == c.RUNNING and container.frozen
        status = c.PAUSED if is_paused else container.status
        return c.StateResponse(status, init.status, init.exited_at_ns, pid)

    async def pause(self, m: c.Pause, fds: list[int]) -> c.Message:
        container = self._container(m.id)
        if container.status != c.RUNNING:
            raise StartError(c.Code.FAILED_PRECONDITION, f"cannot pause container {m.id!r}: it is {container.status}")
        if container.frozen:
            raise StartError(c.Code.FAILED_PRECONDITION, f"cannot pause container {m.id!r}: it is paused already")
        if not await container.freezer.freeze():
            raise StartError(c.Code.INTERNAL, f"cannot pause container {m.id!r}: a process does not come to rest")
        return c.Empty()

    async def resume(self, m: c.Resume, fds: list[int]) -> c.Message:
        container = self._container(m.id)
        if container.status != c.RUNNING or not container.frozen:
            raise StartError(c.Code.FAILED_PRECONDITION, f"cannot resume container {m.id!r}: it is not paused")
        container.freezer.thaw()
        return c.Empty()

    async def update(self, m: c.Update, fds: list[int]) -> c.Message:
        container = self._container(m.id)
        if container.status == c.STOPPED:
            raise StartError(c.Code.FAILED_PRECONDITION, f"cannot update container {m.id!r}: it is stopped")
        if m.max_tasks is not None:
            container.max_tasks = m.max_tasks if m.max_tasks >= 0 else None
        if m.memory is not None:
            pages = m.memory // PAGE_SIZE
            container.facts.total_ram = m.memory
            MEMORY.limit = max(MEMORY.limit, pages)
            if container.memory is not None:
                container.memory.limit = pages
            container.template.limit_memory(m.memory)
        return c.Empty()

    async def usage(self, m: c.Usage, fds: list[int]) -> c.Message:
        container = self._container(m.id)
        template = container.template
        memory = template.memory_used()
        cpu_ns = None if memory is None else container.cpu_ns()
        return c.UsageResponse(container.task_count(), memory, cpu_ns, template.oom_kills)

    async def destroy_container(self, m: c.DestroyContainer, fds: list[int]) -> c.Message:
        container = self._container(m.id)
        self._abandon_pending(m.id)
        if (init := container.processes[""]).tg is None and not init.ended.is_set:
            container.end(init, 137)
        await container.destroy()
        self._without_gofer.discard(m.id)
        return c.Empty()

    def _count_calls(self, wanted: bool) -> None:
        """Have each call ask from now on, or as the kernel likes it."""
        self.kernel.profiled = wanted
        for task in self.kernel.root_pidns.tasks.values():
            approve_memory(task)

    async def profile(self, m: c.Profile, fds: list[int]) -> c.Message:
        self._container(m.id)
        if not 0 < m.duration_ms <= MAX_PROFILE_MS:
            raise StartError(c.Code.INVALID_ARGUMENT, f"a profile takes 1 to {MAX_PROFILE_MS} ms")
        if self.kernel.profiled:
            raise StartError(c.Code.FAILED_PRECONDITION, "the sandbox is being profiled already")
        loop = self.kernel.loop
        over = Event(loop)
        loop.call_at(loop.now_ns() + m.duration_ms * 1_000_000, over.set)
        profiler = Profiler(self.kernel.table)
        self._count_calls(True)
        profiler.start()
        try:
            await over.wait()
        finally:
            profiler.stop()
            self._count_calls(False)
        calls = [c.CallCost(name, cost.count, cost.ns) for name, cost in profiler.calls.items() if cost.count]
        return c.ProfileResponse(profiler.samples, profiler.folded(), calls)

    async def shutdown(self, m: c.Shutdown, fds: list[int]) -> c.Message:
        self.stopping = True
        return c.Empty()
