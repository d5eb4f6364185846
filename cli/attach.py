"""How a process of a container is tied to whoever asked for it: our streams, a console's receiver, a pid file."""

from __future__ import annotations

import os

from sandbox.errors import InvalidSpec, SandboxError
from sandbox.sandbox import Stdio

OWN_STREAMS = Stdio(0, 1, 2)


def write_pid_file(path: str, pid: int) -> None:
    """Whole or not at all: its reader may be waiting for it to appear."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as f:
        f.write(str(pid))
    os.replace(temporary, path)


def check_console(terminal: bool, console_socket: str | None, detached: bool) -> None:
    """Who gets the terminal?  Raises InvalidSpec if nobody would, or if there is none to give."""
    if terminal and detached and not console_socket:
        raise InvalidSpec("process.terminal is set, but nobody gets the terminal: --console-socket is missing")
    if console_socket and not terminal:
        raise InvalidSpec("--console-socket is given, but process.terminal is not set")


def send_console(path: str, master: int) -> None:
    """Raises SandboxError."""
    from sandbox.console import send_master

    try:
        send_master(path, master)
    except OSError as e:
        raise SandboxError(f"cannot hand over the console on {path}: {e.strerror}") from None
