"""mount(2), umount2(2) and pivot_root(2), of file systems of the Sentry's own.

Nothing of the host can be mounted: tmpfs, proc and the like, and what is mounted already
(MS_BIND, MS_MOVE).  The work is done in sentry/vfs/mounting.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EBUSY, EINVAL, ENODEV, EPERM
from sentry.abi.fcntl import AT_FDCWD
from sentry.fs.table import FILESYSTEMS
from sentry.fs.tmpfs import TmpFs
from sentry.kernel.creds import CAP_SYS_ADMIN
from sentry.platform import PAGE_SIZE
from sentry.syscalls.args import Addr, Flags, PathAddr
from sentry.syscalls.paths import check_flags, read_name, read_path, walk_at
from sentry.syscalls.registry import syscall
from sentry.vfs import mounting
from sentry.vfs.dentry import (
    MS_BIND,
    MS_MOVE,
    MS_PRIVATE,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_UNBINDABLE,
    Mount,
    Path,
)

if TYPE_CHECKING:
    from sentry.kernel.task import Task

MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
MNT_EXPIRE: Final = 4
UMOUNT_NOFOLLOW: Final = 8

MS_MAGIC: Final = 0xC0ED0000  # what old programs put into the upper half of the flags
MS_MAGIC_MASK: Final = 0xFFFF0000
PROPAGATION: Final = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE


def may_mount(t: Task) -> None:
    if not t.creds.has(CAP_SYS_ADMIN):
        raise EPERM


@syscall(gaps="the Sentry's own file systems only; all mounts are private, whatever propagation is asked for")
async def mount(t: Task, source: PathAddr, target: PathAddr, fstype: PathAddr, flags: Flags, data: Addr) -> int:
    """mount(2): mount a file system, or change a mount.

    Linux: fs/namespace.c:path_mount
    Errors: EFAULT, those of the target's walk, EPERM, EINVAL, ENODEV (unknown type), ENOTDIR, ELOOP
    """
    kind = read_path(t, fstype) if fstype else ""
    device = read_path(t, source) if source else ""
    options = read_options(t, data)
    where = await walk_at(t, AT_FDCWD, read_name(t, target), 0, True)
    if flags & MS_MAGIC_MASK == MS_MAGIC:
        flags &= ~MS_MAGIC_MASK
    may_mount(t)
    flags &= ~MS_SILENT
    if flags & MS_REMOUNT:
        _remount(where, flags, options)
    elif flags & MS_BIND:
        mounting.bind(await _source(t, device), where, bool(flags & MS_REC))
    elif flags & PROPAGATION:
        _change_propagation(where, flags)
    elif flags & MS_MOVE:
        mounting.move(await _source(t, device), where)
    else:
        await _mount_new(t, where, (kind, device), flags, options)
    return 0


def read_options(t: Task, addr: int) -> dict[str, str]:
    """mount(2)'s data: key=value,...  EFAULT."""
    if not addr:
        return {}
    text = t.mem.read_cstr(addr, PAGE_SIZE).decode("utf-8", "surrogateescape")
    pairs = (option.partition("=") for option in text.split(",") if option)
    return {key: value for key, _, value in pairs}


async def _source(t: Task, name: str) -> Path:
    """EINVAL: no name; those of the walk."""
    if not name:
        raise EINVAL("no source")
    return await walk_at(t, AT_FDCWD, name, 0, True)


def _remount(where: Path, flags: int, options: dict[str, str]) -> None:
    """With MS_BIND the mount's flags only, otherwise the file system's options too."""
    if not where.is_mount_root():
        raise EINVAL("not a mount point")
    if not flags & MS_BIND and options:
        fs = where.mount.fs
        if not isinstance(fs, TmpFs):
            raise EINVAL("options")
        fs.reconfigure(options)
    mounting.remount(where, flags)


def _change_propagation(where: Path, flags: int) -> None:
    """fs/namespace.c:do_change_type's checks.  EINVAL: two types at once, or no mount point."""
    kind = flags & PROPAGATION
    if flags & ~(PROPAGATION | MS_REC) or kind & (kind - 1) or not where.is_mount_root():
        raise EINVAL("propagation")


async def _mount_new(t: Task, where: Path, what: tuple[str, str], flags: int, options: dict[str, str]) -> None:
    kind, device = what
    if not kind:
        raise EINVAL("no type")
    make = FILESYSTEMS.get(kind)
    if make is None:
        raise ENODEV
    await mounting.mount_new(make(t.container, options), where, flags, device or "none")


@syscall(gaps="MNT_EXPIRE is refused; mappings do not keep a mount busy")
async def umount2(t: Task, target: PathAddr, flags: Flags) -> int:
    """umount2(2): unmount.

    Linux: fs/namespace.c:ksys_umount
    Errors: EINVAL (flags, not a mount point), those of the walk, EPERM, EBUSY
    """
    check_flags(flags, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW)
    where = await walk_at(t, AT_FDCWD, read_name(t, target), 0, not flags & UMOUNT_NOFOLLOW)
    may_mount(t)
    if not where.is_mount_root():
        raise EINVAL("not a mount point")
    ns = where.mount.ns
    if where.mount is ns.root:
        raise EBUSY
    if flags & MNT_DETACH:
        ns.detach_tree(where.mount)
        return 0
    if where.mount in set(mounts_in_use(t)):
        raise EBUSY
    ns.detach(where.mount)
    return 0


def mounts_in_use(t: Task) -> Iterator[Mount]:
    """Those that a root, a working directory or an open file of a process of the container is on."""
    for task in list(t.container.members):
        if task.exiting:
            continue
        yield task.fs.root.mount
        yield task.fs.cwd.mount
        for _, file in task.files.items():
            if file.path is not None:
                yield file.path.mount


@syscall
async def pivot_root(t: Task, new_root: PathAddr, put_old: PathAddr) -> int:
    """pivot_root(2): change the root mount; roots and working directories that were the old root follow.

    Linux: fs/namespace.c:path_pivot_root
    Errors: EPERM, those of the walks, ENOTDIR, EBUSY, EINVAL
    """
    may_mount(t)
    new = await walk_at(t, AT_FDCWD, read_name(t, new_root), 0, True)
    old = await walk_at(t, AT_FDCWD, read_name(t, put_old), 0, True)
    root = t.fs.root
    mounting.pivot(root, new, old)
    for task in list(t.container.members):
        if task.fs.root == root:
            task.fs.chroot(new)
        if task.fs.cwd == root:
            task.fs.chdir(new)
    return 0
