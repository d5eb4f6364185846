"""Starts a container's deputy (deputy.c): the process of the host that stands for it where an engine wants one.

Engines take the pid that a runtime reports for the container's first process: they look up its cgroup for figures and
for news of too little memory, its namespaces for their network, send it signals, and take its exit status for the
container's.  It is a child of the command that makes the container, and therefore goes to that command's subreaper.

It is in the container's cgroup and in the Sentry's namespaces; the Sentry has the other end of its socket
(proto.control.DEPUTY).  Each ends when the other does.
"""

from __future__ import annotations

import os
from _signal import SIGKILL, SIGSTOP, valid_signals  # type: ignore[import-not-found]
from _socket import socketpair

from sandbox import hostcalls
from sandbox.errors import SandboxError
from sandbox.interpreter import INSTALLATION
from sandbox.process import identify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.process import ProcessId

PROGRAM = f"{INSTALLATION}/sandbox/deputy"

_KINDS = {
    "user": hostcalls.CLONE_NEWUSER,
    "mnt": hostcalls.CLONE_NEWNS,
    "net": hostcalls.CLONE_NEWNET,
    "ipc": hostcalls.CLONE_NEWIPC,
    "uts": hostcalls.CLONE_NEWUTS,
    "cgroup": hostcalls.CLONE_NEWCGROUP,
}
"""Not the PID namespace: who enters that is not in it, only his children are."""
_FIRST_GIVEN = 3


def start(container_id: str, cgroup: Sequence[int], sentry: ProcessId) -> tuple[ProcessId, int]:
    """Start one; returns, when it is where it is to be, its name and the Sentry's end of its socket.

    `cgroup`: files as Cgroup.open_procs opens them.  Raises OSError or SandboxError.
    """
    ours, theirs = socketpair()
    ready_read, ready_write = os.pipe()
    pidfd = os.pidfd_open(sentry.pid)
    try:
        given = [*cgroup, pidfd]
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
            (os.POSIX_SPAWN_DUP2, ready_write, 1),
            (os.POSIX_SPAWN_CLOSE, 2),
            *_placed(given),
        ]
        pid = os.posix_spawn(
            PROGRAM, ["pysc", "sandbox.deputy", container_id],
            {"C": str(len(cgroup)), "N": str(_other_namespaces(sentry.pid))},
            file_actions=actions, setsigdef=valid_signals() - {SIGKILL, SIGSTOP},
        )  # fmt: skip
        process = identify(pid)
        theirs.close()
        os.close(ready_write)
        ready_write = -1
        if not os.read(ready_read, 1):
            ours.close()
            os.waitpid(pid, 0)
            raise SandboxError("cannot start the deputy: it found no way into the cgroup or the namespaces")
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        for fd in (ready_read, ready_write, pidfd):
            if fd >= 0:
                os.close(fd)
    return process, ours.detach()


def _placed(fds: Sequence[int]) -> list[tuple[int, int, int]]:
    """Actions that give descriptors the numbers from 3 on.

    First all go to numbers that none of them has: a number may be another's that is still to be moved.
    """
    above = max(fds) + len(fds) + _FIRST_GIVEN
    away = [(os.POSIX_SPAWN_DUP2, fd, above + i) for i, fd in enumerate(fds)]
    back = [(os.POSIX_SPAWN_DUP2, above + i, _FIRST_GIVEN + i) for i in range(len(fds))]
    return [*away, *back]


def _other_namespaces(pid: int) -> int:
    """CLONE_ flags of the namespaces that a process does not share with us; into the same nobody need go."""

    def inode(who: str, kind: str) -> int:
        return os.stat(f"/proc/{who}/ns/{kind}").st_ino

    return sum(flag for kind, flag in _KINDS.items() if inode(str(pid), kind) != inode("self", kind))
