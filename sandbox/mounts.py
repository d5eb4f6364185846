"""Mounts on the host: the trees that gofers serve, a container's rootfs, an overlay of the host's own root.

`open_root` gives a gofer a private, detached copy of a tree: it neither keeps the original mounted (a later umount
does not fail with EBUSY) nor sees what is mounted over it later, and the kernel itself refuses devices, set-user-id
and, where asked, writes.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sandbox import hostcalls as hc
from sandbox.errors import InvalidSpec, SandboxError

_FLAGS: dict[str, tuple[int, int]] = {
    "defaults": (0, 0), "bind": (hc.MS_BIND, 0), "rbind": (hc.MS_BIND | hc.MS_REC, 0),
    "ro": (hc.MS_RDONLY, 0), "rw": (0, hc.MS_RDONLY), "nosuid": (hc.MS_NOSUID, 0), "suid": (0, hc.MS_NOSUID),
    "nodev": (hc.MS_NODEV, 0), "dev": (0, hc.MS_NODEV), "noexec": (hc.MS_NOEXEC, 0), "exec": (0, hc.MS_NOEXEC),
    "remount": (hc.MS_REMOUNT, 0), "sync": (16, 0), "async": (0, 16), "mand": (64, 0), "nomand": (0, 64),
    "dirsync": (128, 0), "noatime": (1024, 0), "atime": (0, 1024), "nodiratime": (2048, 0), "diratime": (0, 2048),
    "relatime": (1 << 21, 0), "norelatime": (0, 1 << 21), "strictatime": (1 << 24, 0), "nostrictatime": (0, 1 << 24),
}  # fmt: skip
_PROPAGATION = {
    "private": hc.MS_PRIVATE, "rprivate": hc.MS_PRIVATE | hc.MS_REC, "slave": 1 << 19, "rslave": 1 << 19 | hc.MS_REC,
    "shared": 1 << 20, "rshared": 1 << 20 | hc.MS_REC, "unbindable": 1 << 17, "runbindable": 1 << 17 | hc.MS_REC,
}  # fmt: skip
_PAGE_ROOM = os.sysconf("SC_PAGE_SIZE") - 512
"""mount(2) takes one page of options."""

_LOWER_FILESYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "erofs", "squashfs",
                                "overlay", "tmpfs", "fuseblk", "vfat", "nfs", "nfs4", "9p", "virtiofs"})  # fmt: skip
_KERNEL_TREES = ("/dev", "/proc", "/sys", "/run")
"""The sandbox has its own of these."""


@dataclass(slots=True)
class HostMount:
    """A mount to make on the host, in containerd's terms."""

    type: str
    source: str
    options: list[str] = field(default_factory=list)
    target: str = ""
    """Below the rootfs; "" is the rootfs itself."""


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


def split_options(options: Iterable[str]) -> tuple[int, int, list[str]]:
    """mount(8) options as flags, propagation flags and what is left for the file system."""
    flags = propagation = 0
    data: list[str] = []
    for option in options:
        if option in _FLAGS:
            on, off = _FLAGS[option]
            flags = flags & ~off | on
        elif option in _PROPAGATION:
            propagation |= _PROPAGATION[option]
        elif not option.startswith("X-containerd."):
            data.append(option)
    return flags, propagation, data


def mount_one(mount: HostMount, target: str) -> None:
    """Mount as mount(8) does: read-only binds and propagation take calls of their own.  Raises SandboxError."""
    flags, propagation, data = split_options(mount.options)
    try:
        with ExitStack() as cleanup:
            if mount.type == "overlay" and len(",".join(data)) > _PAGE_ROOM:
                data = _shorten_lowers(data, cleanup)
            hc.mount(mount.source, target, mount.type, flags, ",".join(data))
        if flags & hc.MS_BIND and flags & ~(hc.MS_BIND | hc.MS_REC):
            hc.mount(mount.source, target, "", flags & ~hc.MS_REC | hc.MS_REMOUNT)
        if propagation:
            hc.mount("none", target, "", propagation)
    except OSError as e:
        raise SandboxError(f"cannot mount {mount.type} {mount.source} on {target}: {e.strerror}") from None


def _shorten_lowers(data: list[str], cleanup: ExitStack) -> list[str]:
    """Many layers with long paths exceed the page: name them through short links, which the kernel follows once."""
    links = tempfile.mkdtemp(prefix="l", dir="/tmp")
    cleanup.callback(shutil.rmtree, links)
    shortened: list[str] = []
    for option in data:
        key, _, value = option.partition("=")
        if key == "lowerdir":
            names = [f"{links}/{i:x}" for i in range(len(value.split(":")))]
            for name, layer in zip(names, value.split(":")):
                os.symlink(layer, name)
            option = "lowerdir=" + ":".join(names)
        shortened.append(option)
    return shortened


def mount_rootfs(mounts: Sequence[HostMount], rootfs: Path) -> None:
    """Make a container's rootfs, in order; undoes what it has mounted if one fails."""
    try:
        for mount in mounts:
            target = rootfs / mount.target.lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            mount_one(mount, str(target))
    except BaseException:
        unmount_rootfs(rootfs)
        raise


def unmount_rootfs(rootfs: Path) -> None:
    """Unmount all that is mounted on or below it; idempotent."""
    path = os.path.realpath(rootfs)
    inside = [point for point in mount_points() if point == path or point.startswith(path + "/")]
    for point in reversed(inside):
        try:
            hc.umount2(point, hc.MNT_DETACH)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.ENOENT):
                raise


def _mount_table() -> list[tuple[str, str]]:
    """Mount point and file system type, in the order in which they were mounted."""
    table: list[tuple[str, str]] = []
    with open("/proc/self/mountinfo", "rb") as f:
        for line in f:
            left, _, right = line.partition(b" - ")
            point = left.split()[4].decode("unicode_escape").encode("latin-1")
            table.append((os.fsdecode(point), right.split()[0].decode()))
    return table


def mount_points() -> list[str]:
    """Where something is mounted, in the order of mounting."""
    return [point for point, _ in _mount_table()]


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
