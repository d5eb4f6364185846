"""The warm parent: one process a node, everything imported and nothing else, which shims are forked from.

A fork takes milliseconds where a fresh interpreter with all its imports takes a tenth of a second and more, and all
forks share the pages of what was imported.  The first `start` that finds no warm parent does its work itself and has
one started for those to come; nothing depends on there being one.

The order in a fork is what keeps secrets apart.  The nursery, from which the Sentry and the gofer come, is forked off
before a byte of the request is read, so it never holds an environment, a path or a container's configuration; the rest
becomes the shim.  The warm parent itself reads no request at all, and has one thread, no event loop and no descriptor
but its listening socket, a lock and a log.

It ends when its own files have changed (an upgrade: the asker does the work itself then, and starts another), and when
it has had neither a request nor a living fork for a while.
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

Stamp = dict[str, tuple[int, int]]
"""Files and what tells their versions apart."""


def main(path: str, idle_s: float) -> NoReturn:
    """Load everything, listen, serve.  stdin is done with; stdout and stderr are the log."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.setsid()
    os.chdir("/")
    stage.preload()
    hostcalls.one_malloc_arena()
    hostcalls.set_name("pysc-warm")
    hostcalls.set_command_line(["pysc", "shim.warm", path])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the forks
    stamp = take_stamp()
    gc.collect()
    gc.freeze()
    listener = _listen(path)
    _serve(listener, idle_s, stamp)
    remove(path)
    os._exit(0)


def _listen(path: str) -> socket.socket:
    """Under its name only once it listens, and in the place of a dead one's.  We hold the lock."""
    remove(f"{path}.new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{path}.new")
    os.chmod(f"{path}.new", 0o600)
    listener.listen(BACKLOG)
    os.rename(f"{path}.new", path)
    return listener


def take_stamp() -> Stamp:
    """Of all modules' files but the interpreter's own."""
    standard = os.path.dirname(os.__file__)
    paths = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    ours = [path for path in paths if not path.startswith(standard) or "-packages/" in path]
    return {path: version(path) for path in ours} | {"": (os.sysconf("SC_PHYS_PAGES"), 0)}


def version(path: str) -> tuple[int, int]:
    st = os.stat(path)
    return st.st_mtime_ns, st.st_ino


def is_current(stamp: Stamp) -> bool:
    """Whether what is imported is still what is installed."""
    try:
        return all(version(path) == known for path, known in stamp.items() if path) and stamp[""] == (
            os.sysconf("SC_PHYS_PAGES"), 0,
        )  # fmt: skip
    except OSError:
        return False


def _serve(listener: socket.socket, idle_s: float, stamp: Stamp) -> None:
    """Fork for each who asks, until idle or outdated."""
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    while True:
        if not poller.poll(idle_s * 1000):
            if _has_children():
                continue
            return
        connection, _ = listener.accept()
        with connection:
            if not is_current(stamp):
                return
            _fork(listener, connection)


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _fork(listener: socket.socket, connection: socket.socket) -> None:
    try:
        pid = os.fork()
    except OSError:  # the asker finds the connection closed
        traceback.print_exc()
        return
    if pid == 0:
        status = 1
        try:
            status = _answer(connection)
        except (EOFError, TimeoutError, ConnectionError):
            pass  # the asker has lost patience, or its life
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


def _answer(connection: socket.socket) -> int:
    """In the fork: the rest of its life; the exit status."""
    nursery_fd = nursery.fork(keep_only)
    keep_only(connection.fileno(), nursery_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.settimeout(PATIENCE_S)
    request: Request = receive_frame(connection)
    arguments, environment, folder, stdin = request
    if not _is_kin(connection):
        return 1
    connection.sendall(READY)
    if receive_exactly(connection, 1) != GO:
        return 1
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
    return start.serve(flags, prepared, nursery_fd, "")


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
