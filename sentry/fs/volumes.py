"""What containers of a pod share of the host's files.

A volume is served to each container by a gofer of its own, so that one file has an inode for each mount.  Contents
meet in the host's page cache.  What the Sentry itself keeps with a file has to meet here: locks, the pipe behind a
FIFO, who is bound to a socket's name.  A file is known by a number that is made of the host's device and inode
number; its inode, which is alive as long as anything of this is in use, holds it on the host, so the number is not
given to another file.
"""

from __future__ import annotations

import weakref

from proto.ninep.inodes import device_number
from sentry.vfs.inode import FileSystem
from sentry.vfs.locks import FileLocks


class Volumes:
    """Of one sandbox.  fifos: those that are open."""

    def __init__(self) -> None:
        self.fifos: dict[int, object] = {}
        self._locks: weakref.WeakValueDictionary[int, FileLocks] = weakref.WeakValueDictionary()
        self._devices: dict[int, int] = {}

    def locks(self, file: int) -> FileLocks:
        locks = self._locks.get(file)
        if locks is None:
            locks = self._locks[file] = FileLocks()
        return locks

    def shown_device(self, fs: FileSystem, device: int) -> int:
        """The number that stat(2) is to show: the same for all trees on one device of the host."""
        return self._devices.setdefault(device, fs.dev)


class Volume:
    """One served tree as a part of them.  device: the host's, of its root."""

    def __init__(self, volumes: Volumes, device: int) -> None:
        self.all = volumes
        self.device = device
        self._number = device_number(device)

    def file(self, ino: int) -> int:
        """The number by which all trees know the file whose number in this one is ino."""
        return ino ^ self._number
