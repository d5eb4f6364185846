"""Namespaces as files: what the links in /proc/PID/ns lead to, namespaces(7).

A namespace is known by its number alone: two processes share one if stat(2) shows the same
inode.  They cannot be entered (setns(2)).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from sentry.abi.stat import S_IFREG
from sentry.fs.anon import anon_path
from sentry.vfs.dentry import Path
from sentry.vfs.file import File
from sentry.vfs.inode import FileSystem, Inode

if TYPE_CHECKING:
    from sentry.kernel.container import Container
    from sentry.kernel.task import Task

# Those that the containers of a sandbox share, under the numbers of Linux's first ones (enum proc_ns_ino).
_SHARED: Final = {"net": 4026531840, "time": 4026531834, "user": 4026531837}
# Of the others but pid, what stands for the namespace that a container is in.
_OF_CONTAINER: Final[dict[str, Callable[[Container], object]]] = {
    "cgroup": lambda container: container,
    "ipc": lambda container: container.ipc,
    "mnt": lambda container: container.mounts,
    "uts": lambda container: container.uts,
}
# Name of a link -> kind of namespace.
LINKS: Final = {
    **{kind: kind for kind in sorted([*_SHARED, *_OF_CONTAINER, "pid"])},
    "pid_for_children": "pid",
    "time_for_children": "time",
}
_numbers: Final = itertools.count(4026532200)
_given: Final[weakref.WeakKeyDictionary[object, dict[str, int]]] = weakref.WeakKeyDictionary()


def number_of(t: Task, kind: str) -> int:
    """The number of the namespace that t is in."""
    if kind in _SHARED:
        return _SHARED[kind]
    if kind == "pid":
        return t.pidns.id
    given = _given.setdefault(_OF_CONTAINER[kind](t.container), {})
    if kind not in given:
        given[kind] = next(_numbers)
    return given[kind]


class NsFs(FileSystem):
    """Where these files live; never mounted."""

    NAME: ClassVar[str] = "nsfs"
    MAGIC: ClassVar[int] = 0x6E736673


FILESYSTEM: Final = NsFs()
_inodes: Final[weakref.WeakValueDictionary[int, NsInode]] = weakref.WeakValueDictionary()


class NsInode(Inode):
    """A namespace."""

    __slots__ = ("kind",)

    def __init__(self, kind: str, number: int) -> None:
        super().__init__(FILESYSTEM, S_IFREG | 0o444, ino=number)
        self.kind = kind

    async def open(self, path: Path, flags: int) -> File:
        return NsFile(self, path, flags)


class NsFile(File):
    """An open namespace: there is nothing to be done with it but to ask who it is."""

    __slots__ = ()

    def describe(self) -> str | None:
        assert isinstance(self.inode, NsInode)
        return f"{self.inode.kind}:[{self.inode.ino}]"


def namespace_path(t: Task, kind: str) -> Path:
    """Where the link of that kind leads."""
    number = number_of(t, kind)
    inode = _inodes.get(number)
    if inode is None:
        inode = _inodes[number] = NsInode(kind, number)
    return anon_path(inode)
