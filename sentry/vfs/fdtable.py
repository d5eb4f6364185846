"""Descriptor tables (struct files_struct)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sentry.abi.errno import EBADF, EMFILE
from sentry.abi.fcntl import O_ACCMODE, O_PATH, O_WRONLY
from sentry.vfs.file import File


class FdTable:
    """Descriptors of one process, or of several that share them (CLONE_FILES).

    limit is RLIMIT_NOFILE's current value, kept here by prlimit(2).
    """

    __slots__ = ("_cloexec", "_files", "_lowest", "limit", "refs")

    def __init__(self, limit: int = 1024) -> None:
        self._files: dict[int, File] = {}
        self._cloexec: set[int] = set()
        self._lowest = 0  # no free descriptor below this one
        self.limit = limit
        self.refs = 1

    def copy(self) -> FdTable:
        """For fork: the same open file descriptions under the same numbers."""
        table = FdTable(self.limit)
        table._files = self._files.copy()
        table._cloexec = self._cloexec.copy()
        table._lowest = self._lowest
        for file in table._files.values():
            file.refs += 1
        return table

    def get(self, fd: int) -> File:
        """EBADF: not open, or opened with O_PATH."""
        file = self._files.get(fd)
        if file is None or file.flags & O_PATH:
            raise EBADF
        return file

    def get_any(self, fd: int) -> File:
        """Also a descriptor opened with O_PATH.  EBADF."""
        file = self._files.get(fd)
        if file is None:
            raise EBADF
        return file

    def readable(self, fd: int) -> File:
        """EBADF: not open for reading."""
        # File.readable, spelled out: every read and write passes here.
        file = self._files.get(fd)
        if file is None or file.flags & O_PATH or file.flags & O_ACCMODE == O_WRONLY:
            raise EBADF
        return file

    def writable(self, fd: int) -> File:
        """EBADF: not open for writing."""
        file = self._files.get(fd)
        if file is None or file.flags & O_PATH or not file.flags & O_ACCMODE:
            raise EBADF
        return file

    def _free_from(self, lowest: int) -> int:
        fd = max(lowest, self._lowest)
        files = self._files
        while fd in files:
            fd += 1
        if fd >= self.limit:
            raise EMFILE
        if lowest <= self._lowest:
            self._lowest = fd
        return fd

    def check_room(self) -> None:
        """EMFILE now rather than after the file was made."""
        if len(self._files) >= self.limit:
            self._free_from(0)

    def install(self, file: File, cloexec: bool = False, lowest: int = 0) -> int:
        """The lowest free descriptor, >= lowest.  EMFILE."""
        files = self._files
        fd = self._lowest
        if lowest or fd in files or fd >= self.limit:
            fd = self._free_from(lowest)
        files[fd] = file.hold()
        if cloexec:
            self._cloexec.add(fd)
        return fd

    def install_all(self, files: Sequence[File], cloexec: bool = False) -> list[int]:
        """One descriptor each, or none and EMFILE (then the files are released)."""
        fds: list[int] = []
        try:
            for file in files:
                fds.append(self.install(file, cloexec))
        except EMFILE:
            for fd in fds:
                self.close(fd)
            for file in files[len(fds) :]:
                file.hold().drop()
            raise
        return fds

    def install_at(self, fd: int, file: File, cloexec: bool) -> None:
        """dup2(2): replace whatever fd is.  EBADF: out of range."""
        if not 0 <= fd < self.limit:
            raise EBADF
        old = self._files.get(fd)
        self._files[fd] = file.hold()
        self.set_cloexec(fd, cloexec)
        if old is not None:
            self._release_locks(old)
            old.flush()
            old.drop()

    def _release_locks(self, file: File) -> None:
        """Whichever descriptor of a file a process closes, its record locks on that file are gone: fcntl(2)."""
        locks = file.inode._locks
        if locks is not None and not file.flags & O_PATH:
            locks.release_owner(self)

    def remove(self, fd: int) -> File:
        """Take fd out; the caller drops the file.  EBADF."""
        file = self._files.pop(fd, None)
        if file is None:
            raise EBADF
        self._cloexec.discard(fd)
        if fd < self._lowest:
            self._lowest = fd
        if file.inode._locks is not None:
            self._release_locks(file)
        return file

    def close(self, fd: int) -> None:
        """EBADF; what flush raises, after the descriptor is gone (close(2))."""
        # remove(), spelled out: every close passes here.
        file = self._files.pop(fd, None)
        if file is None:
            raise EBADF
        if self._cloexec:
            self._cloexec.discard(fd)
        if fd < self._lowest:
            self._lowest = fd
        if file.inode._locks is not None:
            self._release_locks(file)
        try:
            file.flush()
        finally:
            file.drop()

    def cloexec(self, fd: int) -> bool:
        return fd in self._cloexec

    def set_cloexec(self, fd: int, on: bool) -> None:
        if on:
            self._cloexec.add(fd)
        else:
            self._cloexec.discard(fd)

    def close_on_exec(self) -> list[File]:
        """execve(2): take out what has FD_CLOEXEC; the caller drops the files."""
        return [self.remove(fd) for fd in sorted(self._cloexec)]

    def items(self) -> Iterator[tuple[int, File]]:
        """(descriptor, file) in ascending order."""
        for fd in sorted(self._files):
            yield fd, self._files[fd]

    def clear(self) -> list[File]:
        """Take everything out; the caller drops the files."""
        files = [self._files[fd] for fd in sorted(self._files)]
        for file in files:
            self._release_locks(file)
        self._files.clear()
        self._cloexec.clear()
        self._lowest = 0
        return files
