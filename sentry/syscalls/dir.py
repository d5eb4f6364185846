"""Directories and names in them: getcwd, mkdir, unlink, rename, link, getdents and their relatives.

The work is done in sentry/vfs/names.py; the handlers take names from application memory and
say where they start.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from sentry.abi import stat as st
from sentry.abi.errno import EINVAL, ENOENT, ENOTDIR, EPERM, ERANGE
from sentry.abi.fcntl import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    PATH_MAX,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
)
from sentry.kernel.creds import CAP_SYS_CHROOT
from sentry.syscalls.args import U32, Addr, AtFlags, DirFd, Fd, Flags, Mode, PathAddr, Size
from sentry.syscalls.paths import check_flags, find_entry_now, named, read_name, read_path, start, walk_at
from sentry.syscalls.registry import syscall
from sentry.vfs import names
from sentry.vfs.caller import CAP_DAC_READ_SEARCH
from sentry.vfs.dentry import Path, path_name
from sentry.vfs.dirents import dirent64
from sentry.vfs.file import DirEntry, File

if TYPE_CHECKING:
    from sentry.kernel.task import Task

# struct linux_dirent, up to the name; each entry is padded to 8 bytes.
DIRENT: Final = struct.Struct("<QQH")
Result = int | Awaitable[int]


# ---- The working directory and the root.


@syscall
def getcwd(t: Task, buf: Addr, size: Size) -> int:
    """getcwd(2): the name of the working directory, and its length with the NUL.

    Linux: fs/d_path.c:getcwd
    Errors: ENOENT (it was removed), ERANGE, EFAULT
    """
    cwd = t.fs.cwd
    if cwd.dentry.deleted:
        raise ENOENT
    name, reachable = path_name(cwd, t.fs.root)
    text = (name if reachable else "(unreachable)" + name).encode("utf-8", "surrogateescape") + b"\0"
    if len(text) > size:
        raise ERANGE
    t.mem.write(buf, text)
    return len(text)


@syscall
async def chdir(t: Task, path: PathAddr) -> int:
    """chdir(2): change the working directory.  Those of the walk, ENOTDIR, EACCES."""
    found = await walk_at(t, AT_FDCWD, read_name(t, path), 0, True)
    names.check_search(t.caller, found)
    t.fs.chdir(found)
    return 0


@syscall
def fchdir(t: Task, fd: Fd) -> int:
    """fchdir(2): change the working directory to an open one.  EBADF, ENOTDIR, EACCES."""
    path = t.files.get_any(fd).path
    if path is None:
        raise ENOTDIR
    names.check_search(t.caller, path)
    t.fs.chdir(path)
    return 0


@syscall
async def chroot(t: Task, path: PathAddr) -> int:
    """chroot(2): change the root.  Those of the walk, ENOTDIR, EACCES, EPERM (without CAP_SYS_CHROOT)."""
    found = await walk_at(t, AT_FDCWD, read_name(t, path), 0, True)
    names.check_search(t.caller, found)
    if not t.creds.has(CAP_SYS_CHROOT):
        raise EPERM
    t.fs.chroot(found)
    return 0


# ---- Making names.


@syscall
async def mkdir(t: Task, path: PathAddr, mode: Mode) -> int:
    """mkdir(2): make a directory."""
    return await do_mkdir(t, AT_FDCWD, path, mode)


@syscall
async def mkdirat(t: Task, dirfd: DirFd, path: PathAddr, mode: Mode) -> int:
    """mkdirat(2): make a directory relative to another."""
    return await do_mkdir(t, dirfd, path, mode)


async def do_mkdir(t: Task, dirfd: int, path: int, mode: int) -> int:
    name = read_name(t, path)
    await names.make_dir(start(t, dirfd, name), name, mode)
    return 0


@syscall
async def mknod(t: Task, path: PathAddr, mode: Mode, dev: U32) -> int:
    """mknod(2): make a FIFO, socket, device or regular file."""
    return await do_mknod(t, AT_FDCWD, path, mode, dev)


@syscall
async def mknodat(t: Task, dirfd: DirFd, path: PathAddr, mode: Mode, dev: U32) -> int:
    """mknodat(2): mknod relative to a directory."""
    return await do_mknod(t, dirfd, path, mode, dev)


async def do_mknod(t: Task, dirfd: int, path: int, mode: int, dev: int) -> int:
    """fs/namei.c:may_mknod first: EPERM for a directory, EINVAL for no type; then the walk."""
    kind = mode & st.S_IFMT
    if kind == st.S_IFDIR:
        raise EPERM
    if kind not in (0, st.S_IFREG, st.S_IFCHR, st.S_IFBLK, st.S_IFIFO, st.S_IFSOCK):
        raise EINVAL("file type")
    name = read_name(t, path)
    await names.make_node(start(t, dirfd, name), name, mode, dev)
    return 0


@syscall
async def symlink(t: Task, target: PathAddr, path: PathAddr) -> int:
    """symlink(2): make a symbolic link."""
    return await do_symlink(t, target, AT_FDCWD, path)


@syscall
async def symlinkat(t: Task, target: PathAddr, dirfd: DirFd, path: PathAddr) -> int:
    """symlinkat(2): make a symbolic link relative to a directory."""
    return await do_symlink(t, target, dirfd, path)


async def do_symlink(t: Task, target: int, dirfd: int, path: int) -> int:
    """ENOENT: the target is empty."""
    text = read_name(t, target)
    if not text:
        raise ENOENT
    name = read_name(t, path)
    await names.make_symlink(start(t, dirfd, name), name, text)
    return 0


@syscall
async def link(t: Task, old_path: PathAddr, new_path: PathAddr) -> int:
    """link(2): give a file another name."""
    return await do_link(t, AT_FDCWD, old_path, AT_FDCWD, new_path, 0)


@syscall
async def linkat(
    t: Task, old_dirfd: DirFd, old_path: PathAddr, new_dirfd: DirFd, new_path: PathAddr, flags: AtFlags
) -> int:
    """linkat(2): link relative to directories; with AT_EMPTY_PATH, of an open file."""
    return await do_link(t, old_dirfd, old_path, new_dirfd, new_path, flags)


async def do_link(t: Task, old_dirfd: int, old_path: int, new_dirfd: int, new_path: int, flags: int) -> int:
    """fs/namei.c:do_linkat.  ENOENT: AT_EMPTY_PATH without CAP_DAC_READ_SEARCH."""
    check_flags(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)
    old_name = read_path(t, old_path) if flags & AT_EMPTY_PATH else read_name(t, old_path)
    if flags & AT_EMPTY_PATH and not t.creds.has(CAP_DAC_READ_SEARCH):
        flags &= ~AT_EMPTY_PATH
    target = await walk_at(t, old_dirfd, old_name, flags, bool(flags & AT_SYMLINK_FOLLOW))
    name = read_name(t, new_path)
    await names.make_link(start(t, new_dirfd, name), name, target)
    return 0


# ---- Removing and renaming.


@syscall
def unlink(t: Task, path: PathAddr) -> Awaitable[int]:
    """unlink(2): remove a name."""
    return do_unlink(t, AT_FDCWD, path)


@syscall
async def unlinkat(t: Task, dirfd: DirFd, path: PathAddr, flags: AtFlags) -> int:
    """unlinkat(2): unlink, or with AT_REMOVEDIR rmdir, relative to a directory."""
    check_flags(flags, AT_REMOVEDIR)
    return await (do_rmdir if flags & AT_REMOVEDIR else do_unlink)(t, dirfd, path)


async def do_unlink(t: Task, dirfd: int, path: int) -> int:
    name = t.mem.read_cstr(path, PATH_MAX)
    entry = find_entry_now(t, dirfd, name)
    if entry is not None:
        await names.unlink_here(*entry)
        return 0
    text = named(name)
    await names.unlink(start(t, dirfd, text), text)
    return 0


@syscall
async def rmdir(t: Task, path: PathAddr) -> int:
    """rmdir(2): remove an empty directory."""
    return await do_rmdir(t, AT_FDCWD, path)


async def do_rmdir(t: Task, dirfd: int, path: int) -> int:
    name = read_name(t, path)
    await names.remove_dir(start(t, dirfd, name), name)
    return 0


@syscall
async def rename(t: Task, old_path: PathAddr, new_path: PathAddr) -> int:
    """rename(2): change a name, replacing what has the new one."""
    return await do_rename(t, AT_FDCWD, old_path, AT_FDCWD, new_path, 0)


@syscall
async def renameat(t: Task, old_dirfd: DirFd, old_path: PathAddr, new_dirfd: DirFd, new_path: PathAddr) -> int:
    """renameat(2): rename relative to directories."""
    return await do_rename(t, old_dirfd, old_path, new_dirfd, new_path, 0)


@syscall(gaps="RENAME_WHITEOUT works on tmpfs only, RENAME_EXCHANGE not on shared mounts")
async def renameat2(
    t: Task, old_dirfd: DirFd, old_path: PathAddr, new_dirfd: DirFd, new_path: PathAddr, flags: Flags
) -> int:
    """renameat2(2): rename with RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT."""
    return await do_rename(t, old_dirfd, old_path, new_dirfd, new_path, flags)


async def do_rename(t: Task, old_dirfd: int, old_path: int, new_dirfd: int, new_path: int, flags: int) -> int:
    """fs/namei.c:do_renameat2: EINVAL for flags that exclude each other; then vfs/names.py:rename."""
    check_flags(flags, RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)
    if flags & RENAME_EXCHANGE and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT):
        raise EINVAL("RENAME_EXCHANGE with others")
    old_name, new_name = read_name(t, old_path), read_name(t, new_path)
    await names.rename(start(t, old_dirfd, old_name), old_name, start(t, new_dirfd, new_name), new_name, flags)
    return 0


# ---- Reading directories.


def _open_directory(t: Task, fd: int) -> File:
    """EBADF, ENOTDIR; ENOENT: it was removed."""
    file = t.files.get(fd)
    if not st.is_dir(file.inode.mode):
        raise ENOTDIR
    path: Path | None = file.path
    if path is not None and path.dentry.deleted:
        raise ENOENT
    return file


@syscall
def getdents64(t: Task, fd: Fd, buf: Addr, size: U32) -> Result:
    """getdents64(2): directory entries, as many whole ones as fit.

    Linux: fs/readdir.c:getdents64
    Errors: EBADF, ENOTDIR, ENOENT, EINVAL (not even one fits), EFAULT
    """
    file = _open_directory(t, fd)
    return _put_entries64(t, file, buf, size) if file.load_entries_now() else _load_and_put(t, file, buf, size)


async def _load_and_put(t: Task, file: File, buf: int, size: int) -> int:
    await file.load_entries()
    return _put_entries64(t, file, buf, size)


def _put_entries64(t: Task, file: File, buf: int, size: int) -> int:
    ready = file.packed_entries(file.offset, size)
    if ready is None:
        return _put_entries(t, file, buf, size, _dirent64)
    data, position = ready
    if data:
        t.mem.write(buf, data)
        file.offset = position
    return len(data)


@syscall
async def getdents(t: Task, fd: Fd, buf: Addr, size: U32) -> int:
    """getdents(2): getdents64 with the older struct, which has the type in its last byte."""
    file = _open_directory(t, fd)
    await file.load_entries()
    return _put_entries(t, file, buf, size, _dirent)


def _dirent64(entry: DirEntry) -> bytes:
    return dirent64(*entry)


def _dirent(entry: DirEntry) -> bytes:
    name = entry[0].encode("utf-8", "surrogateescape")
    size = (20 + len(name) + 7) & ~7  # 18 bytes, the NUL, the type
    return DIRENT.pack(entry[1], entry[3], size) + name.ljust(size - 19, b"\0") + bytes((entry[2],))


def _put_entries(t: Task, file: File, buf: int, size: int, pack: Callable[[DirEntry], bytes]) -> int:
    parts: list[bytes] = []
    room = size
    position = file.offset
    for entry in file.entries(position):
        packed = pack(entry)
        room -= len(packed)
        if room < 0:
            if not parts:
                raise EINVAL("no room for one entry")
            break
        parts.append(packed)
        position = entry[3]
    if parts:
        data = b"".join(parts)
        t.mem.write(buf, data)
        file.offset = position
        return len(data)
    return 0
