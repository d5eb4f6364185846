"""Ends warm parents (warm.py): for whoever takes the installation away.

Who listens on a warm parent's socket is the warm parent.  Shims that were forked from it, and starts that it serves at
this moment, are not affected; the next `start` begins another, if there still is an installation.
"""

import os
import signal
import socket
import struct

from shim.address import remove
from shim.warm_client import FOLDER


def main(folder: str = FOLDER) -> None:
    """End all that are of the caller's own user, or all if that is root."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        path = f"{folder}/{name}"
        if "." not in name:
            _end(path)
        remove(path)
    try:
        os.rmdir(folder)
    except OSError:
        pass  # another one has just been started


def _end(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            raw = s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # of the process that called listen(2)
            os.kill(struct.unpack("iII", raw)[0], signal.SIGTERM)
        except OSError:
            pass  # nobody's any more
