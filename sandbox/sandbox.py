"""A sandbox from the outside: make it, find it again, drive its Sentry, take it away.

Everything blocks.  Any process that may read the state folder can drive a sandbox; the one that made it has no
special part (but for the lifeline, if it asked for one).

A `Sandbox` is a sandbox as one of its containers has it, found by that container's id.  The root container has the
sandbox's own id, makes and ends it; a further container of a pod joins it and leaves it.
"""

from __future__ import annotations

import _socket
import os

from proto import control
from proto.control import ExitStatus, Message, Process, StateResponse
from proto.record import Record as _Record
from proto.ttrpc.blocking import Client
from proto.ttrpc.status import ConnectionLost, RpcError
from sandbox import state
from sandbox.errors import FailedPrecondition, InvalidSpec, NotFound, SandboxError, from_rpc
from sandbox.process import is_alive, kill, wait_gone
from sandbox.spec import Reader, Spec, check_process
from sandbox.state import ContainerRecord, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket
    from typing import Any, TypeVar

    from _typeshed import StrPath

    from sandbox.cgroup_stats import Stats
    from sandbox.cgroups import Cgroup
    from sandbox.process import ProcessId
    from sandbox.spawn import Nursery
    from sandbox.spec import Resources

    R = TypeVar("R", bound=Message)

CALL_TIMEOUT = 10.0
START_TIMEOUT = 60.0
"""For calls that read the container's files before they answer."""
EXIT_TIMEOUT = 10.0
STATS_TIMEOUT = 1.0
LEAVE_TIMEOUT = 2.0
"""For a container's removal, when it is not the last word: containerd gives its `delete` 5 s in all."""
DEPUTY_TIMEOUT = 1.0
CREATING = "creating"


class Options(_Record):
    """How to make a sandbox; nothing in the container's configuration says this."""

    platform: str = "auto"
    network: str = "container"
    """"container": the network namespace that the container's configuration names; "none": an empty one."""
    overlay: str = "none"
    """"memory": changes of the root are kept there, and forgotten in the end."""
    strace: bool = False
    strace_calls: Sequence[str] = ()
    """The calls that strace is for; empty: all."""
    debug: bool = False
    log: StrPath | None = None
    """For Sentry and gofers; None: `sandbox.log` in the state folder, which goes with the sandbox."""
    log_level: str = "info"
    log_format: str = "text"
    watchdog_s: int = 0
    """Seconds; 0: no watchdog."""
    watchdog_kills: bool = False
    systemd_cgroup: bool | None = None
    """cgroupsPath is slice:prefix:name; None: if it looks so."""
    ignore_cgroups: bool = False
    exit_with_init: bool = False
    """The sandbox ends with its root container, and a deputy ends with the container's status: for callers that leave,
    and have others find the container by a pid."""
    lifeline: bool = False
    """The sandbox dies with its creator, or when the creator calls `release`."""
    nursery: Nursery | None = None
    """Forks the sandbox's processes; None: they are fresh interpreters."""


class Stdio(_Record):
    """Host descriptors for a process; they stay the caller's.  With a console (the raw slave of a pty) no others."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    console: int | None = None

    def donated(self) -> tuple[list[str], list[int]]:
        """Roles and descriptors."""
        if self.console is not None:
            return [control.CONSOLE], [self.console]
        pairs = ((control.STDIN, self.stdin), (control.STDOUT, self.stdout), (control.STDERR, self.stderr))
        given = [(role, fd) for role, fd in pairs if fd is not None]
        return [role for role, _ in given], [fd for _, fd in given]


class Sandbox:
    """One container's sandbox; the object only holds its record."""

    def __init__(self, directory: str, record: Record, lifeline: int | None = None) -> None:
        self.directory = directory
        self.record = record
        self.lifeline = lifeline
        """Our end of the pipe that keeps it alive, if there is one; closed by `release`."""

    @classmethod
    def create(
        cls, root: StrPath, id: str, bundle: StrPath, spec: Spec, options: Options, stdio: Stdio
    ) -> Sandbox:  # fmt: skip
        """A gofer, a Sentry and the root container, ready to start; a gofer only, if it is a container for a pod's
        sandbox, as its annotations say.  On failure all is undone.
        """
        from sandbox import launch, pod  # need what other commands need not load

        sandbox_id = pod.sandbox_of(spec.annotations)
        if sandbox_id:
            return launch.join(root, sandbox_id, id, bundle, spec, options, stdio)
        return launch.launch(root, id, bundle, spec, options, stdio)

    @classmethod
    def load(cls, root: StrPath, id: str) -> Sandbox:
        """Raises NotFound."""
        directory, record = state.load(root, id)
        return cls(directory, record)

    @property
    def id(self) -> str:
        """The container's."""
        return self.record.id

    @property
    def is_root(self) -> bool:
        """Whether the sandbox lives and dies with this container."""
        return self.record.id == self.record.sandbox

    @property
    def home(self) -> str:
        """The sandbox's folder."""
        return f"{os.path.dirname(self.directory)}/{self.record.sandbox}"

    @property
    def container(self) -> ContainerRecord:
        if self.record.container is None:
            raise FailedPrecondition(f"container {self.id} is not complete")
        return self.record.container

    @property
    def bundle(self) -> str:
        return self.container.bundle

    @property
    def pid(self) -> int:
        """The host pid that stands for the container; 0 while there is none yet.

        The deputy's, if there is one.  Else the Sentry's for the root; for another container the gofer's: it is there
        from the container's creation to its end on any platform, and the container does not outlive it.
        """
        process = self._deputy or (self.record.sentry if self.is_root else self._gofer)
        return process.pid if process else 0

    @property
    def _gofer(self) -> ProcessId | None:
        return self.record.container.gofer if self.record.container else None

    @property
    def _deputy(self) -> ProcessId | None:
        return self.record.container.deputy if self.record.container else None

    @property
    def control_path(self) -> str:
        """The Sentry's socket.  May be longer than a socket address holds: use `connect`."""
        return f"{self.home}/control.sock"

    def connect(self) -> socket:
        """A new connection to the Sentry's control service, for who has an event loop.  Raises OSError."""
        from socket import socket  # costs more than all that the other commands do with a socket

        return socket(fileno=self._connect().detach())

    def _connect(self) -> _socket.socket:
        directory = os.open(self.home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        s = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            s.settimeout(CALL_TIMEOUT)
            s.connect(f"/proc/self/fd/{directory}/control.sock")
            s.settimeout(None)
        except BaseException:
            s.close()
            raise
        finally:
            os.close(directory)
        return s

    def is_alive(self) -> bool:
        """Whether the Sentry runs."""
        return self.record.sentry is not None and is_alive(self.record.sentry)

    def has_died(self, patience: float = 1.0) -> bool:
        """Whether the Sentry is gone, or goes within `patience` seconds.

        For use after its connection broke: a dying process's sockets close before it counts as dead.
        """
        return self.record.sentry is None or not self.is_alive() or wait_gone(self.record.sentry, patience)

    def last_words(self) -> str:
        """The last line of the sandbox's own log, for an error message; empty if it logs elsewhere."""
        try:
            with open(f"{self.home}/sandbox.log", "rb") as f:
                f.seek(max(0, os.fstat(f.fileno()).st_size - 4096))
                lines = f.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def call(
        self, method: str, request: Message, response: type[R], timeout: float | None, fds: Sequence[int] = ()
    ) -> R:
        """One call of the control service.  Raises SandboxError, NotFound if the Sentry has exited."""
        try:
            with Client(self._connect()) as client:
                payload = client.call(control.SERVICE, method, request.to_json(), timeout, fds)
                return response.from_json(payload)
        except Exception as e:
            raise self.failed(method, e) from None

    def failed(self, method: str, error: Exception) -> Exception:
        """What an error of a call means for the caller: a SandboxError, unless it is none of the call's."""
        if isinstance(error, RpcError):
            return from_rpc(error)
        if isinstance(error, TimeoutError):
            return SandboxError(f"the sandbox did not answer {method} in time")
        if isinstance(error, (OSError, ConnectionLost)):
            if self.has_died():
                return NotFound("process already finished")
            return SandboxError(f"cannot reach the sandbox: {error}")
        if isinstance(error, control.MessageError):
            return SandboxError(f"the sandbox answered {method} wrongly: {error}")
        return error

    def query(self) -> StateResponse:
        """The Sentry's view of the container.  Raises NotFound once the Sentry has exited."""
        return self.call("State", control.State(self.id), StateResponse, CALL_TIMEOUT)

    def status(self) -> str:
        """ "creating", "created", "running" or "stopped"."""
        known = self.record.container
        if known is None or not known.created_ns:
            return CREATING if self.is_alive() else control.STOPPED
        try:
            return self.query().status
        except NotFound:
            return control.STOPPED

    def oci_state(self, status: str | None = None) -> dict[str, Any]:
        """The state object of the OCI runtime specification."""
        status = status or self.status()
        known = self.record.container or ContainerRecord(self.id, "", "1.0.2")
        return {
            "ociVersion": known.version,
            "id": known.id,
            "status": status,
            "pid": 0 if status == control.STOPPED else self.pid,
            "bundle": known.bundle,
            "annotations": known.annotations,
        }

    def start(self) -> None:
        """Let the first process run.  poststart hooks that fail are only warned of, as the specification has it."""
        with state.locked(self.directory):
            status = self.status()
            if status != control.CREATED:
                raise FailedPrecondition(f"cannot start container {self.id}: it is {status}")
            self._run_hooks("startContainer", status)
            self.call("StartContainer", control.StartContainer(self.id), control.Empty, START_TIMEOUT)
        try:
            self._run_hooks("poststart", control.RUNNING)
        except SandboxError:
            pass

    def _run_hooks(self, point: str, status: str) -> None:
        hooks = self.record.container.hooks.get(point, []) if self.record.container else []
        if hooks:
            from sandbox.hooks import run_hooks

            run_hooks(point, hooks, self.oci_state(status))

    def wait(self, exec_id: str = "") -> ExitStatus:
        """Wait for a process's end.  Raises SandboxError if the sandbox dies without saying."""
        with self.waiting(exec_id) as waiting:
            return waiting.result()

    def waiting(self, exec_id: str = "") -> Waiting:
        """Begin to wait for a process's end.  Raises SandboxError."""
        return Waiting(self, exec_id)

    def ends_within(self, seconds: float) -> bool:
        """Whether a container's first process has ended, or does so within a time."""
        try:
            self.call("Wait", control.Wait(self.id), ExitStatus, seconds)
        except NotFound:
            return True
        except SandboxError:
            return not self.is_alive()
        return True

    def signal(self, signo: int, exec_id: str = "", all: bool = False) -> None:
        """Raises NotFound if the process has already finished."""
        request = control.Signal(self.id, signo, exec_id, all)
        self.call("Signal", request, control.Empty, CALL_TIMEOUT)

    def exec(self, exec_id: str, process: dict[str, Any], terminal: bool, stdio: Stdio) -> int:
        """Start another process; returns its pid inside the container."""
        check_process(Reader(process, "process"))
        if not exec_id:
            raise InvalidSpec("the exec id must not be empty")
        roles, fds = stdio.donated()
        request = control.Exec(self.id, exec_id, process, terminal, roles)
        return self.call("Exec", request, control.ExecResponse, START_TIMEOUT, fds).pid

    def cgroup(self) -> Cgroup | None:
        """A container's cgroup, if it has one."""
        known = self.record.container
        return known.cgroup if known else None

    def update(self, resources: Resources) -> None:
        """New limits; see `sandbox.update`, which this needs not load before."""
        from sandbox.update import update

        update(self, resources)

    def pause(self) -> None:
        """Freeze every process of a running container."""
        self.call("Pause", control.Pause(self.id), control.Empty, CALL_TIMEOUT)

    def resume(self) -> None:
        """Let the processes of a paused container run on."""
        self.call("Resume", control.Resume(self.id), control.Empty, CALL_TIMEOUT)

    def resize(self, rows: int, cols: int, exec_id: str = "") -> None:
        """Set the size of a process's terminal."""
        self.call("Resize", control.Resize(self.id, rows, cols, exec_id), control.Empty, CALL_TIMEOUT)

    def processes(self) -> list[Process]:
        request = control.Processes(self.id)
        return self.call("Processes", request, control.ProcessesResponse, CALL_TIMEOUT).processes

    def host_pids(self, processes: Sequence[Process]) -> dict[int, int]:
        """The container's pids of these, and the host's of what runs them: of those that have a process there."""
        cgroup = self.cgroup()
        here = cgroup.nested_pids() if cgroup else {}
        return {process.pid: here[process.host_pid] for process in processes if process.host_pid in here}

    def stats(self) -> Stats:
        """What a container uses; without a cgroup, version 0, only what the Sentry knows."""
        from sandbox.cgroup_stats import Stats, read_stats

        known = self.record.container
        stats = read_stats(known.cgroup) if known and known.cgroup else Stats(0)
        try:
            usage = self.call("Usage", control.Usage(self.id), control.UsageResponse, STATS_TIMEOUT)
        except NotFound:
            stats.pids_current = 0
        except SandboxError:
            pass  # it is busy: what the cgroup says has to do
        else:
            stats.pids_current = usage.tasks
            stats.take_over(usage.memory, usage.cpu_ns, usage.oom_kills)
        return stats

    def release(self) -> None:
        """Let go of the lifeline: the Sentry then ends everything.  Idempotent."""
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def delete(self, force: bool = False) -> None:
        """Remove a stopped, or a merely created, container; with `force` a running one too."""
        status = self.status()
        if status in (control.RUNNING, control.PAUSED, CREATING) and not force:
            raise FailedPrecondition(f"cannot delete container {self.id}: it is {status}")
        self.destroy()

    def destroy(self) -> None:
        """End the container, the root's sandbox with it, and leave nothing behind; idempotent.

        Raises the first error, having tried everything.  Other containers of a sandbox that ends with its root stop;
        each is removed on its own.
        """
        try:
            with state.locked(self.directory):
                # Another process may have written more of it meanwhile.
                self.record = state.load(os.path.dirname(self.directory), self.id)[1]
                self.destroy_locked()
        except NotFound:
            self.release()

    def destroy_locked(self) -> None:
        """`destroy` for who holds the lock."""
        container = self.record.container
        end = self._end_sandbox if self.is_root else self._leave_sandbox
        steps: list[Callable[[], None]] = [self.release, end, self._end_deputy]
        if container and container.cgroup:
            steps.append(container.cgroup.remove)
        steps.append(lambda: self._run_hooks("poststop", control.STOPPED))
        errors: list[Exception] = []
        for step in steps:
            try:
                step()
            except (OSError, SandboxError) as e:
                errors.append(e)
        if self.is_root and self.is_alive():
            raise SandboxError(f"cannot end sandbox {self.id}: {errors[0]}")
        state.remove_directory(self.directory)
        if errors:
            raise errors[0] if isinstance(errors[0], SandboxError) else SandboxError(str(errors[0]))

    def _end_sandbox(self) -> None:
        """The stubs die with the Sentry, process 1 of their namespace; gofers by themselves, but why wait for ours."""
        self._end_processes(self.record.sentry, self._gofer)

    def _leave_sandbox(self) -> None:
        """A Sentry that does not answer is no reason to stay: without its gofer the container ends, too, and whoever
        is left in its cgroup is killed.
        """
        try:
            self.call("DestroyContainer", control.DestroyContainer(self.id), control.Empty, LEAVE_TIMEOUT)
        except SandboxError:
            pass
        self._end_processes(self._gofer)

    def _end_deputy(self) -> None:
        """It ends by itself, with the status that it was told, now that the container has ended."""
        if self._deputy and not wait_gone(self._deputy, DEPUTY_TIMEOUT):
            self._end_processes(self._deputy)

    def _end_processes(self, *known: ProcessId | None) -> None:
        processes = [process for process in known if process is not None]
        for process in processes:
            kill(process)
        for process in processes:
            if not wait_gone(process, EXIT_TIMEOUT):
                raise SandboxError(f"process {process.pid} of container {self.id} does not die")


class Waiting:
    """A call of `wait` that is under way: for who has other things to wait for, and polls them with this."""

    def __init__(self, sandbox: Sandbox, exec_id: str) -> None:
        self._sandbox = sandbox
        request = control.Wait(sandbox.id, exec_id)
        try:
            self._client = Client(sandbox._connect())
            self._stream = self._client.request(control.SERVICE, "Wait", request.to_json())
        except Exception as e:
            raise sandbox.failed("Wait", e) from None

    def fileno(self) -> int:
        """Readable when `result` will not have to wait."""
        return self._client.fileno()

    def result(self) -> ExitStatus:
        """Raises SandboxError if the sandbox dies without saying."""
        try:
            return ExitStatus.from_json(self._client.result(self._stream))
        except Exception as e:
            raise self._sandbox.failed("Wait", e) from None

    def close(self) -> None:
        """Idempotent."""
        self._client.close()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
