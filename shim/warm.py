"""The warm parent: one process a node, everything imported and nothing else, which shims are forked from.

A fork takes milliseconds where a fresh interpreter with all its imports takes a tenth of a second and more, and all
forks share the pages of what was imported.  The first `start` that finds no warm parent has one started
(warm_start.py); one that cannot use it does its work itself, so nothing depends on there being one.

The order in a fork is what keeps secrets apart.  The nursery, from which the Sentry and the gofer come, is forked off
before a byte of the request is read, so it never holds an environment, a path or a container's configuration; the rest
becomes the shim.  The warm parent itself reads no request at all, and has one thread, no event loop and no descriptor
but its listening socket, a lock and a log.

It ends when its own files have changed (an upgrade: the asker does the work itself then, and the next one starts
another), and when it has had neither a request nor a living fork for a while.
"""

import gc
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from sandbox import hostcalls, nursery, stage
from shim import daemon as _daemon  # noqa: F401  what a fork needs
from shim import start
from shim.address import remove
from shim.flags import parse
from shim.kinship import oom_score, parent_of, surroundings
from shim.warm_client import GO, PATIENCE_S, READY, Request, frame, receive_exactly, receive_frame

BACKLOG: Final = 128
NAME: Final = "containerd-shim-pysc-v1"

def main(path: str, idle_s: float, starting_fd: int) -> NoReturn:
    """Load everything, listen, serve.  stdout and stderr are the log; the descriptor is a lock that others wait for."""
    os.setsid()
    start.set_oom_score(oom_score(os.getpid()) + 1)  # as the shims will have it
    stage.preload()
    stage.prepare()
    hostcalls.one_malloc_arena()
    hostcalls.set_name("pysc-warm")
    hostcalls.set_command_line(["pysc", "shim.warm", path])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the forks
    stamp = Stamp()
    gc.collect()
    gc.freeze()
    listener = _listen(path)
    os.close(starting_fd)
    _serve(listener, idle_s, _Fork(path, stamp).live)
    remove(path)
    os._exit(0)


def _listen(path: str) -> socket.socket:
    """Under its name only once it listens, and in the place of a dead one's.  We hold the lock."""
    remove(f"{path}.new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{path}.new")
    os.chmod(f"{path}.new", 0o600)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    os.rename(f"{path}.new", path)
    return listener


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
    while poller.poll(idle_s * 1000) or _has_children():
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        with connection:
            _fork(connection, answer)


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
            status = answer(connection)
        except (EOFError, TimeoutError, ConnectionError):
            pass  # the asker has lost patience, or its life
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


class _Fork:
    """A fork's life; what it knows of the warm parent."""

    def __init__(self, path: str, stamp: Stamp) -> None:
        self._path = path
        self._stamp = stamp
        self._parent = os.getpid()

    def live(self, connection: socket.socket) -> int:
        """From the fork to the end; the exit status."""
        hostcalls.prctl(hostcalls.PR_SET_CHILD_SUBREAPER, 1)
        nursery_fd = nursery.fork(keep_only)
        keep_only(connection.fileno(), nursery_fd)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not self._stamp.is_current():
            self._end_parent()
            return 1
        connection.settimeout(PATIENCE_S)
        request: Request = receive_frame(connection)
        if not _is_kin(connection):
            return 1
        connection.sendall(READY)
        if receive_exactly(connection, 1) != GO:
            return 1
        return _start(connection, request, nursery_fd)

    def _end_parent(self) -> None:
        """It holds what is no longer installed."""
        remove(self._path)
        if os.getppid() == self._parent:
            os.kill(self._parent, signal.SIGTERM)


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


def keep_only(*fds: int) -> None:
    """Close all descriptors but the standard ones and these."""
    first = 3
    for fd in sorted(fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _is_kin(connection: socket.socket) -> bool:
    """Whether we are what the asker's own fork would have been."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _gid = struct.unpack("iII", raw)
    try:
        same = uid == os.geteuid() and surroundings(pid) == surroundings(os.getpid())
        return same and oom_score(os.getpid()) == min(1000, oom_score(parent_of(pid)) + 1)
    except OSError:
        return False
