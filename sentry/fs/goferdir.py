"""Directories of a gofer's tree.

An exclusive tree's directory that was listed once keeps its listing: whatever is not in it
does not exist, and the attributes that came with it (`primed`) save the first stat of each
entry.  Every change of ours goes through here and keeps the listing true.  A file known only
by such attributes, or made here, gets its fid when something needs it, from its `origin`; at the
latest when its name is taken away while it is open.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from proto.ninep.codec import ATTR_ENTRY_SIZE, attr_entries
from proto.ninep.dialect import (
    Attr,
    Rmakelink,
    Rreaddirattr,
    Rwalkgetattr,
    Tlcreatefd,
    Tlopenfd,
    Tmake,
    Tmakelink,
    Tmakesymlink,
    Treaddirattr,
    Twalkgetattr,
)
from proto.ninep.message import Message
from proto.ninep.messages import NOFID, Trenameat, Tunlinkat
from sentry.abi import stat as st
from sentry.abi.errno import EEXIST, EINVAL, EISDIR, ENOENT, LinuxError
from sentry.abi.fcntl import (
    AT_REMOVEDIR,
    NAME_MAX,
    O_RDONLY,
    O_RDWR,
    O_TMPFILE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
)
from sentry.fs.goferclient import Call
from sentry.fs.goferinode import RW, GoferInode, decode_name, encode_name
from sentry.fs.simple import dots
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Path
from sentry.vfs.dirents import PackedEntries, dirent64
from sentry.vfs.file import DirEntry, File
from sentry.vfs.inode import Inode, new_file_attrs
from sentry.vfs.iov import Sink
from sentry.wait import Mutex

if TYPE_CHECKING:
    from sentry.fs.goferfs import GoferFs

READDIR_SIZE: Final = 60 << 10
LONGEST_ENTRY: Final = ATTR_ENTRY_SIZE + NAME_MAX
MIN_MISSES: Final = 2
MISSES_SHARE: Final = 16
LISTING_LIMIT: Final = 8192  # a directory of more entries is listed anew each time

FIRST_ENTRY: Final = 2  # positions 0 and 1 are those of . and ..
Listing = dict[str, tuple[int, int]]  # name -> (inode number, DT_*)
Entry = tuple[int, bytes]  # the directory's fid, and a name in it


class Glance(Inode):
    """Attributes of an entry, as the listing came with them: Inode.glance()."""

    __slots__ = ("_blksize", "_blocks")

    def __init__(self, fs: GoferFs, attr: Attr) -> None:
        # As in GoferInode, not Inode's own.
        self.fs = fs
        self._locks = None
        self._fifo = None
        self.users = self.writers = self.executing = 0
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
        self.btime_ns = min(self.mtime_ns, self.ctime_ns)

    def fresh(self) -> bool:
        return True

    def blocks(self) -> int:
        return self._blocks

    def blksize(self) -> int:
        return self._blksize


class Snapshot:
    """A directory's entries at one time, for those who read it then."""

    __slots__ = ("_packed", "entries")

    def __init__(self, listing: Listing) -> None:
        self.entries = list(listing.items())
        self._packed: PackedEntries | None = None

    @property
    def packed(self) -> PackedEntries:
        packed = self._packed
        if packed is None:
            entries = [(name, ino, kind) for name, (ino, kind) in self.entries]
            packed = self._packed = PackedEntries(entries, FIRST_ENTRY)
        return packed


class GoferDir(GoferInode):
    """A directory of an exclusive tree.

    listing  everything in it, None if not known; _counted: how many of its entries GoferFs.listed has in it
    _snapshot  of how it is now, None until somebody reads it and again soon after (GoferFs.snapshot_made), for it
             takes as much memory once more
    primed   attributes of entries of the listing that were not looked up yet; _misses: lookups since then that had to
             ask the gofer
    _lock    names_lock, made when it is first asked for
    """

    __slots__ = ("_counted", "_lock", "_misses", "_snapshot", "listing", "primed")

    def __init__(self, fs: GoferFs, attr: Attr, fid: int) -> None:
        super().__init__(fs, attr, fid)
        self.listing: Listing | None = None
        self._counted = 0
        self._snapshot: Snapshot | None = None
        self.primed: dict[str, Attr] = {}
        self._misses = 0
        self._lock: Mutex | None = None

    def names_lock(self) -> Mutex:
        lock = self._lock
        if lock is None:
            lock = self._lock = Mutex(self.fs.client.loop)
        return lock

    async def open(self, path: Path, flags: int) -> File:
        return GoferDirFile(self, path, flags)

    def open_now(self, path: Path, flags: int) -> File | None:
        return GoferDirFile(self, path, flags)

    # -- looking --

    def lookup_now(self, name: str) -> GoferInode | None:
        if self.listing is None:
            return None
        entry = self.listing.get(name)
        if entry is None:
            raise ENOENT
        attr = self.primed.pop(name, None)
        if attr is None:
            child = self.fs.inodes.find(entry[0])
            return child if child is not None and not child.gone else None
        child = self.fs.inode_of(attr, NOFID)
        if child.fid == NOFID and child.origin is None:
            child.origin = (self, name)
        return child

    def glance(self, name: str) -> Inode | None:
        attr = self.primed.get(name)
        return Glance(self.fs, attr) if attr is not None else None

    async def lookup(self, name: str) -> Inode:
        found = self.lookup_now(name)
        if found is None and self._is_walked_through():
            await self._list()
            self._misses = len(self.primed) - len(self.listing or ())  # as patient again as there are misses in store
            found = self.lookup_now(name)
        return found or await self.walk_to(name)

    def _is_walked_through(self) -> bool:
        """Somebody seems to look at each entry, of which we have forgotten many: one more listing costs less."""
        if self.listing is None:
            return False
        self._misses += 1
        return self._misses >= max(MIN_MISSES, len(self.listing) // MISSES_SHARE)

    async def walk_to(self, name: str) -> GoferInode:
        """Ask the gofer.  ENOENT."""
        client = self.fs.client
        fid = client.new_fid()
        with self.fs.changes() as changed:
            try:
                answer, _ = await self.ask(lambda own: Twalkgetattr(own, fid, [encode_name(name)]))
            except LinuxError:
                client.unused_fid(fid)
                raise
        reply = cast(Rwalkgetattr, answer)
        inode = self.fs.inode_of(reply.attrs[0], fid)
        if inode.ino in changed:
            inode.outdate()
        if reply.target:
            inode.target = decode_name(reply.target)
        return inode

    async def has(self, name: str) -> bool:
        try:
            await self.lookup(name)
        except ENOENT:
            return False
        return True

    def snapshot_now(self) -> Snapshot | None:
        """All entries but `.` and `..`, in the host's order, if they are known."""
        if self._snapshot is None and self.listing is not None:
            self._snapshot = Snapshot(self.listing)
            self.fs.snapshot_made(self)
        return self._snapshot

    def forget_snapshot(self) -> None:
        self._snapshot = None

    def lost_name(self) -> None:
        super().lost_name()
        self.fs.directory_removed(self)

    async def snapshot(self) -> Snapshot:
        """snapshot_now(), or by asking the gofer."""
        if self.listing is None:
            async with self.names_lock():
                if self.listing is None:
                    listing = await self._list()
                    return self.snapshot_now() or Snapshot(listing)
        snapshot = self.snapshot_now()
        assert snapshot is not None
        return snapshot

    def is_current(self, snapshot: Snapshot) -> bool:
        """Nothing came or went since it was taken, as far as we know."""
        return self._snapshot is snapshot or self.listing is None

    async def _list(self) -> Listing:
        listing: Listing = {}
        primed: dict[str, Attr] = {}
        with self.fs.changes() as changed:
            found = await self._fetch()
        inodes = self.fs.inodes
        for name, attr in found:
            ino, mode = attr.ino, attr.mode
            listing[name] = (ino, st.dirent_type(mode))
            # Not those with other names, through which they could change unseen, nor those that are in use or were.
            if (attr.nlink == 1 or st.is_dir(mode)) and mode and ino not in inodes and ino not in changed:
                primed[name] = attr
        if len(listing) <= LISTING_LIMIT and not self.fs.shared:
            self.listing, self.primed = listing, primed
            self.fs.listed += len(listing) - self._counted
            self._counted = len(listing)
            self.fs.listing_made(self)
        return listing

    def forget_listing(self) -> None:
        """Make room for other listings: it can be asked for again."""
        self.fs.listed -= self._counted
        self._counted = 0
        self.listing = self._snapshot = None
        self.primed = {}

    def __del__(self) -> None:
        super().__del__()
        self.fs.listed -= self._counted

    async def _fetch(self) -> list[tuple[str, Attr]]:
        """The entries, read through a fid made for that: the server keeps a position with each open one."""
        client = self.fs.client
        clone = client.new_fid()
        found: list[tuple[str, Attr]] = []
        try:
            _, opened, answer = await self.post(
                lambda fid: (
                    Twalkgetattr(fid, clone, []),
                    Tlopenfd(clone, O_RDONLY),
                    Treaddirattr(clone, 0, READDIR_SIZE),
                )
            )
            await client.result(opened)
            while True:
                reply, _ = await client.result(answer)
                data = cast(Rreaddirattr, reply).data
                batch = attr_entries(data)
                found += [(decode_name(name), attr) for name, _, attr in batch]
                if len(data) + LONGEST_ENTRY <= READDIR_SIZE:
                    return found
                answer = client.post(Treaddirattr(clone, batch[-1][1], READDIR_SIZE))
        finally:
            client.clunk(clone)

    # -- what we change --

    def entered(self, name: str, ino: int, mode: int) -> None:
        """name is a new entry."""
        self.outdate()
        self._snapshot = None
        if self.listing is not None:
            self.listing[name] = (ino, st.dirent_type(mode))

    def removed(self, name: str) -> None:
        """name is no entry any more."""
        self.outdate()
        self._snapshot = None
        if self.listing is not None:
            self.listing.pop(name, None)
            self.primed.pop(name, None)

    async def _made(self, name: str, request: Message, fid: int) -> GoferInode:
        """The file that request makes, under fid unless that is NOFID; name is "" if it has none.

        EEXIST, ENOSPC and the like.
        """
        client = self.fs.client
        try:
            reply, fd = await client.call(request)
        except LinuxError:
            if fid != NOFID:
                client.unused_fid(fid)
            raise
        attr: Attr = reply.attr
        if name:
            self.entered(name, attr.ino, attr.mode)
        inode = self.fs.inode_of(attr, fid)
        if inode.fid == NOFID:
            inode.origin = (self, name)
        if fd >= 0:
            inode.add_host(RW, fd)
        return inode

    async def create(self, name: str, mode: int, caller: Caller) -> Inode:
        mode, uid, gid = new_file_attrs(self, st.S_IFREG | mode, caller)
        own = self.fid if self.fid != NOFID else await self.need_fid()
        # The descriptor that comes with it is all that most new files ever need.  Where others rename them, only a fid
        # is sure to stay with them.
        fid = self.fs.client.new_fid() if self.fs.shared else NOFID
        request = Tlcreatefd.of((own, fid, O_RDWR, mode & st.S_IALLUGO, uid, gid, encode_name(name)))
        return await self._made(name, request, fid)

    async def tmpfile(self, mode: int, caller: Caller) -> Inode:
        mode, uid, gid = new_file_attrs(self, st.S_IFREG | mode, caller)
        own, fid = await self.need_fid(), self.fs.client.new_fid()
        return await self._made("", Tlcreatefd(own, fid, O_TMPFILE | O_RDWR, mode & st.S_IALLUGO, uid, gid, b""), fid)

    async def mkdir(self, name: str, mode: int, caller: Caller) -> Inode:
        return await self.mknod(name, st.S_IFDIR | mode, 0, caller)

    async def mknod(self, name: str, mode: int, rdev: int, caller: Caller) -> Inode:
        """EPERM: a device."""
        mode, uid, gid = new_file_attrs(self, mode, caller)
        own, fid = await self.need_fid(), self.fs.client.new_fid()
        inode = await self._made(name, Tmake(own, fid, mode, uid, gid, encode_name(name)), fid)
        if isinstance(inode, GoferDir) and not self.fs.shared:
            inode.listing = {}
        return inode

    async def symlink(self, name: str, target: str, caller: Caller) -> Inode:
        _, uid, gid = new_file_attrs(self, st.S_IFLNK, caller)
        own, fid = await self.need_fid(), self.fs.client.new_fid()
        request = Tmakesymlink(own, fid, uid, gid, encode_name(name), encode_name(target))
        return await self._made(name, request, fid)

    async def link(self, name: str, target: Inode) -> None:
        assert isinstance(target, GoferInode)
        own = await self.need_fid()
        reply, _ = await target.ask(lambda fid: Tmakelink(own, fid, encode_name(name)))
        attr = cast(Rmakelink, reply).attr
        target.nlink = attr.nlink
        target.outdate()
        self.entered(name, attr.ino, attr.mode)

    def unlink(self, name: str, victim: Inode) -> Coroutine[Any, Any, None]:
        return self._remove(name, victim, 0)

    def rmdir(self, name: str, victim: Inode) -> Coroutine[Any, Any, None]:
        return self._remove(name, victim, AT_REMOVEDIR)

    async def _remove(self, name: str, victim: Inode, flags: int) -> None:
        assert isinstance(victim, GoferInode)
        own, client = self.fid if self.fid != NOFID else await self.need_fid(), self.fs.client
        held = self._hold_in_use(own, name, victim) if victim.fid == NOFID else None
        request = Tunlinkat.of((own, encode_name(name), flags))
        if held is None:
            await client.call(request)
        else:
            removal = client.post(request)
            try:
                await victim.end_walk(*held)
            except LinuxError:
                pass  # there is no such name: the removal says so
            await client.result(removal)
        self.removed(name)
        victim.lost_name()

    def _hold_in_use(self, own: int, name: str, victim: GoferInode) -> tuple[int, Call] | None:
        """Ask for a fid of a file that is open, in the flight that takes its name: there will be no other way to it.

        A file that is not in use cannot be opened meanwhile without a walk, which waits for our lock.
        """
        if not victim.is_in_use():
            victim.close_idle()
            return None
        fid = self.fs.client.new_fid()
        return fid, self.fs.client.post(Twalkgetattr(own, fid, [encode_name(name)]))

    async def rename(self, name: str, new_dir: Inode, new_name: str, flags: int) -> None:
        """EEXIST: RENAME_NOREPLACE.  EINVAL: RENAME_WHITEOUT, and RENAME_EXCHANGE in a shared tree."""
        assert isinstance(new_dir, GoferDir)
        own, other = await self.need_fid(), await new_dir.need_fid()
        first, second = encode_name(name), encode_name(new_name)
        if flags & RENAME_WHITEOUT:
            raise EINVAL("no whiteouts")
        if flags & RENAME_NOREPLACE and await new_dir.has(new_name):
            raise EEXIST
        # The stats go first and in the same flight: they tell which Inodes this is about.
        # What may be replaced is held, for it may be open and not have a fid.
        client = self.fs.client
        is_new = new_dir.listing is not None and new_name not in new_dir.listing
        held = NOFID if is_new or self.fs.shared else client.new_fid()
        stats = [client.post(Twalkgetattr(*entry)) for entry in ((own, NOFID, [first]), (other, held, [second]))]
        try:
            victim = await self._rename(name, (own, first), new_dir, new_name, (other, second), flags, stats)
            if victim is not None and victim.fid == NOFID:
                victim.take_fid(held)
                held = NOFID
        finally:
            if held != NOFID:
                client.clunk(held)  # which bears with fids that were not made
        if victim is not None:
            victim.lost_name()

    async def _rename(
        self, name: str, old: Entry, new_dir: GoferDir, new_name: str, new: Entry, flags: int, stats: Sequence[Call]
    ) -> GoferInode | None:
        """Have it done, and remember it; the file that is gone for it, if we know one."""
        client = self.fs.client
        if not flags & RENAME_EXCHANGE:
            await client.call(Trenameat(*old, *new))
        elif self.fs.shared:
            raise EINVAL("only the host could exchange atomically")
        else:
            try:
                await self._exchange(old, new)
            except LinuxError:
                # It was undone, but has left its traces in the directories' times.
                self.outdate()
                new_dir.outdate()
                raise
        moved, target = [await self._attr_if_any(call) for call in stats]
        if moved is None or (target is not None and target.ino == moved.ino):
            return None  # two names of one file: nothing happened
        self.removed(name)
        new_dir.removed(new_name)
        new_dir._renamed(new_name, moved)
        if target is None:
            return None
        if flags & RENAME_EXCHANGE:
            self._renamed(name, target)
            return None
        return self.fs.inodes.find(target.ino)

    async def _exchange(self, first: Entry, second: Entry) -> None:
        """Three renames.  Nobody looks in between, for the names are locked; one that fails is undone.  ENOENT."""
        call = self.fs.client.call
        # A name that nobody has: of this moment, and hidden by the lock.
        aside = (first[0], b".pysc.%x.%x" % (time.time_ns(), self.fs.client.new_number()))
        await call(Trenameat(*first, *aside))
        try:
            await call(Trenameat(*second, *first))
        except LinuxError:
            await call(Trenameat(*aside, *first))
            raise
        try:
            await call(Trenameat(*aside, *second))
        except LinuxError:
            await call(Trenameat(*first, *second))
            await call(Trenameat(*aside, *first))
            raise

    async def _attr_if_any(self, call: Call) -> Attr | None:
        try:
            return cast(Rwalkgetattr, (await self.fs.client.result(call))[0]).attrs[0]
        except ENOENT:
            return None

    def _renamed(self, name: str, attr: Attr) -> None:
        """What attr describes is here now, as name."""
        self.entered(name, attr.ino, attr.mode)
        inode = self.fs.inodes.find(attr.ino)
        if inode is not None:
            inode.outdate()
            if inode.fid == NOFID:
                inode.origin = (self, name)


class SharedDir(GoferDir):
    """A directory that others change too: names are asked for anew on each walk."""

    __slots__ = ()

    volatile: ClassVar[bool] = True


class GoferDirFile(File):
    """An open directory: the entries as they were when reading began at the start, less those removed since."""

    __slots__ = ("_snapshot",)

    seekable: ClassVar[bool] = True
    inode: GoferDir

    def __init__(self, inode: GoferDir, path: Path, flags: int) -> None:
        super().__init__(inode, path, flags)
        self._snapshot: Snapshot | None = None

    def read_at(self, dst: Sink, offset: int) -> int:
        raise EISDIR

    async def load_entries(self) -> None:
        if self._snapshot is None or self.offset == 0:
            self._snapshot = await self.inode.snapshot()

    def load_entries_now(self) -> bool:
        if self._snapshot is None or self.offset == 0:
            self._snapshot = self.inode.snapshot_now()
        return self._snapshot is not None

    def entries(self, offset: int) -> Iterator[DirEntry]:
        yield from dots(self, offset)
        entries = self._snapshot.entries if self._snapshot is not None else []
        now = self.inode.listing
        for place in range(max(offset - FIRST_ENTRY, 0), len(entries)):
            name, (ino, kind) = entries[place]
            if now is None or name in now:
                yield DirEntry(name, ino, kind, place + FIRST_ENTRY + 1)

    def packed_entries(self, offset: int, room: int) -> tuple[bytes, int] | None:
        snapshot = self._snapshot
        if snapshot is None or not self.inode.is_current(snapshot):
            return None
        packed = snapshot.packed
        if offset >= packed.end:
            return b"", offset
        head = b"".join([dirent64(*entry) for entry in dots(self, offset)])
        if len(head) > room:
            return None
        data, position = packed.portion(max(offset, FIRST_ENTRY), room - len(head))
        return (head + data, position) if head or data else None

    async def fsync(self, datasync: bool) -> None:
        await self.inode.sync(datasync)
