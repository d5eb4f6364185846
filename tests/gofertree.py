"""A real gofer in a forked child, and the client file system that talks to it.

    with GoferTree(folder) as tree:
        file = tree.run(tree.open("/a/b", O_RDWR))

The tree has a loop of its own; whatever waits is run to its end by run().
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path as HostPath
from typing import Any, TypeVar

from gofer.server import serve
from sentry.fs.goferclient import GoferClient
from sentry.fs.goferfs import GoferFs
from sentry.fs.volumes import Volume, Volumes
from sentry.kernel.creds import ALL_CAPS
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Dentry, MountNamespace, Path
from sentry.vfs.file import File
from sentry.vfs.open import open_name
from sentry.vfs.walk import Where, walk
from sentry.wait import Loop
from tests.fakes import IdlePlatform, run

T = TypeVar("T")


class GoferTree:
    """`lost` becomes true when the connection ended without close()."""

    def __init__(
        self,
        folder: HostPath,
        *,
        shared: bool = False,
        readonly: bool = False,
        loop: Loop | None = None,
        volumes: Volumes | None = None,
    ) -> None:
        self.folder = folder
        self.loop = loop or Loop(IdlePlatform())
        self.lost = False
        ours, theirs = socket.socketpair()
        self.gofer = fork_gofer(folder, theirs, ours, readonly)
        theirs.close()
        self.client = GoferClient(self.loop, ours, self._on_lost)
        volume = Volume(volumes, folder.stat().st_dev) if volumes is not None else None
        self.fs = GoferFs(self.client, shared=shared, volume=volume)
        self.mounts = MountNamespace()
        try:
            top = self.mounts.new_mount(self.fs, Dentry("", None, self.run(self.fs.root())))
        except BaseException:
            self.close()
            raise
        self.mounts.attach(top, None)
        self.root = Path(top, top.root)
        self.caller = Caller(caps=ALL_CAPS, umask=0)

    def _on_lost(self) -> None:
        self.lost = True

    def __enter__(self) -> GoferTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.fs.release()
        if self.gofer:
            os.kill(self.gofer, signal.SIGKILL)
            os.waitpid(self.gofer, 0)
            self.gofer = 0

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return run(self.loop, coro)

    @property
    def where(self) -> Where:
        return Where(self.root, self.root, self.caller)

    def walk(self, name: str) -> Path:
        return self.run(walk(self.where, name, False))

    def open(self, name: str, flags: int, mode: int = 0o644) -> File:
        return self.run(open_name(self.where, name, flags, mode)).hold()

    def gofer_fds(self) -> int:
        """How many descriptors the gofer holds."""
        return len(os.listdir(f"/proc/{self.gofer}/fd"))

    def flush_clunks(self) -> None:
        """Let the gofer forget what the finalisers gave back, and wait until it did."""
        self.client._send_clunks()
        self.run(self.fs.statfs())


def fork_gofer(folder: HostPath, sock: socket.socket, other: socket.socket, readonly: bool) -> int:
    """The child's pid.  It ends when its connection does."""
    root = os.open(folder, os.O_PATH)
    proc = os.open("/proc", os.O_PATH)
    pid = os.fork()
    if pid:
        os.close(root)
        os.close(proc)
        return pid
    status = 1
    try:
        other.close()
        serve([(sock, root, readonly)], proc)
        status = 0
    finally:
        os._exit(status)
