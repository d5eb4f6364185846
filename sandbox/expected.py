"""A nursery on its way, for `pysc run` and its like: from a warm parent, if one is wished for, or a fresh interpreter.

It is begun before anything else is imported, and taken when it is needed: meanwhile an interpreter imports, or a fork
of the warm parent finds out whether it would do (warm_nursery.py).
"""

import os
import sys
from _socket import CMSG_SPACE, SCM_RIGHTS, SOL_SOCKET, socket

from sandbox.interpreter import start_nursery
from sandbox.warm_client import FOLDER_VARIABLE, GO, READY, find, frame, socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.spawn import Nursery

PROGRAM = "sandbox.warm_nursery"


class Expected:
    """The nursery of one command.

    `may_be_warm`: whether a fork of a warm parent will do, which is no descendant of ours.  A wrong guess costs time.
    """

    def __init__(self, may_be_warm: bool) -> None:
        folder = os.environ.get(FOLDER_VARIABLE, "") if may_be_warm else ""
        self._warm = _ask(socket_path(folder, PROGRAM)) if folder else None
        self._fresh = start_nursery("main_at_once") if self._warm is None else None
        self._taken: Nursery | None = None

    def take(self, warm: bool) -> "Nursery":
        """The nursery.  `warm`: it may be a warm parent's fork, which compares itself with us as we are now."""
        from sandbox.spawn import Nursery

        if self._taken is None:
            fd = self._from_warm(warm)
            self._taken = Nursery(*(self._fresh or start_nursery("main_at_once"))) if fd is None else Nursery(fd)
            self._fresh = None
        return self._taken

    def close(self) -> None:
        """Let it end, if it has not been taken and closed; idempotent."""
        self._from_warm(False)
        if self._taken is None and self._fresh is not None:
            self.take(warm=False)
        if self._taken is not None:
            self._taken.close()

    def _from_warm(self, wanted: bool) -> int | None:
        warm, self._warm = self._warm, None
        if warm is None:
            return None
        try:
            return _answer(warm) if wanted else None
        finally:
            warm.close()


def _ask(path: str) -> socket | None:
    warm = find(path, PROGRAM)
    if warm is not None:
        try:
            warm.sendall(frame(None))
        except OSError:
            warm.close()
            return None
    return warm


def _answer(warm: socket) -> int | None:
    """The descriptor of a nursery; None if the fork will not do, or does not answer."""
    fds: list[int] = []
    try:
        data, ancillary, _, _ = warm.recvmsg(1, CMSG_SPACE(4))
        for level, kind, raw in ancillary:
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                fds.append(int.from_bytes(raw, sys.byteorder))
        if data == READY and len(fds) == 1:
            os.set_inheritable(fds[0], False)
            warm.sendall(GO)
            return fds.pop()
    except OSError:
        pass
    finally:
        for fd in fds:
            os.close(fd)
    return None
