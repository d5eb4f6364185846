"""Path resolution, path_resolution(7): from a name to a Path.

A component found in the dentry cache costs no wait; a miss awaits the inode's lookup, under
the directory's names_lock.  walk_cached() needs no lock and may hash the name meanwhile, so
the cache is asked again after it, and one name never gets two dentries.
"""

from __future__ import annotations

from typing import NamedTuple

from proto.slotted import slotted
from sentry.abi.errno import EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EXDEV
from sentry.abi.fcntl import (
    MAX_SYMLINKS,
    NAME_MAX,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from sentry.abi.stat import S_IFDIR, S_IFLNK, S_IFMT
from sentry.vfs.caller import MAY_EXEC, Caller
from sentry.vfs.dentry import CACHE, MS_NOSYMFOLLOW, Dentry, Path


@slotted
class Where:
    """Where a name starts from, and who asks."""

    root: Path
    start: Path
    caller: Caller
    resolve: int = 0  # openat2(2) RESOLVE_*


class Last(NamedTuple):
    """A name's directory and final component.

    name is "" when the path names the directory itself ("/", "a/.", ".."); must_be_dir: a
    trailing slash.
    """

    parent: Path
    name: str
    must_be_dir: bool


class _Walker:
    """One resolution: the position, the names still to do, and the count of links followed."""

    __slots__ = ("links", "path", "slash", "todo", "where")

    def __init__(self, where: Where, name: str) -> None:
        if not name:
            raise ENOENT
        self.where = where
        self.slash = name.endswith("/")
        self.links = 0
        self.path = where.start
        self.todo: list[str] = []
        self._push(name)

    def _push(self, name: str) -> None:
        """Names to be done next, the next one last in the list; a trailing slash becomes a trailing "."."""
        where = self.where
        if name.startswith("/"):
            if where.resolve & RESOLVE_BENEATH:
                raise EXDEV
            self.path = where.start if where.resolve & RESOLVE_IN_ROOT else where.root
        parts = [part for part in name.split("/") if part]
        if not parts or name.endswith("/"):
            parts.append(".")
        parts.reverse()
        self.todo.extend(parts)

    def _root(self) -> Path:
        where = self.where
        return where.start if where.resolve & (RESOLVE_IN_ROOT | RESOLVE_BENEATH) else where.root

    def _enter_directory(self) -> None:
        inode = self.path.inode
        if inode.mode & S_IFMT != S_IFDIR:
            raise ENOTDIR
        self.where.caller.check(inode, MAY_EXEC)

    def _up(self) -> None:
        root = self._root()
        if self.where.resolve & RESOLVE_BENEATH and self.path == root:
            raise EXDEV
        self._move(self.path.mount.ns.up(self.path, root))

    def _move(self, path: Path) -> None:
        if self.where.resolve & RESOLVE_NO_XDEV and path.mount is not self.path.mount:
            raise EXDEV
        self.path = path

    async def child(self, name: str) -> Dentry:
        """The child dentry of the current directory, positive or negative."""
        return await lookup_child(self.path, name)

    async def _follow(self, link: Path) -> None:
        """Go where a symbolic link (found in the current directory) points."""
        self.links += 1
        resolve = self.where.resolve
        if self.links > MAX_SYMLINKS or resolve & RESOLVE_NO_SYMLINKS or link.mount.flags & MS_NOSYMFOLLOW:
            raise ELOOP
        inode = link.inode
        if inode.magic:
            if resolve & RESOLVE_NO_MAGICLINKS:
                raise ELOOP
            target = await inode.follow(self.where.caller)
            if target is not None:
                if resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT):
                    raise EXDEV
                self._move(target)
                return
        text = await inode.readlink()
        if not text:
            raise ENOENT
        self._push(text)

    async def run(self, follow_last: bool) -> Path:
        """To the end.  The result may be negative."""
        todo = self.todo
        while todo:
            name = todo.pop()
            self._enter_directory()
            if name == ".":
                continue
            if name == "..":
                self._up()
                continue
            dentry = await self.child(name)
            path = Path(self.path.mount, dentry)
            if dentry.mounted:
                path = path.mount.ns.enter(path)
            inode = path.dentry.inode
            if inode is None:
                # A trailing "." asks for a directory, but creation may still supply one.
                if todo and todo != ["."]:
                    raise ENOENT
                self._move(path)
                return path
            if inode.mode & S_IFMT == S_IFLNK and (follow_last or todo):
                await self._follow(path)
            else:
                self._move(path)
        return self.path

    async def run_to_parent(self) -> Last:
        """All but the last component, which is not looked up."""
        todo = self.todo
        # The last component is todo[0], unless that is the "." which stands for a trailing slash.
        must_be_dir = self.slash and len(todo) > 1
        if must_be_dir:
            del todo[0]
        name = todo.pop(0)
        if todo:
            await self.run(True)
            self.path.inode  # noqa: B018  ENOENT for a negative parent
        self._enter_directory()
        if name == "..":
            self._up()
        if name in (".", ".."):
            return Last(self.path, "", must_be_dir)
        return Last(self.path, name, must_be_dir)


async def lookup_child(directory: Path, name: str) -> Dentry:
    """The dentry of name in directory, positive or negative; does not cross mounts or check permissions.

    ENAMETOOLONG; what the file system raises.
    """
    dentry = directory.dentry.children.get(name)
    inode = directory.inode
    if dentry is not None and not inode.volatile:
        dentry.used = True
        return dentry
    lock = inode.names_lock()
    if lock is None:
        return await lookup_locked(directory, name)
    async with lock:
        return await lookup_locked(directory, name)


async def lookup_locked(directory: Path, name: str) -> Dentry:
    """lookup_child() for who holds the directory's names_lock."""
    parent = directory.dentry
    dentry = parent.children.get(name)
    inode = directory.inode
    if dentry is not None and not inode.volatile:
        dentry.used = True
        return dentry
    if len(name) > NAME_MAX and len(name.encode("utf-8", "surrogateescape")) > NAME_MAX:
        raise ENAMETOOLONG
    try:
        found = await inode.lookup(name)
    except ENOENT:
        found = None
    dentry = parent.children.get(name)
    if dentry is not None and dentry.inode is found:
        return dentry
    if dentry is not None:
        dentry.unhash()
    fresh = Dentry(name, parent, found)
    if inode.volatile:
        if found is None:
            return fresh
        parent.forget_ended()
    return CACHE.add(fresh)


async def walk(where: Where, name: str, follow: bool = True) -> Path:
    """The existing file that name leads to.

    Raises ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG; EXDEV for RESOLVE_*.
    """
    path = await _Walker(where, name).run(follow or name.endswith("/"))
    if path.dentry.inode is None:
        raise ENOENT
    return path


async def walk_any(where: Where, name: str, follow: bool) -> Path:
    """As walk(), but the last component may be missing: then the path is negative."""
    return await _Walker(where, name).run(follow)


async def walk_parent(where: Where, name: str) -> Last:
    """The directory of name's last component, for creating, removing and renaming it."""
    return await _Walker(where, name).run_to_parent()


async def child_of(last: Last) -> Path:
    """What last names now, through mounts; may be negative.  EINVAL if it names no entry."""
    if not last.name:
        raise EINVAL
    dentry = await lookup_child(last.parent, last.name)
    path = Path(last.parent.mount, dentry)
    return path.mount.ns.enter(path) if dentry.mounted else path
