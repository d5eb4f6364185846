"""The start action: have a fork of the warm parent (warm.py) do it, or else do it here (start.py).

Imports next to nothing, for containerd waits.  What is asked for is a fork that does the work of `start` and goes on
to serve.  It is told arguments, environment, working directory and standard input; when both sides have agreed, as
sandbox/warm_client.py has it, it acts and sends

    <- frame(what to print)

An end of file instead means that it has died or has undone what it did, and the asker does the work itself.
"""

import os
from posix import environ

from sandbox.warm_client import FOLDER_VARIABLE, GO, READY, find, frame, receive_frame
from sandbox.warm_client import socket_path as path_in
from shim.address import STATE_DIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from shim.flags import Flags

FOLDER = f"{STATE_DIR}/.warm"
"""Unless the environment of containerd names another."""
PROGRAM = "shim.warm"
MAX_STDIN = 10 << 20

Request = tuple[list[str], dict[bytes, bytes], str, bytes]
"""Arguments, environment, working directory, standard input."""


def run(flags: "Flags") -> int:
    """Start or find the shim of this container's group and print where it listens."""
    stdin = read_stdin()
    path = socket_path()
    warm = find(path, PROGRAM) if path else None
    answer = ask(warm, flags.arguments, stdin) if warm else None
    if answer is None:
        from shim import start

        answer = start.run(flags, stdin)
    os.write(1, answer)
    return 0


def read_stdin() -> bytes:
    """What containerd wrote; nothing when run by hand."""
    try:
        if os.isatty(0):
            return b""
        data = bytearray()
        while len(data) <= MAX_STDIN and (piece := os.read(0, 1 << 16)):
            data += piece
        return bytes(data)
    except OSError:
        return b""


def socket_path() -> str:
    """Where a warm parent for us would listen; "" if there shall be none."""
    folder = os.environ.get(FOLDER_VARIABLE, FOLDER)
    return path_in(folder, PROGRAM) if folder else ""


def ask(sock: "socket", arguments: list[str], stdin: bytes) -> bytes | None:
    """Have a start action done by a fork of the warm parent: what it would have printed.  None: do it yourself."""
    try:
        request: Request = (arguments, environ, os.getcwd(), stdin)
        sock.sendall(frame(request))
        if sock.recv(1) != READY:
            return None
        sock.settimeout(None)
        sock.sendall(GO)
        answer: bytes = receive_frame(sock)
        return answer
    except (OSError, EOFError):
        return None
    finally:
        sock.close()
