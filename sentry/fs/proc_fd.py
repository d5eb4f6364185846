"""/proc/PID/fd and /proc/PID/fdinfo: a process's open descriptors, proc(5)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from sentry.abi import stat as st
from sentry.abi.errno import EBADF, ENOENT
from sentry.abi.fcntl import F_RDLCK, F_WRLCK, LOCK_EX, O_CLOEXEC
from sentry.fs.anon import anon_path
from sentry.fs.proc_dir import ProcDir
from sentry.fs.proc_view import TaskView, reader_root
from sentry.fs.simple import TextNode
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Path, display_name
from sentry.vfs.file import File
from sentry.vfs.inode import Inode
from sentry.vfs.locks import OFFSET_MAX, Lock

if TYPE_CHECKING:
    from sentry.fs.procfs import ProcFs


class DescriptorsDir(ProcDir):
    """What /proc/PID/fd and fdinfo have in common: one entry for each open descriptor."""

    __slots__ = ()

    def file(self, name: str) -> File | None:
        view = self.view
        if not (name.isdecimal() and name.isascii() and str(int(name)) == name and view.alive):
            return None
        try:
            return view.t.files.get_any(int(name))
        except EBADF:
            return None

    def names(self) -> Iterable[str]:
        """EACCES: opendir(3) works for anybody, seeing what is in it does not."""
        self.view.check_inspect()
        return [str(fd) for fd, _ in self.view.t.files.items()] if self.view.alive else []

    def still(self, name: str) -> bool:
        return self.file(name) is not None

    def make(self, name: str) -> Inode:
        """ENOENT; EACCES."""
        self.view.check_inspect()
        if self.file(name) is None:
            self._kept.pop(name, None)
            raise ENOENT
        return self.make_entry(name)

    def make_entry(self, name: str) -> Inode:
        raise NotImplementedError


class FdDir(DescriptorsDir):
    """/proc/PID/fd."""

    __slots__ = ()

    def __init__(self, fs: ProcFs, view: TaskView) -> None:
        super().__init__(fs, view, 0o500)

    def make_entry(self, name: str) -> Inode:
        return FdLink(self.fs, self, name)

    async def lookup(self, name: str) -> Inode:
        inode = await super().lookup(name)
        file = self.file(name)
        if file is not None:
            # "The permissions for ... the symbolic link ... correspond to the access mode": proc_pid_fd(5)
            bits = (0o500 if file.readable else 0) | (0o300 if file.writable else 0)
            inode.mode = st.S_IFLNK | bits
        return inode

    def kind(self, name: str) -> int:
        return st.S_IFLNK


class FdLink(Inode):
    """One descriptor.  Following it leads to the file itself, whatever became of its name."""

    __slots__ = ("_directory", "_name")

    magic: ClassVar[bool] = True

    def __init__(self, fs: ProcFs, directory: FdDir, name: str) -> None:
        super().__init__(fs, st.S_IFLNK | 0o700)
        self.size = 64
        self._directory = directory
        self._name = name

    def _file(self) -> File:
        """ENOENT: closed meanwhile.  EACCES."""
        self._directory.view.check_inspect()
        file = self._directory.file(self._name)
        if file is None:
            raise ENOENT
        return file

    async def readlink(self) -> str:
        file = self._file()
        shown = file.describe()
        if shown is None and file.path is not None:
            shown = display_name(file.path, reader_root(self._directory.view))
        return shown if shown is not None else f"anon_inode:[{file.inode.ino}]"

    async def follow(self, caller: Caller) -> Path | None:
        file = self._file()
        return file.path if file.path is not None else anon_path(file.inode)


class FdInfoDir(DescriptorsDir):
    """/proc/PID/fdinfo."""

    __slots__ = ()

    def make_entry(self, name: str) -> Inode:
        return TextNode(self.fs, lambda: self._text(name))

    def _text(self, name: str) -> str:
        """ENOENT: closed meanwhile."""
        file = self.file(name)
        if file is None:
            raise ENOENT
        flags = file.flags | (O_CLOEXEC if self.view.t.files.cloexec(int(name)) else 0)
        mount_id = file.path.mount.id if file.path is not None else 0
        shown = f"pos:\t{file.offset}\nflags:\t0{flags:o}\nmnt_id:\t{mount_id}\nino:\t{file.inode.ino}\n"
        return shown + lock_lines(self.view, file) + file.fd_info()


def lock_lines(view: TaskView, file: File) -> str:
    """The locks held through a descriptor: show_fd_locks()."""
    locks = file.inode._locks
    if locks is None:
        return ""
    pid = view.tg.pid_in(view.ns)
    held = [("POSIX ", lock, pid) for lock in locks.held(view.t.files)]
    held += [("OFDLCK", lock, -1) for lock in locks.held(file)]
    flock = locks.flock_held(file)
    if flock is not None:
        kind = F_WRLCK if flock == LOCK_EX else F_RDLCK
        held.append(("FLOCK ", Lock(file, kind, 0, OFFSET_MAX, None), pid))
    dev = file.inode.fs.dev
    where = f"{os.major(dev):02x}:{os.minor(dev):02x}:{file.inode.ino}"
    return "".join(
        f"lock:\t{number}: {name} ADVISORY  {'WRITE' if lock.kind == F_WRLCK else 'READ'} {holder} {where} "
        f"{lock.start} {'EOF' if lock.end == OFFSET_MAX else lock.end}\n"
        for number, (name, lock, holder) in enumerate(held, 1)
    )
