"""How a short-lived command has a fork of a warm parent (warm.py) work for it.

Imports next to nothing, for somebody waits.  Nothing is done before both sides have agreed:

    -> frame(what the fork is told)
    <- READY     there is a fork, it has read that, and its surroundings are the asker's
    -> GO        from here on the fork acts

If any of this fails, the asker does the work itself: before GO the fork has done nothing.
"""

import marshal
import os
import struct
import sys
from _socket import AF_UNIX, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET, socket

from sandbox.hashing import hashed
from sandbox.interpreter import INSTALLATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FOLDER_VARIABLE = "PYSC_WARM_DIR"
"""In the environment: the folder of the warm parents' sockets; empty to have none."""
PATIENCE_S = 5.0

READY = b"r"
GO = b"g"
LENGTH_SIZE = 8


def socket_path(folder: str, program: str) -> str:
    """Where a warm parent for us would listen, if it is of this program.

    The name stands for what must be the same and may well not be: installation, interpreter, user, cgroup.  The rest is
    compared when we ask.
    """
    with open("/proc/self/cgroup") as file:
        name = "\0".join((INSTALLATION, program, sys.executable, str(os.geteuid()), file.read()))
    return f"{folder}/{hashed(name)[:32]}"


def frame(value: "Any") -> bytes:
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


def find(path: str, program: str) -> socket | None:
    """A connection to the warm parent, which is started if there is none; `program` is the module with its main."""
    sock = connect(path)
    if sock is None:
        from sandbox.warm_start import start_warm_parent

        if start_warm_parent(path, program):
            sock = connect(path)
    return sock


def connect(path: str) -> socket | None:
    """None also if somebody else listens there: the folder may be everybody's."""
    sock = socket(AF_UNIX, SOCK_STREAM)
    sock.settimeout(PATIENCE_S)
    try:
        sock.connect(path)
        if peer_of(sock)[1] == os.geteuid():
            return sock
    except OSError:
        pass
    sock.close()
    return None


def peer_of(sock: socket) -> tuple[int, int]:
    """The pid and the user of who listens, or has connected."""
    pid, uid, _gid = struct.unpack("iII", sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
    return pid, uid
