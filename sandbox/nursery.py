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
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from sandbox import common_heap, hostcalls, stage
from sandbox.spawn import MANY, MAX_FDS, SANDBOX_NAMESPACES

AHEAD: Final = 2
"""A sandbox's first two processes: a gofer and the Sentry."""


def main(fd: int) -> NoReturn:
    """The program of a nursery in a fresh interpreter; its owner's end is the other one of a SOCK_SEQPACKET pair."""
    stage.preload()
    gc.freeze()
    serve(socket.socket(fileno=fd), ahead=0)
    os._exit(0)


def fork(leave: Callable[[int], None]) -> int:
    """A nursery that is a copy of this process, which has one thread and has called stage.preload(); our end of it.

    `leave` is called in it, with the one descriptor that it needs: to give up what is the caller's.  The caller must be
    a subreaper already: the first stages are forked before they are asked for.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            ours.close()
            leave(theirs.fileno())
            serve(theirs, AHEAD)
            os._exit(0)
        finally:
            os._exit(1)
    theirs.close()
    return ours.detach()


def keep_only(*fds: int) -> None:
    """Close all descriptors but the standard ones and these."""
    first = 3
    for fd in sorted(fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def serve(sock: socket.socket, ahead: int) -> None:
    """Be a nursery until the owner's end is closed.  `ahead`: how many stages to fork before they are asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries stages; the second process is not our child
    os.setsid()
    hostcalls.set_name("pysc-nursery")
    hostcalls.set_command_line(["pysc", "sandbox.nursery"])
    _fork_ahead(sock, ahead)
    while True:
        if not select.select([sock], [], [], common_heap.PATIENCE_S)[0]:
            common_heap.go_back()
        role, fds = _receive(sock)
        if not role:
            return
        if _fork() == 0:
            sock.close()
            _become_stage(role, fds, None)
        for fd in fds:
            os.close(fd)


def _fork_ahead(sock: socket.socket, count: int) -> None:
    """Fork stages that take the first messages themselves; returns when all have one, or have died.

    So their namespaces are made while their owner waits for its first request.
    """
    untaken_read, untaken_write = os.pipe()
    for _ in range(count):
        if _fork() == 0:
            os.close(untaken_read)
            _wait_for_role(sock, untaken_write)
    os.close(untaken_write)
    os.read(untaken_read, 1)  # nobody writes: it is the end of file that comes
    os.close(untaken_read)


def _fork() -> int:
    """fork(2); -1 if the host has no room: the stage's starter finds its report closed."""
    try:
        pid = os.fork()
    except OSError:
        traceback.print_exc()
        return -1
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return pid


def _wait_for_role(sock: socket.socket, untaken: int) -> NoReturn:
    """In a child that was forked ahead."""
    try:
        born = stage.enter(SANDBOX_NAMESPACES)
        role, fds = _receive(sock)
        sock.close()
        os.close(untaken)
        if role:
            _become_stage(role, fds, born)
    finally:
        os._exit(0)


def _become_stage(role: str, fds: list[int], born: stage.Born | None) -> NoReturn:
    """In the child."""
    try:
        config_fd, log_fd, *keep_fds = fds
        with open(config_fd, "rb") as f:
            config = json.load(f)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.close(log_fd)
        sys.argv = ["pysc", "sandbox.stage", role, config["id"]]
        hostcalls.set_command_line(sys.argv)
        config = renumbered(config, dict(zip(config["keep_fds"], keep_fds)))
        stage.run(role, config, born or _enter(config["report_fd"]))
    finally:
        os._exit(1)


def _enter(report_fd: int) -> stage.Born:
    try:
        return stage.enter(SANDBOX_NAMESPACES)
    except BaseException as e:
        stage.report_failure(report_fd, e)
        raise


def _receive(sock: socket.socket) -> tuple[str, list[int]]:
    """The next message; no role at the end."""
    data, fds = _receive_packet(sock)
    if data == MANY:
        return _receive_many(fds[0])
    return data.decode(), fds


def _receive_many(channel: int) -> tuple[str, list[int]]:
    """A message with more descriptors than a packet holds has a channel of its own."""
    fds: list[int] = []
    with socket.socket(fileno=channel) as sock:
        while True:
            data, received = _receive_packet(sock)
            fds += received
            if data != MANY:
                return data.decode(), fds


def _receive_packet(sock: socket.socket) -> tuple[bytes, list[int]]:
    numbers = array.array("i")
    room = socket.CMSG_SPACE(MAX_FDS * numbers.itemsize)
    data, ancillary, _, _ = sock.recvmsg(64, room, socket.MSG_CMSG_CLOEXEC)
    for _, _, content in ancillary:
        numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return data, list(numbers)


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
