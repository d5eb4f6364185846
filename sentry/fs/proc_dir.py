"""Directories below a task's in /proc: names that come and go with the task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from sentry.abi import stat as st
from sentry.abi.errno import ENOENT
from sentry.fs.proc_view import TaskView
from sentry.fs.simple import ListedDir
from sentry.vfs.inode import Inode

if TYPE_CHECKING:
    from sentry.fs.procfs import ProcFs


class ProcDir(ListedDir):
    """A directory below a task's.  `view` says whose."""

    __slots__ = ("_kept", "view")

    volatile: ClassVar[bool] = True
    fs: ProcFs

    def __init__(self, fs: ProcFs, view: TaskView, mode: int = 0o555) -> None:
        super().__init__(fs, st.S_IFDIR | mode)
        self.view = view
        self._kept: dict[str, Inode] = {}

    async def lookup(self, name: str) -> Inode:
        """ENOENT: no such name, or the task is gone."""
        if self.view.gone:
            raise ENOENT
        inode = self._kept.get(name)
        if inode is None or not self.still(name):
            inode = self._kept[name] = self.make(name)
        inode.uid, inode.gid = self.view.owner()
        return inode

    def still(self, name: str) -> bool:
        """Does a name that was made once still exist?"""
        return True

    def make(self, name: str) -> Inode:
        """ENOENT."""
        raise NotImplementedError

    def names(self) -> Iterable[str]:
        raise NotImplementedError

    def kind(self, name: str) -> int:
        """The type of an entry, for readdir(3)."""
        return st.S_IFREG

    def listing(self) -> Iterable[tuple[str, int, int]]:
        if self.view.gone:
            raise ENOENT
        # Inode numbers of what nobody has looked up are not known: one more than the directory's own serves.
        for name in self.names():
            kept = self._kept.get(name)
            yield name, kept.ino if kept is not None else self.ino + 1, self.kind(name)
