"""What file systems that live in the Sentry have in common.

Files whose text is made when it is read, directories with fixed or computed entries,
symbolic links, and the rules that every file system needs: access times, `.` and `..`,
opening of device nodes and FIFOs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Final

from sentry.abi import stat as st
from sentry.abi.errno import EINVAL, EIO, ELOOP, ENOENT, ENXIO, EPERM
from sentry.abi.fcntl import O_NOATIME, SEEK_END
from sentry.platform import PAGE_SIZE
from sentry.vfs.dentry import MS_NOATIME, MS_NODIRATIME, MS_RDONLY, MS_STRICTATIME, Path
from sentry.vfs.file import DirEntry, File
from sentry.vfs.inode import NOW, AttrChange, FileSystem, Inode, now_ns
from sentry.vfs.iov import Sink, Source

DAY_NS: Final = 86400 * 10**9
DT_DIR: Final = st.S_IFDIR >> 12
Text = str | bytes


# -- rules for everybody --


def accessed(file: File) -> None:
    """touch_atime(): record a read, as the mount's flags and O_NOATIME allow; relatime is the default."""
    path = file.path
    inode = file.inode
    if path is None or file.flags & O_NOATIME:
        return
    flags = path.mount.flags
    if flags & (MS_NOATIME | MS_RDONLY) or (flags & MS_NODIRATIME and st.is_dir(inode.mode)):
        return
    atime = inode.atime_ns
    now = now_ns()
    if flags & MS_STRICTATIME or atime <= inode.mtime_ns or atime <= inode.ctime_ns or now - atime >= DAY_NS:
        inode.atime_ns = now


def dots(file: File, offset: int) -> Iterator[DirEntry]:
    """The entries `.` and `..`, at positions 0 and 1."""
    inode = file.inode
    if offset <= 0:
        yield DirEntry(".", inode.ino, DT_DIR, 1)
    if offset <= 1:
        parent = file.path.dentry.parent if file.path is not None else None
        above = parent.inode if parent is not None else None
        yield DirEntry("..", above.ino if above is not None else inode.ino, DT_DIR, 2)


def apply_attrs(inode: Inode, change: AttrChange) -> None:
    """setattr_copy(): everything but the size."""
    if change.mode is not None:
        inode.mode = inode.mode & st.S_IFMT | change.mode & st.S_IALLUGO
    if change.uid is not None:
        inode.uid = change.uid
    if change.gid is not None:
        inode.gid = change.gid
    now = now_ns()
    if change.atime_ns is not None:
        inode.atime_ns = now if change.atime_ns == NOW else change.atime_ns
    if change.mtime_ns is not None:
        inode.mtime_ns = now if change.mtime_ns == NOW else change.mtime_ns
    inode.ctime_ns = now


async def open_special(inode: Inode, path: Path, flags: int) -> File:
    """Open a file that is neither regular nor a directory, on whatever file system it lies.

    ENXIO: a socket, or a device without a driver.  ELOOP: a symbolic link.
    """
    # Imported here: both are file systems that use this module themselves.
    kind = inode.mode & st.S_IFMT
    if kind == st.S_IFIFO:
        from sentry.fs.pipefs import open_fifo

        return await open_fifo(inode, path, flags)
    if kind in (st.S_IFCHR, st.S_IFBLK):
        from sentry.fs.devfs import open_device

        return await open_device(inode, path, flags)
    raise ELOOP if kind == st.S_IFLNK else ENXIO


# -- directories --


class ListedDir(Inode):
    """A directory that nobody but its file system changes: lookup() and listing() say what is in it."""

    __slots__ = ()

    def listing(self) -> Iterable[tuple[str, int, int]]:
        """(name, inode number, mode) of every entry, in a stable order."""
        raise NotImplementedError

    async def open(self, path: Path, flags: int) -> File:
        return ListedDirFile(self, path, flags)


class ListedDirFile(File):
    """An open ListedDir: the entries as they were when reading began at the start."""

    __slots__ = ("_listing",)

    seekable: ClassVar[bool] = True
    inode: ListedDir

    def __init__(self, inode: ListedDir, path: Path, flags: int) -> None:
        super().__init__(inode, path, flags)
        self._listing: list[tuple[str, int, int]] | None = None

    async def load_entries(self) -> None:
        self.load_entries_now()

    def load_entries_now(self) -> bool:
        if self._listing is None or self.offset == 0:
            self._listing = list(self.inode.listing())
        return True

    def entries(self, offset: int) -> Iterator[DirEntry]:
        yield from dots(self, offset)
        listing = self._listing or []
        for at in range(max(offset - 2, 0), len(listing)):
            name, ino, mode = listing[at]
            yield DirEntry(name, ino, st.dirent_type(mode), at + 3)


class StaticDir(ListedDir):
    """A directory with fixed entries."""

    __slots__ = ("children",)

    def __init__(self, fs: FileSystem, children: Mapping[str, Inode], mode: int = 0o555) -> None:
        super().__init__(fs, st.S_IFDIR | mode)
        self.children = dict(children)
        self.nlink = 2 + sum(st.is_dir(child.mode) for child in self.children.values())

    async def lookup(self, name: str) -> Inode:
        child = self.children.get(name)
        if child is None:
            raise ENOENT
        return child

    def listing(self) -> Iterable[tuple[str, int, int]]:
        return [(name, child.ino, child.mode) for name, child in self.children.items()]


# -- links --


class Link(Inode):
    """A symbolic link with a fixed or computed target."""

    __slots__ = ("_target",)

    def __init__(self, fs: FileSystem, target: str | Callable[[], str]) -> None:
        super().__init__(fs, st.S_IFLNK | 0o777)
        self._target = target

    async def readlink(self) -> str:
        return self._target if isinstance(self._target, str) else self._target()


# -- files of text --


class TextNode(Inode):
    """A file whose content text() makes when it is read, and that write(), if given, takes.

    Each write(2) is one call of write with the bytes and the offset; it raises an errno class to
    refuse them.  A node without write is readable only: write(2) fails with EIO, as seq files of
    /proc without a write operation do.
    """

    __slots__ = ("take", "text")

    def __init__(
        self,
        fs: FileSystem,
        text: Callable[[], Text] | None,
        mode: int = 0o444,
        take: Callable[[bytes, int], None] | None = None,
    ) -> None:
        super().__init__(fs, st.S_IFREG | mode)
        self.text = text
        self.take = take

    async def setattr(self, change: AttrChange) -> None:
        """O_TRUNC means nothing here, as in procfs and sysfs; all else is fixed.  EPERM."""
        if change.size is None or change.mode is not None or change.uid is not None or change.gid is not None:
            raise EPERM

    async def open(self, path: Path, flags: int) -> File:
        return TextFile(self, path, flags)


class TextFile(File):
    """An open TextNode.  The text is made anew whenever reading starts at 0, and stays for reads behind it."""

    __slots__ = ("_content",)

    seekable: ClassVar[bool] = True
    inode: TextNode

    def __init__(self, inode: TextNode, path: Path, flags: int) -> None:
        super().__init__(inode, path, flags)
        self._content: bytes | None = None

    def read_at(self, dst: Sink, offset: int) -> int:
        if self.inode.text is None:
            raise EINVAL
        if self._content is None or offset == 0:
            text = self.inode.text()
            self._content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        chunk = self._content[offset : offset + dst.remaining]
        return dst.put(chunk) if chunk else 0

    def write_at(self, src: Source, offset: int) -> int:
        if self.inode.take is None:
            raise EIO
        data = src.take(PAGE_SIZE)
        self.inode.take(data, offset)
        return len(data)

    def seek(self, offset: int, whence: int) -> int:
        """seq_lseek(): from the start or the position only.  EINVAL."""
        if whence == SEEK_END:
            raise EINVAL
        return super().seek(offset, whence)


def fixed(text: str) -> Callable[[], str]:
    """The text of a file that never changes."""
    return lambda: text
