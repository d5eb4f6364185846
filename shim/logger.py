"""binary:// logging: a program of the user's reads the container's output from two pipes.

The URI's path is the program, each key of the query becomes two arguments, the key and its first value.  It gets
stdout on descriptor 3, stderr on 4, and says on 5, by a byte or by closing it, that it is ready.  Its environment is
CONTAINER_ID and CONTAINER_NAMESPACE and nothing else.
"""

import asyncio
import fcntl
import logging
import os
import signal

from proto.ttrpc.status import INVALID_ARGUMENT, UNKNOWN, RpcError
from shim.reaper import Reaper

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 30.0
DRAIN_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 10.0
_FIRST_FREE_FD = 10  # above 3, 4 and 5, so that placing one does not overwrite another


def command_line(uri: str) -> list[str]:
    """The program and its arguments."""
    from urllib.parse import parse_qs, unquote, urlsplit  # half a megabyte, for containers that are rare

    parts = urlsplit(uri)
    program = unquote(parts.path)
    if parts.netloc or not program.startswith("/"):
        raise RpcError(INVALID_ARGUMENT, f"logging program is not an absolute path: {uri}")
    query = parse_qs(parts.query, keep_blank_values=True)
    return [program, *(word for key, values in query.items() for word in (key, values[0]))]


class Logger:
    """A running logging program.  `stdout` and `stderr` are the write ends of its pipes, owned by the caller."""

    def __init__(self, pid: int, stdout: int, stderr: int, ended: "asyncio.Future[None]") -> None:
        self._pid = pid
        self._ended = ended
        self.stdout = stdout
        self.stderr = stderr

    @classmethod
    async def start(cls, uri: str, container_id: str, namespace: str, reaper: Reaper) -> "Logger":
        """Start the program and wait until it is ready.  Raises RpcError."""
        command = command_line(uri)
        environment = {"CONTAINER_ID": container_id, "CONTAINER_NAMESPACE": namespace}
        out, err, ready = _pipe(), _pipe(), _pipe()
        theirs = (out[0], err[0], ready[1])
        try:
            actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(theirs, 3)]
            pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
        except OSError as e:
            for fd in (*out, *err, *ready):
                os.close(fd)
            raise RpcError(UNKNOWN, f"logging program: {e}") from None
        logger = cls(pid, out[1], err[1], reaper.watch(pid))
        for fd in theirs:
            os.close(fd)
        try:
            said = await _read_ready(ready[0])
            if not said and uri.startswith("binary-v2:"):
                raise RpcError(UNKNOWN, f"logging program {command[0]} ended before it was ready")
        except BaseException:
            os.close(logger.stdout)
            os.close(logger.stderr)
            logger._send(signal.SIGKILL)
            raise
        return logger

    async def stop(self) -> None:
        """Let it read to the end of its pipes, then end it."""
        for signo, patience_s in ((0, DRAIN_TIMEOUT_S), (signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, None)):
            self._send(signo)
            await asyncio.wait([self._ended], timeout=patience_s)

    def _send(self, signo: int) -> None:
        if not self._ended.done():
            os.kill(self._pid, signo)


def _pipe() -> tuple[int, int]:
    low = os.pipe2(os.O_CLOEXEC)
    high = tuple(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD) for fd in low)
    for fd in low:
        os.close(fd)
    return high[0], high[1]


async def _read_ready(fd: int) -> bytes:
    """Read the ready byte, or b"" at end of file; closes the descriptor."""
    loop = asyncio.get_running_loop()
    said: asyncio.Future[bytes] = loop.create_future()

    def readable() -> None:
        loop.remove_reader(fd)
        said.set_result(os.read(fd, 1))

    loop.add_reader(fd, readable)
    try:
        return await asyncio.wait_for(said, READY_TIMEOUT_S)
    except TimeoutError:
        raise RpcError(UNKNOWN, "the logging program does not get ready") from None
    finally:
        loop.remove_reader(fd)
        os.close(fd)
