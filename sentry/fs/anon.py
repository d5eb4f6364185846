"""Files without a name: eventfds, epolls, timers and their like (fs/anon_inodes.c).

All of them share one inode, as in Linux.  They lie on no mount; anon_path() makes a path for
them when /proc/PID/fd is walked.
"""

from __future__ import annotations

from typing import ClassVar, Final

from sentry.abi.errno import ENXIO
from sentry.vfs.dentry import Dentry, Mount, MountNamespace, Path
from sentry.vfs.file import File
from sentry.vfs.inode import FileSystem, Inode


class AnonFs(FileSystem):
    """Where anonymous inodes live; never mounted by anybody."""

    NAME = "anon_inodefs"
    MAGIC = 0x09041934


class AnonInode(Inode):
    """The one inode.  Its mode has no type: S_ISREG and all the others are false of it."""

    __slots__ = ()

    async def open(self, path: Path, flags: int) -> File:
        """ "ENXIO: The file is ... without a corresponding device" - what no_open() answers."""
        raise ENXIO


FILESYSTEM: Final = AnonFs()
INODE: Final = AnonInode(FILESYSTEM, 0o600)


class AnonFile(File):
    """Base of files that are nothing but their description.  KIND as /proc/PID/fd shows it: "[eventfd]"."""

    __slots__ = ()

    KIND: ClassVar[str] = ""

    def __init__(self, flags: int) -> None:
        super().__init__(INODE, None, flags)

    def describe(self) -> str | None:
        return f"anon_inode:{self.KIND}"


def anon_path(inode: Inode) -> Path:
    """A path to an inode that has no name, for magic links: it can be opened and asked, and leads nowhere else."""
    root = Dentry("", None, inode)
    return Path(Mount(_NOWHERE, inode.fs, root, 0, inode.fs.NAME), root)


_NOWHERE: Final = MountNamespace()
