"""tmpfs(5): files that live in the Sentry's memory, and those that need it in memfds (memdata.py).

Regular files can be mapped, be sparse, be sealed (memfd_create(2) makes its files here).
Space and inodes are limited as the mount options say.  A file's memory goes with its last
name and its last open file, whichever ends later, not with the Inode object, which a cached
dentry may keep.  Mappings need no count: the host keeps a mapped memfd's pages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from proto.slotted import slotted
from sentry.abi import stat as st
from sentry.abi.errno import (
    EEXIST,
    EINVAL,
    EISDIR,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    EOPNOTSUPP,
    EPERM,
)
from sentry.abi.fcntl import (
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    O_APPEND,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
)
from sentry.fs.entries import Entries
from sentry.fs.memdata import MEMORY, MemData, Pool
from sentry.fs.simple import accessed, apply_attrs, dots, open_special
from sentry.fs.xattrs import Xattrs
from sentry.platform import PAGE_SIZE
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Path
from sentry.vfs.file import DirEntry, File
from sentry.vfs.inode import AttrChange, FileSystem, Inode, StatFs, new_file_attrs, now_ns
from sentry.vfs.iov import Sink, Source

# Half of the memory, mm/shmem.c:shmem_default_max_blocks.  Asked now: later the Sentry may not ask the host.
DEFAULT_PAGES: Final = os.sysconf("SC_PHYS_PAGES") // 2
BOGO_DIRENT_SIZE: Final = 20  # mm/shmem.c: what an entry counts in a directory's size
WRITE_SEALS: Final = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
_UNITS: Final = {"k": 10, "m": 20, "g": 30, "t": 40}


@slotted
class Options:
    """tmpfs(5) mount options."""

    pages: int = DEFAULT_PAGES
    inodes: int = DEFAULT_PAGES
    mode: int = 0o1777
    uid: int = 0
    gid: int = 0

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Options:
        """EINVAL: an unknown option or value."""
        options = cls()
        for key, value in given.items():
            try:
                options._set(key, value)
            except ValueError:
                raise EINVAL(f"tmpfs: bad value for {key}") from None
        return options

    def _set(self, key: str, value: str) -> None:
        match key:
            case "size" if value.endswith("%"):
                self.pages = int(value[:-1]) * DEFAULT_PAGES * 2 // 100
            case "size":
                self.pages = -(-_number(value) // PAGE_SIZE)
            case "nr_blocks":
                self.pages = _number(value)
            case "nr_inodes":
                self.inodes = _number(value)
            case "mode":
                self.mode = int(value, 8) & st.S_IALLUGO
            case "uid":
                self.uid = int(value)
            case "gid":
                self.gid = int(value)
            # How memory is placed, and how inodes are numbered: nothing that can be seen from inside.
            case "huge" | "mpol" | "noswap" | "inode32" | "inode64":
                pass
            case _:
                raise EINVAL(f"tmpfs: unknown option {key}")


def _number(text: str) -> int:
    """memparse(): a number with an optional k, m, g or t."""
    shift = _UNITS.get(text[-1:].lower(), 0)
    number = int(text[:-1] if shift else text, 0) << shift
    if number < 0:
        raise ValueError(text)
    return number


class TmpFs(FileSystem):
    """One tmpfs instance.  Limits of 0 mean none.  memory: what its pages are counted in, too."""

    NAME: ClassVar[str] = "tmpfs"
    MAGIC: ClassVar[int] = 0x01021994

    def __init__(self, options: Mapping[str, str] | None = None, memory: Pool | None = None) -> None:
        super().__init__()
        self.options = Options.parse(options or {})
        self.pool = Pool(self.options.pages, memory or MEMORY)
        self.inodes_used = 0
        self._root = TmpDir(self, st.S_IFDIR | self.options.mode, self.options.uid, self.options.gid)

    async def root(self) -> TmpDir:
        return self._root

    def take_inode(self) -> None:
        """Count an inode, or another name of one.  ENOSPC."""
        if self.options.inodes and self.inodes_used >= self.options.inodes:
            raise ENOSPC
        self.inodes_used += 1

    def reconfigure(self, given: Mapping[str, str]) -> None:
        """mount -o remount: new limits.  EINVAL: below what is in use, or from none to some (as Linux)."""
        new = Options.parse(given)
        old = self.options
        if given.keys() & {"size", "nr_blocks"}:
            if new.pages and (not old.pages or self.pool.used > new.pages):
                raise EINVAL
            old.pages = self.pool.limit = new.pages
        if "nr_inodes" in given:
            if new.inodes and (not old.inodes or self.inodes_used > new.inodes):
                raise EINVAL
            old.inodes = new.inodes

    def show_options(self) -> str:
        options = self.options
        shown = ""
        if options.pages != DEFAULT_PAGES:
            shown += f",size={options.pages * PAGE_SIZE // 1024}k"
        if options.inodes != DEFAULT_PAGES:
            shown += f",nr_inodes={options.inodes}"
        if options.mode != 0o1777:
            shown += f",mode={options.mode:03o}"
        if options.uid:
            shown += f",uid={options.uid}"
        if options.gid:
            shown += f",gid={options.gid}"
        return shown

    async def statfs(self) -> StatFs:
        pool, options = self.pool, self.options
        free_inodes = max(options.inodes - self.inodes_used, 0)
        free = pool.free if pool.limit else 0
        return StatFs(self.MAGIC, PAGE_SIZE, pool.limit, free, free, options.inodes, free_inodes)


class TmpInode(Inode):
    """What all kinds have in common."""

    __slots__ = ("_counted", "_xattrs")

    fs: TmpFs

    def __init__(self, fs: TmpFs, mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        self._counted = False
        fs.take_inode()
        self._counted = True
        super().__init__(fs, mode, uid, gid, rdev=rdev)
        self._xattrs: Xattrs | None = None

    def __del__(self) -> None:
        # For what still has a name when its file system goes.
        self.forget()

    def forget(self) -> None:
        """Nothing can reach it any more: give back what it takes."""
        if self._counted:
            self._counted = False
            self.fs.inodes_used -= 1

    def unused(self) -> None:
        """A name or the last open file of it went away."""
        if self.nlink == 0 and self.users == 0:
            self.forget()

    def blocks(self) -> int:
        return 0

    async def setattr(self, change: AttrChange) -> None:
        apply_attrs(self, change)

    async def open(self, path: Path, flags: int) -> File:
        return await open_special(self, path, flags)

    async def getxattr(self, name: str) -> bytes:
        return (self._xattrs or Xattrs()).get(name)

    async def setxattr(self, name: str, value: bytes, flags: int) -> None:
        if self._xattrs is None:
            self._xattrs = Xattrs()
        self._xattrs.set(name, value, flags)
        self.ctime_ns = now_ns()

    async def listxattr(self) -> list[str]:
        return self._xattrs.names() if self._xattrs is not None else []

    async def removexattr(self, name: str) -> None:
        (self._xattrs or Xattrs()).remove(name)
        self.ctime_ns = now_ns()


class TmpLink(TmpInode):
    """A symbolic link."""

    __slots__ = ("_target",)

    def __init__(self, fs: TmpFs, target: str, uid: int, gid: int) -> None:
        super().__init__(fs, st.S_IFLNK | 0o777, uid, gid)
        self._target = target
        self.size = len(target.encode("utf-8", "surrogateescape"))

    async def readlink(self) -> str:
        return self._target

    def link_text(self) -> str:
        return self._target


class TmpRegular(TmpInode):
    """A regular file.

    seals     F_SEAL_*; only memfds start without F_SEAL_SEAL
    linkable  it was made by O_TMPFILE and may get a first name
    """

    __slots__ = ("data", "linkable", "seals")

    def __init__(self, fs: TmpFs, mode: int, uid: int, gid: int, pool: Pool | None = None) -> None:
        self.data = MemData(pool or fs.pool)
        super().__init__(fs, mode, uid, gid)
        self.linkable = False
        self.seals = F_SEAL_SEAL

    def forget(self) -> None:
        super().forget()
        self.data.close()

    def blocks(self) -> int:
        self.data.recount()
        return self.data.pages * (PAGE_SIZE // 512)

    async def open(self, path: Path | None, flags: int) -> File:
        return TmpFile(self, path, flags)

    def open_now(self, path: Path, flags: int) -> File:
        return TmpFile(self, path, flags)

    async def setattr(self, change: AttrChange) -> None:
        if change.size is not None:
            self.resize(change.size)
        apply_attrs(self, change)

    def resize(self, size: int) -> None:
        """EPERM: sealed.  EFBIG, ENOSPC."""
        if (size < self.size and self.seals & F_SEAL_SHRINK) or (size > self.size and self.seals & F_SEAL_GROW):
            raise EPERM
        self.data.truncate(size)
        self.size = self.data.size
        self.touch(mtime=True)

    def write(self, src: Source, offset: int) -> int:
        if self.seals & (WRITE_SEALS | F_SEAL_GROW):
            if self.seals & WRITE_SEALS or offset + src.remaining > self.size:
                raise EPERM
        n = self.data.write(src, offset)
        if n:
            self.size = self.data.size
            self.touch(mtime=True)
        return n

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """fallocate(2).  EOPNOTSUPP: tmpfs has no more modes (shmem_fallocate).  EPERM, ENOSPC, EFBIG."""
        if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
            raise EOPNOTSUPP
        if mode & FALLOC_FL_PUNCH_HOLE:
            if self.seals & WRITE_SEALS:
                raise EPERM
            self.data.punch(offset, length)
        else:
            keep_size = bool(mode & FALLOC_FL_KEEP_SIZE)
            if self.seals & F_SEAL_GROW and offset + length > self.size:
                raise EPERM
            self.data.allocate(offset, length, keep_size)
            self.size = self.data.size
        self.touch(mtime=True)


class TmpFile(File):
    """An open regular file."""

    __slots__ = ()

    seekable: ClassVar[bool] = True
    inode: TmpRegular

    def read_at(self, dst: Sink, offset: int) -> int:
        n = self.inode.data.read(dst, offset)
        accessed(self)
        return n

    def write_at(self, src: Source, offset: int) -> int:
        # "if a file is opened with O_APPEND, on Linux, pwrite() appends data to the end of the file" - pwrite(2)
        if self.flags & O_APPEND:
            offset = self.inode.size
        return self.inode.write(src, offset)

    def seek_data(self, offset: int, hole: bool) -> int:
        return self.inode.data.seek(offset, hole)

    async def host_fd(self, writable: bool) -> int:
        if writable and self.inode.seals & WRITE_SEALS:
            raise EPERM
        return self.inode.data.fd()

    async def fsync(self, datasync: bool) -> None:
        """Memory is as good as it gets."""

    async def fallocate(self, mode: int, offset: int, length: int) -> None:
        self.inode.allocate(mode, offset, length)

    async def truncate(self, size: int) -> None:
        self.inode.resize(size)


class TmpDir(TmpInode):
    """A directory."""

    __slots__ = ("_entries",)

    def __init__(self, fs: TmpFs, mode: int, uid: int, gid: int) -> None:
        super().__init__(fs, mode, uid, gid)
        self.size = 2 * BOGO_DIRENT_SIZE
        self._entries: Entries[TmpInode] = Entries()

    async def open(self, path: Path, flags: int) -> File:
        return TmpDirFile(self, path, flags)

    def open_now(self, path: Path, flags: int) -> File:
        return TmpDirFile(self, path, flags)

    # -- looking --

    def lookup_now(self, name: str) -> TmpInode:
        found = self._entries.get(name)
        if found is None:
            raise ENOENT
        return found

    async def lookup(self, name: str) -> TmpInode:
        return self.lookup_now(name)

    def since(self, position: int) -> Iterator[tuple[int, str, TmpInode]]:
        return self._entries.since(position)

    # -- entries --

    def _enter(self, name: str, inode: TmpInode) -> None:
        """Add an entry.  EEXIST; ENOENT: this directory was removed."""
        if self.nlink == 0:
            raise ENOENT
        if self._entries.get(name) is not None:
            raise EEXIST
        self._entries.add(name, inode)
        self._changed(BOGO_DIRENT_SIZE, inode, 1)

    def _remove(self, name: str) -> TmpInode:
        inode = self._entries.remove(name)
        self._changed(-BOGO_DIRENT_SIZE, inode, -1)
        return inode

    def _changed(self, size: int, child: TmpInode, count: int) -> None:
        """An entry for child came or went: size, link count (a subdirectory's `..`) and times."""
        self.size += size
        if st.is_dir(child.mode):
            self.nlink += count
        self.touch(mtime=True)
        child.ctime_ns = self.ctime_ns

    def _drop_link(self, inode: TmpInode) -> None:
        """inode lost a name; a directory has only one (and its own `.`)."""
        inode.nlink = 0 if st.is_dir(inode.mode) else inode.nlink - 1
        if inode.nlink:
            self.fs.inodes_used -= 1
        else:
            inode.unused()

    # -- making --

    async def create(self, name: str, mode: int, caller: Caller) -> TmpInode:
        inode = TmpRegular(self.fs, *new_file_attrs(self, st.S_IFREG | mode, caller))
        self._enter(name, inode)
        return inode

    async def mkdir(self, name: str, mode: int, caller: Caller) -> TmpInode:
        inode = TmpDir(self.fs, *new_file_attrs(self, st.S_IFDIR | mode, caller))
        self._enter(name, inode)
        return inode

    async def symlink(self, name: str, target: str, caller: Caller) -> TmpInode:
        _, uid, gid = new_file_attrs(self, st.S_IFLNK, caller)
        inode = TmpLink(self.fs, target, uid, gid)
        self._enter(name, inode)
        return inode

    async def mknod(self, name: str, mode: int, rdev: int, caller: Caller) -> TmpInode:
        if st.is_reg(mode):
            return await self.create(name, mode & st.S_IALLUGO, caller)
        inode = TmpInode(self.fs, *new_file_attrs(self, mode, caller), rdev)
        self._enter(name, inode)
        return inode

    async def tmpfile(self, mode: int, caller: Caller) -> TmpInode:
        inode = TmpRegular(self.fs, *new_file_attrs(self, st.S_IFREG | mode, caller))
        inode.nlink = 0
        inode.linkable = True
        return inode

    async def link(self, name: str, target: Inode) -> None:
        """EPERM: a directory.  ENOENT: its last name is gone."""
        assert isinstance(target, TmpInode)
        if st.is_dir(target.mode):
            raise EPERM
        if target.nlink == 0 and not (isinstance(target, TmpRegular) and target.linkable):
            raise ENOENT
        counts = target.nlink > 0  # a first name (of an O_TMPFILE file) was counted with the inode
        if counts:
            self.fs.take_inode()
        try:
            self._enter(name, target)
        except (EEXIST, ENOENT):
            self.fs.inodes_used -= counts
            raise
        target.nlink += 1
        if isinstance(target, TmpRegular):
            target.linkable = False

    # -- removing --

    async def unlink(self, name: str, victim: Inode) -> None:
        """ENOENT, EISDIR."""
        inode = await self.lookup(name)
        if st.is_dir(inode.mode):
            raise EISDIR
        self._remove(name)
        self._drop_link(inode)

    async def rmdir(self, name: str, victim: Inode) -> None:
        """ENOENT, ENOTDIR, ENOTEMPTY."""
        inode = await self.lookup(name)
        if not isinstance(inode, TmpDir):
            raise ENOTDIR
        if len(inode._entries):
            raise ENOTEMPTY
        self._remove(name)
        self._drop_link(inode)

    # -- renaming --

    async def rename(self, name: str, new_dir: Inode, new_name: str, flags: int) -> None:
        """EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY."""
        assert isinstance(new_dir, TmpDir)
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
            raise EINVAL
        inode = await self.lookup(name)
        target = new_dir._entries.get(new_name)
        if flags & RENAME_EXCHANGE:
            if target is None:
                raise ENOENT
            self._exchange(name, inode, new_dir, new_name, target)
            return
        if target is not None:
            if flags & RENAME_NOREPLACE:
                raise EEXIST
            if target is inode:
                return
            _check_replace(inode, target)
        if new_dir.nlink == 0:
            raise ENOENT
        # A whiteout (for overlayfs) is a 0/0 character device in the old place; made first, as it may fail.
        whiteout = TmpInode(self.fs, st.S_IFCHR, 0, 0) if flags & RENAME_WHITEOUT else None
        if target is not None:
            new_dir._remove(new_name)
            new_dir._drop_link(target)
        self._remove(name)
        new_dir._enter(new_name, inode)
        if whiteout is not None:
            self._enter(name, whiteout)

    def _exchange(self, name: str, inode: TmpInode, new_dir: TmpDir, new_name: str, target: TmpInode) -> None:
        self._entries.replace(name, target)
        new_dir._entries.replace(new_name, inode)
        delta = st.is_dir(target.mode) - st.is_dir(inode.mode)
        self.nlink += delta
        new_dir.nlink -= delta
        for touched in (self, new_dir):
            touched.touch(mtime=True)
        inode.ctime_ns = target.ctime_ns = self.ctime_ns


def _check_replace(inode: TmpInode, target: TmpInode) -> None:
    """May a rename put inode in the place of target?  EISDIR, ENOTDIR, ENOTEMPTY."""
    if not isinstance(target, TmpDir):
        if st.is_dir(inode.mode):
            raise ENOTDIR
        return
    if not st.is_dir(inode.mode):
        raise EISDIR
    if len(target._entries):
        raise ENOTEMPTY


class TmpDirFile(File):
    """An open directory.  Positions are those of Entries, which survive any change."""

    __slots__ = ()

    seekable: ClassVar[bool] = True
    inode: TmpDir

    async def load_entries(self) -> None:
        accessed(self)

    def load_entries_now(self) -> bool:
        accessed(self)
        return True

    def entries(self, offset: int) -> Iterator[DirEntry]:
        yield from dots(self, offset)
        for position, name, inode in self.inode.since(offset):
            yield DirEntry(name, inode.ino, st.dirent_type(inode.mode), position + 1)

    async def fsync(self, datasync: bool) -> None:
        """As for files."""
