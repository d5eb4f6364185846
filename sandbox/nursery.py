"""A process that forks stages: everything they need is imported, and nothing of any container is in its memory.

A fresh interpreter needs a tenth of a second to import the Sentry; a fork of this process needs a millisecond and
shares its pages.  Whoever makes sandboxes may have a nursery, as the shim does: made before the first request is read,
it forks no thread, lock, secret or descriptor of its owner into a Sentry.  It takes one message after the other and
ends with its owner, at the end of file.

The nursery of one command has no time to import first: it forks the two stages of a sandbox at once, and each imports
what its own role needs, side by side with the other and with the command.

A message is a stage's role and its descriptors (SCM_RIGHTS): the configuration in a memfd, the log, then those that
the configuration names in `keep_fds`, in that order.  They have new numbers here, which the configuration is told.
There is no answer: the stage reports to its starter, and a report's end of file says all that can be said here.
"""

import array
import gc
import os
import select
import sys
import traceback
from _signal import SIG_DFL, SIG_IGN, SIGCHLD, signal  # type: ignore[import-not-found]
from _socket import AF_UNIX, CMSG_SPACE, MSG_CMSG_CLOEXEC, SOCK_SEQPACKET, socket, socketpair
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from sandbox import common_heap, filters, hostcalls, stage
from sandbox.spawn import MANY, MAX_FDS, SANDBOX_NAMESPACES, send_message

AHEAD: Final = 2
"""A sandbox's first two processes: a gofer and the Sentry."""


MAX_BYTES: Final = 64 * 1024
"""Of a message; the longest is a filter's program."""


def main(fd: int) -> NoReturn:
    """The program of a nursery in a fresh interpreter; its owner's end is the other one of a SOCK_SEQPACKET pair."""
    stage.preload()
    gc.freeze()
    serve(socket(fileno=fd), ahead=0)
    os._exit(0)


def main_at_once(fd: int) -> NoReturn:
    """As main(), for a command that makes one sandbox, soon: the stages are forked first, and import meanwhile."""
    gc.disable()  # see cli/entry.py
    sock = socket(fileno=fd)
    _be_nursery()
    waiting = {role: _fork_for(role, sock) for role in stage.ROLES}
    programs = {role: _compiled(role) for role in waiting}  # they have enough to do
    while True:
        role, fds = _receive(sock)
        if not role:
            os._exit(0)
        if role in waiting:
            _pass_on(waiting.pop(role), programs[role], fds)
        else:
            _fork_stage(role, fds, sock)


def fork(leave: Callable[[int], None]) -> int:
    """A nursery that is a copy of this process, which has one thread and has called stage.preload(); our end of it.

    `leave` is called in it, with the one descriptor that it needs: to give up what is the caller's.  The caller must be
    a subreaper already: the first stages are forked before they are asked for.
    """
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
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


def serve(sock: socket, ahead: int) -> None:
    """Be a nursery until the owner's end is closed.  `ahead`: how many stages to fork before they are asked for."""
    _be_nursery()
    _fork_ahead(sock, ahead)
    while True:
        if not select.select([sock], [], [], common_heap.PATIENCE_S)[0]:
            common_heap.go_back()
        role, fds = _receive(sock)
        if not role:
            return
        _fork_stage(role, fds, sock)


def _be_nursery() -> None:
    signal(SIGCHLD, SIG_IGN)  # the kernel buries stages; the second process is not our child
    os.setsid()
    hostcalls.set_name("pysc-nursery")
    hostcalls.set_command_line(["pysc", "sandbox.nursery"])


def _fork_stage(role: str, fds: Sequence[int], sock: socket) -> None:
    if _fork() == 0:
        sock.close()
        _become_stage(role, fds, None)
    for fd in fds:
        os.close(fd)


def _fork_for(role: str, sock: socket) -> socket:
    """Fork a stage that imports what this role needs, and then waits for its message; our end of its socket."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    if _fork() == 0:
        try:
            sock.close()
            ours.close()
            _prepare_for(role, theirs)
        finally:
            os._exit(1)
    theirs.close()
    return ours


def _prepare_for(role: str, sock: socket) -> NoReturn:
    """In the child.  It must not outlive the nursery, nor leave its parent before the command buries orphans."""
    born = failure = None
    try:
        born = stage.enter(SANDBOX_NAMESPACES, at_once=False)
        stage.load(role)
    except Exception as e:  # to be reported as soon as it is known where
        failure = e
    gc.freeze()
    gc.enable()
    program, fds = _receive_message(sock)
    sock.close()
    if born is not None:
        born.leave()
    if fds:
        if program:
            filters.use(role, program)
        _become_stage(role, fds, born, failure)
    os._exit(0)


def _compiled(role: str) -> bytes:
    """The role's filter; empty if that fails: the stage then finds out for itself, and says, what is wrong."""
    try:
        return filters.compiled(role, False)
    except Exception:
        return b""


def _pass_on(sock: socket, program: bytes, fds: Sequence[int]) -> None:
    """Give a waiting stage its descriptors, and the filter that was compiled for it."""
    try:
        send_message(sock, program, fds)
    except OSError:  # it has died: its starter finds the report closed
        traceback.print_exc()
    sock.close()
    for fd in fds:
        os.close(fd)


def _fork_ahead(sock: socket, count: int) -> None:
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
        signal(SIGCHLD, SIG_DFL)
    return pid


def _wait_for_role(sock: socket, untaken: int) -> NoReturn:
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


def _become_stage(
    role: str, fds: Sequence[int], born: stage.Born | None, failure: Exception | None = None
) -> NoReturn:  # fmt: skip
    """In the child.  `failure`: why it cannot."""
    try:
        config_fd, log_fd, *keep_fds = fds
        config = stage.read_config(config_fd)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.close(log_fd)
        sys.argv = ["pysc", "sandbox.stage", role, config["id"]]
        hostcalls.set_command_line(sys.argv)
        config = renumbered(config, dict(zip(config["keep_fds"], keep_fds)))
        if failure is not None:
            stage.report_failure(config["report_fd"], failure)
            os._exit(1)
        stage.run(role, config, born or _enter(config["report_fd"]))
    finally:
        os._exit(1)


def _enter(report_fd: int) -> stage.Born:
    try:
        return stage.enter(SANDBOX_NAMESPACES)
    except BaseException as e:
        stage.report_failure(report_fd, e)
        raise


def _receive(sock: socket) -> tuple[str, list[int]]:
    """The next message; no role at the end."""
    role, fds = _receive_message(sock)
    return role.decode(), fds


def _receive_message(sock: socket) -> tuple[bytes, list[int]]:
    data, fds = _receive_packet(sock)
    if data == MANY:
        return _receive_many(fds[0])
    return data, fds


def _receive_many(channel: int) -> tuple[bytes, list[int]]:
    """A message with more descriptors than a packet holds has a channel of its own."""
    fds: list[int] = []
    sock = socket(fileno=channel)
    try:
        while True:
            data, received = _receive_packet(sock)
            fds += received
            if data != MANY:
                return data, fds
    finally:
        sock.close()


def _receive_packet(sock: socket) -> tuple[bytes, list[int]]:
    numbers = array.array("i")
    room = CMSG_SPACE(MAX_FDS * numbers.itemsize)
    data, ancillary, _, _ = sock.recvmsg(MAX_BYTES, room, MSG_CMSG_CLOEXEC)
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
