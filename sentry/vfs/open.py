"""Opening files by name: fs/namei.c's path_openat(), do_open() and may_open()."""

from __future__ import annotations

from typing import Final

from sentry.abi import stat as st
from sentry.abi.errno import EACCES, EEXIST, EISDIR, ELOOP, ENOENT, ENOTDIR, EPERM, EROFS, ETXTBSY
from sentry.abi.fcntl import (
    CREATION_FLAGS,
    O_ACCMODE,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOATIME,
    O_NOCTTY,
    O_NOFOLLOW,
    O_PATH,
    O_TMPFILE_BIT,
    O_TRUNC,
)
from sentry.abi.stat import S_IFMT, S_IFREG
from sentry.vfs.attrs import mode_after_write
from sentry.vfs.caller import MAY_EXEC, MAY_READ, MAY_WRITE, Caller
from sentry.vfs.dentry import CACHE, MS_NODEV, MS_RDONLY, Dentry, Path
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange, Inode
from sentry.vfs.known import forget_known
from sentry.vfs.walk import Where, lookup_locked, walk, walk_any, walk_parent
from sentry.wait import Mutex

# MAY_* for each access mode (ACC_MODE).
ACCESS: Final = (MAY_READ, MAY_WRITE, MAY_READ | MAY_WRITE, MAY_READ | MAY_WRITE)


async def open_name(where: Where, name: str, flags: int, mode: int) -> File:
    """A new open file description of what name leads to; made first, if O_CREAT asks for that.

    flags were checked (syscalls/open.py); mode: permission bits before the umask.
    """
    if flags & O_PATH:
        return await _open_path(where, name, flags)
    if flags & O_TMPFILE_BIT:
        return await _open_unnamed(where, name, flags, mode)
    if flags & O_CREAT:
        return await _open_or_create(where, name, flags, mode)
    path = await walk(where, name, follow=not flags & O_NOFOLLOW)
    return await open_existing(where.caller, path, flags)


async def _open_path(where: Where, name: str, flags: int) -> File:
    path = await walk(where, name, follow=not flags & O_NOFOLLOW)
    inode = path.inode
    if flags & O_DIRECTORY and not st.is_dir(inode.mode):
        raise ENOTDIR
    return File(inode, path, flags & ~CREATION_FLAGS)


async def _open_or_create(where: Where, name: str, flags: int, mode: int) -> File:
    if name.endswith("/") and name.strip("/"):
        last = await walk_parent(where, name)
        if last.name:
            raise EISDIR
    follow = not flags & (O_NOFOLLOW | O_EXCL)
    while True:
        path = await walk_any(where, name, follow)
        dentry = path.dentry
        if dentry.inode is not None:
            if flags & O_EXCL:
                raise EEXIST
            if st.is_dir(dentry.inode.mode):
                raise EISDIR
            return await open_existing(where.caller, path, flags)
        assert dentry.parent is not None
        created = await _create_in(where.caller, Path(path.mount, dentry.parent), dentry.name, mode)
        if created is not None:
            return await _open_inode(created, flags)
        # Somebody else made it after the walk: open that, or fail with EEXIST.


async def _create_in(caller: Caller, directory: Path, name: str, mode: int) -> Path | None:
    """Make a regular file; None if there is one now.  EROFS, EACCES, ENOENT (the directory was removed)."""
    lock = directory.inode.names_lock()
    if lock is not None:
        await lock.acquire()
    try:
        if (await lookup_locked(directory, name)).inode is not None:
            return None
        parent = check_may_create(caller, directory)
        inode = await parent.create(name, mode & ~caller.umask & st.S_IALLUGO, caller)
        return Path(directory.mount, enter_name(directory.dentry, name, inode))
    finally:
        if lock is not None:
            lock.release()


async def create_here(
    caller: Caller, directory: Path, dentry: Dentry, lock: Mutex | None, flags: int, mode: int
) -> File:
    """open_name() of a negative dentry, which find_in() found just now, with its directory's lock, which is free."""
    if lock is not None:
        lock.take()
    try:
        parent = check_may_create(caller, directory)
        name = dentry.name
        inode = await parent.create(name, mode & ~caller.umask & st.S_IALLUGO, caller)
        path = Path(directory[0], enter_name(directory[1], name, inode))
    finally:
        if lock is not None:
            lock.release()
    return inode.open_now(path, flags & ~CREATION_FLAGS) or await _open_inode(path, flags)


def check_may_create(caller: Caller, directory: Path) -> Inode:
    """may_create(): the directory's inode, if caller may make names in it."""
    mount, dentry = directory
    parent = dentry.inode
    if parent is None:
        raise ENOENT
    if mount.flags & MS_RDONLY:
        raise EROFS
    if dentry.deleted:
        raise ENOENT
    caller.check(parent, MAY_WRITE | MAY_EXEC)
    return parent


def enter_name(parent: Dentry, name: str, inode: Inode) -> Dentry:
    """Hash the name of a file that was just made (d_instantiate)."""
    known = parent.children.get(name)
    if known is not None:
        if known.inode is None:
            known.inode = inode
            if known.passed:
                forget_known()
        if known.inode is inode:
            return known
        known.unhash()
    return CACHE.add(Dentry(name, parent, inode))


async def _open_unnamed(where: Where, name: str, flags: int, mode: int) -> File:
    """O_TMPFILE: name is a directory."""
    directory = await walk(where, name, follow=True)
    caller = where.caller
    parent = directory.inode
    if not st.is_dir(parent.mode):
        raise ENOTDIR
    if directory.mount.readonly:
        raise EROFS
    caller.check(parent, MAY_WRITE | MAY_EXEC)
    inode = await parent.tmpfile(mode & ~caller.umask & st.S_IALLUGO, caller)
    dentry = Dentry(f"#{inode.ino}", directory.dentry, inode)
    return await _open_inode(Path(directory.mount, dentry), flags & ~O_DIRECTORY)


async def open_existing(caller: Caller, path: Path, flags: int) -> File:
    """do_open() of a file that was there before."""
    inode = path.inode
    if not inode.fresh():
        await inode.refresh()
    check_may_open(caller, path, flags)
    file = await _open_inode(path, flags)
    if flags & O_TRUNC and st.is_reg(inode.mode):
        try:
            await inode.setattr(AttrChange(size=0, mode=mode_after_write(caller, inode)))
        except BaseException:
            file.hold().drop()
            raise
    return file


def open_cached(caller: Caller, path: Path, flags: int) -> File | None:
    """As open_existing(), if that need not wait; None: await it.  Without O_TRUNC."""
    inode = path[1].inode
    assert inode is not None
    if not inode.fresh():
        return None
    check_may_open(caller, path, flags)
    return inode.open_now(path, flags & ~CREATION_FLAGS)


def check_may_open(caller: Caller, path: Path, flags: int) -> None:
    """may_open(): raises ENOTDIR, ELOOP, EISDIR, EROFS, EACCES, ETXTBSY, EPERM."""
    inode = path[1].inode
    if inode is None:
        raise ENOENT
    kind = inode.mode & S_IFMT
    wanted = ACCESS[flags & O_ACCMODE]
    if flags & O_TRUNC:
        wanted |= MAY_WRITE
    if flags & O_DIRECTORY and kind != st.S_IFDIR:
        raise ENOTDIR
    if kind == S_IFREG:
        if wanted & MAY_WRITE and path.mount.readonly:
            raise EROFS
    elif kind == st.S_IFLNK:
        raise ELOOP
    elif kind == st.S_IFDIR:
        if wanted & MAY_WRITE:
            raise EISDIR
    elif kind in (st.S_IFCHR, st.S_IFBLK) and path.mount.flags & MS_NODEV:
        raise EACCES("mounted with nodev")
    caller.check(inode, wanted)
    if wanted & MAY_WRITE and inode.executing:
        raise ETXTBSY
    if flags & O_NOATIME and not caller.owns(inode):
        raise EPERM


async def _open_inode(path: Path, flags: int) -> File:
    file = await path.inode.open(path, flags & ~(CREATION_FLAGS & ~O_NOCTTY))
    file.flags &= ~CREATION_FLAGS
    return file
