"""Extended attributes, xattr(7): get, set, list and remove, each by name, by link and by descriptor."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sentry.abi import stat as st
from sentry.abi.errno import E2BIG, EINVAL, ENAMETOOLONG, ENODATA, EPERM, ERANGE, EROFS
from sentry.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from sentry.platform import PAGE_SIZE
from sentry.syscalls.args import Addr, AtFlags, DirFd, Fd, Flags, PathAddr, Size
from sentry.syscalls.attr import path_of
from sentry.syscalls.paths import check_flags, read_name, read_optional, walk_at
from sentry.syscalls.registry import syscall
from sentry.vfs.caller import CAP_SETFCAP, CAP_SYS_ADMIN, MAY_READ, MAY_WRITE, Caller
from sentry.vfs.dentry import Path
from sentry.vfs.inode import Inode

if TYPE_CHECKING:
    from sentry.kernel.task import Task

XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
XATTR_NAME_MAX: Final = 255
XATTR_SIZE_MAX: Final = 65536
XATTR_ARGS: Final = struct.Struct("<QII")  # struct xattr_args: value, size, flags


def read_attribute_name(t: Task, addr: int) -> str:
    """An attribute's name.  EFAULT; ERANGE: empty, or too long."""
    try:
        name = t.mem.read_cstr(addr, XATTR_NAME_MAX + 1)
    except ENAMETOOLONG:
        raise ERANGE from None
    if not name:
        raise ERANGE
    return name.decode("utf-8", "surrogateescape")


def read_args(t: Task, addr: int, size: int) -> tuple[int, int, int]:
    """(value, size, flags) of a struct xattr_args, copy_struct_from_user().  EINVAL, E2BIG, EFAULT."""
    if size < XATTR_ARGS.size:
        raise EINVAL("xattr_args is too small")
    if size > PAGE_SIZE or any(t.mem.read(addr + XATTR_ARGS.size, size - XATTR_ARGS.size)):
        raise E2BIG
    value, length, flags = XATTR_ARGS.unpack(t.mem.read(addr, XATTR_ARGS.size))
    return value, length, flags


def check_xattr(caller: Caller, inode: Inode, name: str, wanted: int) -> None:
    """fs/xattr.c:xattr_permission, and what security/commoncap.c adds."""
    write = bool(wanted & MAY_WRITE)
    if name.startswith("trusted."):
        if not caller.caps & CAP_SYS_ADMIN:
            raise EPERM if write else ENODATA
        return
    if name.startswith("security."):
        needed = CAP_SETFCAP if name == "security.capability" else CAP_SYS_ADMIN
        if write and not caller.caps & needed:
            raise EPERM
        return
    if name.startswith("system."):
        return
    if name.startswith("user."):
        if not st.is_reg(inode.mode) and not st.is_dir(inode.mode):
            raise EPERM if write else ENODATA
        if st.is_dir(inode.mode) and inode.mode & st.S_ISVTX and write and not caller.owns(inode):
            raise EPERM
    caller.check(inode, wanted)


def writable(path: Path) -> Inode:
    if path.mount.readonly:
        raise EROFS
    return path.inode


async def at(t: Task, dirfd: int, path: int, flags: int) -> Path:
    """The file that the *at forms mean."""
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
    name = read_optional(t, path, flags)
    return await walk_at(t, dirfd, name, flags, not flags & AT_SYMLINK_NOFOLLOW)


async def named(t: Task, path: int, follow: bool) -> Path:
    return await walk_at(t, AT_FDCWD, read_name(t, path), 0, follow)


# ---- Setting.


@syscall
async def setxattr(t: Task, path: PathAddr, name: Addr, value: Addr, size: Size, flags: Flags) -> int:
    """setxattr(2): set an attribute.

    Linux: fs/xattr.c:path_setxattrat
    Errors: EINVAL (flags), EFAULT, ERANGE (name), E2BIG, those of the walk, EROFS, EPERM, EEXIST, ENODATA, EOPNOTSUPP
    """
    text, data = read_attribute(t, name, value, size, flags)
    return await set_one(t, await named(t, path, True), text, data, flags)


@syscall
async def lsetxattr(t: Task, path: PathAddr, name: Addr, value: Addr, size: Size, flags: Flags) -> int:
    """lsetxattr(2): setxattr, of a symbolic link itself."""
    text, data = read_attribute(t, name, value, size, flags)
    return await set_one(t, await named(t, path, False), text, data, flags)


@syscall
async def fsetxattr(t: Task, fd: Fd, name: Addr, value: Addr, size: Size, flags: Flags) -> int:
    """fsetxattr(2): setxattr of an open file."""
    text, data = read_attribute(t, name, value, size, flags)
    return await set_one(t, path_of(t.files.get(fd)), text, data, flags)


@syscall
async def setxattrat(
    t: Task, dirfd: DirFd, path: PathAddr, at_flags: AtFlags, name: Addr, args: Addr, args_size: Size
) -> int:
    """setxattrat(2): setxattr relative to a directory."""
    value, size, flags = read_args(t, args, args_size)
    text, data = read_attribute(t, name, value, size, flags)
    return await set_one(t, await at(t, dirfd, path, at_flags), text, data, flags)


def read_attribute(t: Task, name: int, value: int, size: int, flags: int) -> tuple[str, bytes]:
    """setxattr_copy(): EINVAL, EFAULT, ERANGE, E2BIG."""
    if flags & ~(XATTR_CREATE | XATTR_REPLACE):
        raise EINVAL("flags")
    text = read_attribute_name(t, name)
    if size > XATTR_SIZE_MAX:
        raise E2BIG
    return text, t.mem.read(value, size) if size else b""


async def set_one(t: Task, path: Path, name: str, value: bytes, flags: int) -> int:
    inode = writable(path)
    check_xattr(t.caller, inode, name, MAY_WRITE)
    await inode.setxattr(name, value, flags)
    return 0


# ---- Getting.


@syscall
async def getxattr(t: Task, path: PathAddr, name: Addr, value: Addr, size: Size) -> int:
    """getxattr(2): an attribute's value, and its length; with size 0 the length only.

    Errors: EFAULT, ERANGE (name; the value is longer than size), those of the walk, ENODATA, EACCES, EOPNOTSUPP
    """
    text = read_attribute_name(t, name)
    return await get_one(t, (await named(t, path, True)).inode, text, value, size)


@syscall
async def lgetxattr(t: Task, path: PathAddr, name: Addr, value: Addr, size: Size) -> int:
    """lgetxattr(2): getxattr, of a symbolic link itself."""
    text = read_attribute_name(t, name)
    return await get_one(t, (await named(t, path, False)).inode, text, value, size)


@syscall
async def fgetxattr(t: Task, fd: Fd, name: Addr, value: Addr, size: Size) -> int:
    """fgetxattr(2): getxattr of an open file."""
    file = t.files.get(fd)
    return await get_one(t, file.inode, read_attribute_name(t, name), value, size)


@syscall
async def getxattrat(
    t: Task, dirfd: DirFd, path: PathAddr, at_flags: AtFlags, name: Addr, args: Addr, args_size: Size
) -> int:
    """getxattrat(2): getxattr relative to a directory."""
    value, size, flags = read_args(t, args, args_size)
    if flags:
        raise EINVAL("flags")
    text = read_attribute_name(t, name)
    return await get_one(t, (await at(t, dirfd, path, at_flags)).inode, text, value, size)


async def get_one(t: Task, inode: Inode, name: str, addr: int, size: int) -> int:
    check_xattr(t.caller, inode, name, MAY_READ)
    return put(t, await inode.getxattr(name), addr, size)


def put(t: Task, data: bytes, addr: int, size: int) -> int:
    """ERANGE: it does not fit."""
    if size:
        if len(data) > size:
            raise ERANGE
        t.mem.write(addr, data)
    return len(data)


# ---- Listing.


@syscall
async def listxattr(t: Task, path: PathAddr, names: Addr, size: Size) -> int:
    """listxattr(2): the names of a file's attributes, each with its NUL; with size 0 their length only.  ERANGE."""
    return await list_all(t, (await named(t, path, True)).inode, names, size)


@syscall
async def llistxattr(t: Task, path: PathAddr, names: Addr, size: Size) -> int:
    """llistxattr(2): listxattr, of a symbolic link itself."""
    return await list_all(t, (await named(t, path, False)).inode, names, size)


@syscall
async def flistxattr(t: Task, fd: Fd, names: Addr, size: Size) -> int:
    """flistxattr(2): listxattr of an open file."""
    return await list_all(t, t.files.get(fd).inode, names, size)


@syscall
async def listxattrat(t: Task, dirfd: DirFd, path: PathAddr, at_flags: AtFlags, names: Addr, size: Size) -> int:
    """listxattrat(2): listxattr relative to a directory."""
    return await list_all(t, (await at(t, dirfd, path, at_flags)).inode, names, size)


async def list_all(t: Task, inode: Inode, addr: int, size: int) -> int:
    """Those of trusted.* are shown to CAP_SYS_ADMIN only."""
    shown = [name for name in await inode.listxattr() if not name.startswith("trusted.") or t.creds.has(CAP_SYS_ADMIN)]
    return put(t, b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in shown), addr, size)


# ---- Removing.


@syscall
async def removexattr(t: Task, path: PathAddr, name: Addr) -> int:
    """removexattr(2): remove an attribute.  ERANGE (name), those of the walk, EROFS, EPERM, ENODATA, EOPNOTSUPP."""
    text = read_attribute_name(t, name)
    return await remove_one(t, await named(t, path, True), text)


@syscall
async def lremovexattr(t: Task, path: PathAddr, name: Addr) -> int:
    """lremovexattr(2): removexattr, of a symbolic link itself."""
    text = read_attribute_name(t, name)
    return await remove_one(t, await named(t, path, False), text)


@syscall
async def fremovexattr(t: Task, fd: Fd, name: Addr) -> int:
    """fremovexattr(2): removexattr of an open file."""
    file = t.files.get(fd)
    return await remove_one(t, path_of(file), read_attribute_name(t, name))


@syscall
async def removexattrat(t: Task, dirfd: DirFd, path: PathAddr, at_flags: AtFlags, name: Addr) -> int:
    """removexattrat(2): removexattr relative to a directory."""
    text = read_attribute_name(t, name)
    return await remove_one(t, await at(t, dirfd, path, at_flags), text)


async def remove_one(t: Task, path: Path, name: str) -> int:
    inode = writable(path)
    check_xattr(t.caller, inode, name, MAY_WRITE)
    await inode.removexattr(name)
    return 0
