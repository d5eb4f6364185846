"""Devices: who answers for a device node, wherever it lies, and what a container's /dev holds.

A node is only a type and a number.  Opening it asks DRIVERS; what is not there has no driver,
and is ENXIO, as on Linux.  populate_dev() makes the nodes that the OCI runtime specification
promises ("Default Devices", "Dev symbolic links").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from proto.slotted import slotted
from sentry.abi import stat as st
from sentry.abi.errno import ENOENT, ENXIO
from sentry.fs.devpts import open_ptmx_node
from sentry.fs.memdev import FullFile, NullFile, RandomFile, ZeroFile
from sentry.fs.ttyfile import open_console, open_current
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Path
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange, Inode, device_number, split_device

Opener = Callable[[Inode, Path, int], Awaitable[File]]
MEM_MAJOR: Final = 1
TTYAUX_MAJOR: Final = 5


def _simple(make: Callable[[Inode, Path, int], File]) -> Opener:
    async def open_file(inode: Inode, path: Path, flags: int) -> File:
        return make(inode, path, flags)

    return open_file


# (type, major, minor) -> how it is opened
DRIVERS: Final[dict[tuple[int, int, int], Opener]] = {
    (st.S_IFCHR, MEM_MAJOR, 3): _simple(NullFile),
    (st.S_IFCHR, MEM_MAJOR, 5): _simple(ZeroFile),
    (st.S_IFCHR, MEM_MAJOR, 7): _simple(FullFile),
    (st.S_IFCHR, MEM_MAJOR, 8): _simple(RandomFile),
    (st.S_IFCHR, MEM_MAJOR, 9): _simple(RandomFile),
    (st.S_IFCHR, TTYAUX_MAJOR, 0): open_current,
    (st.S_IFCHR, TTYAUX_MAJOR, 1): open_console,
    (st.S_IFCHR, TTYAUX_MAJOR, 2): open_ptmx_node,
}


async def open_device(inode: Inode, path: Path, flags: int) -> File:
    """Open the device that inode, of any file system, names.  ENXIO: it has no driver here."""
    driver = DRIVERS.get((inode.mode & st.S_IFMT, *split_device(inode.rdev)))
    if driver is None:
        raise ENXIO
    return await driver(inode, path, flags)


@slotted
class DeviceNode:
    """A node to be made.  name: below /dev, may lie in a subdirectory; mode: type and permission bits."""

    name: str
    mode: int
    major: int
    minor: int
    uid: int = 0
    gid: int = 0


_CHR: Final = st.S_IFCHR | 0o666
DEFAULT_DEVICES: Final = (
    DeviceNode("null", _CHR, MEM_MAJOR, 3),
    DeviceNode("zero", _CHR, MEM_MAJOR, 5),
    DeviceNode("full", _CHR, MEM_MAJOR, 7),
    DeviceNode("random", _CHR, MEM_MAJOR, 8),
    DeviceNode("urandom", _CHR, MEM_MAJOR, 9),
    DeviceNode("tty", _CHR, TTYAUX_MAJOR, 0),
)
CONSOLE: Final = DeviceNode("console", st.S_IFCHR | 0o600, TTYAUX_MAJOR, 1)
DEFAULT_LINKS: Final = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
}
MOUNT_POINTS: Final = ("pts", "shm", "mqueue")
ROOT: Final = Caller(caps=~0)


async def populate_dev(directory: Inode, devices: Iterable[DeviceNode] = (), console: bool = False) -> None:
    """Make the default nodes, links and mount points in directory, and `devices` besides.

    What exists already is left alone, so that an image's or a mount's own /dev wins.
    console: the container's first process has a terminal.
    """
    for node in (*DEFAULT_DEVICES, *([CONSOLE] if console else ()), *devices):
        await _make_node(directory, node)
    for name, target in DEFAULT_LINKS.items():
        if await _child(directory, name) is None:
            await directory.symlink(name, target, ROOT)
    for name in MOUNT_POINTS:
        if await _child(directory, name) is None:
            await directory.mkdir(name, 0o755, ROOT)


async def _make_node(directory: Inode, node: DeviceNode) -> None:
    *folders, name = node.name.strip("/").split("/")
    for folder in folders:
        directory = await _child(directory, folder) or await directory.mkdir(folder, 0o755, ROOT)
    if await _child(directory, name) is None:
        inode = await directory.mknod(name, node.mode, device_number(node.major, node.minor), ROOT)
        if node.uid or node.gid:
            await inode.setattr(AttrChange(uid=node.uid, gid=node.gid))


async def _child(directory: Inode, name: str) -> Inode | None:
    try:
        return await directory.lookup(name)
    except ENOENT:
        return None
