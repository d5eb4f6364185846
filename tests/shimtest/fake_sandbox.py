"""Stands in for sandbox.sandbox: the same names, as far as the shim uses them, around fake_sentry."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proto import control
from proto.ttrpc import blocking
from proto.ttrpc.status import RpcError
from sandbox import errors
from sandbox.cgroup_stats import Stats
from sandbox.cgroups import Cgroup
from sandbox.process import ProcessId, identify, kill, wait_gone
from sandbox.spec import Resources, Spec

SENTRY = Path(__file__).with_name("fake_sentry.py")


@dataclass
class Options:
    platform: str = "auto"
    network: str = "container"
    overlay: str = "none"
    strace: bool = False
    strace_calls: Sequence[str] = ()
    debug: bool = False
    log: Path | None = None
    log_level: str = "info"
    log_format: str = "text"
    watchdog_s: int = 0
    watchdog_kills: bool = False
    systemd_cgroup: bool | None = None
    ignore_cgroups: bool = False
    exit_with_init: bool = False
    lifeline: bool = False


@dataclass
class Stdio:
    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    console: int | None = None


class Sandbox:
    """A folder with the Sentry's socket and its pid."""

    def __init__(self, folder: Path, bundle: Path, process: ProcessId) -> None:
        self.id = folder.name
        self.bundle = bundle
        self.pid = process.pid
        self.control_path = folder / "control.sock"
        self._folder = folder
        self._cgroup = folder / "cgroup"
        self._process = process

    @classmethod
    def create(cls, root: str, id: str, bundle: str, spec: Spec, options: Options, stdio: Stdio) -> "Sandbox":
        folder = Path(root, id)
        folder.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "control.sock"))
            listener.listen()
            child = subprocess.Popen([sys.executable, SENTRY, str(listener.fileno())], pass_fds=[listener.fileno()])
        child.returncode = 0  # the shim reaps it
        sandbox = cls(folder, Path(bundle), identify(child.pid))
        (folder / "hostname").write_text(spec.hostname)
        sandbox._make_cgroup()
        (folder / "state.json").write_text(json.dumps([bundle, sandbox._process.to_json()]))
        try:
            sandbox._create_container(spec, stdio)
        except RpcError as e:
            sandbox.destroy()
            raise errors.from_rpc(e) from None
        return sandbox

    def _create_container(self, spec: Spec, stdio: Stdio) -> None:
        fds = {role: fd for role, fd in vars(stdio).items() if fd is not None}
        request = control.CreateContainer(self.id, spec.raw, [], stdio.console is not None, list(fds))
        with blocking.Client(self.connect()) as client:
            client.call(control.SERVICE, "CreateContainer", request.to_json(), 20, list(fds.values()))

    def _make_cgroup(self) -> None:
        """As far as the watcher of memory's end needs one."""
        self._cgroup.mkdir()
        (self._cgroup / "cgroup.event_control").touch()
        (self._cgroup / "memory.oom_control").write_text("oom_kill 0\n")

    def cgroup(self) -> Cgroup:
        return Cgroup(1, {str(self._cgroup): ["memory"]}, [])

    def update(self, resources: Resources) -> None:
        if resources.memory_limit == 1:
            raise errors.FailedPrecondition("more is in use than it would allow")
        (self.bundle / "updated").write_text(str(resources.memory_limit))

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.control_path))
        return sock

    def start(self) -> None:
        with blocking.Client(self.connect()) as client:
            client.call(control.SERVICE, "StartContainer", control.StartContainer(self.id).to_json())

    @classmethod
    def load(cls, root: str, id: str) -> "Sandbox":
        try:
            bundle, process = json.loads(Path(root, id, "state.json").read_text())
        except FileNotFoundError:
            raise errors.NotFound(f"no sandbox {id}") from None
        return cls(Path(root, id), Path(bundle), ProcessId.from_json(process))

    def host_pids(self, processes: Sequence[control.Process]) -> dict[int, int]:
        return {process.pid: process.host_pid for process in processes}

    def stats(self) -> Stats:
        if not self._folder.exists():
            raise errors.NotFound(f"no sandbox {self.id}")
        return Stats(version=1, cpu_usage_ns=7, memory_usage=1 << 20)

    def destroy(self) -> None:
        kill(self._process, signal.SIGKILL)
        wait_gone(self._process, 5)
        shutil.rmtree(self._folder, ignore_errors=True)
