"""Changing attributes: who may, and what changes along (fs/attr.c, fs/open.c)."""

from __future__ import annotations

from typing import Final

from sentry.abi import stat as st
from sentry.abi.errno import EINVAL, EISDIR, EOPNOTSUPP, EPERM, EROFS
from sentry.vfs.caller import CAP_CHOWN, CAP_FSETID, MAY_WRITE, Caller
from sentry.vfs.dentry import Path
from sentry.vfs.inode import NOW, AttrChange, Inode
from sentry.vfs.known import forget_known

UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
NS: Final = 1_000_000_000
SETID_BITS: Final = st.S_ISUID | st.S_ISGID

# A timespec[2] of utimensat(2); None stands for "both now".
Times = tuple[tuple[int, int], tuple[int, int]] | None


def check_writable(path: Path) -> None:
    """mnt_want_write()."""
    if path.mount.readonly:
        raise EROFS


async def current(path: Path) -> Inode:
    """The inode, its attributes up to date."""
    inode = path.inode
    if not inode.fresh():
        await inode.refresh()
    return inode


async def change_mode(caller: Caller, path: Path, mode: int) -> None:
    """chmod(2): EROFS, EPERM, EOPNOTSUPP (a symbolic link)."""
    check_writable(path)
    inode = await current(path)
    if st.is_lnk(inode.mode):
        raise EOPNOTSUPP
    caller.check_owner(inode)
    if not may_keep_setgid(caller, inode.gid):
        mode &= ~st.S_ISGID
    await inode.setattr(AttrChange(mode=mode & st.S_IALLUGO))
    _passable_to_others(inode)


def may_keep_setgid(caller: Caller, gid: int) -> bool:
    """in_group_or_capable()."""
    return caller.in_group(gid) or bool(caller.caps & CAP_FSETID)


async def change_owner(caller: Caller, path: Path, uid: int | None, gid: int | None) -> None:
    """chown(2); None leaves one as it is.  EROFS, EPERM."""
    check_writable(path)
    inode = await current(path)
    owner = caller.fsuid == inode.uid
    if not caller.caps & CAP_CHOWN:
        if uid is not None and not (owner and uid == inode.uid):
            raise EPERM
        if gid is not None and not (owner and (gid == inode.gid or caller.in_group(gid))):
            raise EPERM
    change = AttrChange(uid=uid, gid=gid)
    if not st.is_dir(inode.mode) and inode.mode & SETID_BITS:
        change.mode = _without_setid(caller, inode)
    await inode.setattr(change)
    _passable_to_others(inode)


def _passable_to_others(inode: Inode) -> None:
    """Its mode or owner has changed: of a directory, these say who may walk through it."""
    if st.is_dir(inode.mode):
        forget_known()


def _without_setid(caller: Caller, inode: Inode) -> int:
    """ "When the owner or group of an executable file is changed by an unprivileged user, the S_ISUID and S_ISGID
    mode bits are cleared. POSIX does not specify whether this also should happen when root does the chown()" -
    chown(2); on Linux it does.  Set-group-ID without group execution stays for members of the group.
    """
    mode = inode.mode & ~st.S_ISUID
    if mode & st.S_IXGRP or not may_keep_setgid(caller, inode.gid):
        mode &= ~st.S_ISGID
    return mode & st.S_IALLUGO


async def change_times(caller: Caller, path: Path, times: Times) -> None:
    """utimensat(2) of a file that was found: EROFS, EACCES, EPERM."""
    check_writable(path)
    inode = await current(path)
    if times is None or (times[0][1] == UTIME_NOW and times[1][1] == UTIME_NOW):
        if not caller.owns(inode):
            caller.check(inode, MAY_WRITE)
        await inode.setattr(AttrChange(atime_ns=NOW, mtime_ns=NOW))
        return
    if not caller.owns(inode):
        raise EPERM
    atime, mtime = (_timestamp(spec) for spec in times)
    await inode.setattr(AttrChange(atime_ns=atime, mtime_ns=mtime))


def _timestamp(spec: tuple[int, int]) -> int | None:
    seconds, nanoseconds = spec
    if nanoseconds == UTIME_OMIT:
        return None
    return NOW if nanoseconds == UTIME_NOW else seconds * NS + nanoseconds


async def truncate_path(caller: Caller, path: Path, size: int) -> None:
    """truncate(2) of a file that was found: EISDIR, EINVAL, EROFS, EACCES."""
    inode = await current(path)
    if st.is_dir(inode.mode):
        raise EISDIR
    if not st.is_reg(inode.mode):
        raise EINVAL("not a regular file")
    check_writable(path)
    caller.check(inode, MAY_WRITE)
    await inode.setattr(AttrChange(size=size, mode=mode_after_write(caller, inode)))


def mode_after_write(caller: Caller, inode: Inode) -> int | None:
    """file_remove_privs(): the permission bits without set-id bits, or None if they stay as they are."""
    if caller.caps & CAP_FSETID or not inode.mode & SETID_BITS:
        return None
    return _without_setid(caller, inode)
