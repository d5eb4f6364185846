"""open(2) and close(2).  The work is done in sentry/vfs/open.py."""

from __future__ import annotations

import struct
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import E2BIG, EAGAIN, EINVAL, LinuxError
from sentry.abi.fcntl import (
    AT_FDCWD,
    O_ACCMODE,
    O_APPEND,
    O_ASYNC,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECT,
    O_DIRECTORY,
    O_DSYNC,
    O_EXCL,
    O_LARGEFILE,
    O_NOATIME,
    O_NOCTTY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_RDONLY,
    O_SYNC,
    O_TMPFILE,
    O_TMPFILE_BIT,
    O_TRUNC,
    O_WRONLY,
    PATH_MAX,
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from sentry.abi.stat import S_IALLUGO, S_IFMT, S_IFREG
from sentry.syscalls.args import U32, Addr, DirFd, Fd, Flags, Mode, OpenFlags, PathAddr, Size
from sentry.syscalls.paths import NO_SUCH_FILE, check_flags, find_any_now, find_entry_now, named, read_name, start
from sentry.syscalls.registry import syscall
from sentry.vfs.dentry import Path
from sentry.vfs.open import create_here, open_cached, open_existing, open_name

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.vfs.file import File
    from sentry.vfs.walk import Where

Result = int | Awaitable[int]

# include/linux/fcntl.h: VALID_OPEN_FLAGS; open(2) and openat(2) ignore all others.
VALID_OPEN_FLAGS: Final = (
    O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_ASYNC | O_DIRECT
    | O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE
)  # fmt: skip
PATH_FLAGS: Final = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC
VALID_RESOLVE: Final = (
    RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_CACHED
)
OPEN_HOW: Final = struct.Struct("<QQQ")
# Opening without these can do with what is cached.
_SPECIAL: Final = O_CREAT | O_PATH | O_TMPFILE_BIT | O_TRUNC

CLOSE_RANGE_UNSHARE: Final = 2
CLOSE_RANGE_CLOEXEC: Final = 4


@syscall
def open(t: Task, path: PathAddr, flags: OpenFlags, mode: Mode) -> Result:
    """open(2): open and possibly create a file."""
    return openat(t, AT_FDCWD, path, flags, mode)


@syscall
def creat(t: Task, path: PathAddr, mode: Mode) -> Result:
    """creat(2): open(path, O_CREAT | O_WRONLY | O_TRUNC, mode)."""
    return openat(t, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode)


@syscall(gaps="O_ASYNC and O_DIRECT are accepted and have no effect")
def openat(t: Task, dirfd: DirFd, path: PathAddr, flags: OpenFlags, mode: Mode) -> Result:
    """openat(2): open relative to a directory.

    Linux: fs/open.c:do_sys_openat2
    Errors: EINVAL (flags), EFAULT, ENAMETOOLONG, EMFILE, EBADF, then those of the walk and of the file
    """
    flags &= VALID_OPEN_FLAGS
    if flags & O_PATH:
        flags &= PATH_FLAGS
    if flags & (O_DIRECTORY | O_TMPFILE_BIT):
        check_open_flags(flags)
    name = t.mem.read_cstr(path, PATH_MAX)
    t.files.check_room()
    flags |= O_LARGEFILE
    if not flags & _SPECIAL:
        found = find_any_now(t, dirfd, name, not flags & O_NOFOLLOW)
        if found is not None:
            if found[1].inode is None:
                return NO_SUCH_FILE
            file = open_cached(t.creds.caller(t.fs.umask), found, flags)
            return put(t, file, flags) if file is not None else _open_found(t, found, flags)
    if flags & O_CREAT and not flags & O_PATH:
        return _create_and_put(t, dirfd, name, flags, mode & S_IALLUGO)
    text = named(name)
    return _open_and_put(t, start(t, dirfd, text), text, flags, mode & S_IALLUGO if flags & O_TMPFILE_BIT else 0)


async def _open_found(t: Task, path: Path, flags: int) -> int:
    return put(t, await open_existing(t.caller, path, flags), flags)


async def _create_and_put(t: Task, dirfd: int, name: bytes, flags: int, mode: int) -> int:
    """With O_CREAT.  Mostly the directory is known, and that the file is not there."""
    entry = find_entry_now(t, dirfd, name)
    if entry is not None:
        caller, directory, dentry, lock = entry
        inode = dentry.inode
        if inode is None:
            return put(t, await create_here(caller, directory, dentry, lock, flags, mode), flags)
        if inode.mode & S_IFMT == S_IFREG and not flags & (O_EXCL | O_TRUNC):
            file = open_cached(caller, Path(directory[0], dentry), flags)
            if file is not None:
                return put(t, file, flags)
    text = named(name)
    return await _open_and_put(t, start(t, dirfd, text), text, flags, mode)


async def _open_and_put(t: Task, where: Where, name: str, flags: int, mode: int) -> int:
    return put(t, await open_name(where, name, flags, mode), flags)


def put(t: Task, file: File, flags: int) -> int:
    """A new descriptor for a file that has none.  EMFILE: other threads took the room there was."""
    try:
        return t.files.install(file, bool(flags & O_CLOEXEC))
    except LinuxError:
        file.hold().drop()
        raise


def check_open_flags(flags: int) -> None:
    """fs/open.c:build_open_flags: EINVAL for what has no meaning, always with O_DIRECTORY or O_TMPFILE's bit."""
    if flags & (O_DIRECTORY | O_CREAT) == O_DIRECTORY | O_CREAT:
        raise EINVAL("O_CREAT of a directory")
    if flags & O_TMPFILE_BIT and (flags & O_TMPFILE != O_TMPFILE or flags & O_ACCMODE == O_RDONLY):
        raise EINVAL("O_TMPFILE needs O_DIRECTORY and write access")


@syscall(gaps="RESOLVE_CACHED is refused with EAGAIN")
def openat2(t: Task, dirfd: DirFd, path: PathAddr, how: Addr, size: Size) -> Result:
    """openat2(2): openat with rules for the walk.

    Linux: fs/open.c:openat2
    Errors: EINVAL (size below 24, unknown flags, a mode without O_CREAT), E2BIG, EFAULT, EAGAIN, EXDEV, as openat
    """
    if size < OPEN_HOW.size:
        raise EINVAL("open_how is too small")
    if size > 4096 or any(t.mem.read(how + OPEN_HOW.size, size - OPEN_HOW.size)):
        raise E2BIG
    flags, mode, resolve = OPEN_HOW.unpack(t.mem.read(how, OPEN_HOW.size))
    check_flags(flags, VALID_OPEN_FLAGS)
    check_flags(resolve, VALID_RESOLVE)
    if resolve & RESOLVE_BENEATH and resolve & RESOLVE_IN_ROOT:
        raise EINVAL("RESOLVE_BENEATH and RESOLVE_IN_ROOT")
    if mode & ~S_IALLUGO or (mode and not flags & (O_CREAT | O_TMPFILE_BIT)):
        raise EINVAL("mode")
    if flags & O_PATH and flags & ~PATH_FLAGS:
        raise EINVAL("O_PATH with other flags")
    check_open_flags(flags)
    if resolve & RESOLVE_CACHED and flags & (O_TRUNC | O_CREAT | O_TMPFILE_BIT):
        raise EAGAIN("RESOLVE_CACHED")
    name = read_name(t, path)
    t.files.check_room()
    return _open_and_put(t, start(t, dirfd, name, resolve), name, flags, mode)


@syscall
def close(t: Task, fd: Fd) -> int:
    """close(2): close a descriptor.  EBADF; what the file reports, though the descriptor is gone."""
    t.files.close(fd)
    return 0


@syscall
def close_range(t: Task, first: U32, last: U32, flags: Flags) -> int:
    """close_range(2): close (or mark close-on-exec) all descriptors from first to last."""
    check_flags(flags, CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)
    if first > last:
        raise EINVAL("first > last")
    if flags & CLOSE_RANGE_UNSHARE and t.files.refs > 1:
        shared, t.files = t.files, t.files.copy()
        shared.refs -= 1
    fds = [fd for fd, _ in t.files.items() if first <= fd <= last]
    for fd in fds:
        if flags & CLOSE_RANGE_CLOEXEC:
            t.files.set_cloexec(fd, True)
        else:
            try:
                t.files.close(fd)
            except LinuxError:
                continue  # what flush reported; the descriptor is closed
    return 0
