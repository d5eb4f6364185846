"""The warm parent of nurseries (warm.py), for `pysc run` and `pysc do`: a fork becomes the nursery of one command.

It is told nothing.  With READY it sends our end of the nursery's socket, which is all that the command needs; after GO
it forks two stages ahead of time.  It is the subreaper of what it forks, and lives until the command and all of that
have ended: nobody else need bury them.
"""

import os
import socket
from typing import NoReturn

from sandbox import hostcalls, nursery, rlimits, warm
from sandbox.expected import PROGRAM
from sandbox.kinship import oom_score
from sandbox.warm_client import GO, READY, peer_of, receive_exactly, receive_frame


def main(path: str, idle_s: float, starting_fd: int) -> NoReturn:
    """See warm.serve."""
    warm.serve(path, PROGRAM, idle_s, starting_fd, _live)


def _live(connection: socket.socket, parent: warm.Parent) -> int:
    """A fork's life; its exit status."""
    nursery.keep_only(connection.fileno())
    receive_frame(connection)
    if not parent.is_current() or not warm.is_kin(connection):
        return 1
    score = oom_score(peer_of(connection)[0])
    rlimits.set_oom_score_adj(score)
    if oom_score(os.getpid()) != score:
        return 1
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        socket.send_fds(connection, [READY], [ours.fileno()])
    if receive_exactly(connection, 1) != GO:
        return 1
    connection.close()
    hostcalls.prctl(hostcalls.PR_SET_CHILD_SUBREAPER, 1)
    nursery.serve(theirs, nursery.AHEAD)
    _await_children()
    return 0


def _await_children() -> None:
    """SIGCHLD is ignored, so this is over when there are none."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
