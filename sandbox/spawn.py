"""Starts the Sentry and the gofers, as processes that stage.py then confines.

Each is a fresh interpreter or, if the caller has one, a fork of its nursery; never a fork of the caller itself, which
may have threads, an event loop and secrets.  Only the descriptors named are inherited.
"""

from __future__ import annotations

import os
import select
import time
from _signal import SIGKILL  # type: ignore[import-not-found]
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket, socketpair
from struct import pack

from proto import jsontext
from proto.control import BootConfig
from proto.record import Record, field
from sandbox.errors import SandboxError
from sandbox.interpreter import INSTALLATION, fresh_interpreter
from sandbox.process import ProcessId, identify, kill, wait_gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

START_TIMEOUT = 60.0
"""Seconds from exec to "ok".  A busy host takes long to read a Python installation that is not in its page cache."""

SANDBOX_NAMESPACES = ("pid", "mount", "ipc", "uts", "cgroup")

MAX_FDS: Final = 253
"""SCM_MAX_FD.  A gofer may need more: they then come over a channel of their own, the role with the last packet."""
MANY: Final = b"+"
"""What comes in place of a role with that channel, and with the packets before the last."""

_BOOTSTRAP = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox.stage import main; main()"


class StageConfig(Record):
    """What stage.py is told, for either role."""

    id: str
    """Whose process it is, for people who look at the host's processes."""
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


def send_message(to: socket, data: bytes, fds: Sequence[int]) -> None:
    """As nursery.py receives it."""
    if len(fds) <= MAX_FDS:
        _send_fds(to, data, fds)
        return
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    try:
        _send_fds(to, MANY, [theirs.fileno()])
        theirs.close()
        while len(fds) > MAX_FDS:
            _send_fds(ours, MANY, fds[:MAX_FDS])
            fds = fds[MAX_FDS:]
        _send_fds(ours, data, fds)
    finally:
        theirs.close()
        ours.close()


def _send_fds(to: socket, data: bytes, fds: Sequence[int]) -> None:
    to.sendmsg([data], [(SOL_SOCKET, SCM_RIGHTS, pack(f"{len(fds)}i", *fds))])


class Nursery:
    """Our end of a nursery (nursery.py), which forks what else would have to be a fresh interpreter."""

    def __init__(self, fd: int, pid: int | None = None) -> None:
        self._socket = socket(fileno=fd)
        self._pid = pid
        """If it is a child that nobody else reaps."""

    def fork(self, role: str, config_fd: int, log_fd: int, keep_fds: Sequence[int]) -> None:
        """Have a stage forked; the descriptors stay the caller's.  Raises OSError if the nursery has died."""
        send_message(self._socket, role.encode(), [config_fd, log_fd, *keep_fds])

    def close(self) -> None:
        """Let it end; idempotent."""
        self._socket.close()
        if self._pid is not None:
            os.kill(self._pid, SIGKILL)  # it may still be importing
            os.waitpid(self._pid, 0)
            self._pid = None


class Starting:
    """A process on its way: `pid` and readiness are yet to be reported."""

    def __init__(self, role: str, intermediate: int | None, report_fd: int) -> None:
        self.role = role
        self._intermediate = intermediate
        """Ours to reap; None if it is a nursery's child."""
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
            self._await_pid()
        if self.process is not None:
            kill(self.process)
            wait_gone(self.process, 10)
        self._close()

    def _kill_intermediate(self) -> None:
        """It may have forked already, or be a nursery's child, which is not ours to kill."""
        if self._intermediate is not None:
            try:
                os.kill(self._intermediate, SIGKILL)
            except ProcessLookupError:
                pass
            self._reap()

    def _await_pid(self) -> None:
        """Whoever may still be there says who it is, or ends and thereby the report."""
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while self.process is None:
                self._read_report(deadline)
        except SandboxError:
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
        if self._intermediate is None:
            return
        try:
            os.waitpid(self._intermediate, 0)
        except ChildProcessError:
            pass

    def _close(self) -> None:
        if self._report_fd >= 0:
            os.close(self._report_fd)
            self._report_fd = -1


def start_gofer(
    id: str,
    mounts: Sequence[tuple[int, int, bool]],
    log_fd: int,
    capabilities: Sequence[int],
    debug: bool,
    nursery: Nursery | None = None,
) -> Starting:
    """Start a gofer that serves `mounts`: (connection, O_PATH root, read-only); all stay the caller's."""
    inherited = [fd for connection, root, _ in mounts for fd in (connection, root)]
    config = StageConfig(
        id, -1, inherited, [*SANDBOX_NAMESPACES, "network"],
        capabilities=list(capabilities), debug=debug, mounts=list(mounts),
    )  # fmt: skip
    return _start("gofer", config, log_fd, nursery)


def start_sentry(config: StageConfig, boot: BootConfig, nursery: Nursery | None = None) -> Starting:
    """Start a Sentry; `config` holds all that is not about descriptors.  ready_fd and proc_fd are filled in."""
    config.boot = boot.to_dict()
    optional = [fd for fd in (boot.lifeline_fd, boot.strace_fd) if fd is not None]
    config.keep_fds = [boot.control_fd, boot.log_fd, *optional]
    return _start("sentry", config, boot.log_fd, nursery)


def _start(role: str, config: StageConfig, log_fd: int, nursery: Nursery | None) -> Starting:
    report_read, report_write = os.pipe()
    config_fd = os.memfd_create("pysc-config", os.MFD_CLOEXEC)
    try:
        config.report_fd = report_write
        config.keep_fds = [*config.keep_fds, report_write]
        if config.boot is not None:
            config.boot["ready_fd"] = report_write
        os.write(config_fd, jsontext.dumps(vars(config)).encode("utf-8", "surrogatepass"))
        os.lseek(config_fd, 0, os.SEEK_SET)
        if nursery is not None and _was_forked(nursery, role, config, config_fd, log_fd):
            return Starting(role, None, report_read)
        argv = [INSTALLATION, role, str(config_fd)]
        pid = fresh_interpreter(_BOOTSTRAP, argv, inherited=[*config.keep_fds, config_fd], output=log_fd)
    except BaseException:
        os.close(report_read)
        raise
    finally:
        os.close(report_write)
        os.close(config_fd)
    return Starting(role, pid, report_read)


def _was_forked(nursery: Nursery, role: str, config: StageConfig, config_fd: int, log_fd: int) -> bool:
    try:
        nursery.fork(role, config_fd, log_fd, config.keep_fds)
        return True
    except OSError:  # somebody has killed it
        return False
