"""The client file system: a tree that the gofer serves.

The gofer answers for names and attributes; regular files' bytes go through host descriptors
that it donates.  An exclusive tree (a container's root: the sandbox is its only writer) is
cached until we ourselves change it: attributes stay valid until marked stale, a listed
directory's names are known to be all there are.  A shared tree (a volume) is asked anew on
each walk and stat.

An Inode has at most one fid and, while regular, at most one read-only and one read-write
host descriptor, which all open files share; every file keeps its own offset.  Inodes are
found by number, so hard links meet in one.  Read goferclient.py for the wire side.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import ClassVar, Final, cast

from proto.ninep.codec import attr_entries
from proto.ninep.dialect import (
    Attr,
    Rlopenfd,
    Rreaddirattr,
    Rsetgetattr,
    Rwalkgetattr,
    Tlopenfd,
    Treaddirattr,
    Tsetgetattr,
    Twalkgetattr,
)
from proto.ninep.messages import (
    NOFID,
    SETATTR_ATIME,
    SETATTR_ATIME_SET,
    SETATTR_GID,
    SETATTR_MODE,
    SETATTR_MTIME,
    SETATTR_MTIME_SET,
    SETATTR_SIZE,
    SETATTR_UID,
    Rstatfs,
    Tattach,
    Tfsync,
    Tstatfs,
)
from sentry.abi import stat as st
from sentry.abi.errno import EINVAL, ELOOP, ENOENT, ENXIO, ESTALE, LinuxError
from sentry.abi.fcntl import O_ACCMODE, O_RDONLY, O_RDWR
from sentry.fs.goferclient import GoferClient
from sentry.fs.hostcopy import read_host, write_host
from sentry.vfs.dentry import Path
from sentry.vfs.file import DirEntry, File
from sentry.vfs.inode import AttrChange, FileSystem, Inode, StatFs
from sentry.vfs.iov import Sink, Source
from sentry.wait import Loop

AT_REMOVEDIR: Final = 0x200
IDLE_FDS: Final = 128
READDIR_SIZE: Final = 64 << 10
LISTING_LIMIT: Final = 4096  # directories of more entries are not remembered

RO, RW = 0, 1


def encode_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class GoferFs(FileSystem):
    """One served tree, over one connection.

    shared   others change the tree too: nothing is cached
    on_lost  called once if the gofer goes away
    """

    NAME: ClassVar[str] = "9p"
    MAGIC: ClassVar[int] = 0x01021997

    def __init__(
        self, loop: Loop, sock: socket.socket, *, shared: bool = False, on_lost: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.client = GoferClient(loop, sock, on_lost)
        self.shared = shared
        self._root: GoferInode | None = None
        self._inodes: weakref.WeakValueDictionary[int, GoferInode] = weakref.WeakValueDictionary()
        self._idle: OrderedDict[tuple[GoferInode, int], int] = OrderedDict()  # (inode, RO or RW) -> host fd

    async def root(self) -> Inode:
        """Connect, the first time."""
        if self._root is None:
            client = self.client
            await client.connect()
            fid = client.new_fid()
            client.post(Tattach(fid, NOFID, b"", b"", 0))
            reply = cast(Rwalkgetattr, (await client.call(Twalkgetattr(fid, NOFID, [])))[0])
            self._root = self.inode_of(reply.attrs[0], fid)
        return self._root

    def inode_of(self, attr: Attr, fid: int) -> GoferInode:
        """The Inode with this number, made if there is none; takes over fid (NOFID: none yet)."""
        inode = self._inodes.get(attr[0])
        if inode is not None and (inode.mode ^ attr[1]) & st.S_IFMT == 0 and not inode.gone:
            if fid != NOFID:
                if inode.fid == NOFID:
                    inode.fid = fid
                else:
                    self.client.clunk(fid)
            if self.shared or fid != NOFID:
                inode.take(attr)
            return inode
        inode = (SharedInode if self.shared else GoferInode)(self, attr, fid)
        self._inodes[attr[0]] = inode
        return inode

    # -- idle host descriptors --

    def keep_idle(self, inode: GoferInode, which: int, fd: int) -> None:
        """No open file uses fd any more: keep it for the next one, and close the one unused for longest."""
        idle = self._idle
        idle[(inode, which)] = fd
        if len(idle) > IDLE_FDS:
            (old, old_which), _ = idle.popitem(last=False)
            old.close_host(old_which)

    def not_idle(self, inode: GoferInode, which: int) -> None:
        self._idle.pop((inode, which), None)

    # -- super block --

    async def statfs(self) -> StatFs:
        root = cast(GoferInode, await self.root())
        r = cast(Rstatfs, (await self.client.call(Tstatfs(root.fid)))[0])
        return StatFs(self.MAGIC, r.bsize, r.blocks, r.bfree, r.bavail, r.files, r.ffree, r.namelen)

    def release(self) -> None:
        """Unmounted for good."""
        while self._idle:
            (inode, which), _ = self._idle.popitem()
            inode.close_host(which)
        self._root = None
        self.client.close()


class GoferInode(Inode):
    """A file in an exclusive tree.

    wire      fid (NOFID: known from a directory's listing only; origin says where it is), target
    host      fds: [read-only, read-write] or -1; users: open files on each
    cache     stale: attributes must be asked for again; listing, primed: of a directory, see GoferDir
    gone      known by listing only, and that name was removed: there is no way left to reach it
    """

    __slots__ = (
        "_blksize",
        "_blocks",
        "_fds",
        "_users",
        "fid",
        "gone",
        "listing",
        "mapped",
        "origin",
        "primed",
        "stale",
        "target",
    )

    fs: GoferFs

    def __init__(self, fs: GoferFs, attr: Attr, fid: int) -> None:
        self.fs = fs
        self.fid = fid
        self.origin: tuple[GoferInode, str] | None = None
        self.gone = False
        self.mapped = False
        self._fds = [-1, -1]
        self._users = [0, 0]
        self.target: str | None = None
        self.listing: dict[str, tuple[int, int]] | None = None
        self.primed: dict[str, Attr] | None = None
        self._locks = None
        self._fifo = None
        self.btime_ns = attr[10]
        self.take(attr)

    def __del__(self) -> None:
        if self.fid != NOFID:
            self.fs.client.clunk(self.fid)

    # -- attributes --

    def take(self, attr: tuple[int, ...]) -> None:
        """Replace all attributes."""
        (
            self.ino,
            self.mode,
            self.nlink,
            self.uid,
            self.gid,
            self.rdev,
            self.size,
            self._blocks,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
            self._blksize,
        ) = attr
        self.stale = False

    def take_stat(self, s: os.stat_result) -> None:
        """As take(), from fstat(2) on a host descriptor: the owner there is the host's, so it stays."""
        self.mode = s.st_mode
        self.nlink = s.st_nlink
        self.size = s.st_size
        self._blocks = s.st_blocks
        self.mtime_ns = s.st_mtime_ns
        self.ctime_ns = s.st_ctime_ns
        self.stale = self.mapped

    def fresh(self) -> bool:
        if not self.stale:
            return True
        for fd in self._fds:
            if fd >= 0:
                self.take_stat(os.fstat(fd))
                return True
        return False

    async def refresh(self) -> None:
        if not self.fresh():
            await self.fetch()

    async def fetch(self) -> None:
        """Ask for the attributes now."""
        if self.fid == NOFID:
            await self.need_fid()
        else:
            reply = cast(Rwalkgetattr, (await self.fs.client.call(Twalkgetattr(self.fid, NOFID, [])))[0])
            self.take(reply.attrs[0])

    def blocks(self) -> int:
        return self._blocks

    def blksize(self) -> int:
        return self._blksize

    async def setattr(self, change: AttrChange) -> None:
        fid = await self.need_fid()
        valid = mode = uid = gid = size = atime = mtime = 0
        if change.mode is not None:
            valid |= SETATTR_MODE
            mode = change.mode
        if change.uid is not None:
            valid |= SETATTR_UID
            uid = change.uid
        if change.gid is not None:
            valid |= SETATTR_GID
            gid = change.gid
        if change.size is not None:
            valid |= SETATTR_SIZE
            size = change.size
        if change.atime_ns is not None:
            valid |= SETATTR_ATIME | SETATTR_ATIME_SET
            atime = change.atime_ns
        if change.mtime_ns is not None:
            valid |= SETATTR_MTIME | SETATTR_MTIME_SET
            mtime = change.mtime_ns
        request = Tsetgetattr(fid, valid, mode, uid, gid, size, atime, mtime)
        self.take(cast(Rsetgetattr, (await self.fs.client.call(request))[0]).attr)

    # -- fids --

    async def need_fid(self) -> int:
        """This file's fid, walked to now if it is known from a listing only.  ESTALE: its name is gone."""
        if self.fid != NOFID:
            return self.fid
        if self.gone or self.origin is None:
            raise ESTALE
        directory, name = self.origin
        parent = await directory.need_fid()
        client = self.fs.client
        fid = client.new_fid()
        try:
            reply = cast(Rwalkgetattr, (await client.call(Twalkgetattr(parent, fid, [encode_name(name)])))[0])
        except LinuxError:
            client.unused_fid(fid)
            raise
        if self.fid != NOFID:
            client.clunk(fid)
            return self.fid
        self.fid = fid
        self.origin = None
        if reply.target:
            self.target = decode_name(reply.target)
        self.take(reply.attrs[0])
        return fid

    # -- names --

    async def lookup(self, name: str) -> Inode:
        if not st.is_dir(self.mode):
            return await super().lookup(name)
        if self.listing is not None:
            if name not in self.listing:
                raise ENOENT
            attr = self.primed.pop(name, None) if self.primed else None
            if attr is not None:
                child = self.fs.inode_of(attr, NOFID)
                if child.fid == NOFID and child.origin is None:
                    child.origin = (self, name)
                return child
        return await self.walk_to(name)

    async def walk_to(self, name: str) -> GoferInode:
        client = self.fs.client
        parent = await self.need_fid()
        fid = client.new_fid()
        try:
            reply = cast(Rwalkgetattr, (await client.call(Twalkgetattr(parent, fid, [encode_name(name)])))[0])
        except LinuxError:
            client.unused_fid(fid)
            raise
        inode = self.fs.inode_of(reply.attrs[0], fid)
        if reply.target:
            inode.target = decode_name(reply.target)
        return inode

    async def readlink(self) -> str:
        if not st.is_lnk(self.mode):
            raise EINVAL
        if self.target is None:
            await self.need_fid()
        if self.target is None:
            reply = cast(Rwalkgetattr, (await self.fs.client.call(Twalkgetattr(self.fid, NOFID, [])))[0])
            self.target = decode_name(reply.target)
        return self.target

    # -- host descriptors --

    async def open(self, path: Path, flags: int) -> File:
        kind = self.mode & st.S_IFMT
        if kind == st.S_IFREG:
            which = RO if flags & O_ACCMODE == O_RDONLY else RW
            if self._fds[which] < 0:
                await self._fetch_host(which)
            return GoferFile(self, path, flags, which)
        if kind == st.S_IFDIR:
            return GoferDir(self, path, flags)
        if kind == st.S_IFIFO:
            from sentry.fs.pipefs import open_fifo

            return await open_fifo(self, path, flags)
        if kind in (st.S_IFCHR, st.S_IFBLK):
            from sentry.fs.devfs import open_device

            return await open_device(self, path, flags)
        raise ELOOP if kind == st.S_IFLNK else ENXIO

    async def _fetch_host(self, which: int) -> None:
        fid = await self.need_fid()
        reply, fd = await self.fs.client.call(Tlopenfd(fid, O_RDONLY if which == RO else O_RDWR))
        if fd < 0:
            raise ENXIO("the gofer donated nothing")
        if self._fds[which] >= 0:
            os.close(fd)
            return
        self.take(cast(Rlopenfd, reply).attr)
        self._fds[which] = fd

    def use_host(self, which: int) -> int:
        """One more open file reads or writes through fds[which]."""
        if self._users[which] == 0:
            self.fs.not_idle(self, which)
        self._users[which] += 1
        return self._fds[which]

    def unuse_host(self, which: int) -> None:
        self._users[which] -= 1
        if self._users[which] == 0:
            if self.nlink == 0:
                self.close_host(which)
            else:
                self.fs.keep_idle(self, which, self._fds[which])

    def close_host(self, which: int) -> None:
        """Close fds[which], which nobody uses; what it alone could tell is asked first."""
        fd, self._fds[which] = self._fds[which], -1
        if self.stale:
            self.take_stat(os.fstat(fd))
        os.close(fd)


class SharedInode(GoferInode):
    """A file in a tree that others change too: nothing is remembered from one call to the next."""

    __slots__ = ()

    volatile: ClassVar[bool] = True

    def fresh(self) -> bool:
        return False

    async def refresh(self) -> None:
        await self.fetch()

    async def lookup(self, name: str) -> Inode:
        return await self.walk_to(name)


class GoferFile(File):
    """An open regular file: its own offset over the inode's shared host descriptor."""

    __slots__ = ("fd", "which")

    seekable: ClassVar[bool] = True
    inode: GoferInode

    def __init__(self, inode: GoferInode, path: Path, flags: int, which: int) -> None:
        super().__init__(inode, path, flags)
        self.which = which
        self.fd = inode.use_host(which)

    def release(self) -> None:
        self.inode.unuse_host(self.which)

    def read_at(self, dst: Sink, offset: int) -> int:
        return read_host(self.fd, dst, offset)

    def write_at(self, src: Source, offset: int) -> int:
        n = write_host(self.fd, src, offset)
        inode = self.inode
        inode.stale = True
        end = offset + n
        if end > inode.size:
            inode.size = end
        return n

    def end_offset(self) -> int:
        return os.fstat(self.fd).st_size if self.inode.fs.shared else self.inode.size

    async def host_fd(self, writable: bool) -> int:
        if writable:
            self.inode.mapped = self.inode.stale = True
        return self.fd

    async def fsync(self, datasync: bool) -> None:
        await self.inode.fs.client.call(Tfsync(self.inode.fid, int(datasync)))

    async def truncate(self, size: int) -> None:
        await self.inode.setattr(AttrChange(size=size))


class GoferDir(File):
    """An open directory: the entries as they were when reading began at the start."""

    __slots__ = ("_entries",)

    seekable: ClassVar[bool] = True
    inode: GoferInode

    def __init__(self, inode: GoferInode, path: Path, flags: int) -> None:
        super().__init__(inode, path, flags)
        self._entries: list[DirEntry] | None = None

    async def load_entries(self) -> None:
        if self._entries is None or self.offset == 0:
            self._entries = await list_directory(self.inode, self.path)

    def entries(self, offset: int) -> Iterator[DirEntry]:
        return iter(self._entries[offset:] if self._entries else ())


async def list_directory(inode: GoferInode, path: Path | None) -> list[DirEntry]:
    """All entries, `.` and `..` first, in the host's order; remembered, if the tree is exclusive."""
    listing = inode.listing
    if listing is None:
        listing = await _fetch_listing(inode)
    parent = path.dentry.parent.inode if path is not None and path.dentry.parent is not None else inode
    entries = [
        DirEntry(".", inode.ino, st.S_IFDIR >> 12, 1),
        DirEntry("..", parent.ino if parent is not None else inode.ino, st.S_IFDIR >> 12, 2),
    ]
    for place, (name, (ino, kind)) in enumerate(listing.items(), 3):
        entries.append(DirEntry(name, ino, kind, place))
    return entries


async def _fetch_listing(inode: GoferInode) -> dict[str, tuple[int, int]]:
    client = inode.fs.client
    clone = client.new_fid()
    client.post(Twalkgetattr(await inode.need_fid(), clone, []))
    client.post(Tlopenfd(clone, O_RDONLY))
    listing: dict[str, tuple[int, int]] = {}
    primed: dict[str, Attr] = {}
    offset = 0
    try:
        while True:
            reply, _ = await client.call(Treaddirattr(clone, offset, READDIR_SIZE))
            batch = attr_entries(cast(Rreaddirattr, reply).data)
            if not batch:
                break
            for raw, offset, attr in batch:  # noqa: B007  offset goes on to the next request
                name = decode_name(raw)
                listing[name] = (attr[0], attr[1] >> 12)
                if attr[2] == 1 or attr[1] & st.S_IFMT == st.S_IFDIR:
                    primed[name] = attr
    finally:
        client.clunk(clone)
    if not inode.fs.shared and len(listing) <= LISTING_LIMIT:
        inode.listing, inode.primed = listing, primed
    return listing
