"""Fids: what a client's handles stand for, and the table of one connection.

A fid owns its descriptors.  Whoever takes one out of the table closes it; the table closes the rest when the
connection ends, so that no descriptor outlives it.
"""

from __future__ import annotations

import os
from errno import EBADF, EMFILE
from stat import S_IFDIR, S_IFMT

from gofer.localfs import UNCHANGED, DirStream
from proto.ninep.messages import NOFID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # How a file was reached: (the path of its parent, its name); None is the root.  May be out of date: used only
    # by requests of plain 9P2000.L that need a fid's parent, and checked there.
    Path = tuple["Path", bytes] | None

MAX_FIDS = 65536


class XattrReader:
    """What Txattrwalk makes: a value, or a list of names, to be read with Tread."""

    def __init__(self, value: bytes) -> None:
        self.value = value


class XattrWriter:
    """What Txattrcreate makes of a fid: gathers Twrites until the clunk that sets the attribute."""

    def __init__(self, name: bytes, size: int, flags: int) -> None:
        self.name = name
        self.size = size
        self.flags = flags
        self.value = bytearray()


class Fid:
    """A handle on a file.

    Set once, by the request that made it:
      fd      the O_PATH descriptor; -1 for an XattrReader
      kind    S_IFMT of the file, which never changes
      path    how it was reached
      uid     who owns what plain 9P2000.L creates through it (the attach's user, or UNCHANGED)
    By opening:
      file    descriptor for Tread and Twrite (plain 9P2000.L only), or -1
      stream  of an opened directory
      xattr   in place of a file
    """

    __slots__ = ("fd", "file", "kind", "path", "stream", "uid", "xattr")

    def __init__(self, fd: int, kind: int, path: Path, uid: int = UNCHANGED) -> None:
        self.fd = fd
        self.kind = kind
        self.path = path
        self.uid = uid
        self.file = -1
        self.stream: DirStream | None = None
        self.xattr: XattrReader | XattrWriter | None = None

    def is_open(self) -> bool:
        return self.file >= 0 or self.stream is not None or self.xattr is not None

    def open_directory(self) -> None:
        """Make a directory ready to be read, from its beginning."""
        stream = DirStream(self.fd)
        if self.stream is not None:
            self.stream.close()
        self.stream = stream

    def clone(self) -> Fid:
        """Another handle on the same file, not opened."""
        return Fid(os.dup(self.fd), self.kind, self.path, self.uid)

    def is_directory(self) -> bool:
        return self.kind == S_IFDIR

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        if self.file >= 0:
            os.close(self.file)
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = self.file = -1


def fid_of_root(root_fd: int, uid: int) -> Fid:
    """A fid on the served root; root_fd stays the caller's."""
    fd = os.dup(root_fd)
    return Fid(fd, S_IFMT(os.stat(fd).st_mode), None, uid)


class FidTable:
    """The fids of one connection, by the number that the client chose."""

    def __init__(self) -> None:
        self._fids: dict[int, Fid] = {}

    def __len__(self) -> int:
        return len(self._fids)

    def get(self, number: int) -> Fid:
        """EBADF if the client has no such fid."""
        try:
            return self._fids[number]
        except KeyError:
            raise OSError(EBADF, "no such fid") from None

    def check_free(self, number: int) -> None:
        """EBADF if the number is in use, EMFILE if the client has too many.  Ask before doing what cannot be undone."""
        if number == NOFID or number in self._fids:
            raise OSError(EBADF, "fid in use")
        if len(self._fids) >= MAX_FIDS:
            raise OSError(EMFILE, "too many fids")

    def put(self, number: int, fid: Fid) -> None:
        """Enter a fid, closing the one it replaces."""
        old = self._fids.get(number)
        self._fids[number] = fid
        if old is not None:
            old.close()

    def take(self, number: int) -> Fid:
        """Remove a fid; the caller closes it."""
        fid = self.get(number)
        del self._fids[number]
        return fid

    def drop(self, numbers: Iterable[int]) -> None:
        """Close those of the numbers that are fids."""
        for number in numbers:
            fid = self._fids.pop(number, None)
            if fid is not None:
                fid.close()

    def close_all(self) -> None:
        self.drop(list(self._fids))
