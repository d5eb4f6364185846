"""Path resolution without waiting, for the most frequent case: every name is in the dentry cache.

walk.py is the whole algorithm; this is its shortest way through, as one plain loop.  Where
the way is not that short (a name that only the gofer knows, a link whose text is not known, a directory
whose names must be asked for, RESOLVE_*) it gives up, and the caller awaits walk().

Every open and stat passes here, so the loop calls nothing for a plain name: a directory that
everybody may search needs no look at the caller, nor does any directory for root.
"""

from __future__ import annotations

from sentry.abi.errno import ENOENT, ENOTDIR
from sentry.abi.fcntl import MAX_SYMLINKS, NAME_MAX
from sentry.abi.stat import S_IFDIR, S_IFLNK, S_IFMT
from sentry.vfs.caller import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, MAY_EXEC, Caller
from sentry.vfs.dentry import CACHE, MS_NOSYMFOLLOW, Dentry, Path
from sentry.vfs.inode import Inode
from sentry.vfs.known import Known
from sentry.vfs.walk import Where
from sentry.wait import Mutex

_new = tuple.__new__  # half the price of a NamedTuple's own, which is written in Python
_SEARCH_ALL = CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH


def _components(name: str) -> list[str]:
    """The names in it, the next one last; a trailing slash asks for a directory, as "." does."""
    parts = name.split("/")
    if not parts[-1]:
        parts[-1] = "."
    parts.reverse()
    return parts


def _lookup_now(parent: Dentry, inode: Inode, name: str) -> Dentry | None:
    """A dentry for a name that the file system can tell of without waiting."""
    if inode.volatile or len(name) > NAME_MAX // 4:  # in bytes it may be four times as long
        return None
    try:
        found = inode.lookup_now(name)
    except ENOENT:
        return CACHE.add(Dentry(name, parent, None))
    return CACHE.add(Dentry(name, parent, found)) if found is not None else None


def _glance(parent: Dentry, inode: Inode, name: str) -> Dentry | None:
    found = inode.glance(name)
    return Dentry(name, parent, found) if found is not None else None


def walk_cached(where: Where, name: str, follow: bool) -> Path | None:
    """What walk() would return; None: unknown without waiting.  Raises ENOENT, ENOTDIR, EACCES as walk() does."""
    return None if where.resolve else find_cached(where.root, where.start, where.caller, name, follow)


def find_cached(root: Path, start: Path, caller: Caller, name: str, follow: bool, glance: bool = False) -> Path | None:
    """walk_cached() for who has no Where yet: most never need one.

    glance: only the attributes are wanted, and before anything else happens: see Inode.glance().
    """
    path = find_any(root, start, caller, name, follow, glance)
    if path is not None and path[1].inode is None:
        raise ENOENT
    return path


def find_in(directory: Path, caller: Caller, name: str) -> tuple[Dentry, Mutex | None] | None:
    """The dentry of name, not "." nor "..", in directory, and its names_lock, which is free; None: walk()."""
    parent = directory[1]
    inode = parent.inode
    if inode is None or inode.mode & S_IFMT != S_IFDIR or inode.volatile:
        return None
    lock = inode.names_lock()
    if lock is not None and lock.held:
        return None
    if not caller.caps & _SEARCH_ALL and inode.mode & 0o111 != 0o111:
        caller.check(inode, MAY_EXEC)
    dentry = parent.children.get(name) or _lookup_now(parent, inode, name)
    return None if dentry is None or dentry.mounted else (dentry, lock)


def find_known(known: Known, root: Path, start: Path, caller: Caller, name: bytes, glance: bool = False) -> Path | None:
    """find_any(), following links, of a name that is not in known, and is then, if it may be."""
    path = find_any(root, start, caller, name.decode("utf-8", "surrogateescape"), True, glance)
    if path is not None:
        dentry = path[1]
        parent = dentry.parent
        if parent is None or parent.children.get(dentry.name) is dentry:  # or it is a glance
            known.note(name, path)
    return path


def find_any(root: Path, start: Path, caller: Caller, name: str, follow: bool, glance: bool = False) -> Path | None:
    """find_cached() that does not raise ENOENT: a missing file is a negative dentry, and so is one on the way to it."""
    if not name:
        raise ENOENT
    mount, dentry = root if name[0] == "/" else start
    checked = not caller.caps & _SEARCH_ALL
    inode = dentry.inode
    kind = inode.mode & S_IFMT if inode is not None else 0
    links = 0
    todo = _components(name)
    while todo:
        part = todo.pop()
        if not part:
            continue
        if inode is None:
            break
        if kind != S_IFDIR:
            raise ENOTDIR
        if checked and inode.mode & 0o111 != 0o111:
            caller.check(inode, MAY_EXEC)
        child = dentry.children.get(part)
        if child is None:
            # "." and ".." are never among the children.
            if part == "..":
                mount, dentry = mount.ns.up(Path(mount, dentry), root)
                inode = dentry.inode
                continue
            if part == ".":
                continue
            child = (_glance(dentry, inode, part) if glance and not todo else None) or _lookup_now(dentry, inode, part)
            if child is None:
                return None
        if inode.volatile:
            return None
        child.used = child.passed = True
        inode = child.inode
        kind = inode.mode & S_IFMT if inode is not None else 0
        if kind == S_IFLNK and (follow or todo):
            assert inode is not None
            text = inode.link_text()
            links += 1
            if not text or links > MAX_SYMLINKS or mount.flags & MS_NOSYMFOLLOW or child.mounted:
                return None
            todo += _components(text)
            if text[0] == "/":
                mount, dentry = root
            inode = dentry.inode
            kind = S_IFDIR
            continue
        if child.mounted:
            mount, dentry = mount.ns.enter(Path(mount, child))
            inode = dentry.inode
            kind = inode.mode & S_IFMT if inode is not None else 0
        else:
            dentry = child
    return _new(Path, (mount, dentry))
