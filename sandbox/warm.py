"""The warm parent: one process with everything imported and nothing else, whose forks work for short-lived commands.

A fork takes milliseconds where a fresh interpreter with all its imports takes a tenth of a second and more, and all
forks share the pages of what was imported.  The first command that finds no warm parent has one started
(warm_start.py); one that cannot use it does its work itself, so nothing depends on there being one.  There are two
programs: shim/warm.py forks shims, warm_nursery.py nurseries for `pysc run`.

The warm parent itself reads no request, and has one thread, no event loop and no descriptor but its listening socket,
a lock and a log.  A fork compares itself with who asks: whatever it has inherited from here and not from there must
be the same.

It ends when its own files have changed (an upgrade: the asker does the work itself then, and the next one starts
another), and when it has had neither a request nor a living fork for a while.
"""

import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from sandbox import common_heap, hostcalls, stage
from sandbox.kinship import surroundings
from sandbox.warm_client import PATIENCE_S, peer_of

BACKLOG: Final = 128


class Parent:
    """What a fork knows of the warm parent."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pid = os.getpid()
        self._stamp = Stamp()

    def is_current(self) -> bool:
        """Whether what it has imported is what is installed; if not, it is ended."""
        if self._stamp.is_current():
            return True
        _remove(self._path)
        if os.getppid() == self._pid:
            os.kill(self._pid, signal.SIGTERM)
        return False


Live = Callable[[socket.socket, Parent], int]
"""A fork's life, given its connection to who asked; the exit status."""


def serve(path: str, program: str, idle_s: float, starting_fd: int, live: Live) -> NoReturn:
    """Load everything, listen, fork.  stdout and stderr are the log; the descriptor is a lock that others wait for."""
    os.setsid()
    stage.prepare()
    hostcalls.one_malloc_arena()
    hostcalls.set_name("pysc-warm")
    hostcalls.set_command_line(["pysc", program, path])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the forks
    parent = Parent(path)
    try:
        common_heap.hold()
    except OSError as e:
        print(f"the forks will need more memory: {e}", file=sys.stderr)
    listener = _listen(path)
    os.close(starting_fd)
    _serve(listener, idle_s, lambda connection: live(connection, parent))
    _remove(path)
    os._exit(0)


def _listen(path: str) -> socket.socket:
    """Under its name only once it listens, and in the place of a dead one's.  We hold the lock."""
    _remove(f"{path}.new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{path}.new")
    os.chmod(f"{path}.new", 0o600)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    os.rename(f"{path}.new", path)
    return listener


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Stamp:
    """What was installed when it was imported: the version of each module's file but the interpreter's own.

    Two objects only, for a fork that looks at many makes them all its own.
    """

    def __init__(self) -> None:
        standard = os.path.dirname(os.__file__)
        paths = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
        ours = [path for path in paths if not path.startswith(standard) or "-packages/" in path]
        self._paths = "\0".join(path for path in ours if os.path.isfile(path))
        self._versions = self._read()

    def _read(self) -> bytes:
        """The size of the memory is among it, as some module has made a constant of that."""
        files = map(os.stat, self._paths.split("\0"))
        versions = [number for st in files for number in (st.st_mtime_ns, st.st_ino)]
        return struct.pack(f"{len(versions)}Qq", *versions, os.sysconf("SC_PHYS_PAGES"))

    def is_current(self) -> bool:
        try:
            return self._read() == self._versions
        except OSError:
            return False


def _serve(listener: socket.socket, idle_s: float, answer: Callable[[socket.socket], int]) -> None:
    """Fork for each who asks; returns when idle."""
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    while _await(poller, idle_s) or _has_children():
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        with connection:
            _fork(connection, answer)


def _await(poller: select.poll, within_s: float) -> bool:
    """Whether somebody asks."""
    patience_s = min(common_heap.PATIENCE_S, within_s)
    if poller.poll(patience_s * 1000):
        return True
    common_heap.go_back()
    return bool(poller.poll((within_s - patience_s) * 1000))


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _fork(connection: socket.socket, answer: Callable[[socket.socket], int]) -> None:
    try:
        pid = os.fork()
    except OSError:  # the asker finds the connection closed
        traceback.print_exc()
        return
    if pid == 0:
        status = 1
        try:
            connection.settimeout(PATIENCE_S)
            status = answer(connection)
        except (EOFError, TimeoutError, ConnectionError):
            pass  # the asker has lost patience, or its life
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


def is_kin(connection: socket.socket) -> bool:
    """For a fork: whether we are what the asker's own fork would have been, but for the OOM score."""
    pid, uid = peer_of(connection)
    try:
        return uid == os.geteuid() and surroundings(pid) == surroundings(os.getpid())
    except OSError:
        return False
