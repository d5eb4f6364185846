"""Path resolution without waiting, for the most frequent case: every name is in the dentry cache.

walk.py is the whole algorithm; this is its shortest way through, as one plain loop.  Where
the way is not that short (a name not cached, a symbolic link, a directory whose names must be
asked for, RESOLVE_*) it gives up, without side effects, and the caller awaits walk().
"""

from __future__ import annotations

from sentry.abi.errno import ENOENT, ENOTDIR
from sentry.abi.stat import S_IFDIR, S_IFLNK, S_IFMT
from sentry.vfs.caller import MAY_EXEC
from sentry.vfs.dentry import Path
from sentry.vfs.walk import Where


def walk_cached(where: Where, name: str, follow: bool) -> Path | None:
    """What walk() would return; None: unknown without waiting.  Raises ENOENT, ENOTDIR, EACCES as walk() does."""
    if where.resolve:
        return None
    if not name:
        raise ENOENT
    mount, dentry = where.root if name[0] == "/" else where.start
    check = where.caller.check
    parts = name.split("/")
    last = len(parts) - 1
    for place, part in enumerate(parts):
        if not part:
            if place != last or not place:
                continue
            part = "."  # a trailing slash asks for a directory
        inode = dentry.inode
        if inode is None:
            raise ENOENT
        if inode.mode & S_IFMT != S_IFDIR:
            raise ENOTDIR
        check(inode, MAY_EXEC)
        if part == ".":
            continue
        if part == "..":
            mount, dentry = mount.ns.up(Path(mount, dentry), where.root)
            continue
        if inode.volatile:
            return None
        child = dentry.children.get(part)
        if child is None:
            return None
        child.used = True
        if child.mounted:
            mount, dentry = mount.ns.enter(Path(mount, child))
        else:
            dentry = child
        found = dentry.inode
        if found is None:
            raise ENOENT
        if found.mode & S_IFMT == S_IFLNK and (follow or place != last):
            return None
    return Path(mount, dentry)
