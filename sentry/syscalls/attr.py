"""Changing files' attributes: chmod, chown, utimensat, truncate, fallocate; and statfs.

Who may do what is in sentry/vfs/attrs.py.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sentry.abi import stat as st
from sentry.abi.errno import EBADF, EFBIG, EINVAL, EISDIR, ENODEV, EOPNOTSUPP, ESPIPE
from sentry.abi.fcntl import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
)
from sentry.fs.anon import anon_path
from sentry.syscalls.args import I32, I64, U32, Addr, AtFlags, DirFd, Fd, Mode, Offset, PathAddr
from sentry.syscalls.paths import check_flags, read_name, read_optional, walk_at
from sentry.syscalls.read_write import check_size
from sentry.syscalls.registry import syscall
from sentry.vfs import attrs
from sentry.vfs.dentry import (
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_SYNCHRONOUS,
    Mount,
    Path,
)
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange, FileSystem

if TYPE_CHECKING:
    from sentry.kernel.task import Task

UNCHANGED: Final = 0xFFFFFFFF
TIMES: Final = struct.Struct("<qqqq")  # two timespecs, or two timevals
UTIMBUF: Final = struct.Struct("<qq")
MAX_SIZE: Final = (1 << 63) - 1


def path_of(file: File) -> Path:
    """Where an open file lies, or a place made for one that has none: a pipe, a socket."""
    return file.path if file.path is not None else anon_path(file.inode)


# ---- Modes.


@syscall
async def chmod(t: Task, path: PathAddr, mode: Mode) -> int:
    """chmod(2): change permission bits."""
    return await do_chmod(t, AT_FDCWD, path, mode, 0)


@syscall
async def fchmodat(t: Task, dirfd: DirFd, path: PathAddr, mode: Mode) -> int:
    """fchmodat(2) as the kernel has it: without flags."""
    return await do_chmod(t, dirfd, path, mode, 0)


@syscall
async def fchmodat2(t: Task, dirfd: DirFd, path: PathAddr, mode: Mode, flags: AtFlags) -> int:
    """fchmodat2(2): chmod relative to a directory, with flags."""
    return await do_chmod(t, dirfd, path, mode, flags)


async def do_chmod(t: Task, dirfd: int, path: int, mode: int, flags: int) -> int:
    """EINVAL (flags), those of the walk and of attrs.change_mode."""
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
    name = read_optional(t, path, flags)
    found = await walk_at(t, dirfd, name, flags, not flags & AT_SYMLINK_NOFOLLOW)
    await attrs.change_mode(t.caller, found, mode)
    return 0


@syscall
async def fchmod(t: Task, fd: Fd, mode: Mode) -> int:
    """fchmod(2): change an open file's permission bits."""
    file = t.files.get(fd)
    await attrs.change_mode(t.caller, path_of(file), mode)
    return 0


# ---- Owners.


@syscall
async def chown(t: Task, path: PathAddr, uid: U32, gid: U32) -> int:
    """chown(2): change owner and group."""
    return await do_chown(t, AT_FDCWD, path, uid, gid, 0)


@syscall
async def lchown(t: Task, path: PathAddr, uid: U32, gid: U32) -> int:
    """lchown(2): chown, of a symbolic link itself."""
    return await do_chown(t, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)


@syscall
async def fchownat(t: Task, dirfd: DirFd, path: PathAddr, uid: U32, gid: U32, flags: AtFlags) -> int:
    """fchownat(2): chown relative to a directory."""
    return await do_chown(t, dirfd, path, uid, gid, flags)


async def do_chown(t: Task, dirfd: int, path: int, uid: int, gid: int, flags: int) -> int:
    """EINVAL (flags), those of the walk and of attrs.change_owner."""
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
    name = read_optional(t, path, flags)
    found = await walk_at(t, dirfd, name, flags, not flags & AT_SYMLINK_NOFOLLOW)
    await attrs.change_owner(t.caller, found, given(uid), given(gid))
    return 0


@syscall
async def fchown(t: Task, fd: Fd, uid: U32, gid: U32) -> int:
    """fchown(2): change an open file's owner and group."""
    file = t.files.get(fd)
    await attrs.change_owner(t.caller, path_of(file), given(uid), given(gid))
    return 0


def given(number: int) -> int | None:
    """A uid or gid argument; (uid_t)-1 leaves the old one."""
    return None if number == UNCHANGED else number


# ---- Times.


@syscall
async def utimensat(t: Task, dirfd: DirFd, path: PathAddr, times: Addr, flags: AtFlags) -> int:
    """utimensat(2): change access and modification time, to the nanosecond.

    Linux: fs/utimes.c:do_utimensat
    Errors: EFAULT, EINVAL (times, flags), EBADF, those of the walk, EROFS, EACCES, EPERM
    """
    wanted: attrs.Times = None
    if times:
        a, b, c, d = TIMES.unpack(t.mem.read(times, TIMES.size))
        if b == d == attrs.UTIME_OMIT:
            return 0  # nothing to do, and no name is looked at
        wanted = ((a, b), (c, d))
    for _, nanoseconds in wanted or ():
        if not 0 <= nanoseconds < attrs.NS and nanoseconds not in (attrs.UTIME_NOW, attrs.UTIME_OMIT):
            raise EINVAL("nanoseconds")
    if not path and dirfd != AT_FDCWD:
        if flags:
            raise EINVAL("flags without a name")
        found = path_of(t.files.get(dirfd))
    else:
        check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
        name = read_optional(t, path, flags)
        found = await walk_at(t, dirfd, name, flags, not flags & AT_SYMLINK_NOFOLLOW)
    await attrs.change_times(t.caller, found, wanted)
    return 0


@syscall
async def futimesat(t: Task, dirfd: DirFd, path: PathAddr, times: Addr) -> int:
    """futimesat(2): utimensat with microseconds; without a name, of dirfd itself."""
    wanted: attrs.Times = None
    if times:
        a, b, c, d = TIMES.unpack(t.mem.read(times, TIMES.size))
        if not (0 <= b < 1_000_000 and 0 <= d < 1_000_000):
            raise EINVAL("microseconds")
        wanted = ((a, b * 1000), (c, d * 1000))
    if not path and dirfd != AT_FDCWD:
        found = path_of(t.files.get(dirfd))
    else:
        found = await walk_at(t, dirfd, read_name(t, path), 0, True)
    await attrs.change_times(t.caller, found, wanted)
    return 0


@syscall
async def utimes(t: Task, path: PathAddr, times: Addr) -> int:
    """utimes(2): change access and modification time."""
    return await futimesat(t, AT_FDCWD, path, times)


@syscall
async def utime(t: Task, path: PathAddr, times: Addr) -> int:
    """utime(2): change access and modification time, in seconds."""
    wanted: attrs.Times = None
    if times:
        atime, mtime = UTIMBUF.unpack(t.mem.read(times, UTIMBUF.size))
        wanted = ((atime, 0), (mtime, 0))
    found = await walk_at(t, AT_FDCWD, read_name(t, path), 0, True)
    await attrs.change_times(t.caller, found, wanted)
    return 0


# ---- Sizes.


@syscall
async def truncate(t: Task, path: PathAddr, size: I64) -> int:
    """truncate(2): set a file's size.

    Linux: fs/open.c:do_sys_truncate
    Errors: EINVAL (negative, not a regular file), those of the walk, EISDIR, EROFS, EACCES, EFBIG
    """
    if size < 0:
        raise EINVAL("negative size")
    found = await walk_at(t, AT_FDCWD, read_name(t, path), 0, True)
    if st.is_reg(found.inode.mode):
        check_size(t, size)
    await attrs.truncate_path(t.caller, found, size)
    return 0


@syscall
async def ftruncate(t: Task, fd: Fd, size: I64) -> int:
    """ftruncate(2): set an open file's size.  EINVAL (negative, not regular, not open for writing), EBADF, EFBIG."""
    if size < 0:
        raise EINVAL("negative size")
    file = t.files.get(fd)
    if not st.is_reg(file.inode.mode) or not file.writable:
        raise EINVAL("not a regular file, open for writing")
    check_size(t, size)
    await file.truncate(size)
    mode = attrs.mode_after_write(t.caller, file.inode)
    if mode is not None:
        await file.inode.setattr(AttrChange(mode=mode))
    return 0


@syscall(gaps="FALLOC_FL_COLLAPSE_RANGE, INSERT_RANGE and ZERO_RANGE only as far as the host's file system has them")
async def fallocate(t: Task, fd: Fd, mode: I32, offset: Offset, length: Offset) -> int:
    """fallocate(2): reserve or free a file's space.

    Linux: fs/open.c:vfs_fallocate
    Errors: EBADF, EINVAL, EOPNOTSUPP, EBADF (not open for writing), ESPIPE, EISDIR, ENODEV, EFBIG, ENOSPC
    """
    file = t.files.get(fd)
    if offset < 0 or length <= 0:
        raise EINVAL("offset or length")
    check_fallocate_mode(mode)
    if not file.writable:
        raise EBADF
    kind = file.inode.mode & st.S_IFMT
    if kind != st.S_IFREG:
        raise {st.S_IFIFO: ESPIPE, st.S_IFDIR: EISDIR}.get(kind, ENODEV)
    if offset + length > MAX_SIZE:
        raise EFBIG
    if not mode & FALLOC_FL_KEEP_SIZE:
        check_size(t, offset + length)
    await file.fallocate(mode, offset, length)
    return 0


def check_fallocate_mode(mode: int) -> None:
    """EOPNOTSUPP: unknown, or a hole that would change the size; EINVAL: ways that exclude each other."""
    ways = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_INSERT_RANGE
    if mode & ~(ways | FALLOC_FL_KEEP_SIZE):
        raise EOPNOTSUPP("unknown mode")
    way = mode & ways
    if way & (way - 1):
        raise EOPNOTSUPP("several modes")
    if way == FALLOC_FL_PUNCH_HOLE and not mode & FALLOC_FL_KEEP_SIZE:
        raise EOPNOTSUPP("a hole without FALLOC_FL_KEEP_SIZE")
    if way in (FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE) and mode & FALLOC_FL_KEEP_SIZE:
        raise EOPNOTSUPP("FALLOC_FL_KEEP_SIZE with a changing size")


# ---- The rest.


@syscall
def umask(t: Task, mask: U32) -> int:
    """umask(2): set the bits that new files do not get; returns the old ones."""
    old, t.fs.umask = t.fs.umask, mask & 0o777
    return old


@syscall
async def statfs(t: Task, path: PathAddr, buf: Addr) -> int:
    """statfs(2): the file system that a name is on."""
    found = await walk_at(t, AT_FDCWD, read_name(t, path), 0, True)
    t.mem.write(buf, await pack_statfs(found.inode.fs, found.mount))
    return 0


@syscall
async def fstatfs(t: Task, fd: Fd, buf: Addr) -> int:
    """fstatfs(2): the file system that an open file is on."""
    file = t.files.get_any(fd)
    t.mem.write(buf, await pack_statfs(file.inode.fs, file.path.mount if file.path is not None else None))
    return 0


ST_VALID: Final = 0x20
# ST_* of statfs(2) by MS_* of mount(2); those up to MS_SYNCHRONOUS and the atime ones have the same values.
_SAME: Final = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS | MS_NOATIME | MS_NODIRATIME
ST_RELATIME: Final = 4096
ST_NOSYMFOLLOW: Final = 8192


def statfs_flags(mount: Mount | None) -> int:
    """fs/statfs.c:calculate_f_flags."""
    if mount is None:
        return ST_VALID
    flags = ST_VALID | mount.flags & _SAME
    if not mount.flags & MS_NOATIME:
        flags |= ST_RELATIME
    if mount.flags & MS_NOSYMFOLLOW:
        flags |= ST_NOSYMFOLLOW
    return flags


async def pack_statfs(fs: FileSystem, mount: Mount | None) -> bytes:
    """struct statfs; f_fsid is the device number."""
    s = await fs.statfs()
    flags = statfs_flags(mount)
    return st.STATFS.pack(
        s.type, s.bsize, s.blocks, s.bfree, s.bavail, s.files, s.ffree, fs.dev, 0, s.namelen, s.bsize, flags
    )
