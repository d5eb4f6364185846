"""Files of a gofer's tree: attributes, fids, host descriptors; and open regular files.

An Inode has at most one fid and, while regular, at most one read-only and one read-write
host descriptor.  All open files share these, each with an offset of its own; they stay open
for a while after the last (GoferFs.keep_idle).  In an exclusive tree attributes are valid
until something of ours marks them `stale`; then an open host descriptor answers, or the
gofer.  Directories are goferdir.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, cast

from proto.ninep.dialect import (
    Attr,
    Rgetxattr,
    Rlistxattr,
    Rsetgetattr,
    Rwalkgetattr,
    Tgetxattr,
    Tlistxattr,
    Tlopenfd,
    Tremovexattr,
    Tsetgetattr,
    Tsetxattr,
    Twalkgetattr,
)
from proto.ninep.message import Message
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
    Tfsync,
)
from sentry.abi import stat as st
from sentry.abi.errno import EINVAL, ENFILE, EOPNOTSUPP, ESTALE, LinuxError, from_host
from sentry.abi.fcntl import O_ACCMODE, O_RDONLY, O_RDWR
from sentry.fs.goferclient import Call
from sentry.fs.hostcall import fallocate
from sentry.fs.simple import open_special
from sentry.platform import AddressSpace
from sentry.vfs.dentry import Path
from sentry.vfs.file import ALWAYS_READY, File
from sentry.vfs.inode import NOW, AttrChange, Inode
from sentry.vfs.iov import Sink, Source

if TYPE_CHECKING:
    from sentry.fs.goferdir import GoferDir
    from sentry.fs.goferfs import GoferFs
    from sentry.vfs.locks import FileLocks

RO: Final = 0
RW: Final = 1
NO_FDS: Final = [-1, -1]
# GoferInode._kept
NOT_KEPT: Final = 0
KEPT: Final = 1
USED_AGAIN: Final = 2  # opened since it was last looked at
# Name spaces of extended attributes that the gofer serves; asking it for others would only cost a round trip.
XATTRS: Final = ("user.", "security.capability")


def encode_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class GoferInode(Inode):
    """A file that is no directory, or what files and directories have in common.

    wire     fid, or NOFID while it is known from a directory's listing only; origin then says where it is
    host     _fds: [read-only, read-write] descriptor or -1; _users: open files on each; _kept: whether it is in
             GoferFs's list of those that may be idle
    cache    stale: attributes must be asked for; version: counts what made them so, for answers that come late;
             _packed: struct stat of the last ones taken, None until somebody wants it; target: of a symbolic link
    written  not yet synced; mapped: may change through a shared mapping at any time
    gone     its only name was removed before it had a fid: there is no way left to reach it
    """

    __slots__ = (
        "_blksize",
        "_blocks",
        "_fds",
        "_kept",
        "_packed",
        "_users",
        "fid",
        "gone",
        "mapped",
        "origin",
        "stale",
        "target",
        "version",
        "written",
    )

    fs: GoferFs

    def __init__(self, fs: GoferFs, attr: Attr, fid: int) -> None:
        # Not Inode's own: every field it would set comes with attr.
        self.fs = fs
        self.fid = fid
        self._packed: bytes | None = None
        self.origin: tuple[GoferDir, str] | None = None
        self.gone = False
        self.mapped = False
        self.written = False
        self.version = 0
        self._fds = [-1, -1]
        self._users = [0, 0]
        self._kept = [NOT_KEPT, NOT_KEPT]
        self.target: str | None = None
        self.users = self.writers = self.executing = 0
        self._locks = None
        self._fifo = None
        self.take(attr)
        self.btime_ns = min(self.mtime_ns, self.ctime_ns)

    def __del__(self) -> None:
        inodes = self.fs.inodes
        if inodes.find(self.ino) in (self, None):  # or it is another's by now
            inodes.pop(self.ino, None)
        if self.fid != NOFID:
            self.fs.client.clunk(self.fid)

    # -- what it shares with the same file's inodes in other containers --

    def identity(self) -> Hashable:
        volume = self.fs.volume
        return volume.file(self.ino) if volume is not None else self

    @property
    def fifo(self) -> object | None:
        volume = self.fs.volume
        return volume.all.fifos.get(volume.file(self.ino)) if volume is not None else self._fifo

    @fifo.setter
    def fifo(self, pipe: object | None) -> None:
        volume = self.fs.volume
        if volume is None:
            self._fifo = pipe
        elif pipe is not None:
            volume.all.fifos[volume.file(self.ino)] = pipe
        else:
            volume.all.fifos.pop(volume.file(self.ino), None)

    def locks(self) -> FileLocks:
        volume = self.fs.volume
        if self._locks is None and volume is not None:
            self._locks = volume.all.locks(volume.file(self.ino))
        return super().locks()

    # -- attributes --

    def take(self, attr: Attr) -> None:
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
        ) = cast("tuple[int, ...]", attr)
        self.stale = self.mapped
        self._packed = None

    def take_stat(self, s: os.stat_result) -> None:
        """As take(), from fstat(2) on a host descriptor.  Owners stay: the Sentry may see them mapped otherwise."""
        self.mode = s.st_mode
        self.nlink = s.st_nlink
        self.size = s.st_size
        self._blocks = s.st_blocks
        self.mtime_ns = s.st_mtime_ns
        self.ctime_ns = s.st_ctime_ns
        self.version += 1
        self.stale = self.mapped
        self._packed = None

    def outdate(self) -> None:
        """Something changed them."""
        self.version += 1
        self.stale = True
        for watcher in self.fs.watchers:
            watcher.add(self.ino)

    def fresh(self) -> bool:
        if not self.stale:
            return not self.fs.shared
        ro, rw = self._fds
        if (fd := ro if rw < 0 else rw) < 0 or self.fs.shared:
            return False
        self.take_stat(os.fstat(fd))
        return True

    def stat_now(self) -> bytes | None:
        # Attributes are asked for far more often than they change, and packing them takes longer than all the rest.
        if (self.stale or self.fs.shared) and not self.fresh():
            return None
        packed = self._packed
        if packed is None:
            packed = self._packed = self.packed_stat()
        return packed

    async def refresh(self) -> None:
        if not self.fresh():
            await self.fetch()

    async def fetch(self) -> None:
        """Ask the gofer for the attributes."""
        if self.fid == NOFID:
            await self.need_fid()
            return
        version = self.version
        reply = cast(Rwalkgetattr, (await self.fs.client.call(Twalkgetattr(self.fid, NOFID, [])))[0])
        self.take(reply.attrs[0])
        if self.version != version and not self.fresh():
            self.outdate()  # true of some moment during the call, but not for the next one

    def lost_name(self) -> None:
        """One of its names is gone; of a directory, its only one."""
        self.outdate()
        self.nlink = 0 if self.mode & st.S_IFMT == st.S_IFDIR or self.nlink < 2 else self.nlink - 1
        if not self.nlink and self._fds != NO_FDS:
            self.close_idle()
        if self.fid == NOFID:
            self.gone = True  # files of several names have fids

    def blocks(self) -> int:
        return self._blocks

    def blksize(self) -> int:
        return self._blksize

    async def setattr(self, change: AttrChange) -> None:
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
            valid |= SETATTR_ATIME
            if change.atime_ns != NOW:
                valid |= SETATTR_ATIME_SET
                atime = change.atime_ns
        if change.mtime_ns is not None:
            valid |= SETATTR_MTIME
            if change.mtime_ns != NOW:
                valid |= SETATTR_MTIME_SET
                mtime = change.mtime_ns
        version = self.version
        reply, _ = await self.ask(lambda fid: Tsetgetattr(fid, valid, mode, uid, gid, size, atime, mtime))
        attr = cast(Rsetgetattr, reply).attr
        if self.version == version:
            self.take(attr)
        else:
            # Written meanwhile: what only setattr changes is right, the rest is not known.
            self.mode, self.uid, self.gid, self.atime_ns = attr.mode, attr.uid, attr.gid, attr.atime_ns
            self.outdate()

    # -- fids --

    async def ask(self, make: Callable[[int], Message]) -> tuple[Message, int]:
        """The answer to make(fid).  A file without a fid is walked to in the same round trip."""
        client = self.fs.client
        if self.fid != NOFID:
            return await client.call(make(self.fid))
        (call,) = await self.post(lambda fid: (make(fid),))
        return await client.result(call)

    async def need_fid(self) -> int:
        """This file's fid.  ESTALE: there is none and its name is gone."""
        if self.fid == NOFID:
            await self.post(lambda fid: ())
        return self.fid

    async def pin(self) -> None:
        await self.need_fid()

    async def post(self, make: Callable[[int], Sequence[Message]]) -> list[Call]:
        """Send make(fid), several requests, after the walk to this file if it has no fid yet."""
        client = self.fs.client
        directory = await self._lock_origin() if self.fid == NOFID else None
        if directory is None:
            return [client.post(request) for request in make(self.fid)]
        try:
            assert self.origin is not None
            fid = client.new_fid()
            walked = client.post(Twalkgetattr(directory.fid, fid, [encode_name(self.origin[1])]))
            calls = [client.post(request) for request in make(fid)]
            await self.end_walk(fid, walked)
        finally:
            directory.names_lock().release()
        return calls

    async def _lock_origin(self) -> GoferDir | None:
        """The directory that the walk starts from, its names locked: no rename may come between.  None: a fid came.

        Nothing waits for a lock here unless the fid is missing at that very moment, and who
        wants to hold two locks has pinned both directories: so nobody waits in a circle.
        """
        while self.fid == NOFID:
            if self.gone or self.origin is None:
                raise ESTALE
            directory = self.origin[0]
            await directory.need_fid()
            if self.fid != NOFID:
                break
            lock = directory.names_lock()
            await lock.acquire()
            if self.fid == NOFID and self.origin is not None and self.origin[0] is directory:
                return directory
            lock.release()
        return None

    async def end_walk(self, fid: int, walked: Call) -> None:
        """Wait for a walk to this file, and take the fid that it makes.  ESTALE; ENOENT and the like."""
        client = self.fs.client
        version = self.version
        try:
            reply = cast(Rwalkgetattr, (await client.result(walked))[0])
        except LinuxError:
            client.unused_fid(fid)
            raise
        attr = reply.attrs[0]
        if attr.ino != self.ino:
            client.clunk(fid)
            raise ESTALE("another file has its name now")
        self.take_fid(fid)
        if reply.target:
            self.target = decode_name(reply.target)
        if self.version == version:
            self.take(attr)

    def take_fid(self, fid: int) -> None:
        """It had none."""
        self.fid = fid
        self.origin = None

    def is_in_use(self) -> bool:
        """Somebody has it open, or is just opening it."""
        return bool(self.users or self._users[RO] or self._users[RW])

    # -- symbolic links, extended attributes --

    async def readlink(self) -> str:
        if not st.is_lnk(self.mode):
            raise EINVAL
        if self.target is None:
            await self.need_fid()
        if self.target is None:
            reply = cast(Rwalkgetattr, (await self.fs.client.call(Twalkgetattr(self.fid, NOFID, [])))[0])
            self.target = decode_name(reply.target)
        return self.target

    def link_text(self) -> str | None:
        return None if self.fs.shared else self.target

    async def getxattr(self, name: str) -> bytes:
        if not name.startswith(XATTRS):
            raise EOPNOTSUPP
        reply, _ = await self.ask(lambda fid: Tgetxattr(fid, encode_name(name)))
        return cast(Rgetxattr, reply).data

    async def setxattr(self, name: str, value: bytes, flags: int) -> None:
        if not name.startswith(XATTRS):
            raise EOPNOTSUPP
        await self.ask(lambda fid: Tsetxattr(fid, flags, encode_name(name), value))
        self.outdate()

    async def listxattr(self) -> list[str]:
        reply, _ = await self.ask(Tlistxattr)
        return [decode_name(name) for name in cast(Rlistxattr, reply).data.split(b"\0") if name]

    async def removexattr(self, name: str) -> None:
        if not name.startswith(XATTRS):
            raise EOPNOTSUPP
        await self.ask(lambda fid: Tremovexattr(fid, encode_name(name)))
        self.outdate()

    async def sync(self, datasync: bool) -> None:
        """On the disk.  The gofer waits for it, not the Sentry."""
        self.written = False
        await self.ask(lambda fid: Tfsync(fid, int(datasync)))

    # -- opening, host descriptors --

    async def open(self, path: Path, flags: int) -> File:
        if not st.is_reg(self.mode):
            return await open_special(self, path, flags)
        which = RO if flags & O_ACCMODE == O_RDONLY else RW
        if self._fds[which] < 0:
            await self._fetch_host(which)
        return GoferFile(self, path, flags, which)

    def open_now(self, path: Path, flags: int) -> File | None:
        which = RO if flags & O_ACCMODE == O_RDONLY else RW
        if self._fds[which] < 0 or self.mode & st.S_IFMT != st.S_IFREG:
            return None
        return GoferFile(self, path, flags, which)

    async def _fetch_host(self, which: int) -> None:
        flags = O_RDONLY if which == RO else O_RDWR
        _, fd = await self.ask(lambda fid: Tlopenfd(fid, flags))
        if fd < 0 and self.fs.close_all_idle():
            _, fd = await self.ask(lambda fid: Tlopenfd(fid, flags))
        if fd < 0:
            raise ENFILE("the Sentry has no room for another descriptor")
        if self._fds[which] >= 0:
            os.close(fd)  # another open was faster
            return
        self._fds[which] = fd

    def add_host(self, which: int, fd: int) -> None:
        """fd came with the file's creation: the open that follows will want it."""
        self._fds[which] = fd
        self.fs.keep_idle(self, which)

    def host_unused(self, which: int) -> None:
        """The last open file on _fds[which] is gone."""
        if not self.nlink:
            self.fs.forget_idle(self, which)
            self.close_host(which)
        elif not self._kept[which]:
            self.fs.keep_idle(self, which)

    def close_host(self, which: int) -> None:
        """Close _fds[which], which nobody uses; what it alone can tell is asked first."""
        fd, self._fds[which] = self._fds[which], -1
        if self.stale:
            self.take_stat(os.fstat(fd))
        os.close(fd)

    def close_idle(self) -> None:
        """Let go of host descriptors that no open file uses."""
        for which in (RO, RW):
            if self._fds[which] >= 0 and not self._users[which]:
                self.fs.forget_idle(self, which)
                self.close_host(which)

    def wrote(self) -> None:
        """Its content was changed through a host descriptor."""
        self.outdate()
        if not self.written:
            self.written = True
            self.fs.written.add(self)

    def wrote_to(self, end: int) -> None:
        """wrote(), up to that offset."""
        if self.stale and self.written and not self.fs.watchers:
            self.version += 1  # which is all that wrote() would do again
        else:
            self.wrote()
        if end > self.size:
            self.size = end


class GoferFile(File):
    """An open regular file: its own offset over the inode's shared host descriptor."""

    __slots__ = ("fd", "which")

    seekable: ClassVar[bool] = True
    inode: GoferInode

    def __init__(self, inode: GoferInode, path: Path, flags: int, which: int) -> None:
        # Not File's own: programs open regular files all the time, and these are always ready.
        self.inode = inode
        self.path = path
        self.flags = flags
        self.offset = self.refs = 0
        self.queue = ALWAYS_READY
        self.async_owner = None
        self.which = which
        self.fd = inode._fds[which]
        inode._users[which] += 1
        if inode._kept[which]:
            inode._kept[which] = USED_AGAIN

    def drop(self) -> None:
        """As File's, in one piece: nobody waits in the queue, and to give back the descriptor is mostly to count."""
        self.refs -= 1
        if self.refs:
            return
        inode, which = self.inode, self.which
        if self.flags & O_ACCMODE:  # an O_PATH description is none of ours
            inode.writers -= 1
        if inode._locks is not None:
            inode._locks.release_file(self)
        users = inode._users
        users[which] -= 1
        if not users[which] and not (inode.nlink and inode._kept[which]):
            inode.host_unused(which)
        inode.users -= 1
        if not inode.users:
            inode.unused()

    def read_at(self, dst: Sink, offset: int) -> int:
        return dst.fill(self.fd, offset)

    def read_into(self, space: AddressSpace, addr: int, length: int, offset: int) -> int:
        return space.read_from_file(self.fd, offset, addr, length)

    def write_at(self, src: Source, offset: int) -> int:
        n = src.pour(self.fd, offset)
        self.inode.wrote_to(offset + n)
        return n

    def write_from(self, space: AddressSpace, addr: int, length: int, offset: int) -> int:
        n = space.write_to_file(self.fd, offset, addr, length)
        self.inode.wrote_to(offset + n)
        return n

    def end_offset(self) -> int:
        # Not the inode's: a truncation may be under way, and an append must not leave a hole.
        return os.fstat(self.fd).st_size

    def seek_data(self, offset: int, hole: bool) -> int:
        try:
            return os.lseek(self.fd, offset, os.SEEK_HOLE if hole else os.SEEK_DATA)
        except OSError as e:
            raise from_host(e) from None

    async def host_fd(self, writable: bool) -> int:
        if writable:
            self.inode.mapped = True
            self.inode.wrote()
        return self.fd

    async def fsync(self, datasync: bool) -> None:
        await self.inode.sync(datasync)

    async def fallocate(self, mode: int, offset: int, length: int) -> None:
        fallocate(self.fd, mode, offset, length)
        self.inode.wrote()
        self.inode.take_stat(os.fstat(self.fd))

    async def truncate(self, size: int) -> None:
        await self.inode.setattr(AttrChange(size=size))
