"""Starts the Sentry and the gofers: fork and exec of a fresh interpreter, which stage.py then confines.

A fresh interpreter, not a fork of the caller, for the caller may have threads, an event loop and secrets.  Only the
descriptors named are inherited, under their own numbers.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from proto.control import BootConfig
from sandbox.errors import SandboxError
from sandbox.process import ProcessId, identify, kill, wait_gone

START_TIMEOUT = 60.0
"""Seconds from exec to "ok".  A busy host takes long to read a Python installation that is not in its page cache."""

SANDBOX_NAMESPACES = ("pid", "mount", "ipc", "uts", "cgroup")

_INSTALLATION = str(Path(__file__).resolve().parent.parent)
_BOOTSTRAP = "import sys; sys.path.append(sys.argv[1]); from sandbox.stage import main; main()"
_RUN_MODULE = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(slots=True)
class StageConfig:
    """What stage.py is told, for either role."""

    report_fd: int
    keep_fds: list[int]
    namespaces: list[str]
    network_path: str = ""
    sysctl: dict[str, str] = field(default_factory=dict)
    oom_score_adj: int | None = None
    capabilities: list[int] = field(default_factory=list)
    debug: bool = False
    boot: dict[str, Any] | None = None
    """The Sentry's: BootConfig."""
    mounts: list[tuple[int, int, bool]] = field(default_factory=list)
    """The gofer's: connection, root, read-only."""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this installation in a fresh, isolated interpreter."""
    return [sys.executable, "-I", "-c", _RUN_MODULE, _INSTALLATION, module, *arguments]


class Starting:
    """A process on its way: `pid` and readiness are yet to be reported."""

    def __init__(self, role: str, intermediate: int, report_fd: int) -> None:
        self.role = role
        self._intermediate = intermediate
        self._report_fd = report_fd
        self._lines: list[str] = []
        self._tail = b""
        self.process: ProcessId | None = None

    def wait_ready(self, timeout: float = START_TIMEOUT) -> ProcessId:
        """Wait for "ok".  Raises SandboxError with the reason; then nothing is left running."""
        deadline = time.monotonic() + timeout
        try:
            while "ok" not in self._lines or self.process is None:
                self._read_report(deadline)
        except BaseException:
            self.abort()
            raise
        self._close()
        return self.process

    def abort(self) -> None:
        """Kill what has been started; idempotent."""
        if self._report_fd >= 0 and self.process is None:
            self._kill_intermediate()
        if self.process is not None:
            kill(self.process)
            wait_gone(self.process, 10)
        self._close()

    def _kill_intermediate(self) -> None:
        """Stop it before it forks, or learn whom it has forked."""
        try:
            os.kill(self._intermediate, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._reap()
        os.set_blocking(self._report_fd, False)
        try:
            self._take(os.read(self._report_fd, 65536))
        except (BlockingIOError, SandboxError):
            pass

    def _read_report(self, deadline: float) -> None:
        poller = select.poll()
        poller.register(self._report_fd, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise SandboxError(f"the {self.role} did not start in time")
        data = os.read(self._report_fd, 65536)
        if not data:
            raise SandboxError(f"the {self.role} died while it was starting")
        self._take(data)

    def _take(self, data: bytes) -> None:
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace")
            if text.startswith("pid "):
                self.process = identify(int(text[4:]))
                self._reap()
            elif text == "ok":
                self._lines.append(text)
            else:
                raise SandboxError(f"cannot start the {self.role}: {text}")

    def _reap(self) -> None:
        """The intermediate process; a caller that reaps all children may have been quicker."""
        try:
            os.waitpid(self._intermediate, 0)
        except ChildProcessError:
            pass

    def _close(self) -> None:
        if self._report_fd >= 0:
            os.close(self._report_fd)
            self._report_fd = -1


def start_gofer(
    mounts: Sequence[tuple[int, int, bool]], log_fd: int, capabilities: Sequence[int], debug: bool
) -> Starting:
    """Start a gofer that serves `mounts`: (connection, O_PATH root, read-only); all stay the caller's."""
    inherited = [fd for connection, root, _ in mounts for fd in (connection, root)]
    namespaces = [*SANDBOX_NAMESPACES, "network"]
    config = StageConfig(-1, inherited, namespaces, capabilities=list(capabilities), debug=debug, mounts=list(mounts))
    return _start("gofer", config, log_fd)


def start_sentry(config: StageConfig, boot: BootConfig) -> Starting:
    """Start a Sentry; `config` holds all that is not about descriptors.  ready_fd and proc_fd are filled in."""
    config.boot = boot.to_dict()
    optional = [fd for fd in (boot.lifeline_fd, boot.strace_fd) if fd is not None]
    config.keep_fds = [boot.control_fd, boot.log_fd, *optional]
    return _start("sentry", config, boot.log_fd)


def _start(role: str, config: StageConfig, log_fd: int) -> Starting:
    report_read, report_write = os.pipe()
    config_fd = os.memfd_create("pysc-config", os.MFD_CLOEXEC)
    try:
        config.report_fd = report_write
        config.keep_fds = [*config.keep_fds, report_write]
        if config.boot is not None:
            config.boot["ready_fd"] = report_write
        os.write(config_fd, json.dumps(asdict(config)).encode())
        os.lseek(config_fd, 0, os.SEEK_SET)
        pid = _execute(role, [*config.keep_fds, config_fd], log_fd, config_fd)
    except BaseException:
        os.close(report_read)
        raise
    finally:
        os.close(report_write)
        os.close(config_fd)
    return Starting(role, pid, report_read)


def _execute(role: str, inherited: Sequence[int], log_fd: int, config_fd: int) -> int:
    argv = [sys.executable, "-I", "-c", _BOOTSTRAP, _INSTALLATION, role, str(config_fd)]
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, log_fd, 1),
        (os.POSIX_SPAWN_DUP2, log_fd, 2),
    ]
    # Onto itself: the descriptor loses its close-on-exec flag in the child only.
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in set(inherited)]
    return os.posix_spawn(
        sys.executable, argv, _ENVIRONMENT,
        file_actions=actions, setsigmask=[], setsigdef=[*signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}],
    )  # fmt: skip
