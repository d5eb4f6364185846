"""The warm parent of shims (sandbox/warm.py): its forks do what `start` was to do, and go on to serve.

The order in a fork is what keeps secrets apart.  The nursery, from which the Sentry and the gofer come, is forked off
before a byte of the request is read, so it never holds an environment, a path or a container's configuration; the rest
becomes the shim.
"""

from shim.lean import leave_out

leave_out()

# ruff: noqa: E402
import os
import signal
import socket
import sys
import time
from typing import Final, NoReturn

from sandbox import hostcalls, nursery, warm
from sandbox.kinship import oom_score, parent_of
from sandbox.warm_client import GO, READY, frame, peer_of, receive_exactly, receive_frame
from shim import daemon as _daemon  # noqa: F401  what a fork needs
from shim import start
from shim.address import remove
from shim.flags import parse
from shim.warm_client import PROGRAM, Request

NAME: Final = "containerd-shim-pysc-v1"


def main(path: str, idle_s: float, starting_fd: int) -> NoReturn:
    """Load everything, listen, serve.  stdout and stderr are the log; the descriptor is a lock that others wait for."""
    start.set_oom_score(oom_score(os.getpid()) + 1)  # as the shims will have it
    warm.serve(path, PROGRAM, idle_s, starting_fd, _live)


def _live(connection: socket.socket, parent: warm.Parent) -> int:
    """A fork's life; its exit status."""
    hostcalls.prctl(hostcalls.PR_SET_CHILD_SUBREAPER, 1)
    nursery_fd = nursery.fork(nursery.keep_only)
    nursery.keep_only(connection.fileno(), nursery_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not parent.is_current():
        return 1
    request: Request = receive_frame(connection)
    if not warm.is_kin(connection) or not _has_its_score(connection):
        return 1
    connection.sendall(READY)
    if receive_exactly(connection, 1) != GO:
        return 1
    return _start(connection, request, nursery_fd)


def _has_its_score(connection: socket.socket) -> bool:
    """Whether our OOM score is what the asker would have given its shim."""
    try:
        return oom_score(os.getpid()) == min(1000, oom_score(parent_of(peer_of(connection)[0])) + 1)
    except OSError:
        return False


def _start(connection: socket.socket, request: Request, nursery_fd: int) -> int:
    """The start action, and then the shim."""
    arguments, environment, folder, stdin = request
    os.environb.clear()
    os.environb.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv[1:] = arguments
    flags = parse(arguments)
    prepared = start.prepare(flags, stdin)
    try:
        connection.sendall(frame(prepared.answer))
    except OSError:
        if prepared.listener is not None:
            remove(prepared.path)
        raise
    connection.close()
    if prepared.listener is None:
        return 0
    hostcalls.set_name(NAME)
    hostcalls.set_command_line([NAME, *arguments])
    start.detach(f"{folder}/log")
    return start.serve(flags, prepared, nursery_fd)
