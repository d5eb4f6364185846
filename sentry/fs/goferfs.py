"""The client file system: a tree that the gofer serves.

The gofer answers for names and attributes; regular files' bytes go through host descriptors
that it donates.  An exclusive tree (a container's root: the sandbox is its only writer) is
cached until we ourselves change it.  A shared tree (a volume) is asked anew on each walk and
stat.  Inodes are found by number, so hard links meet in one.

Read goferclient.py for the wire, goferinode.py for files, goferdir.py for directories.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final, cast

from proto.ninep.dialect import Attr, Rwalkgetattr, Twalkgetattr
from proto.ninep.messages import NOFID, Rstatfs, Tattach, Tstatfs
from sentry.abi import stat as st
from sentry.abi.errno import LinuxError
from sentry.fs.goferclient import GoferClient
from sentry.fs.goferdir import GoferDir, SharedDir
from sentry.fs.goferinode import KEPT, NOT_KEPT, GoferInode
from sentry.fs.volumes import Volume
from sentry.vfs.inode import FileSystem, Inode, StatFs
from sentry.wait import Mutex

IDLE_FDS: Final = 128
KEPT_SNAPSHOTS: Final = 16
LISTED_LIMIT: Final = 32768


class Inodes(dict[int, "weakref.ref[GoferInode]"]):
    """A tree's inodes that are alive, by number: a WeakValueDictionary for less, as their finaliser takes them out."""

    __slots__ = ()

    def find(self, ino: int) -> GoferInode | None:
        reference = self.get(ino)
        return reference() if reference is not None else None


class GoferFs(FileSystem):
    """One served tree, over one connection, which it owns.

    shared   others change the tree too: nothing is cached
    volume   what other containers may share of it; None: nothing
    inodes   those alive, by number
    written  those with data that sync(2) still has to see to
    watchers sets to which each inode that changes is added
    """

    NAME: ClassVar[str] = "9p"
    MAGIC: ClassVar[int] = 0x01021997

    def __init__(self, client: GoferClient, *, shared: bool = False, volume: Volume | None = None) -> None:
        super().__init__()
        self.client = client
        self.shared = shared
        self.volume = volume
        if volume is not None:
            self.dev = volume.all.shown_device(self, volume.device)
        self.inodes = Inodes()
        self.written: weakref.WeakSet[GoferInode] = weakref.WeakSet()
        self._rename_lock = Mutex(client.loop)
        self.watchers: list[set[int]] = []
        self._root: GoferInode | None = None
        self.listed = 0  # entries of all listings
        self._listings: deque[weakref.ref[GoferDir]] = deque()
        self._snapshots: dict[GoferDir, None] = {}  # directories with one, in the order of snapshot_made
        self._idle: dict[tuple[GoferInode, int], None] = {}  # in the order of _close_oldest

    async def root(self) -> Inode:
        """Connects, the first time."""
        if self._root is None:
            client = self.client
            await client.connect()
            fid = client.new_fid()
            client.post(Tattach(fid, NOFID, b"", b"", 0))
            reply = cast(Rwalkgetattr, (await client.call(Twalkgetattr(fid, NOFID, [])))[0])
            self._root = self.inode_of(reply.attrs[0], fid)
        return self._root

    def inode_of(self, attr: Attr, fid: int) -> GoferInode:
        """The Inode that attr describes, made if there is none; takes over fid (NOFID: none yet)."""
        ino, mode = attr.ino, attr.mode
        inode = self.inodes.find(ino)
        if inode is None or inode.gone or (inode.mode ^ mode) & st.S_IFMT:
            kind: type[GoferInode] = GoferInode
            if mode & st.S_IFMT == st.S_IFDIR:
                kind = SharedDir if self.shared else GoferDir
            inode = kind(self, attr, fid)
            self.inodes[ino] = weakref.ref(inode)
            return inode
        if fid != NOFID:
            if inode.fid == NOFID:
                inode.fid, inode.origin = fid, None
            elif inode.fid != fid:
                self.client.clunk(fid)
        # An exclusive tree's inode knows its attributes, or that it does not; these may be of an earlier moment.
        if self.shared:
            inode.take(attr)
        return inode

    def rename_lock(self) -> Mutex:
        return self._rename_lock

    # -- changes of ours --

    @contextmanager
    def changes(self) -> Iterator[set[int]]:
        """Collects the numbers of inodes that change meanwhile: what was asked of the gofer before is not true of them.

        An Inode knows that of itself; but it may be gone when the answer comes.
        """
        changed: set[int] = set()
        self.watchers.append(changed)
        try:
            yield changed
        finally:
            self.watchers = [watcher for watcher in self.watchers if watcher is not changed]

    # -- host descriptors of closed files --

    def keep_idle(self, inode: GoferInode, which: int) -> None:
        """No open file uses this descriptor: keep it for the next one, and close another one if there are many."""
        if self.client.lost:
            inode.close_host(which)  # nobody can open it any more
            return
        inode._kept[which] = KEPT
        self._idle[(inode, which)] = None
        if len(self._idle) > IDLE_FDS:
            self._close_oldest()

    def _close_oldest(self) -> None:
        """By second chance: one that was opened meanwhile, once more; it is not taken out for that, which has to be
        cheap.  One that is in use comes back when it is not.
        """
        idle = self._idle
        while idle:
            inode, which = key = next(iter(idle))
            del idle[key]
            if inode._users[which]:
                inode._kept[which] = NOT_KEPT
                return
            if inode._kept[which] == KEPT:
                inode._kept[which] = NOT_KEPT
                inode.close_host(which)
                return
            inode._kept[which] = KEPT
            idle[key] = None

    def forget_idle(self, inode: GoferInode, which: int) -> None:
        if inode._kept[which]:
            inode._kept[which] = NOT_KEPT
            del self._idle[(inode, which)]

    def close_all_idle(self) -> bool:
        """Close them all; False if there were none."""
        idle = [(inode, which) for inode, which in self._idle if not inode._users[which]]
        for inode, which in idle:
            self.forget_idle(inode, which)
            inode.close_host(which)
        return bool(idle)

    # -- what directories were read lately --

    def listing_made(self, directory: GoferDir) -> None:
        """Forget those made longest ago, if they are too many entries in all."""
        listings = self._listings
        while self.listed > LISTED_LIMIT and listings:
            oldest = listings.popleft()()
            if oldest is not None and oldest is not directory:
                oldest.forget_listing()
        listings.append(weakref.ref(directory))
        if len(listings) > LISTED_LIMIT:
            self._listings = deque({reference: None for reference in listings if reference() is not None})

    def snapshot_made(self, directory: GoferDir) -> None:
        """directory has one now: keep those of the last few."""
        kept = self._snapshots
        kept.pop(directory, None)
        kept[directory] = None
        if len(kept) > KEPT_SNAPSHOTS:
            oldest = next(iter(kept))
            del kept[oldest]
            oldest.forget_snapshot()

    def directory_removed(self, directory: GoferDir) -> None:
        self._snapshots.pop(directory, None)

    # -- the whole --

    async def statfs(self) -> StatFs:
        root = cast(GoferInode, await self.root())
        r = cast(Rstatfs, (await self.client.call(Tstatfs(root.fid)))[0])
        return StatFs(self.MAGIC, r.bsize, r.blocks, r.bfree, r.bavail, r.files, r.ffree, r.namelen)

    async def sync(self) -> None:
        """What was written is on the disk."""
        for inode in list(self.written):
            self.written.discard(inode)
            if inode.written and not inode.gone:
                try:
                    await inode.sync(False)
                except LinuxError:
                    continue  # sync(2) reports nothing

    def release(self) -> None:
        """Unmounted for good."""
        self.close_all_idle()
        for inode, which in list(self._idle):
            self.forget_idle(inode, which)  # in use: closed by the last that uses it
        self._snapshots.clear()
        self._root = None
        self.client.close()
