"""The host's side of the gofer: every call that touches the served tree.

Files are held by O_PATH descriptors and found one name at a time, openat(dir, name, O_PATH|O_NOFOLLOW) with a checked
name, so the host never follows a symbolic link or `..` on a client's behalf and nothing outside the root can be
reached.  A file that is held stays the same file whatever is renamed or unlinked.

What an O_PATH descriptor cannot do (chmod, chown, xattrs, truncate, open for I/O) is done on the path `N` in
/proc/self/fd, whose magic link leads to exactly the file that descriptor N holds, even if that is a symbolic link.
enter_proc() makes that directory the working directory; nothing else in this process uses relative paths.

All functions raise OSError.  Nobody's permissions are checked here: the client has done that, for users this process
does not know.
"""

from __future__ import annotations

import os
import time
from errno import EEXIST, EFBIG, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOTSUP, ENXIO, EPERM
from stat import S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_IMODE, S_ISGID

from proto.ninep.dialect import Attr
from proto.ninep.inodes import device_number
from proto.ninep.messages import (
    SETATTR_ATIME,
    SETATTR_ATIME_SET,
    SETATTR_GID,
    SETATTR_MODE,
    SETATTR_MTIME,
    SETATTR_MTIME_SET,
    SETATTR_SIZE,
    SETATTR_UID,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME_MAX = 255
UNCHANGED = -1  # as a uid or gid: chown(2)'s "leave it"

_CREATE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NAMES = frozenset((b"", b".", b".."))
_CLOCK_REALTIME_COARSE = 5  # the clock that file systems stamp with; a finer "now" would lie ahead of it
_MAX_NS = (1 << 63) - 1


def enter_proc(proc_fd: int) -> None:
    """Make /proc/self/fd the working directory.  proc_fd: an O_PATH descriptor of this process's /proc."""
    fd = os.open("self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc_fd)
    os.fchdir(fd)
    os.close(fd)


def _link(fd: int) -> bytes:
    """The path, in the working directory, of the magic link to what fd holds."""
    return b"%d" % fd


# ---- Names.


def check_name(name: bytes) -> None:
    """One component that names an entry of a directory, and nothing else."""
    if name in _NO_NAMES or b"/" in name or b"\0" in name:
        raise OSError(EINVAL, "not the name of a directory entry")
    if len(name) > NAME_MAX:
        raise OSError(ENAMETOOLONG, "name too long")


def hold(dir_fd: int, name: bytes) -> int:
    """An O_PATH descriptor of the entry; of the link itself if it is a symbolic link."""
    check_name(name)
    return os.open(name, _HOLD, dir_fd=dir_fd)


def stat_entry(dir_fd: int, name: bytes) -> os.stat_result:
    """What hold() and fstat would say."""
    check_name(name)
    return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)


def read_link(fd: int) -> bytes:
    """The target of the symbolic link that fd holds."""
    return os.readlink(b"", dir_fd=fd)


# ---- Attributes.


class InodeSalt(dict[int, int]):
    """st_dev -> what to xor into st_ino to get the number a client sees.

    0 for the device of the served root, so that its inode numbers are the host's.  Hard links thus keep equal numbers
    and files of different devices get different ones.
    """

    def __init__(self, root_dev: int) -> None:
        self._root_number = device_number(root_dev)

    def __missing__(self, dev: int) -> int:
        salt = self[dev] = device_number(dev) ^ self._root_number
        return salt


_new: Any = tuple.__new__


def attr_of(st: os.stat_result, salt: InodeSalt) -> Attr:
    """struct stat as the dialect's attr.  Times that do not fit 64 bits of ns (after 2262) are cut."""
    mode, ino, dev, nlink, uid, gid, size, _, _, _ = st
    atime, mtime, ctime = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
    if atime > _MAX_NS or mtime > _MAX_NS or ctime > _MAX_NS:
        atime, mtime, ctime = min(atime, _MAX_NS), min(mtime, _MAX_NS), min(ctime, _MAX_NS)
    ino ^= salt[dev]
    values = (ino, mode, nlink, uid, gid, st.st_rdev, size, st.st_blocks, atime, mtime, ctime, st.st_blksize)
    attr: Attr = _new(Attr, values)
    return attr


def set_size(fd: int, kind: int, size: int) -> None:
    """truncate(2): regular files only."""
    if kind != S_IFREG:
        raise OSError(EISDIR if kind == S_IFDIR else EINVAL, "not a regular file")
    if size > _MAX_NS:
        raise OSError(EFBIG, "larger than any file")
    os.truncate(_link(fd), size)


def set_times(fd: int, valid: int, atime_ns: int, mtime_ns: int) -> None:
    """utimensat(2): of the two times those in valid, to the value given or, without its _SET bit, to now."""
    both = SETATTR_ATIME | SETATTR_MTIME
    given = valid & (SETATTR_ATIME_SET | SETATTR_MTIME_SET)
    if valid & both == both and not given:
        os.utime(_link(fd))
        return
    st = os.stat(fd)
    now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    new_atime, new_mtime = st.st_atime_ns, st.st_mtime_ns
    if valid & SETATTR_ATIME:
        new_atime = atime_ns if valid & SETATTR_ATIME_SET else now
    if valid & SETATTR_MTIME:
        new_mtime = mtime_ns if valid & SETATTR_MTIME_SET else now
    os.utime(_link(fd), ns=(new_atime, new_mtime))


def set_attributes(fd: int, kind: int, wanted: tuple[int, int, int, int, int, int, int]) -> None:
    """Apply (valid, mode, uid, gid, size, atime_ns, mtime_ns).

    The order matters: chown(2) clears set-user-ID bits that a mode in the same request may set, and truncate(2)
    changes the times.
    """
    valid, mode, uid, gid, size, atime_ns, mtime_ns = wanted
    if valid & SETATTR_SIZE:
        set_size(fd, kind, size)
    if valid & (SETATTR_UID | SETATTR_GID):
        os.chown(_link(fd), uid if valid & SETATTR_UID else UNCHANGED, gid if valid & SETATTR_GID else UNCHANGED)
    if valid & SETATTR_MODE:
        if kind == S_IFLNK:
            raise OSError(ENOTSUP, "symbolic links have no mode")
        os.chmod(_link(fd), S_IMODE(mode))
    if valid & (SETATTR_ATIME | SETATTR_MTIME):
        set_times(fd, valid, atime_ns, mtime_ns)


# ---- Opening.


def open_file(fd: int, kind: int, flags: int) -> int:
    """A new open file description for I/O on the regular file that fd holds.

    Errors: ELOOP for a symbolic link, EISDIR for a directory, ENXIO for devices, FIFOs and sockets, which are never
    opened: opening them can block, or reach a driver or a process of the host.
    """
    if kind != S_IFREG:
        raise OSError({S_IFLNK: ELOOP, S_IFDIR: EISDIR}.get(kind, ENXIO), "not a regular file")
    return os.open(_link(fd), flags | os.O_CLOEXEC)


def sync(fd: int, kind: int, datasync: int) -> None:
    """fsync(2) or fdatasync(2) of a held file or directory."""
    if kind not in (S_IFREG, S_IFDIR):
        raise OSError(EINVAL, "not a file or directory")
    opened = os.open(_link(fd), os.O_RDONLY | os.O_CLOEXEC)
    try:
        (os.fdatasync if datasync else os.fsync)(opened)
    finally:
        os.close(opened)


# ---- Creating and removing entries.


def _give(path: bytes | int, dir_fd: int, fd: int, mode: int, uid: int, gid: int) -> os.stat_result:
    """Give the new file that fd refers to its owner, and the mode bits that chown(2) would have cleared.

    The host has seen to set-group-ID directories: their group wins over gid, and new directories inherit the bit.
    Permission bits are left as the host made them, for a default ACL of the directory may have cut them.
    """
    st = os.stat(fd)
    is_mode, _, _, _, is_uid, is_gid = st[:6]
    if uid == is_uid and gid == is_gid and not mode & 0o7000 & ~is_mode:
        return st  # this process's own ids are what most files are to have
    if gid not in (UNCHANGED, st.st_gid) and os.stat(dir_fd).st_mode & S_ISGID:
        gid = st.st_gid
    if uid not in (UNCHANGED, st.st_uid) or gid not in (UNCHANGED, st.st_gid):
        os.chown(path, uid, gid)
        st = os.stat(fd)
    if mode & 0o7000 & ~st.st_mode:
        os.chmod(path, S_IMODE(st.st_mode) | mode & 0o7000)
        st = os.stat(fd)
    return st


def create_file(
    dir_fd: int, name: bytes, flags: int, mode: int, owner: tuple[int, int], held: bool = True
) -> tuple[int, int, os.stat_result]:
    """Make a regular file: (descriptor opened with flags, O_PATH descriptor or -1 if not held, attributes).

    Nothing is left of it on failure.
    """
    check_name(name)
    fd = os.open(name, flags | _CREATE, mode & 0o777, dir_fd=dir_fd)
    try:
        st = _give(fd, dir_fd, fd, mode, *owner)
        return fd, os.open(_link(fd), os.O_PATH | os.O_CLOEXEC) if held else -1, st
    except BaseException:
        os.close(fd)
        os.unlink(name, dir_fd=dir_fd)
        raise


def create_unnamed(
    dir_fd: int, flags: int, mode: int, owner: tuple[int, int], held: bool
) -> tuple[int, int, os.stat_result]:
    """As create_file(), of a file without a name (O_TMPFILE); make_link() can give it one."""
    fd = os.open(b".", flags | os.O_TMPFILE | os.O_CLOEXEC, mode & 0o777, dir_fd=dir_fd)
    try:
        st = _give(fd, dir_fd, fd, mode, *owner)
        return fd, os.open(_link(fd), os.O_PATH | os.O_CLOEXEC) if held else -1, st
    except BaseException:
        os.close(fd)
        raise


def make_node(dir_fd: int, name: bytes, mode: int, owner: tuple[int, int]) -> tuple[int, os.stat_result]:
    """Make a directory, FIFO, socket or empty file, as mode's type says; held, with its attributes."""
    check_name(name)
    kind = S_IFMT(mode) or S_IFREG
    if kind not in (S_IFDIR, S_IFREG, S_IFIFO, S_IFSOCK):
        raise OSError(EPERM, "devices are not made here")
    if kind == S_IFDIR:
        os.mkdir(name, mode & 0o777, dir_fd=dir_fd)
    else:
        os.mknod(name, kind | mode & 0o777, dir_fd=dir_fd)
    return _hold_new(dir_fd, name, kind, mode, owner)


def make_symlink(dir_fd: int, name: bytes, target: bytes, owner: tuple[int, int]) -> tuple[int, os.stat_result]:
    """Make a symbolic link; held, with its attributes."""
    check_name(name)
    os.symlink(target, name, dir_fd=dir_fd)
    return _hold_new(dir_fd, name, S_IFLNK, 0, owner)


def _hold_new(dir_fd: int, name: bytes, kind: int, mode: int, owner: tuple[int, int]) -> tuple[int, os.stat_result]:
    """Hold what was just made and give it its owner; take it away again if that fails."""
    fd = -1
    try:
        fd = os.open(name, _HOLD, dir_fd=dir_fd)
        if S_IFMT(os.stat(fd).st_mode) == kind:
            return fd, _give(_link(fd), dir_fd, fd, mode, *owner)
    except BaseException:
        _close_if_open(fd)
        (os.rmdir if kind == S_IFDIR else os.unlink)(name, dir_fd=dir_fd)
        raise
    os.close(fd)
    raise OSError(EEXIST, "replaced by another process meanwhile")


def _close_if_open(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def make_link(fd: int, dir_fd: int, name: bytes) -> None:
    """link(2) to the very file that fd holds."""
    check_name(name)
    os.link(_link(fd), name, dst_dir_fd=dir_fd, follow_symlinks=True)


def rename(old_dir_fd: int, old_name: bytes, new_dir_fd: int, new_name: bytes) -> None:
    """rename(2)."""
    check_name(old_name)
    check_name(new_name)
    os.rename(old_name, new_name, src_dir_fd=old_dir_fd, dst_dir_fd=new_dir_fd)


def remove(dir_fd: int, name: bytes, directory: bool) -> None:
    """unlink(2), or rmdir(2)."""
    check_name(name)
    (os.rmdir if directory else os.unlink)(name, dir_fd=dir_fd)


# ---- Extended attributes.


def _check_xattr(name: bytes) -> None:
    """Only what has no meaning to the host's own security: ACLs, labels and trusted.* are refused."""
    if b"\0" in name:
        raise OSError(EINVAL, "NUL in the name")
    if not name.startswith(b"user.") and name != b"security.capability":
        raise OSError(ENOTSUP, "no such name space here")


def get_xattr(fd: int, name: bytes) -> bytes:
    _check_xattr(name)
    return os.getxattr(_link(fd), name)


def set_xattr(fd: int, name: bytes, value: bytes, flags: int) -> None:
    _check_xattr(name)
    os.setxattr(_link(fd), name, value, flags)


def remove_xattr(fd: int, name: bytes) -> None:
    _check_xattr(name)
    os.removexattr(_link(fd), name)


def list_xattr(fd: int) -> bytes:
    """The names that get_xattr() would answer, each ended by a NUL."""
    names = []
    for name in map(os.fsencode, os.listxattr(_link(fd))):
        try:
            _check_xattr(name)
        except OSError:
            continue
        names.append(name + b"\0")
    return b"".join(names)


# ---- Directories.


class DirStream:
    """The entries of a directory, in the host's order, from any offset.

    The offset of an entry is its place, counted from 3 (1 and 2 are those of `.` and `..`).  Reading on where the last
    read ended, as clients do, goes on in the host's own stream and costs nothing; any other offset begins again and
    skips.  No listing is kept, so that a large directory, or many, cost no memory.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rewind()

    def _rewind(self) -> None:
        self._entries = os.scandir(_link(self._fd))
        self._place = 2  # the offset of the last entry taken
        self._pending: os.DirEntry[bytes] | None = None  # taken and put back
        self._unread = True

    def seek(self, offset: int) -> None:
        """Let next() give the entry after that offset.  0 reads the directory anew."""
        if self._unread if offset <= 2 else offset == self._place:
            return
        self._entries.close()
        self._rewind()
        while self._place < offset and self.next():
            pass

    def next(self) -> tuple[int, os.DirEntry[bytes]] | None:
        """The next entry and its offset; None at the end."""
        self._unread = False
        entry = self._pending or next(self._entries, None)
        self._pending = None
        if entry is None:
            return None
        self._place += 1
        return self._place, entry

    def put_back(self, entry: os.DirEntry[bytes]) -> None:
        """The entry that next() gave was not used: give it again."""
        self._pending = entry
        self._place -= 1

    def close(self) -> None:
        self._entries.close()
