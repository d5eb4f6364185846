"""Changing a mount namespace: fs/namespace.c, for mounts that are all private.

The caller has checked that it may (CAP_SYS_ADMIN) and found the paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sentry.abi import stat as st
from sentry.abi.errno import EBUSY, EINVAL, ELOOP, ENOTDIR
from sentry.vfs.dentry import (
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    Dentry,
    Mount,
    Path,
)
from sentry.vfs.inode import FileSystem
from sentry.vfs.known import forget_known

# What mount(2) sets on a mount and a remount can change.
MOUNT_FLAGS: Final = (
    MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS | MS_NOSYMFOLLOW
    | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME
)  # fmt: skip
ATIME_FLAGS: Final = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME


def same_kind(source: Path, target: Path) -> None:
    """A directory goes over a directory, anything else over anything else.  ENOTDIR."""
    if st.is_dir(source.inode.mode) != st.is_dir(target.inode.mode):
        raise ENOTDIR


async def mount_new(fs: FileSystem, target: Path, flags: int, source: str) -> None:
    """Mount fs at target.  ENOTDIR."""
    root = Dentry("", None, await fs.root())
    mount = target.mount.ns.new_mount(fs, root, flags & MOUNT_FLAGS, source)
    same_kind(Path(mount, root), target)
    target.mount.ns.attach(mount, target)


def bind(source: Path, target: Path, recursive: bool) -> None:
    """MS_BIND: show source at target too; recursive: with what is mounted below it.  ENOTDIR."""
    same_kind(source, target)
    ns = target.mount.ns
    copy = _copy(source.mount, source.dentry)
    # Collected first: attaching adds mounts, perhaps below source.
    below = list(_mounts_below(source.mount, source.dentry)) if recursive else []
    ns.attach(copy, target)
    copies = {source.mount: copy}
    for mount in below:
        assert mount.parent is not None
        assert mount.mountpoint is not None
        copies[mount] = _copy(mount, mount.root)
        ns.attach(copies[mount], Path(copies[mount.parent], mount.mountpoint))


def _copy(mount: Mount, root: Dentry) -> Mount:
    return mount.ns.new_mount(mount.fs, root, mount.flags, mount.source)


def _mounts_below(mount: Mount, dentry: Dentry) -> Iterator[Mount]:
    """Parents before children."""
    for child in mount.children:
        if is_below(child.mountpoint, dentry):
            yield child
            yield from _mounts_below(child, child.root)


def is_below(dentry: Dentry | None, ancestor: Dentry) -> bool:
    """Is dentry ancestor itself, or below it in the same file system?"""
    while dentry is not None:
        if dentry is ancestor:
            return True
        dentry = dentry.parent
    return False


def is_mount_below(mount: Mount | None, ancestor: Mount) -> bool:
    while mount is not None:
        if mount is ancestor:
            return True
        mount = mount.parent
    return False


def remount(path: Path, flags: int) -> None:
    """MS_REMOUNT: new flags; without any about atime those stay.  EINVAL: path is no mount's root."""
    if not path.is_mount_root():
        raise EINVAL("not a mount point")
    mount = path.mount
    kept = 0 if flags & ATIME_FLAGS else mount.flags & ATIME_FLAGS
    mount.flags = mount.flags & ~MOUNT_FLAGS | flags & MOUNT_FLAGS | kept
    forget_known()  # MS_NOSYMFOLLOW


def move(source: Path, target: Path) -> None:
    """MS_MOVE: EINVAL (not a mount point, or the root), ENOTDIR, ELOOP (into itself)."""
    if not source.is_mount_root() or source.mount.parent is None:
        raise EINVAL("not a mount point")
    same_kind(source, target)
    if is_mount_below(target.mount, source.mount):
        raise ELOOP
    target.mount.ns.move(source.mount, target)


def pivot(root: Path, new_root: Path, put_old: Path) -> None:
    """pivot_root(2).

    Errors: ENOTDIR, EBUSY (new_root or put_old is on the old root), EINVAL (new_root or the old root is no mount
    point, put_old is not below new_root)
    """
    if not st.is_dir(new_root.inode.mode) or not st.is_dir(put_old.inode.mode):
        raise ENOTDIR
    if new_root.mount is root.mount or put_old.mount is root.mount:
        raise EBUSY
    ns = root.mount.ns
    if not root.is_mount_root() or root.mount is not ns.root or not new_root.is_mount_root():
        raise EINVAL("not a mount point")
    if not is_mount_below(put_old.mount, new_root.mount):
        raise EINVAL("put_old is not below new_root")
    ns.pivot(new_root.mount, put_old)
