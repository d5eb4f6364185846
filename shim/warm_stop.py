"""Ends warm parents (warm.py): for whoever takes the installation away.

Who listens on a warm parent's socket is the warm parent.  Shims that were forked from it, and starts that it serves at
this moment, are not affected; the next `start` begins another, if there still is an installation.
"""

import os
import signal
import socket

from sandbox.warm_client import peer_of
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
            os.kill(peer_of(s)[0], signal.SIGTERM)
        except OSError:
            pass  # nobody's any more
