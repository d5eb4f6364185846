"""Standard streams of one process, from the names that containerd gives to the descriptors the sandbox gets.

The client makes FIFOs and opens its ends; we open ours and donate them to the Sentry, which reads and writes them
itself: no byte of a process without a terminal passes through here.  What the shim keeps:

- of stdout and stderr a read end, so that a client that dies (containerd restarting) means a full pipe, not EPIPE;
- of stdin a write end, until CloseIO: without it the reader sees end of file whenever no client is attached.

It keeps no write end of stdout and stderr, so the client sees end of file when the application's last copy is gone.
"""

import asyncio
import fcntl
import os
import stat
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import ENXIO

from proto import control
from proto.ttrpc.status import FAILED_PRECONDITION, INVALID_ARGUMENT, UNKNOWN, RpcError
from shim.console import Console
from shim.logger import Logger
from shim.reaper import Reaper
from shim.tasks import Background

OPEN_TIMEOUT_S = 30.0
DRAIN_TIMEOUT_S = 1.0
_POLL_S = 0.01

_FIFO_SCHEMES = ("", "fifo")
_LOGGER_SCHEMES = ("binary", "binary-v2")


@dataclass(slots=True)
class StdioNames:
    """What containerd says about a process's streams; "" means that one is not wanted."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


@dataclass(slots=True)
class Owner:
    """Whose streams these are, and who must not be kept waiting for them."""

    container_id: str
    namespace: str
    reaper: Reaper
    background: Background
    given_up: Callable[[], bool] = lambda: False
    """Asked while a FIFO's reader has not come yet."""


@dataclass(slots=True)
class Streams:
    """The descriptors of one process: those for the sandbox, until they are donated, and those that the shim keeps."""

    donations: dict[str, int] = field(default_factory=dict)
    """Role of proto.control -> descriptor."""
    console: Console | None = None
    stdin_writer: int | None = None
    own_readers: list[int] = field(default_factory=list)
    logger: Logger | None = None

    def donated(self) -> None:
        """The sandbox has its copies: close ours."""
        for role, fd in self.donations.items():
            if role != control.CONSOLE:
                os.close(fd)
        self.donations.clear()
        if self.console is not None:
            self.console.donated()

    def close_stdin(self) -> None:
        """Let the process see end of file once it has read what is in the FIFO; idempotent."""
        if self.stdin_writer is not None:
            os.close(self.stdin_writer)
            self.stdin_writer = None

    async def finish(self) -> None:
        """The process has ended: wait, not too long, until the client has all of its output.

        containerd up to 1.6.21 closes its ends as soon as Wait is answered; what is still in the pipe then is lost.
        """
        if self.console is not None:
            await self.console.wait_ended(DRAIN_TIMEOUT_S)
        deadline = asyncio.get_running_loop().time() + DRAIN_TIMEOUT_S
        while any(map(_unread_bytes, self.own_readers)) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_S)
        if self.console is not None:
            self.console.close_output()

    def close(self, background: Background) -> None:
        """Close everything; idempotent.  A logging program may take seconds to end and does so in the background."""
        self.donated()
        self.close_stdin()
        if self.console is not None:
            self.console.close()
        while self.own_readers:
            os.close(self.own_readers.pop())
        if self.logger is not None:
            background.spawn(self.logger.stop())
            self.logger = None


def _unread_bytes(fd: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return count


async def open_streams(
    names: StdioNames, owner: Owner, stdin_closed: bool = False, size: tuple[int, int] = (0, 0)
) -> Streams:
    """Open what the names say.  `size` is rows and columns of a terminal.  Raises RpcError; then nothing stays open."""
    streams = Streams()
    fds: dict[str, int] = {}
    try:
        await _open_outputs(names, owner, streams, fds)
        if names.stdin:
            fds[control.STDIN] = _open_stdin(names.stdin, streams, stdin_closed)
        if names.terminal:
            _make_console(streams, fds, size)
        else:
            streams.donations.update(fds)
            fds.clear()
    except BaseException as e:
        _close_all(fds)
        streams.close(owner.background)
        if isinstance(e, OSError):
            raise RpcError(UNKNOWN, f"stdio: {e}") from None
        raise
    return streams


def _make_console(streams: Streams, fds: dict[str, int], size: tuple[int, int]) -> None:
    """Put a terminal between the client's streams, which it takes over, and the sandbox."""
    if control.STDOUT not in fds:
        fds[control.STDOUT] = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    console = Console(fds[control.STDOUT], fds.get(control.STDIN))
    del fds[control.STDOUT]
    fds.pop(control.STDIN, None)
    _close_all(fds)
    streams.console = console
    streams.donations[control.CONSOLE] = console.slave
    console.resize(*size)
    console.start()


def _close_all(fds: dict[str, int]) -> None:
    while fds:
        os.close(fds.popitem()[1])


async def _open_outputs(names: StdioNames, owner: Owner, streams: Streams, outputs: dict[str, int]) -> None:
    """Open stdout and stderr into `outputs`; the scheme of stdout says how."""
    scheme, path = _split(names.stdout)
    if scheme in _LOGGER_SCHEMES:
        streams.logger = await Logger.start(names.stdout, owner.container_id, owner.namespace, owner.reaper)
        outputs[control.STDOUT] = streams.logger.stdout
        outputs[control.STDERR] = streams.logger.stderr
    elif scheme == "file":
        outputs[control.STDOUT] = _open_log_file(path)
        outputs[control.STDERR] = os.dup(outputs[control.STDOUT])
    elif scheme in _FIFO_SCHEMES:
        wanted = [(control.STDOUT, path)]
        if not names.terminal:
            wanted.append((control.STDERR, _split(names.stderr)[1]))
        for role, name in wanted:
            if name:
                outputs[role] = await _open_output(name, owner, streams)
    else:
        raise RpcError(INVALID_ARGUMENT, f"unknown stdio scheme: {names.stdout}")


def _split(name: str) -> tuple[str, str]:
    """Scheme and path; a name without a scheme is a path as it is."""
    if "://" not in name:
        return "", name
    from urllib.parse import unquote, urlsplit  # half a megabyte, for names that are rare

    parts = urlsplit(name)
    return parts.scheme, unquote(parts.path)


def _open_log_file(path: str) -> int:
    os.makedirs(os.path.dirname(path) or ".", 0o755, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


async def _open_output(path: str, owner: Owner, streams: Streams) -> int:
    """The write end of a FIFO, once its reader is there, or a file to append to."""
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    writer = await _open_fifo_writer(path, owner)
    try:
        streams.own_readers.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        os.close(writer)
        raise
    return writer


async def _open_fifo_writer(path: str, owner: Owner) -> int:
    """Open for writing when the client has opened for reading: then nothing can be lost, however short the process.

    The description stays non-blocking: it is ours alone, and whoever writes to it must never sleep.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + OPEN_TIMEOUT_S
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            # "ENXIO: O_NONBLOCK | O_WRONLY is set, the named file is a FIFO, and no process has the FIFO open for
            # reading." - open(2)
            if e.errno != ENXIO:
                raise
        if owner.given_up():
            raise RpcError(FAILED_PRECONDITION, "the container has ended: failed precondition")
        if loop.time() > deadline:
            raise RpcError(UNKNOWN, f"nobody has opened {path} for reading in {OPEN_TIMEOUT_S:.0f} s")
        await asyncio.sleep(_POLL_S)


def _open_stdin(name: str, streams: Streams, closed: bool) -> int:
    """The read end of stdin; keeps a write end of a FIFO unless CloseIO has come already."""
    path = _split(name)[1]
    is_fifo = stat.S_ISFIFO(os.stat(path).st_mode)
    reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if is_fifo else 0))
    if is_fifo:
        # Opened even if it is closed at once: poll(2) reports the hang-up of a FIFO only after there was a writer.
        streams.stdin_writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if closed:
            streams.close_stdin()
    return reader
