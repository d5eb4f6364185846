"""fsync(2) and its relatives.  What waits for a disk is the gofer, never the Sentry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi import stat as st
from sentry.abi.errno import EINVAL, ESPIPE
from sentry.syscalls.args import I32, Fd, Flags, Offset, Size
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

SYNC_FILE_RANGE_WAIT_BEFORE: Final = 1
SYNC_FILE_RANGE_WRITE: Final = 2
SYNC_FILE_RANGE_WAIT_AFTER: Final = 4
POSIX_FADV_NOREUSE: Final = 5
_WAITS: Final = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER


@syscall
async def fsync(t: Task, fd: Fd) -> int:
    """fsync(2): a file's data and attributes are on the disk.  EBADF, EINVAL, EIO."""
    await t.files.get(fd).fsync(False)
    return 0


@syscall
async def fdatasync(t: Task, fd: Fd) -> int:
    """fdatasync(2): a file's data is on the disk.  EBADF, EINVAL, EIO."""
    await t.files.get(fd).fsync(True)
    return 0


@syscall
async def sync(t: Task) -> int:
    """sync(2): all file systems of the container are on the disk."""
    for fs in {mount.fs for mount in t.fs.root.mount.ns.walk_mounts()}:
        await fs.sync()
    return 0


@syscall
async def syncfs(t: Task, fd: Fd) -> int:
    """syncfs(2): the file system of an open file is on the disk.  EBADF."""
    await t.files.get(fd).inode.fs.sync()
    return 0


@syscall
async def sync_file_range(t: Task, fd: Fd, offset: Offset, count: Offset, flags: Flags) -> int:
    """sync_file_range(2): part of a file's data is on the disk.  We take care of all of it.

    Errors: EBADF, EINVAL, ESPIPE
    """
    file = t.files.get(fd)
    if flags & ~(_WAITS | SYNC_FILE_RANGE_WRITE) or offset < 0 or count < 0:
        raise EINVAL("range or flags")
    if file.inode.mode & st.S_IFMT not in (st.S_IFREG, st.S_IFBLK, st.S_IFDIR, st.S_IFLNK):
        raise ESPIPE
    if flags & _WAITS:
        await file.fsync(True)
    return 0


# ---- Advice.  The page cache is the host's, and it reads ahead on its own: there is nothing to do but check.


@syscall
def fadvise64(t: Task, fd: Fd, offset: Offset, count: Offset, advice: I32) -> int:
    """posix_fadvise(2): how a file will be read.  EBADF, ESPIPE, EINVAL."""
    file = t.files.get(fd)
    if file.inode.mode & st.S_IFMT == st.S_IFIFO:
        raise ESPIPE
    if count < 0 or not 0 <= advice <= POSIX_FADV_NOREUSE:
        raise EINVAL("count or advice")
    return 0


@syscall
def readahead(t: Task, fd: Fd, offset: Offset, count: Size) -> int:
    """readahead(2): read part of a file into the page cache.  EBADF, EINVAL (not a regular file)."""
    file = t.files.readable(fd)
    if not st.is_reg(file.inode.mode):
        raise EINVAL("not a regular file")
    return 0
