"""Mounts on the host: the trees that gofers serve, and an overlay of the host's own root.

`open_root` gives a gofer a private, detached copy of a tree: it neither keeps the original mounted (a later umount
does not fail with EBUSY) nor sees what is mounted over it later, and the kernel itself refuses devices, set-user-id
and, where asked, writes.
"""

import errno
import os

from sandbox import hostcalls as hc
from sandbox.errors import InvalidSpec

_LOWER_FILESYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "erofs", "squashfs",
                                "overlay", "tmpfs", "fuseblk", "vfat", "nfs", "nfs4", "9p", "virtiofs"})  # fmt: skip
_KERNEL_TREES = ("/dev", "/proc", "/sys", "/run")
"""The sandbox has its own of these."""


def open_root(source: str, recursive: bool, readonly: bool) -> int:
    """Open the tree at `source` (or the file) for a gofer to serve.  Returns an O_PATH descriptor."""
    try:
        flags = hc.OPEN_TREE_CLONE | hc.OPEN_TREE_CLOEXEC | (hc.AT_RECURSIVE if recursive else 0)
        fd = hc.open_tree(source, flags)
    except OSError as e:
        # No privilege, a part of a locked mount tree, or a kernel before 5.2: the tree as it is mounted, then.
        if e.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
            raise InvalidSpec(f"cannot open {source}: {e.strerror}") from None
        return _open_as_mounted(source)
    try:
        attributes = hc.MOUNT_ATTR_NOSUID | hc.MOUNT_ATTR_NODEV | hc.MOUNT_ATTR_NOSYMFOLLOW
        hc.mount_setattr(fd, hc.AT_RECURSIVE, attributes | (hc.MOUNT_ATTR_RDONLY if readonly else 0))
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOSYS):  # Linux < 5.14: the gofer keeps the rules alone
            os.close(fd)
            raise
    return fd


def _open_as_mounted(source: str) -> int:
    try:
        return os.open(source, os.O_PATH | os.O_CLOEXEC)
    except OSError as e:
        raise InvalidSpec(f"cannot open {source}: {e.strerror}") from None


def _mount_table() -> list[tuple[str, str]]:
    """Mount point and file system type, in the order in which they were mounted."""
    table: list[tuple[str, str]] = []
    with open("/proc/self/mountinfo", "rb") as f:
        for line in f:
            left, _, right = line.partition(b" - ")
            point = left.split()[4].decode("unicode_escape").encode("latin-1")
            table.append((os.fsdecode(point), right.split()[0].decode()))
    return table


def enter_private_mounts() -> None:
    """A mount namespace of this process's own: what is mounted from here on ends with it and its children."""
    hc.unshare(hc.CLONE_NEWNS)
    hc.mount("none", "/", "", hc.MS_REC | hc.MS_PRIVATE)


def overlay_root(root: str, scratch: str) -> str:
    """Mount a view of the tree at `root` whose changes are kept in memory; returns where it is.

    Needs `enter_private_mounts`.  `scratch` is an empty directory.  Other real file systems below `root` are overlaid
    likewise, in place; one that cannot be is simply not there.  Raises OSError if `root` itself cannot be overlaid.
    """
    hc.mount("pysc-do", scratch, "tmpfs", hc.MS_NOSUID | hc.MS_NODEV, "mode=700")
    merged = f"{scratch}/root"
    os.mkdir(merged)
    prefix = root.rstrip("/")
    _overlay(root, merged, f"{scratch}/0")
    for i, (point, fstype) in enumerate(_mount_table()):
        below = point.startswith(prefix + "/") and point != root and not point.startswith(scratch)
        relative = point[len(prefix) :]
        if not below or fstype not in _LOWER_FILESYSTEMS or _is_kernel_tree(relative):
            continue
        try:
            _overlay(point, merged + relative, f"{scratch}/{i + 1}")
        except OSError:
            continue
    return merged


def _is_kernel_tree(path: str) -> bool:
    return any(path == tree or path.startswith(tree + "/") for tree in _KERNEL_TREES)


def _overlay(lower: str, target: str, scratch: str) -> None:
    if not os.path.isdir(lower) or not os.path.isdir(target):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), lower)
    upper, work = f"{scratch}/upper", f"{scratch}/work"
    os.makedirs(upper)
    os.mkdir(work)
    # The upper directory's own attributes become those of the merged root.
    st = os.stat(lower)
    os.chmod(upper, st.st_mode & 0o7777)
    _chown_if_possible(upper, st.st_uid, st.st_gid)
    paths = [path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:") for path in (lower, upper, work)]
    data = "lowerdir={},upperdir={},workdir={}".format(*paths)
    try:
        hc.mount("overlay", target, "overlay", 0, data)
    except OSError as e:
        if e.errno != errno.EPERM:
            raise
        # In a user namespace trusted.* attributes are out of reach: keep the notes in user.* ones.
        hc.mount("overlay", target, "overlay", 0, data + ",userxattr")


def _chown_if_possible(path: str, uid: int, gid: int) -> None:
    """In a user namespace most owners have no name."""
    try:
        os.chown(path, uid, gid)
    except OSError:
        pass
