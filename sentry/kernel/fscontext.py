"""Root, working directory and umask (struct fs_struct), shared by CLONE_FS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentry.vfs.known import Known

if TYPE_CHECKING:
    from sentry.kernel.creds import Creds
    from sentry.vfs.dentry import Path


class FsContext:
    """What a process resolves names against.

    root, cwd  changed by chroot() and chdir() only
    known      where names lead from there, for whoever has the credentials known_to; its copies share it
    """

    __slots__ = ("cwd", "known", "known_to", "root", "umask")

    def __init__(self, root: Path, cwd: Path, umask: int = 0o022) -> None:
        self.root = root
        self.cwd = cwd
        self.umask = umask
        self.known = Known()
        self.known_to: Creds | None = None

    def copy(self) -> FsContext:
        copy = FsContext(self.root, self.cwd, self.umask)
        copy.known, copy.known_to = self.known, self.known_to
        return copy

    def chdir(self, cwd: Path) -> None:
        self.cwd = cwd
        self.known = Known()

    def chroot(self, root: Path) -> None:
        self.root = root
        self.known = Known()

    def known_for(self, creds: Creds) -> Known:
        """known, begun anew if it is somebody else's."""
        if self.known_to is not creds:
            self.known, self.known_to = Known(), creds
        return self.known
