"""Making, removing and renaming names: fs/namei.c's vfs_mkdir, vfs_unlink, vfs_rename and the like.

All checks that do not depend on the file system are here, in Linux's order; then the file
system does it, and then the dentries follow.  A file system may wait in between, so all that
happens under the names_lock of the directory (of both, for a rename), as under i_rwsem.
"""

from __future__ import annotations

from sentry.abi import stat as st
from sentry.abi.errno import EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EROFS, EXDEV
from sentry.abi.fcntl import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from sentry.vfs.caller import CAP_MKNOD, MAY_EXEC, MAY_WRITE, Caller
from sentry.vfs.dentry import CACHE, MS_RDONLY, Dentry, Path
from sentry.vfs.inode import Inode
from sentry.vfs.known import forget_known
from sentry.vfs.open import check_may_create, enter_name
from sentry.vfs.walk import Last, Where, lookup_locked, walk_parent
from sentry.wait import Mutex

DEVICES = (st.S_IFCHR, st.S_IFBLK)


class Changing:
    """async with Changing(path, ...): hold the names_lock of these directories, in the one order that all keep.

    Of two, the file system's rename_lock before them (lock_rename).
    """

    __slots__ = ("_locks",)

    def __init__(self, *directories: Path) -> None:
        inodes = {directory.inode for directory in directories}
        if len(inodes) == 1:
            locks = [inode.names_lock() for inode in inodes]
        else:
            locks = [directories[0].inode.fs.rename_lock()]
            locks += [inode.names_lock() for inode in sorted(inodes, key=id)]
        self._locks = [lock for lock in locks if lock is not None]

    async def __aenter__(self) -> None:
        for lock in self._locks:
            await lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        for lock in self._locks:
            lock.release()


# ---- Making.


async def parent_of_new(where: Where, name: str) -> Last:
    """The directory where name is to be made.  Those of the walk; EEXIST if name is no entry of one."""
    last = await walk_parent(where, name)
    if not last.name:
        raise EEXIST
    return last


async def check_new(where: Where, last: Last, directory: bool = False) -> Inode:
    """filename_create(), under the lock: the inode to make the entry in.

    Errors: EEXIST; ENOENT (a trailing slash, unless a directory is made; the parent was removed); EROFS; EACCES
    """
    dentry = await lookup_locked(last.parent, last.name)
    if dentry.inode is not None:
        raise EEXIST
    if last.must_be_dir and not directory:
        raise ENOENT
    return check_may_create(where.caller, last.parent)


async def make_dir(where: Where, name: str, mode: int) -> None:
    """mkdir(2); mode before the umask."""
    last = await parent_of_new(where, name)
    caller = where.caller
    async with Changing(last.parent):
        parent = await check_new(where, last, directory=True)
        inode = await parent.mkdir(last.name, mode & 0o1777 & ~caller.umask, caller)
        enter_name(last.parent.dentry, last.name, inode)


async def make_symlink(where: Where, name: str, target: str) -> None:
    """symlink(2)."""
    last = await parent_of_new(where, name)
    async with Changing(last.parent):
        parent = await check_new(where, last)
        inode = await parent.symlink(last.name, target, where.caller)
        enter_name(last.parent.dentry, last.name, inode)


async def make_node(where: Where, name: str, mode: int, rdev: int) -> Path:
    """mknod(2): what was made.  EPERM: a device without CAP_MKNOD, or a file system that has none."""
    last = await parent_of_new(where, name)
    caller = where.caller
    kind = mode & st.S_IFMT
    permissions = mode & st.S_IALLUGO & ~caller.umask
    async with Changing(last.parent):
        parent = await check_new(where, last)
        if kind in DEVICES and rdev and not caller.caps & CAP_MKNOD:
            raise EPERM
        if kind in (0, st.S_IFREG):
            inode = await parent.create(last.name, permissions, caller)
        else:
            inode = await parent.mknod(last.name, kind | permissions, rdev if kind in DEVICES else 0, caller)
        return Path(last.parent.mount, enter_name(last.parent.dentry, last.name, inode))


async def make_link(where: Where, name: str, target: Path) -> None:
    """link(2): EXDEV, EPERM (a directory), EMLINK and the like, after check_new()'s."""
    last = await parent_of_new(where, name)
    inode = target.inode
    await inode.pin()
    async with Changing(last.parent):
        parent = await check_new(where, last)
        if target.mount is not last.parent.mount:
            raise EXDEV
        if st.is_dir(inode.mode):
            raise EPERM
        await parent.link(last.name, inode)
        enter_name(last.parent.dentry, last.name, inode)


# ---- Removing.


async def _victim(last: Last) -> Dentry:
    """The entry that last names.  EROFS, ENOENT."""
    if last.parent.mount.readonly:
        raise EROFS
    dentry = await lookup_locked(last.parent, last.name)
    if dentry.inode is None:
        raise ENOENT
    return dentry


def check_may_delete(caller: Caller, directory: Path, dentry: Dentry, is_dir: bool) -> Inode:
    """may_delete(): EACCES, EPERM (sticky), ENOTDIR, EISDIR; EBUSY for a mount point.  The file's inode."""
    inode = dentry.inode
    assert inode is not None
    caller.check_delete(directory.inode, inode)
    if is_dir != (inode.mode & st.S_IFMT == st.S_IFDIR):
        raise ENOTDIR if is_dir else EISDIR
    return inode


def check_not_mounted(dentry: Dentry) -> None:
    if dentry.mounted:
        raise EBUSY


async def unlink(where: Where, name: str) -> None:
    """unlink(2).

    Errors: those of the walk; EISDIR, EROFS, ENOENT, ENOTDIR (a trailing slash), EACCES, EPERM, EBUSY
    """
    last = await walk_parent(where, name)
    if not last.name:
        raise EISDIR
    async with Changing(last.parent):
        dentry = await _victim(last)
        inode = dentry.inode
        if last.must_be_dir:
            raise EISDIR if inode is not None and st.is_dir(inode.mode) else ENOTDIR
        inode = check_may_delete(where.caller, last.parent, dentry, is_dir=False)
        check_not_mounted(dentry)
        await last.parent.inode.unlink(last.name, inode)
        forget_name(last.parent.dentry, last.name, inode)


async def unlink_here(caller: Caller, directory: Path, dentry: Dentry, lock: Mutex | None) -> None:
    """unlink() of what find_in() found just now, with its directory's lock, which is free."""
    mount, parent = directory
    if mount.flags & MS_RDONLY:
        raise EROFS
    if dentry.inode is None:
        raise ENOENT
    inode = check_may_delete(caller, directory, dentry, is_dir=False)
    assert parent.inode is not None  # find_in() has seen to that
    if lock is not None:
        lock.take()
    try:
        await parent.inode.unlink(dentry.name, inode)
        forget_name(parent, dentry.name, inode)
    finally:
        if lock is not None:
            lock.release()


async def remove_dir(where: Where, name: str) -> None:
    """rmdir(2).

    Errors: those of the walk; ENOTEMPTY (".."), EINVAL ("."), EBUSY (the root, a mount point), EROFS, ENOENT,
    EACCES, EPERM, ENOTDIR, ENOTEMPTY
    """
    last = await walk_parent(where, name)
    if not last.name:
        final = name.rstrip("/").rpartition("/")[2]
        raise {"..": ENOTEMPTY, ".": EINVAL}.get(final, EBUSY)
    async with Changing(last.parent):
        dentry = await _victim(last)
        inode = check_may_delete(where.caller, last.parent, dentry, is_dir=True)
        check_not_mounted(dentry)
        await last.parent.inode.rmdir(last.name, inode)
        dentry.children.clear()
        forget_name(last.parent.dentry, last.name, inode)


def forget_name(parent: Dentry, name: str, inode: Inode) -> None:
    """d_delete(): name, which meant inode, is gone, and known to be."""
    dentry = parent.children.get(name)
    if dentry is None or dentry.inode is inode:
        if dentry is not None:
            dentry.unhash()
        if parent.inode is not None and not parent.inode.volatile:
            CACHE.add(Dentry(name, parent, None))


# ---- Renaming.


async def rename(old_where: Where, old_name: str, new_where: Where, new_name: str, flags: int) -> None:
    """rename(2) and renameat2(2); flags were checked.

    Errors: those of both walks; EXDEV, EBUSY, EEXIST, EROFS, ENOENT, ENOTDIR, EINVAL, ENOTEMPTY, EACCES, EPERM, EISDIR
    """
    old = await walk_parent(old_where, old_name)
    new = await walk_parent(new_where, new_name)
    if old.parent.mount is not new.parent.mount:
        raise EXDEV
    if not old.name:
        raise EBUSY
    if not new.name:
        raise EEXIST if flags & RENAME_NOREPLACE else EBUSY
    if old.parent.dentry is not new.parent.dentry:
        await old.parent.inode.pin()
        await new.parent.inode.pin()
    async with Changing(old.parent, new.parent):
        source = await _victim(old)
        target = await lookup_locked(new.parent, new.name)
        _check_rename(old, source, new, target, flags)
        if source.inode is target.inode:
            return
        _check_rename_rights(old_where.caller, old, source, new, target, flags)
        await _do_rename(old, source, new, target, flags)


def _check_rename(old: Last, source: Dentry, new: Last, target: Dentry, flags: int) -> None:
    """do_renameat2()'s checks: what is there, and who contains whom."""
    assert source.inode is not None
    if flags & RENAME_NOREPLACE and target.inode is not None:
        raise EEXIST
    if flags & RENAME_EXCHANGE:
        if target.inode is None:
            raise ENOENT
        if new.must_be_dir and not st.is_dir(target.inode.mode):
            raise ENOTDIR
    if not st.is_dir(source.inode.mode):
        if old.must_be_dir or (new.must_be_dir and not flags & RENAME_EXCHANGE):
            raise ENOTDIR
    if _contains(source, new.parent.dentry):
        raise EINVAL("into its own subtree")
    if target.inode is not None and _contains(target, old.parent.dentry):
        raise EINVAL if flags & RENAME_EXCHANGE else ENOTEMPTY


def _contains(ancestor: Dentry, dentry: Dentry | None) -> bool:
    while dentry is not None:
        if dentry is ancestor:
            return True
        dentry = dentry.parent
    return False


def _check_rename_rights(caller: Caller, old: Last, source: Dentry, new: Last, target: Dentry, flags: int) -> None:
    """vfs_rename()'s checks."""
    assert source.inode is not None
    source_is_dir = st.is_dir(source.inode.mode)
    check_may_delete(caller, old.parent, source, source_is_dir)
    target_is_dir = target.inode is not None and st.is_dir(target.inode.mode)
    if target.inode is None:
        check_may_create(caller, new.parent)
    else:
        check_may_delete(caller, new.parent, target, target_is_dir if flags & RENAME_EXCHANGE else source_is_dir)
    if old.parent.dentry is not new.parent.dentry:
        # Their `..` will change.
        if source_is_dir:
            caller.check(source.inode, MAY_WRITE)
        if flags & RENAME_EXCHANGE and target_is_dir and target.inode is not None:
            caller.check(target.inode, MAY_WRITE)
    check_not_mounted(source)
    check_not_mounted(target)


async def _do_rename(old: Last, source: Dentry, new: Last, target: Dentry, flags: int) -> None:
    moved = source.inode
    assert moved is not None
    await old.parent.inode.rename(old.name, new.parent.inode, new.name, flags)
    source.unhash()
    target.unhash()
    if st.is_dir(moved.mode) or flags & RENAME_EXCHANGE:
        forget_known()  # the `..` of what is below
    place_name(source, new.parent.dentry, new.name)
    if flags & RENAME_EXCHANGE:
        place_name(target, old.parent.dentry, old.name)
    else:
        target.children.clear()
        if not flags & RENAME_WHITEOUT:
            forget_name(old.parent.dentry, old.name, moved)


def place_name(dentry: Dentry, parent: Dentry, name: str) -> None:
    """d_move(): the same dentry under another name, so that open files and working directories follow."""
    known = parent.children.get(name)
    if known is not None:
        known.unhash()
    dentry.parent = parent
    dentry.name = name
    parent.children[name] = dentry


def check_search(caller: Caller, path: Path) -> None:
    """For chdir(2), chroot(2): ENOTDIR, EACCES."""
    inode = path.inode
    if not st.is_dir(inode.mode):
        raise ENOTDIR
    caller.check(inode, MAY_EXEC)
