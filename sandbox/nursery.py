"""A process that forks stages: everything they need is imported, and nothing of any container is in its memory.

A fresh interpreter needs a tenth of a second to import the Sentry; a fork of this process needs a millisecond and
shares its pages.  Whoever makes sandboxes may have a nursery, as the shim does: made before the first request is read,
it forks no thread, lock, secret or descriptor of its owner into a Sentry.  It takes one message after the other and
ends with its owner, at the end of file.

A message is a stage's role and its descriptors (SCM_RIGHTS): the configuration in a memfd, the log, then those that
the configuration names in `keep_fds`, in that order.  They have new numbers here, which the configuration is told.
There is no answer: the stage reports to its starter, and a report's end of file says all that can be said here.
"""

import array
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from sandbox import hostcalls, stage
from sandbox.spawn import MAX_FDS, MORE


def main(fd: int) -> NoReturn:
    """The program of a nursery in a fresh interpreter; its owner's end is the other one of a SOCK_SEQPACKET pair."""
    stage.preload()
    gc.freeze()
    _serve(socket.socket(fileno=fd))


def fork(leave: Callable[[int], None]) -> int:
    """A nursery that is a copy of this process, which has one thread and has called stage.preload(); our end of it.

    `leave` is called in it, with the one descriptor that it needs: to give up what is the caller's.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            ours.close()
            leave(theirs.fileno())
            _serve(theirs)
        finally:
            os._exit(1)
    theirs.close()
    return ours.detach()


def _serve(sock: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries stages; the second process is not our child
    os.setsid()
    hostcalls.set_name("pysc-nursery")
    hostcalls.set_command_line(["pysc", "sandbox.nursery"])
    while True:
        role, fds = _receive(sock)
        if not role:
            os._exit(0)
        if _fork_stage() == 0:
            sock.close()
            _become_stage(role, fds)
        for fd in fds:
            os.close(fd)


def _receive(sock: socket.socket) -> tuple[str, list[int]]:
    """The next message; no role at the end."""
    fds: list[int] = []
    while True:
        data, received = _receive_packet(sock)
        fds += received
        if data != MORE:
            return data.decode(), fds


def _receive_packet(sock: socket.socket) -> tuple[bytes, list[int]]:
    numbers = array.array("i")
    room = socket.CMSG_SPACE(MAX_FDS * numbers.itemsize)
    data, ancillary, _, _ = sock.recvmsg(64, room, socket.MSG_CMSG_CLOEXEC)
    for _, _, content in ancillary:
        numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return data, list(numbers)


def _fork_stage() -> int:
    """fork(2); -1 if the host has no room: the stage's starter finds its report closed."""
    try:
        return os.fork()
    except OSError:
        traceback.print_exc()
        return -1


def _become_stage(role: str, fds: list[int]) -> NoReturn:
    """In the child."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        config_fd, log_fd, *keep_fds = fds
        with open(config_fd, "rb") as f:
            config = json.load(f)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        sys.argv = ["pysc", "sandbox.stage", role, config["id"]]
        hostcalls.set_command_line(sys.argv)
        stage.run(role, renumbered(config, dict(zip(config["keep_fds"], keep_fds))))
    finally:
        os._exit(1)


def renumbered(config: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """A StageConfig with other descriptor numbers."""
    boot = config["boot"]
    if boot:
        boot = {k: numbers.get(v, v) if k.endswith("_fd") else v for k, v in boot.items()}
    return {
        **config,
        "report_fd": numbers[config["report_fd"]],
        "keep_fds": list(numbers.values()),
        "mounts": [(numbers[connection], numbers[root], readonly) for connection, root, readonly in config["mounts"]],
        "boot": boot,
    }
