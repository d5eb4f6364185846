"""A container's root whose changes are kept in memory and forgotten with the container (the option `overlay`).

The mounts are made by a process of its own, in a mount namespace that ends with it.  What is left is one detached
mount, held by a descriptor: nothing is mounted on the host at any time, so there is nothing to be taken away later.
"""

import os
import socket
import sys
from typing import Final

from sandbox import hostcalls as hc
from sandbox.errors import SandboxError
from sandbox.interpreter import INSTALLATION, fresh_interpreter
from sandbox.mounts import copy_attributes, enter_private_mounts, escape, restrict

_MAKER: Final = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox.overlay import main; main()"
_SCRATCH: Final = "/proc"
"""The one directory that surely exists; nothing else needs it in the maker's namespace."""


def open_overlay(source: str, size: int) -> int:
    """The tree at `source` under a layer in memory of at most `size` bytes, as mounts.open_root opens trees.

    File systems that are mounted below it are not in it.  Raises SandboxError: without privilege, or where the host
    cannot overlay the file system that it is on.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            arguments = [INSTALLATION, source, str(size), str(theirs.fileno())]
            pid = fresh_interpreter(_MAKER, arguments, [theirs.fileno()])
        reason, fds, _, _ = socket.recv_fds(ours, 4096, 1)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:  # a caller that reaps all children was quicker
        pass
    if not fds:
        raise SandboxError(f"cannot overlay {source}: {reason.decode(errors='replace') or 'the maker died'}")
    os.set_inheritable(fds[0], False)
    return fds[0]


def main() -> None:
    """The maker.  sys.argv: installation, source, size, a socket for the descriptor or for a line that says why not."""
    source, size, fd = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with socket.socket(fileno=fd) as answer:
        try:
            tree = _make(source, size)
        except OSError as e:
            answer.send((e.strerror or str(e)).encode())
            return
        socket.send_fds(answer, [b"ok"], [tree])


def _make(source: str, size: int) -> int:
    enter_private_mounts()
    lower = os.open(source, os.O_PATH | os.O_DIRECTORY)  # a path through /proc would lead into the scratch space
    hc.mount("pysc-overlay", _SCRATCH, "tmpfs", hc.MS_NOSUID | hc.MS_NODEV, f"mode=700,size={size}")
    upper, work, view, below = (f"{_SCRATCH}/{name}" for name in ("upper", "work", "view", "lower"))
    for folder in (upper, work, view, below):
        os.mkdir(folder)
    os.fchdir(lower)
    hc.mount(".", below, "", hc.MS_BIND)
    copy_attributes(".", upper)  # the upper directory's are those of the merged root
    hc.mount("overlay", view, "overlay", 0, f"lowerdir={escape(below)},upperdir={upper},workdir={work}")
    tree = hc.open_tree(view, hc.OPEN_TREE_CLONE | hc.OPEN_TREE_CLOEXEC)
    restrict(tree, readonly=False)
    return tree
