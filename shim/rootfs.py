"""Mounts a container's root filesystem as containerd's snapshotter describes it, and takes it away again.

The mounts are made in the host's mount namespace, where containerd and a later delete action see them.  That action
usually finds nothing mounted, so it imports nothing for it (see address.py).
"""

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
CLONE_FS = 0x200

# Option -> (flag to set, flag to clear).  What is not here is data for the filesystem.
OPTIONS: dict[str, tuple[int, int]] = {
    "async": (0, MS_SYNCHRONOUS),
    "atime": (0, MS_NOATIME),
    "bind": (MS_BIND, 0),
    "defaults": (0, 0),
    "dev": (0, MS_NODEV),
    "diratime": (0, MS_NODIRATIME),
    "dirsync": (MS_DIRSYNC, 0),
    "exec": (0, MS_NOEXEC),
    "mand": (MS_MANDLOCK, 0),
    "noatime": (MS_NOATIME, 0),
    "nodev": (MS_NODEV, 0),
    "nodiratime": (MS_NODIRATIME, 0),
    "noexec": (MS_NOEXEC, 0),
    "nomand": (0, MS_MANDLOCK),
    "norelatime": (0, MS_RELATIME),
    "nostrictatime": (0, MS_STRICTATIME),
    "nosuid": (MS_NOSUID, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "relatime": (MS_RELATIME, 0),
    "remount": (MS_REMOUNT, 0),
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "strictatime": (MS_STRICTATIME, 0),
    "suid": (0, MS_NOSUID),
    "sync": (MS_SYNCHRONOUS, 0),
}
PROPAGATION: dict[str, int] = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}

# mount(2) copies one page of data; a part is left for what the kernel appends.
MAX_DATA = os.sysconf("SC_PAGE_SIZE") - 512
BUSY_TIMEOUT_S = 1.0
_BUSY_PAUSE_S = 0.02


class Mount:
    """One mount(2), with its options taken apart: flags, propagation (a second call) and data."""

    __slots__ = ("data", "flags", "propagation", "source", "target", "type")

    def __init__(self, type: str, source: str, options: "Sequence[str]", target: str = "") -> None:
        self.type = type
        self.source = source
        self.target = target
        """Below the rootfs; "" is the rootfs itself."""
        self.flags = 0
        self.propagation = 0
        data = []
        for option in options:
            if option in OPTIONS:
                set_flags, clear_flags = OPTIONS[option]
                self.flags = (self.flags | set_flags) & ~clear_flags
            elif option in PROPAGATION:
                self.propagation = PROPAGATION[option]
            elif not option.startswith("X-containerd."):
                data.append(option)
        self.data = ",".join(data)


def mount(mounts: "Sequence[Mount]", rootfs: str) -> None:
    """Make the mounts in order.  Raises OSError; then none of them is left."""
    try:
        for each in mounts:
            _mount_one(each, _target(rootfs, each.target))
    except BaseException:
        unmount(rootfs)
        raise


def _target(rootfs: str, inside: str) -> str:
    parts = [part for part in inside.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise OSError(errno.EINVAL, "mount target leaves the rootfs", inside)
    return "/".join([rootfs, *parts])


def _mount_one(each: Mount, target: str) -> None:
    from sandbox import hostcalls

    if each.type == "overlay" and len(each.data) > MAX_DATA:
        _mount_overlay_relative(each, target)
    else:
        hostcalls.mount(each.source, target, each.type, each.flags, each.data)
    if each.flags & MS_BIND and each.flags & ~(MS_BIND | MS_REC | MS_REMOUNT):
        # "The remaining bits in the mountflags argument are ignored" - mount(2) on MS_BIND; hence the second call.
        hostcalls.mount("", target, "", each.flags & ~MS_REC | MS_REMOUNT, "")
    if each.propagation:
        hostcalls.mount("", target, "", each.propagation, "")


def _mount_overlay_relative(each: Mount, target: str) -> None:
    """Mount an overlay whose layers do not fit into a page of data, with paths relative to their common folder.

    The working directory belongs to the process, so this happens in a thread that has a copy of its own.
    """
    import threading

    from sandbox import hostcalls

    folder, data = shorten_overlay(each.data)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            hostcalls.unshare(CLONE_FS)
            os.chdir(folder)
            hostcalls.mount(each.source, target, each.type, each.flags, data)
        except BaseException as e:
            failure.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def shorten_overlay(data: str) -> tuple[str, str]:
    """The folder that all lower layers have in common, and the data with these layers relative to it."""
    options = data.split(",")
    index = next((i for i, option in enumerate(options) if option.startswith("lowerdir=")), None)
    if index is None:
        raise OSError(errno.E2BIG, "mount data do not fit into a page")
    layers = options[index].removeprefix("lowerdir=").split(":")
    folder = os.path.commonpath([os.path.dirname(layer) for layer in layers])
    options[index] = "lowerdir=" + ":".join(os.path.relpath(layer, folder) for layer in layers)
    shortened = ",".join(options)
    if len(shortened) > MAX_DATA:
        raise OSError(errno.E2BIG, "mount data do not fit into a page")
    return folder, shortened


def unmount(rootfs: str) -> None:
    """Unmount whatever is mounted on or below rootfs; nothing is fine.

    A mount that stays busy is detached: the kernel finishes when its last user is gone.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    for point in reversed(mount_points(rootfs)):
        _unmount_one(point, deadline)


def _unmount_one(point: str, deadline: float) -> None:
    from sandbox import hostcalls

    flags = UMOUNT_NOFOLLOW
    while True:
        try:
            hostcalls.umount2(point, flags)
        except OSError as e:
            if e.errno in (errno.EINVAL, errno.ENOENT):
                return  # no longer a mount point
            if e.errno != errno.EBUSY:
                raise
            if time.monotonic() < deadline:
                time.sleep(_BUSY_PAUSE_S)
            else:
                flags |= MNT_DETACH
        else:
            return


def mount_points(folder: str) -> list[str]:
    """The mount points at and below folder, in the order in which they were mounted; proc_pid_mountinfo(5)."""
    prefix = os.path.realpath(folder)
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        for line in mountinfo:
            point = _unescape(line.split(" ", 5)[4])
            if point == prefix or point.startswith(prefix + "/"):
                points.append(point)
    return points


def _unescape(field: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash."""
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, character)
    return field
