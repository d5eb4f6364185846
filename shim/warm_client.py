"""The start action: have a fork of the warm parent (warm.py) do it, or else do it here (start.py).

Imports next to nothing, for containerd waits.  What is asked for is a fork that does the work of `start` and goes on
to serve.  Nothing is done before both sides have agreed:

    -> frame(arguments, environment, working directory, standard input)
    <- READY     there is a fork, it has read the request, and its surroundings are the asker's
    -> GO        from here on the fork acts
    <- frame(what to print)

If any of this fails, the asker does the work itself: before GO the fork has done nothing, and an end of file after GO
means that it has died or has undone what it did.
"""

import marshal
import os
import sys
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket
from posix import environ

from sandbox.interpreter import INSTALLATION
from shim.address import STATE_DIR, hashed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from shim.flags import Flags

FOLDER_VARIABLE = "PYSC_WARM_DIR"
"""In the environment of containerd: the folder of the warm parents' sockets; empty to have none."""
FOLDER = f"{STATE_DIR}/.warm"
PATIENCE_S = 5.0
MAX_STDIN = 10 << 20

READY = b"r"
GO = b"g"
LENGTH_SIZE = 8

Request = tuple[list[str], dict[bytes, bytes], str, bytes]
"""Arguments, environment, working directory, standard input."""


def run(flags: "Flags") -> int:
    """Start or find the shim of this container's group and print where it listens."""
    stdin = read_stdin()
    warm = find(socket_path())
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
    """Where a warm parent for us would listen; "" if there shall be none.

    The name stands for what must be the same and may well not be: installation, interpreter, user, cgroup.  The rest is
    compared when we ask.
    """
    folder = os.environ.get(FOLDER_VARIABLE, FOLDER)
    if not folder:
        return ""
    with open("/proc/self/cgroup") as file:
        name = "\0".join((INSTALLATION, sys.executable, str(os.geteuid()), file.read()))
    return f"{folder}/{hashed(name)[:32]}"


def frame(value: "Request | bytes") -> bytes:
    """A value with its length in front.  Both sides are the same program, run by the same user."""
    data = marshal.dumps(value)
    return len(data).to_bytes(LENGTH_SIZE) + data


def receive_exactly(sock: socket, size: int) -> bytes:
    """Raises EOFError."""
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def receive_frame(sock: socket) -> "Any":
    """Raises EOFError."""
    return marshal.loads(receive_exactly(sock, int.from_bytes(receive_exactly(sock, LENGTH_SIZE))))


def find(path: str) -> socket | None:
    """A connection to the warm parent, which is started if there is none."""
    if not path:
        return None
    sock = connect(path)
    if sock is None:
        from shim.warm_start import start_warm_parent

        if start_warm_parent(path):
            sock = connect(path)
    return sock


def connect(path: str) -> socket | None:
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    sock.settimeout(PATIENCE_S)
    try:
        sock.connect(path)
        return sock
    except OSError:
        sock.close()
        return None


def ask(sock: socket, arguments: list[str], stdin: bytes) -> bytes | None:
    """Have a start action done by a fork of the warm parent: what it would have printed.  None: do it yourself."""
    try:
        sock.sendall(frame((arguments, environ, os.getcwd(), stdin)))
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
