"""Dentries, mounts and paths.

A Dentry is a name in a directory, positive (it has an inode) or negative (known absent).
Children hang on their parent, so a walk through cached names touches nothing else.  The
cache is bounded: past LIMIT entries, unused leaves are forgotten in clock order; whatever
still refers to one (an open file, a cwd, a mount) keeps it alive by that reference.

A Path is a dentry seen through a mount.  Mounts form a tree in their namespace: a mount
covers (parent mount, dentry).
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from sentry.abi.errno import EBUSY, EINVAL, ENOENT
from sentry.vfs.inode import FileSystem, Inode
from sentry.vfs.known import forget_known

if TYPE_CHECKING:
    from collections.abc import Iterator

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_REMOUNT: Final = 32
MS_NOSYMFOLLOW: Final = 256
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_SILENT: Final = 1 << 15
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24

MANY_NAMES: Final = 64


class Dentry:
    """A name.  `parent` is None for the root of a file system; `inode` None for a negative entry."""

    __slots__ = ("__weakref__", "children", "inode", "mounted", "name", "parent", "passed", "used")

    def __init__(self, name: str, parent: Dentry | None, inode: Inode | None) -> None:
        self.name = name
        self.parent = parent
        self.inode = inode
        self.children: dict[str, Dentry] = {}
        self.mounted = 0  # mounts that cover it, in any namespace
        self.used = False
        self.passed = False  # names in known.py may lead through it

    @property
    def deleted(self) -> bool:
        """True once its name was removed from its directory."""
        parent = self.parent
        return (
            parent is not None
            and self.inode is not None
            and parent.children.get(self.name) is not self
            and bool(self.inode.nlink == 0 or getattr(self.inode, "removed", False))
        )

    def unhash(self) -> None:
        """Forget this name in its parent."""
        parent = self.parent
        if parent is not None and parent.children.get(self.name) is self:
            del parent.children[self.name]
        if self.passed:
            forget_known()

    def forget_ended(self) -> None:
        """For a volatile directory: names no longer hold what has ended.  Looks when their number has doubled."""
        count = len(self.children)
        if count < MANY_NAMES or count & (count - 1):
            return
        for child in list(self.children.values()):
            if child.inode is not None and child.inode.ended and not child.mounted:
                child.unhash()


class DentryCache:
    """Keeps the number of cached children bounded (second chance)."""

    LIMIT: Final = 8192

    def __init__(self) -> None:
        # Weak, for a name that was removed must not keep its file (and the file's space) alive.
        self._entries: deque[weakref.ref[Dentry]] = deque()

    def add(self, dentry: Dentry) -> Dentry:
        """Hash dentry in its parent."""
        assert dentry.parent is not None
        dentry.parent.children[dentry.name] = dentry
        self._entries.append(weakref.ref(dentry))
        if len(self._entries) > self.LIMIT:
            self._shrink()
        return dentry

    def _shrink(self) -> None:
        forget_known()  # a walk marks as used what it passes, finding its name there does not
        entries = self._entries
        for _ in range(min(64, len(entries))):
            reference = entries.popleft()
            dentry = reference()
            if dentry is None or dentry.parent is None or dentry.parent.children.get(dentry.name) is not dentry:
                continue
            if dentry.used or dentry.children or dentry.mounted:
                dentry.used = False
                entries.append(reference)
            else:
                dentry.unhash()


CACHE: Final = DentryCache()


class Mount:
    """A file system (or a subtree of one) at a place in a mount namespace (struct mount)."""

    __slots__ = ("children", "flags", "fs", "id", "mountpoint", "ns", "parent", "root", "source")

    _next_id = 1

    def __init__(self, ns: MountNamespace, fs: FileSystem, root: Dentry, flags: int, source: str) -> None:
        self.ns = ns
        self.fs = fs
        self.root = root
        self.flags = flags
        self.source = source
        self.parent: Mount | None = None
        self.mountpoint: Dentry | None = None
        self.children: list[Mount] = []
        self.id = Mount._next_id
        Mount._next_id += 1

    @property
    def readonly(self) -> bool:
        return bool(self.flags & MS_RDONLY)


class Path(NamedTuple):
    """A dentry as reached through a mount (struct path)."""

    mount: Mount
    dentry: Dentry

    @property
    def inode(self) -> Inode:
        """The inode.  ENOENT for a negative dentry."""
        inode = self.dentry.inode
        if inode is None:
            raise ENOENT
        return inode

    def is_mount_root(self) -> bool:
        return self.dentry is self.mount.root


class MountNamespace:
    """One container's view of its mounts."""

    __slots__ = ("__weakref__", "_covered", "mounts", "root")

    def __init__(self) -> None:
        self.root: Mount | None = None
        self.mounts: list[Mount] = []
        self._covered: dict[tuple[Mount, Dentry], Mount] = {}

    def new_mount(self, fs: FileSystem, root: Dentry, flags: int = 0, source: str = "none") -> Mount:
        return Mount(self, fs, root, flags, source)

    def attach(self, mount: Mount, where: Path | None) -> None:
        """Put mount at where (None: it becomes the root).  Covers what is there."""
        if where is None:
            self.root = mount
        else:
            self._cover(mount, self.enter(where))
        self.mounts.append(mount)

    def _cover(self, mount: Mount, where: Path) -> None:
        mount.parent, mount.mountpoint = where
        where.mount.children.append(mount)
        where.dentry.mounted += 1
        self._covered[(where.mount, where.dentry)] = mount
        forget_known()

    def _uncover(self, mount: Mount) -> None:
        assert mount.parent is not None
        assert mount.mountpoint is not None
        mount.parent.children.remove(mount)
        mount.mountpoint.mounted -= 1
        del self._covered[(mount.parent, mount.mountpoint)]
        forget_known()

    def detach(self, mount: Mount) -> None:
        """umount(2).  EBUSY: something is mounted below it.  EINVAL: the namespace's root."""
        if mount.children:
            raise EBUSY
        if mount.parent is None or mount.mountpoint is None:
            raise EINVAL
        self._uncover(mount)
        self.mounts.remove(mount)
        if not any(other.fs is mount.fs for other in self.mounts):
            mount.fs.release()

    def move(self, mount: Mount, where: Path) -> None:
        """MS_MOVE: with everything below, to a place outside of it."""
        self._uncover(mount)
        self._cover(mount, self.enter(where))

    def pivot(self, new_root: Mount, put_old: Path) -> None:
        """pivot_root(2): new_root becomes the root, the old root goes to put_old, below it."""
        assert self.root is not None
        old_root, self.root = self.root, new_root
        self._uncover(new_root)
        new_root.parent = new_root.mountpoint = None
        self._cover(old_root, put_old)

    def detach_tree(self, mount: Mount) -> None:
        """MNT_DETACH: with everything below."""
        for child in list(mount.children):
            self.detach_tree(child)
        self.detach(mount)

    def forget(self) -> None:
        """The namespace has ended, and its file systems were released: keep nothing of them."""
        for mount in self.mounts:
            mount.parent = mount.mountpoint = None
            mount.children.clear()
        self.root = None
        self.mounts.clear()
        self._covered.clear()
        forget_known()

    def enter(self, path: Path) -> Path:
        """The top of whatever is mounted at path."""
        while path.dentry.mounted:
            covering = self._covered.get((path.mount, path.dentry))
            if covering is None:
                break
            path = Path(covering, covering.root)
        return path

    def up(self, path: Path, root: Path) -> Path:
        """path's `..`, staying inside root, across mount points."""
        while True:
            if path.dentry is root.dentry and path.mount is root.mount:
                return path
            if path.dentry is not path.mount.root:
                break
            mount = path.mount
            if mount.parent is None or mount.mountpoint is None:
                return path
            path = Path(mount.parent, mount.mountpoint)
        parent = path.dentry.parent
        assert parent is not None
        return self.enter(Path(path.mount, parent))

    def walk_mounts(self) -> Iterator[Mount]:
        """In mount order, as /proc/self/mountinfo lists them."""
        yield from self.mounts


def path_name(path: Path, root: Path) -> tuple[str, bool]:
    """(absolute name below root, reachable): d_path().  Not reachable: outside of root or detached."""
    parts: list[str] = []
    mount: Mount = path.mount
    dentry: Dentry = path.dentry
    while not (dentry is root.dentry and mount is root.mount):
        if dentry is mount.root:
            if mount.parent is None or mount.mountpoint is None:
                return "/" + "/".join(reversed(parts)), False
            dentry, mount = mount.mountpoint, mount.parent
            continue
        parts.append(dentry.name)
        if dentry.parent is None:
            return "/" + "/".join(reversed(parts)), False
        dentry = dentry.parent
    return "/" + "/".join(reversed(parts)), True


def display_name(path: Path, root: Path) -> str:
    """As readlink of /proc/PID/fd shows it: with ` (deleted)` after a name that is gone."""
    name, _ = path_name(path, root)
    return name + " (deleted)" if path.dentry.deleted else name
