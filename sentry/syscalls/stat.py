"""stat(2), access(2), readlink(2): looking at files."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EACCES, EINVAL, ENOENT, EROFS
from sentry.abi.fcntl import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_STATX_SYNC_TYPE,
    AT_SYMLINK_NOFOLLOW,
    PATH_MAX,
)
from sentry.abi.stat import (
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    STATX,
    STATX_ATTR_MOUNT_ROOT,
    STATX_BASIC_STATS,
    STATX_BTIME,
    STATX_MNT_ID,
    STATX_RESERVED,
)
from sentry.syscalls.args import I32, Addr, AtFlags, DirFd, Fd, Flags, PathAddr
from sentry.syscalls.paths import (
    NO_SUCH_FILE,
    check_flags,
    decode_name,
    find_any_now,
    find_now,
    read_optional,
    read_optional_bytes,
    read_path,
    start,
    walk_at,
)
from sentry.syscalls.registry import syscall
from sentry.vfs.cachedwalk import find_cached
from sentry.vfs.caller import MAY_EXEC, MAY_WRITE, Caller
from sentry.vfs.dentry import MS_NOEXEC, Path
from sentry.vfs.inode import Inode, split_device
from sentry.vfs.walk import Where, walk

if TYPE_CHECKING:
    from sentry.kernel.task import Task

Result = int | Awaitable[int]
NS: Final = 1_000_000_000
NO_DIO: Final = (0, 0, 0, 0, 0)  # stx_dio_*, stx_subvol, stx_atomic_write_*: not known


# ---- stat.


def stat_name(t: Task, dirfd: int, name: bytes, follow: bool, buf: int) -> Result:
    """By name: at once if everything is cached, otherwise a coroutine."""
    path = find_any_now(t, dirfd, name, follow, True)
    if path is None:
        return _stat_walk(t, dirfd, decode_name(name), follow, buf)
    inode = path[1].inode
    if inode is None:
        return NO_SUCH_FILE
    packed = inode.stat_now()
    if packed is None:
        return _stat_refresh(t, inode, buf)
    t.mem.write(buf, packed)
    return 0


def stat_inode(t: Task, inode: Inode, buf: int) -> Result:
    packed = inode.stat_now()
    if packed is None:
        return _stat_refresh(t, inode, buf)
    t.mem.write(buf, packed)
    return 0


async def _stat_walk(t: Task, dirfd: int, name: str, follow: bool, buf: int) -> int:
    path = await walk(start(t, dirfd, name), name, follow)
    return await _stat_refresh(t, path.inode, buf)


async def _stat_refresh(t: Task, inode: Inode, buf: int) -> int:
    await inode.refresh()
    t.mem.write(buf, inode.packed_stat())
    return 0


@syscall
def stat(t: Task, path: PathAddr, buf: Addr) -> Result:
    """stat(2): a file's attributes.

    Linux: fs/stat.c:vfs_statx
    Errors: EFAULT, ENAMETOOLONG, those of the walk
    """
    return stat_name(t, AT_FDCWD, t.mem.read_cstr(path, PATH_MAX), True, buf)


@syscall
def lstat(t: Task, path: PathAddr, buf: Addr) -> Result:
    """lstat(2): stat, of a symbolic link itself."""
    return stat_name(t, AT_FDCWD, t.mem.read_cstr(path, PATH_MAX), False, buf)


@syscall
def fstat(t: Task, fd: Fd, buf: Addr) -> Result:
    """fstat(2): stat of an open file.  EBADF, EFAULT."""
    return stat_inode(t, t.files.get_any(fd).inode, buf)


@syscall
def newfstatat(t: Task, dirfd: DirFd, path: PathAddr, buf: Addr, flags: AtFlags) -> Result:
    """fstatat(2): stat relative to a directory.

    Linux: fs/stat.c:vfs_fstatat
    Errors: EINVAL (flags), EFAULT, EBADF, those of the walk
    """
    if not flags:  # as glibc's stat() has it
        return stat_name(t, dirfd, t.mem.read_cstr(path, PATH_MAX), True, buf)
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE)
    name = read_optional_bytes(t, path, flags)
    if not name and flags & AT_EMPTY_PATH:
        return stat_inode(t, inode_at(t, dirfd), buf)
    return stat_name(t, dirfd, name, not flags & AT_SYMLINK_NOFOLLOW, buf)


def inode_at(t: Task, dirfd: int) -> Inode:
    """What AT_EMPTY_PATH with an empty name means: dirfd's file, of whatever kind."""
    return t.fs.cwd.inode if dirfd == AT_FDCWD else t.files.get_any(dirfd).inode


@syscall
def statx(t: Task, dirfd: DirFd, path: PathAddr, flags: AtFlags, mask: Flags, buf: Addr) -> Result:
    """statx(2): extended attributes of a file.

    Linux: fs/stat.c:do_statx
    Errors: EINVAL (reserved mask bit, unknown flags, both sync types), EFAULT, EBADF, those of the walk
    """
    if mask & STATX_RESERVED or flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE:
        raise EINVAL("mask or sync type")
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE)
    name = read_optional_bytes(t, path, flags)
    if not name and flags & AT_EMPTY_PATH:
        return statx_inode(t, inode_at(t, dirfd), t.fs.cwd if dirfd == AT_FDCWD else t.files.get_any(dirfd).path, buf)
    follow = not flags & AT_SYMLINK_NOFOLLOW
    found = find_any_now(t, dirfd, name, follow, True)
    if found is None:
        return _statx_walk(t, dirfd, decode_name(name), follow, buf)
    inode = found[1].inode
    return NO_SUCH_FILE if inode is None else statx_inode(t, inode, found, buf)


def statx_inode(t: Task, inode: Inode, path: Path | None, buf: int) -> Result:
    if not inode.fresh():
        return _statx_refresh(t, inode, path, buf)
    t.mem.write(buf, pack_statx(inode, path))
    return 0


async def _statx_walk(t: Task, dirfd: int, name: str, follow: bool, buf: int) -> int:
    found = await walk(start(t, dirfd, name), name, follow)
    return await _statx_refresh(t, found.inode, found, buf)


async def _statx_refresh(t: Task, inode: Inode, path: Path | None, buf: int) -> int:
    await inode.refresh()
    t.mem.write(buf, pack_statx(inode, path))
    return 0


def pack_statx(inode: Inode, path: Path | None) -> bytes:
    """struct statx.  The mount's id and root are known only for what was found by name."""
    attributes = STATX_ATTR_MOUNT_ROOT if path is not None and path.is_mount_root() else 0
    mask = STATX_BASIC_STATS | STATX_BTIME | (STATX_MNT_ID if path is not None else 0)
    atime, btime, ctime, mtime = inode.atime_ns, inode.btime_ns, inode.ctime_ns, inode.mtime_ns
    rdev_major, rdev_minor = split_device(inode.rdev)
    dev_major, dev_minor = split_device(inode.fs.dev)
    return STATX.pack(
        mask,
        inode.blksize(),
        attributes,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.mode,
        inode.ino,
        inode.size,
        inode.blocks(),
        STATX_ATTR_MOUNT_ROOT,
        atime // NS,
        atime % NS,
        0,
        btime // NS,
        btime % NS,
        0,
        ctime // NS,
        ctime % NS,
        0,
        mtime // NS,
        mtime % NS,
        0,
        rdev_major,
        rdev_minor,
        dev_major,
        dev_minor,
        path.mount.id if path is not None else 0,
        *NO_DIO,
    )


# ---- access.


@syscall
def access(t: Task, path: PathAddr, mode: I32) -> Result:
    """access(2): may the real user read, write, execute a file?"""
    return do_access(t, AT_FDCWD, path, mode, 0)


@syscall
def faccessat(t: Task, dirfd: DirFd, path: PathAddr, mode: I32) -> Result:
    """faccessat(2) as the kernel has it: without flags."""
    return do_access(t, dirfd, path, mode, 0)


@syscall
def faccessat2(t: Task, dirfd: DirFd, path: PathAddr, mode: I32, flags: AtFlags) -> Result:
    """faccessat2(2): access relative to a directory, with flags."""
    return do_access(t, dirfd, path, mode, flags)


def do_access(t: Task, dirfd: int, path_addr: int, mode: int, flags: int) -> Result:
    """fs/open.c:do_faccessat: EINVAL, EFAULT, those of the walk, EROFS, EACCES."""
    if mode & ~7:
        raise EINVAL("mode")
    check_flags(flags, AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
    name = read_optional(t, path_addr, flags)
    fs = t.fs
    caller = t.creds.caller(fs.umask) if flags & AT_EACCESS else t.creds.real_caller(fs.umask)
    at = fs.cwd if dirfd == AT_FDCWD or name[:1] == "/" else t.where(dirfd).start
    follow = not flags & AT_SYMLINK_NOFOLLOW
    if not name and flags & AT_EMPTY_PATH:
        found: Path | None = at
    else:
        found = find_cached(fs.root, at, caller, name, follow, glance=True)
    if found is None or not found.inode.fresh():
        return _access_walk(Where(fs.root, at, caller), found, name, follow, mode)
    check_access(caller, found, mode)
    return 0


async def _access_walk(where: Where, found: Path | None, name: str, follow: bool, mode: int) -> int:
    path = found if found is not None else await walk(where, name, follow)
    await path.inode.refresh()
    check_access(where.caller, path, mode)
    return 0


def check_access(caller: Caller, path: Path, mode: int) -> None:
    """EACCES, EROFS."""
    inode = path.inode
    kind = inode.mode & S_IFMT
    if mode & MAY_EXEC and kind == S_IFREG and path.mount.flags & MS_NOEXEC:
        raise EACCES("mounted with noexec")
    # "A special file may be written to on a read-only file system": only these three are EROFS.
    if mode & MAY_WRITE and path.mount.readonly and kind in (S_IFREG, S_IFDIR, S_IFLNK):
        raise EROFS
    if mode:
        caller.check(inode, mode)


# ---- readlink.


@syscall
def readlink(t: Task, path: PathAddr, buf: Addr, size: I32) -> Result:
    """readlink(2): where a symbolic link points to."""
    return do_readlink(t, AT_FDCWD, path, buf, size)


@syscall
def readlinkat(t: Task, dirfd: DirFd, path: PathAddr, buf: Addr, size: I32) -> Result:
    """readlinkat(2): readlink relative to a directory; with an empty path, of the descriptor itself."""
    return do_readlink(t, dirfd, path, buf, size)


def do_readlink(t: Task, dirfd: int, path_addr: int, buf: int, size: int) -> Result:
    """fs/stat.c:do_readlinkat: EINVAL (size, not a link), EFAULT, those of the walk."""
    if size <= 0:
        raise EINVAL("size")
    name = read_path(t, path_addr)
    if name:
        found = find_now(t, dirfd, name, False)
        text = found.inode.link_text() if found is not None else None
        if text is not None:
            return put_link(t, text, buf, size)
    return _readlink_walk(t, dirfd, name, buf, size)


async def _readlink_walk(t: Task, dirfd: int, name: str, buf: int, size: int) -> int:
    found = await walk_at(t, dirfd, name, AT_EMPTY_PATH if dirfd != AT_FDCWD else 0, False)
    inode = found.inode
    if inode.mode & S_IFMT != S_IFLNK:
        raise EINVAL("not a symbolic link") if name else ENOENT
    return put_link(t, await inode.readlink(), buf, size)


def put_link(t: Task, text: str, buf: int, size: int) -> int:
    target = text.encode("utf-8", "surrogateescape")[:size]
    t.mem.write(buf, target)
    return len(target)
