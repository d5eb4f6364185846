"""Inodes and file systems: what a file system implements.

Every method has a default that does what Linux does when the operation is NULL, so a file
system writes down only what it means.  Methods that may have to reach the gofer are
`async def`; all others are plain.  Permissions are checked by the callers, in vfs, never here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Final

from proto.slotted import slotted
from sentry.abi import stat as st
from sentry.abi.errno import EACCES, EINVAL, ENOTDIR, EOPNOTSUPP, EPERM

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sentry.vfs.caller import Caller
    from sentry.vfs.dentry import Path
    from sentry.vfs.file import File
    from sentry.vfs.locks import FileLocks
    from sentry.wait import Mutex


NS: Final = 1_000_000_000

# The clock that Linux stamps files with.
CLOCK_REALTIME_COARSE: Final = 5

# In AttrChange: the time that whoever keeps the file stamps it with.  A time of ours could be
# ahead of what the host stamps next, or behind what it stamped last.
NOW: Final = -(1 << 63)


def now_ns() -> int:
    """The time for timestamps: ns since the epoch."""
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


@slotted
class AttrChange:
    """What setattr changes (struct iattr); None leaves a field as it is."""

    mode: int | None = None  # permission bits only
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None  # or NOW
    mtime_ns: int | None = None  # or NOW


@slotted
class StatFs:
    """statfs(2)."""

    type: int
    bsize: int = 4096
    blocks: int = 0
    bfree: int = 0
    bavail: int = 0
    files: int = 0
    ffree: int = 0
    namelen: int = 255


class FileSystem:
    """A mounted file system (struct super_block)."""

    NAME: ClassVar[str] = ""
    MAGIC: ClassVar[int] = 0
    _next_dev: ClassVar[int] = 1

    def __init__(self) -> None:
        # Anonymous block devices: major 0, minors from 1 up, as get_anon_bdev() numbers them.
        self.dev = device_number(0, FileSystem._next_dev)
        FileSystem._next_dev += 1
        self._next_ino = 1

    def new_ino(self) -> int:
        ino = self._next_ino
        self._next_ino += 1
        return ino

    async def root(self) -> Inode:
        raise EINVAL("file system without a root")

    def rename_lock(self) -> Mutex | None:
        """Held over renames between directories, so that nothing moves above them; None where renames never wait."""
        return None

    def show_options(self) -> str:
        """Extra mount options for /proc/mounts, with a leading comma each."""
        return ""

    async def statfs(self) -> StatFs:
        return StatFs(self.MAGIC)

    async def sync(self) -> None:
        """sync(2): nothing, where nothing is buffered."""

    def release(self) -> None:
        """The last mount is gone."""


class Inode:
    """A file, whatever its names.  Attributes are plain fields, kept current by the file system.

    mode carries the type.  `volatile` directories look names up anew on each walk.
    """

    __slots__ = (
        "__weakref__",
        "_fifo",
        "_locks",
        "atime_ns",
        "btime_ns",
        "ctime_ns",
        "executing",
        "fs",
        "gid",
        "ino",
        "mode",
        "mtime_ns",
        "nlink",
        "rdev",
        "size",
        "uid",
        "users",
        "writers",
    )

    volatile: ClassVar[bool] = False
    # A magic link (proc(5)): follow() jumps to its target instead of walking readlink()'s text.
    magic: ClassVar[bool] = False

    def __init__(self, fs: FileSystem, mode: int, uid: int = 0, gid: int = 0, ino: int = 0, rdev: int = 0) -> None:
        self.fs = fs
        self.ino = ino or fs.new_ino()
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.nlink = 2 if st.is_dir(mode) else 1
        self.size = 0
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.btime_ns = now_ns()
        self.users = 0  # open files, O_PATH included
        # i_writecount, as two counts: a file is not written to while it runs, nor run while written to.
        self.writers = 0
        self.executing = 0
        self._locks: FileLocks | None = None
        self._fifo: object | None = None

    @property
    def ended(self) -> bool:
        """In a volatile directory: what it stood for is gone, and no name will lead to it again."""
        return False

    # -- attributes --

    async def refresh(self) -> None:
        """Bring the fields up to date; file systems with a second writer ask it here."""

    def fresh(self) -> bool:
        """True if the fields are up to date now, so that refresh() need not be awaited."""
        return type(self).refresh is Inode.refresh

    def stat_now(self) -> bytes | None:
        """struct stat, if the fields are up to date; None: await refresh()."""
        return self.packed_stat() if self.fresh() else None

    def packed_stat(self) -> bytes:
        """struct stat of the fields as they are."""
        atime, mtime, ctime = self.atime_ns, self.mtime_ns, self.ctime_ns
        return st.STAT.pack(
            self.fs.dev,
            self.ino,
            self.nlink,
            self.mode,
            self.uid,
            self.gid,
            0,
            self.rdev,
            self.size,
            self.blksize(),
            self.blocks(),
            atime // NS,
            atime % NS,
            mtime // NS,
            mtime % NS,
            ctime // NS,
            ctime % NS,
        )

    def blocks(self) -> int:
        """st_blocks, in 512-byte units."""
        return (self.size + 511) // 512

    def blksize(self) -> int:
        return 4096

    async def setattr(self, change: AttrChange) -> None:
        """Apply change.  EPERM where attributes are fixed.  Truncation of a regular file arrives as size."""
        raise EPERM

    def touch(self, *, atime: bool = False, mtime: bool = False) -> None:
        """Record an access or a modification (which also sets ctime)."""
        now = now_ns()
        if atime:
            self.atime_ns = now
        if mtime:
            self.mtime_ns = self.ctime_ns = now

    def identity(self) -> Hashable:
        """What inodes of one file have in common, where a file has several: goferinode.py."""
        return self

    @property
    def fifo(self) -> object | None:
        """The pipe behind it, while it is a FIFO and open: pipefs.py."""
        return self._fifo

    @fifo.setter
    def fifo(self, pipe: object | None) -> None:
        self._fifo = pipe

    def locks(self) -> FileLocks:
        if self._locks is None:
            from sentry.vfs.locks import FileLocks

            self._locks = FileLocks()
        return self._locks

    # -- opening --

    async def open(self, path: Path, flags: int) -> File:
        """A new open file description.  ENXIO etc. as the kind demands; O_TRUNC is done by the caller."""
        raise EACCES("not openable")

    def open_now(self, path: Path, flags: int) -> File | None:
        """As open(), if that need not wait; None: await open()."""
        return None

    def unused(self) -> None:
        """The last open file of it is gone; it may have lost its last name before."""

    # -- symbolic links --

    async def readlink(self) -> str:
        """EINVAL: not a symbolic link."""
        raise EINVAL

    def link_text(self) -> str | None:
        """readlink()'s answer if it is known without waiting, and walks go by it (no magic link)."""
        return None

    async def follow(self, caller: Caller) -> Path | None:
        """The target of a magic link; None: walk readlink()'s text."""
        return None

    # -- directories; ENOTDIR for everything else --

    def names_lock(self) -> Mutex | None:
        """What is held while names in it are looked up or changed (i_rwsem); None where that never waits.

        It is taken in vfs, around the file system's operation and what becomes of the dentries.
        """
        return None

    async def pin(self) -> None:
        """Make sure that what is done to the file under its directory's names_lock need not take that lock."""

    async def lookup(self, name: str) -> Inode:
        """ENOENT: no such entry."""
        raise ENOTDIR

    def lookup_now(self, name: str) -> Inode | None:
        """As lookup(), if that need not wait; None: await lookup().  ENOENT.  Not asked of volatile directories."""
        return None

    def glance(self, name: str) -> Inode | None:
        """For who looks at an entry's attributes only, and at once: an Inode with nothing but these; None: look it up.

        It is made for this one question and hashed nowhere, so that looking through a tree fills no cache.
        """
        return None

    async def create(self, name: str, mode: int, caller: Caller) -> Inode:
        """A regular file that does not exist yet.  mode: permission bits, umask applied."""
        raise EPERM

    async def mkdir(self, name: str, mode: int, caller: Caller) -> Inode:
        raise EPERM

    async def symlink(self, name: str, target: str, caller: Caller) -> Inode:
        raise EPERM

    async def mknod(self, name: str, mode: int, rdev: int, caller: Caller) -> Inode:
        """FIFO, socket or device; mode carries the type."""
        raise EPERM

    async def link(self, name: str, target: Inode) -> None:
        raise EPERM

    async def unlink(self, name: str, victim: Inode) -> None:
        raise EPERM

    async def rmdir(self, name: str, victim: Inode) -> None:
        """ENOTEMPTY."""
        raise EPERM

    async def rename(self, name: str, new_dir: Inode, new_name: str, flags: int) -> None:
        """rename(2) within this file system; types and permissions were checked, a target is replaced."""
        raise EPERM

    async def tmpfile(self, mode: int, caller: Caller) -> Inode:
        """O_TMPFILE: an unnamed regular file."""
        raise EOPNOTSUPP

    # -- extended attributes --

    async def getxattr(self, name: str) -> bytes:
        raise EOPNOTSUPP

    async def setxattr(self, name: str, value: bytes, flags: int) -> None:
        raise EOPNOTSUPP

    async def listxattr(self) -> list[str]:
        return []

    async def removexattr(self, name: str) -> None:
        raise EOPNOTSUPP


def new_file_attrs(directory: Inode, mode: int, caller: Caller) -> tuple[int, int, int]:
    """(mode, uid, gid) of a new inode: inode_init_owner().  mode carries the type, umask applied."""
    gid = caller.fsgid
    if directory.mode & st.S_ISGID:
        gid = directory.gid
        if st.is_dir(mode):
            mode |= st.S_ISGID
    return mode, caller.fsuid, gid


def device_number(major: int, minor: int) -> int:
    """new_encode_dev(): how struct stat shows a device."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def split_device(rdev: int) -> tuple[int, int]:
    """(major, minor) of what device_number() made."""
    return (rdev >> 8) & 0xFFF, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)
