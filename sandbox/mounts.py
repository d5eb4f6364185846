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
        restrict(fd, readonly)
    except OSError:
        os.close(fd)
        raise
    return fd


def restrict(tree: int, readonly: bool) -> None:
    """Have the kernel refuse devices, set-user-id, following of links, and writes if it is read-only."""
    try:
        attributes = hc.MOUNT_ATTR_NOSUID | hc.MOUNT_ATTR_NODEV | hc.MOUNT_ATTR_NOSYMFOLLOW
        hc.mount_setattr(tree, hc.AT_RECURSIVE, attributes | (hc.MOUNT_ATTR_RDONLY if readonly else 0))
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOSYS):  # Linux < 5.14: the gofer keeps the rules alone
            raise


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
    likewise, in place; one that cannot be is simply not there.  Raises OSError if nothing can be overlaid.
    """
    hc.mount("pysc-do", scratch, "tmpfs", hc.MS_NOSUID | hc.MS_NODEV, "mode=700")
    view = f"{scratch}/root"
    os.mkdir(view)
    overlay = _Overlay(root.rstrip("/"), view, scratch)
    try:
        overlay.mount_at("")
    except OSError as e:
        if e.errno != errno.EINVAL or not overlay.mounts_below(""):
            raise
        overlay.mount_parts("")
    else:
        overlay.mount_file_systems_below()
    return view


class _Overlay:
    """The making of one view; paths are relative to the root, "" is the root itself, others begin with a slash."""

    def __init__(self, root: str, view: str, scratch: str) -> None:
        self.root = root
        self.view = view
        self.scratch = scratch
        self.layers = 0
        below = [(point[len(root) :], kind) for point, kind in _mount_table() if point.startswith(root + "/")]
        self.table = [(path, kind) for path, kind in below if not (root + path).startswith(scratch) and path != "/"]

    def mounts_below(self, path: str) -> bool:
        return any(point.startswith(path + "/") for point, _ in self.table)

    def mount_at(self, path: str) -> None:
        """Overlay one directory of the root, without what is mounted below it."""
        lower, target = self.root + path or "/", self.view + path
        if not os.path.isdir(lower) or not os.path.isdir(target):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), lower)
        self.layers += 1
        upper, work = f"{self.scratch}/{self.layers}/upper", f"{self.scratch}/{self.layers}/work"
        os.makedirs(upper)
        os.mkdir(work)
        copy_attributes(lower, upper)  # the upper directory's are those of the merged root
        data = "lowerdir={},upperdir={},workdir={}".format(*map(escape, (lower, upper, work)))
        try:
            hc.mount("overlay", target, "overlay", 0, data)
        except OSError as e:
            if e.errno != errno.EPERM:
                raise
            # In a user namespace trusted.* attributes are out of reach: keep the notes in user.* ones.
            hc.mount("overlay", target, "overlay", 0, data + ",userxattr")

    def mount_file_systems_below(self) -> None:
        for path, kind in self.table:
            if kind in _LOWER_FILESYSTEMS and not _is_kernel_tree(path):
                self._try(path)

    def mount_parts(self, path: str) -> None:
        """A directory with mounts below it that an unprivileged user may not uncover: the kernel refuses it whole.

        So its entries are overlaid one by one; plain files beside them are bound read-only.  One that the user may
        not read is empty.
        """
        copy_attributes(self.root + path or "/", self.view + path)
        try:
            entries = list(os.scandir(self.root + path or "/"))
        except PermissionError:
            return
        for entry in entries:
            inside = f"{path}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), self.view + inside)
            elif entry.is_dir():
                os.mkdir(self.view + inside)
                if not _is_kernel_tree(inside) and not self._try(inside) and self.mounts_below(inside):
                    self.mount_parts(inside)
            elif entry.is_file():
                _bind_readonly(entry.path, self.view + inside)

    def _try(self, path: str) -> bool:
        try:
            self.mount_at(path)
        except OSError:
            return False
        return True


def escape(path: str) -> str:
    """For a value among overlay's options."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _is_kernel_tree(path: str) -> bool:
    return any(path == tree or path.startswith(tree + "/") for tree in _KERNEL_TREES)


def _bind_readonly(source: str, target: str) -> None:
    """If it cannot be made read-only, the file is simply not there."""
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        hc.mount(source, target, "", hc.MS_BIND)
    except OSError:
        os.unlink(target)
        return
    fd = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        # Not a remount: that would have to repeat the flags which an unprivileged user may not clear.
        hc.mount_setattr(fd, 0, hc.MOUNT_ATTR_RDONLY)
    except OSError:
        hc.umount2(target, hc.MNT_DETACH)
        os.unlink(target)
    finally:
        os.close(fd)


def copy_attributes(source: str, target: str) -> None:
    """Mode and owner; in a user namespace most owners have no name."""
    st = os.stat(source)
    os.chmod(target, st.st_mode & 0o7777)
    try:
        os.chown(target, st.st_uid, st.st_gid)
    except OSError:
        pass
