"""Root, working directory and umask (struct fs_struct), shared by CLONE_FS."""

from __future__ import annotations

from sentry.vfs.dentry import Path


class FsContext:
    """What a process resolves names against."""

    __slots__ = ("cwd", "root", "umask")

    def __init__(self, root: Path, cwd: Path, umask: int = 0o022) -> None:
        self.root = root
        self.cwd = cwd
        self.umask = umask

    def copy(self) -> FsContext:
        return FsContext(self.root, self.cwd, self.umask)
