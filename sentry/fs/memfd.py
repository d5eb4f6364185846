"""Memory files of memfd_create(2), and the seals of fcntl(2)."""

from __future__ import annotations

from typing import Final

from sentry.abi.errno import EINVAL, EPERM
from sentry.abi.fcntl import (
    F_SEAL_EXEC,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    O_LARGEFILE,
    O_RDWR,
)
from sentry.abi.stat import S_IFREG
from sentry.fs.anon import anon_path
from sentry.fs.memdata import Pool
from sentry.fs.tmpfs import TmpFile, TmpFs, TmpRegular
from sentry.vfs.caller import Caller
from sentry.vfs.file import File

ALL_SEALS: Final = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC
FILESYSTEM: Final = TmpFs()  # Linux's internal shm_mnt


class MemFile(TmpFile):
    """A file of memory that has no name."""

    __slots__ = ("name",)

    def __init__(self, inode: TmpRegular, name: str) -> None:
        super().__init__(inode, anon_path(inode), O_RDWR | O_LARGEFILE)
        self.name = name

    def hold(self) -> File:
        """Not counted as a writer: memfd_create(2) takes no write access, or nobody could execute what he wrote."""
        self.refs += 1
        return self

    def drop(self) -> None:
        if self.refs == 1:
            self.inode.writers += 1
        super().drop()

    def describe(self) -> str | None:
        return f"/memfd:{self.name} (deleted)"


def new_memfd(caller: Caller, name: str, sealable: bool, executable: bool, memory: Pool | None = None) -> MemFile:
    """An empty one.  Not executable also means sealed so (MFD_NOEXEC_SEAL)."""
    inode = TmpRegular(FILESYSTEM, S_IFREG | (0o777 if executable else 0o666), caller.fsuid, caller.fsgid, memory)
    inode.nlink = 0
    inode.seals = 0 if sealable else F_SEAL_SEAL
    if not executable:
        inode.seals = F_SEAL_EXEC
    return MemFile(inode, name)


def get_seals(file: File) -> int:
    """F_GET_SEALS.  EINVAL: a file that can't have any."""
    inode = file.inode
    if not isinstance(inode, TmpRegular):
        raise EINVAL("not a file of memory")
    return inode.seals


def add_seals(file: File, seals: int) -> None:
    """F_ADD_SEALS.  EPERM: not open for writing, or sealed against sealing; EINVAL.

    Linux refuses F_SEAL_WRITE with EBUSY while there are writable shared mappings; those are not
    known here, they stay writable.
    """
    if not file.writable:
        raise EPERM
    if seals & ~ALL_SEALS:
        raise EINVAL("unknown seals")
    inode = file.inode
    if not isinstance(inode, TmpRegular):
        raise EINVAL("not a file of memory")
    if inode.seals & F_SEAL_SEAL:
        raise EPERM("sealed")
    if seals & F_SEAL_EXEC and inode.mode & 0o111:
        # "F_SEAL_EXEC ... also seals write, grow, shrink", or an executable file could be changed.
        seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
    inode.seals |= seals
