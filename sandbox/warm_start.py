"""Has a warm parent (warm.py) started, by the first command that finds none, and waits until it listens.

Whoever comes meanwhile waits too: one process importing is sooner done than many that all import for themselves.

Two locks: `.lock` is held by a warm parent for as long as it lives, `.starting` from before its start until it
listens.  It inherits both; they go with it whatever happens to it.
"""

import fcntl
import os
import time
from stat import S_IWGRP, S_IWOTH

from sandbox.interpreter import INSTALLATION, fresh_interpreter

IDLE_VARIABLE = "PYSC_WARM_IDLE"
"""In the environment: after how many seconds without a request and without a shim it ends."""
IDLE_S = 600.0
PATIENCE_S = 10.0
_POLL_S = 0.003

_MAIN = (
    "import os, sys; os.chdir('/'); sys.path.insert(0, sys.argv[1]); "
    "from importlib import import_module; "
    "import_module(sys.argv[2]).main(sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))"
)
_ROOM = " " * 2048
"""A last argument: what the forks show as their command line takes its place."""


def start_warm_parent(path: str, program: str) -> bool:
    """Have one listen at `path`, whose main is in the module `program`; False if that cannot be, or takes too long."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        if not _is_ours(folder):
            return False
        starting = _locked(f"{path}.starting", PATIENCE_S)
        try:
            life = _locked(f"{path}.lock", 0.0)
        except TimeoutError:  # somebody else's, which listens by now
            os.close(starting)
            return True
        _spawn(path, program, life, starting)
        os.close(_locked(f"{path}.starting", PATIENCE_S))
        return True
    except OSError:
        return False


def _is_ours(folder: str) -> bool:
    """Whether nobody else can put files, or links to ours, there under the names that we are going to open."""
    st = os.stat(folder)
    return st.st_uid == os.geteuid() and not st.st_mode & (S_IWGRP | S_IWOTH)


def _locked(path: str, patience_s: float) -> int:
    """A descriptor that holds the lock.  TimeoutError is an OSError."""
    deadline = time.monotonic() + patience_s
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise TimeoutError(path) from None
            time.sleep(_POLL_S)


def _spawn(path: str, program: str, life: int, starting: int) -> None:
    """It becomes nobody's child when we end, which is soon."""
    log = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        arguments = [INSTALLATION, program, path, os.environ.get(IDLE_VARIABLE, str(IDLE_S)), str(starting), _ROOM]
        fresh_interpreter(_MAIN, arguments, inherited=[life, starting], output=log)
    finally:
        for fd in (log, life, starting):
            os.close(fd)
