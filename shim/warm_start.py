"""Has a warm parent (warm.py) started for the shims to come, by a shim that had to start without one."""

import fcntl
import os

from sandbox.interpreter import INSTALLATION, fresh_interpreter

IDLE_VARIABLE = "PYSC_WARM_IDLE"
"""In the environment of containerd: after how many seconds without a request and without a shim it ends."""
IDLE_S = 600.0

_MAIN = (
    "import os, sys; sys.path.append(sys.argv[1]); sys.modules['ssl'] = None; "
    "os.read(0, 1); from shim.warm import main; main(sys.argv[2], float(sys.argv[3]))"
)
_ROOM = " " * 2048
"""A last argument: what the forks show as their command line takes its place."""


def start_warm_parent(path: str) -> int | None:
    """Start one that is to listen at `path`; it waits, to be in nobody's way, until the descriptor returned is closed.

    None: there is one, or one on its way, or there cannot be one.  It will not be our child: it outlives us, and we
    are about to become a subreaper.  The lock, which it inherits, is held for as long as it lives.
    """
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _start_as_orphan(path, lock)
    except OSError:
        return None
    finally:
        os.close(lock)


def _start_as_orphan(path: str, lock: int) -> int:
    go_read, go_write = os.pipe()
    log = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    pid = os.fork()
    if pid == 0:
        try:
            arguments = [INSTALLATION, path, os.environ.get(IDLE_VARIABLE, str(IDLE_S)), _ROOM]
            fresh_interpreter(_MAIN, arguments, inherited=[lock], stdin=go_read, output=log)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(log)
    os.close(go_read)
    return go_write
