"""The requests of 9P2000.L, in numerical order.  Each handler's contract is the docstring of its message class.

Files that these requests create belong to the attached user (n_uname) and the gid given.
"""

from __future__ import annotations

import os
import struct
from errno import E2BIG, EACCES, EAGAIN, EBADF, EINVAL, EISDIR, ENODATA, ENOENT, ENOTDIR
from fcntl import F_OFD_GETLK, F_OFD_SETLK, F_UNLCK, fcntl
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG

from gofer import localfs
from gofer.fids import Fid, XattrReader, XattrWriter, fid_of_root
from gofer.localfs import UNCHANGED
from gofer.walk import descend, entry, parent_step, walk
from proto.ninep import messages as m
from proto.ninep.codec import pack_dirent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gofer.localfs import DirStream
    from gofer.session import Handler, Session
    from proto.ninep.message import Message

    PackEntry = Callable[[os.DirEntry[bytes], int], bytes]

AT_REMOVEDIR = 0x200
XATTR_SIZE_MAX = 65536
V9FS_MAGIC = 0x01021997  # what Linux's own 9P client shows as statfs(2)'s f_type; the host's is not to be had

# What of open(2)'s flags may reach the host.  O_NONBLOCK, O_DIRECT, O_CREAT and the like are the client's business.
_OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND | os.O_SYNC | os.O_DSYNC

_REPLY_HEADER = 11  # of Rread and Rreaddir: size[4] type[1] tag[2] count[4]
_MASK64 = (1 << 64) - 1
_REMOVED = m.Runlinkat()

_FLOCK = struct.Struct("hhqqi4x")  # struct flock, fcntl(2)
_DT_UNKNOWN, _DT_DIR, _DT_REG, _DT_LNK = 0, 4, 8, 10


def qid_of(s: Session, st: os.stat_result) -> m.Qid:
    """The qid of a file.  Version 0: the client must not think that it can tell changes by it."""
    kind = S_IFMT(st.st_mode)
    qid_type = m.QT_DIR if kind == S_IFDIR else m.QT_SYMLINK if kind == S_IFLNK else m.QT_FILE
    return m.Qid(qid_type, 0, st.st_ino ^ s.salt[st.st_dev])


def _owner(uid: int, gid: int) -> tuple[int, int]:
    return uid, UNCHANGED if gid == m.NONUNAME else gid


def _directory(s: Session, number: int) -> Fid:
    fid = s.fids.get(number)
    if not fid.is_directory():
        raise OSError(ENOTDIR, "not a directory")
    return fid


def io_unit(s: Session) -> int:
    return s.msize - m.IO_HEADER


def wants_change(flags: int) -> bool:
    return bool(flags & (os.O_ACCMODE | os.O_TRUNC))


# ---- Requests that only look, or change nothing that a read-only mount protects.


def statfs(s: Session, t: m.Tstatfs) -> m.Rstatfs:
    f = os.statvfs(s.fids.get(t.fid).fd)
    numbers = f.f_blocks, f.f_bfree, f.f_bavail, f.f_files, f.f_ffree, f.f_fsid & _MASK64
    return m.Rstatfs(V9FS_MAGIC, f.f_bsize, *numbers, f.f_namemax)


def lopen(s: Session, t: m.Tlopen) -> m.Rlopen:
    fid = s.fids.get(t.fid)
    if fid.is_open():
        raise OSError(EBADF, "the fid is open already")
    if wants_change(t.flags):
        s.check_writable()
    if fid.is_directory() and not wants_change(t.flags):
        fid.open_directory()
    else:
        fid.file = localfs.open_file(fid.fd, fid.kind, t.flags & _OPEN_FLAGS)
    return m.Rlopen(qid_of(s, os.stat(fid.fd)), io_unit(s))


def readlink(s: Session, t: m.Treadlink) -> m.Rreadlink:
    return m.Rreadlink(localfs.read_link(s.fids.get(t.fid).fd))


def _time(time_ns: int) -> tuple[int, int]:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return seconds & _MASK64, nanoseconds


def getattr_(s: Session, t: m.Tgetattr) -> m.Rgetattr:
    st = os.stat(s.fids.get(t.fid).fd)
    return m.Rgetattr(
        m.GETATTR_BASIC,
        qid_of(s, st),
        *(st.st_mode, st.st_uid, st.st_gid),
        *(st.st_nlink, st.st_rdev, st.st_size, st.st_blksize, st.st_blocks),
        *(*_time(st.st_atime_ns), *_time(st.st_mtime_ns), *_time(st.st_ctime_ns)),
        *(0, 0, 0, 0),  # btime, gen, data_version: not in GETATTR_BASIC
    )


def xattrwalk(s: Session, t: m.Txattrwalk) -> m.Rxattrwalk:
    fid = s.fids.get(t.fid)
    s.fids.check_free(t.newfid)
    value = localfs.get_xattr(fid.fd, t.name) if t.name else localfs.list_xattr(fid.fd)
    reader = Fid(-1, 0, None)
    reader.xattr = XattrReader(value)
    s.fids.put(t.newfid, reader)
    return m.Rxattrwalk(len(value))


def fill(stream: DirStream, offset: int, room: int, pack: PackEntry, may_be_none: bool = False) -> list[bytes]:
    """Packed entries after offset, as many whole ones as there is room for.

    EINVAL if there are some, but no room for the first; unless none may be given.
    """
    stream.seek(offset)
    packed: list[bytes] = []
    while (item := stream.next()) is not None:
        place, dir_entry = item
        piece = pack(dir_entry, place)
        room -= len(piece)
        if room < 0:
            stream.put_back(dir_entry)
            if not packed and not may_be_none:
                raise OSError(EINVAL, "no room for one entry")
            break
        packed.append(piece)
    return packed


def _entry_type(dir_entry: os.DirEntry[bytes]) -> int:
    if dir_entry.is_symlink():
        return _DT_LNK
    if dir_entry.is_dir(follow_symlinks=False):
        return _DT_DIR
    return _DT_REG if dir_entry.is_file(follow_symlinks=False) else _DT_UNKNOWN


def readdir(s: Session, t: m.Treaddir) -> m.Rreaddir:
    fid = s.fids.get(t.fid)
    if fid.stream is None:
        raise OSError(EBADF, "not an open directory")
    own = os.stat(fid.fd)
    above = own if fid.path is None else os.stat(b"..", dir_fd=fid.fd)
    salt = s.salt[own.st_dev]

    def pack(dir_entry: os.DirEntry[bytes], place: int) -> bytes:
        kind = _entry_type(dir_entry)
        qid_type = {_DT_DIR: m.QT_DIR, _DT_LNK: m.QT_SYMLINK}.get(kind, m.QT_FILE)
        return pack_dirent(m.Qid(qid_type, 0, dir_entry.inode() ^ salt), place, kind, dir_entry.name)

    dots = [pack_dirent(qid_of(s, own), 1, _DT_DIR, b"."), pack_dirent(qid_of(s, above), 2, _DT_DIR, b"..")]
    room = min(t.count, s.msize - _REPLY_HEADER)
    data = b""
    for dot in dots[t.offset :]:
        if len(data) + len(dot) > room:
            break
        data += dot
    else:
        data += b"".join(fill(fid.stream, t.offset, room - len(data), pack, bool(data)))
    if not data and t.offset < 2:
        raise OSError(EINVAL, "no room for one entry")
    return m.Rreaddir(data)


def fsync(s: Session, t: m.Tfsync) -> m.Rfsync:
    fid = s.fids.get(t.fid)
    localfs.sync(fid.fd, fid.kind, t.datasync)
    return m.Rfsync()


def _flock(s: Session, number: int, operation: int, kind: int, start: int, length: int) -> tuple[int, ...]:
    """Do an fcntl(2) lock operation.  Locks belong to the fid (OFD locks), not to the client's process."""
    if kind > F_UNLCK:
        raise OSError(EINVAL, "no such type of lock")
    file = s.fids.get(number).file
    if file < 0:
        raise OSError(EBADF, "not an open file")
    return _FLOCK.unpack(fcntl(file, operation, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)))


def lock(s: Session, t: m.Tlock) -> m.Rlock:
    try:
        _flock(s, t.fid, F_OFD_SETLK, t.type, t.start, t.length)
    except OSError as error:
        if error.errno not in (EAGAIN, EACCES):
            raise
        return m.Rlock(m.LOCK_BLOCKED)  # whatever LOCK_FLAGS_BLOCK says: the client asks again
    return m.Rlock(m.LOCK_SUCCESS)


def getlock(s: Session, t: m.Tgetlock) -> m.Rgetlock:
    kind, _, start, length, _ = _flock(s, t.fid, F_OFD_GETLK, t.type, t.start, t.length)
    return m.Rgetlock(kind, start, length, t.proc_id, t.client_id)


def auth(s: Session, t: m.Tauth) -> Message:
    raise OSError(ENOENT, "the connection itself is the authority")  # how diod's clients hear "not required"


def attach(s: Session, t: m.Tattach) -> m.Rattach:
    if t.afid != m.NOFID:
        raise OSError(EBADF, "no authentication is done here")
    if t.aname not in (b"", b"/"):
        raise OSError(ENOENT, "a connection serves one tree, named ''")
    s.fids.check_free(t.fid)
    root = fid_of_root(s.root_fd, UNCHANGED if t.n_uname == m.NONUNAME else t.n_uname)
    s.fids.put(t.fid, root)
    return m.Rattach(qid_of(s, os.stat(root.fd)))


def flush(s: Session, t: m.Tflush) -> m.Rflush:
    return m.Rflush()


def check_walk(s: Session, fid: int, newfid: int, names: list[bytes]) -> Fid:
    """What Twalk and Twalkgetattr check before walking: the fid to begin at."""
    start = s.fids.get(fid)
    if newfid != fid:
        s.fids.check_free(newfid)
    if len(names) > m.MAX_WELEM:
        raise OSError(EINVAL, "too many names")
    return start


def walk_(s: Session, t: m.Twalk) -> m.Rwalk:
    start = check_walk(s, t.fid, t.newfid, t.names)
    passed, fid = walk(start, t.names, parent_step(s.root_fd))
    if len(passed) < len(t.names):
        fid.close()
    elif t.names or t.newfid != t.fid:
        s.fids.put(t.newfid, fid if t.names else start.clone())
    return m.Rwalk([qid_of(s, st) for st in passed])


def read(s: Session, t: m.Tread) -> m.Rread:
    fid = s.fids.get(t.fid)
    count = min(t.count, s.msize - _REPLY_HEADER)
    if isinstance(fid.xattr, XattrReader):
        return m.Rread(fid.xattr.value[t.offset : t.offset + count])
    if fid.stream is not None:
        raise OSError(EISDIR, "directories are read with Treaddir")
    return m.Rread(os.pread(fid.file, count, t.offset))


def clunk(s: Session, t: m.Tclunk) -> m.Rclunk:
    fid = s.fids.take(t.fid)
    try:
        if isinstance(fid.xattr, XattrWriter):
            _commit_xattr(fid.fd, fid.xattr)
    finally:
        fid.close()
    return m.Rclunk()


def remove(s: Session, t: m.Tremove) -> m.Rremove:
    fid = s.fids.take(t.fid)
    try:
        s.check_writable()  # here, and not by the table: the fid is clunked in any case
        directory, name = entry(fid, s.root_fd)
        try:
            localfs.remove(directory.fd, name, fid.is_directory())
        finally:
            directory.close()
    finally:
        fid.close()
    return m.Rremove()


# ---- Requests that change the tree.


def lcreate(s: Session, t: m.Tlcreate) -> m.Rlcreate:
    """Without O_EXCL, a regular file that is there already is opened."""
    directory = _directory(s, t.fid)
    if directory.is_open():
        raise OSError(EBADF, "the fid is open already")
    flags = t.flags & _OPEN_FLAGS
    try:
        fid, st = _create(directory, t, flags)
    except FileExistsError:
        if t.flags & os.O_EXCL:
            raise
        fid, st = descend(directory, t.name)
        try:
            fid.file = localfs.open_file(fid.fd, fid.kind, flags)
        except BaseException:
            fid.close()
            raise
    s.fids.put(t.fid, fid)
    return m.Rlcreate(qid_of(s, st), io_unit(s))


def _create(directory: Fid, t: m.Tlcreate, flags: int) -> tuple[Fid, os.stat_result]:
    owner = _owner(directory.uid, t.gid)
    file, fd, st = localfs.create_file(directory.fd, t.name, flags, t.mode, owner)
    fid = Fid(fd, S_IFREG, (directory.path, t.name), directory.uid)
    fid.file = file
    return fid, st


def symlink(s: Session, t: m.Tsymlink) -> m.Rsymlink:
    directory = _directory(s, t.fid)
    fd, st = localfs.make_symlink(directory.fd, t.name, t.target, _owner(directory.uid, t.gid))
    os.close(fd)
    return m.Rsymlink(qid_of(s, st))


def _make(s: Session, dfid: int, name: bytes, mode: int, gid: int) -> m.Qid:
    directory = _directory(s, dfid)
    fd, st = localfs.make_node(directory.fd, name, mode, _owner(directory.uid, gid))
    os.close(fd)
    return qid_of(s, st)


def mknod(s: Session, t: m.Tmknod) -> m.Rmknod:
    if S_IFMT(t.mode) == S_IFDIR:
        raise OSError(EINVAL, "directories are made with Tmkdir")
    return m.Rmknod(_make(s, t.dfid, t.name, t.mode, t.gid))


def rename(s: Session, t: m.Trename) -> m.Rrename:
    fid = s.fids.get(t.fid)
    new_directory = _directory(s, t.dfid)
    directory, name = entry(fid, s.root_fd)
    try:
        localfs.rename(directory.fd, name, new_directory.fd, t.name)
    finally:
        directory.close()
    fid.path = (new_directory.path, t.name)
    return m.Rrename()


def setattr_(s: Session, t: m.Tsetattr) -> m.Rsetattr:
    fid = s.fids.get(t.fid)
    atime_ns = _signed(t.atime_sec) * 1_000_000_000 + t.atime_nsec
    mtime_ns = _signed(t.mtime_sec) * 1_000_000_000 + t.mtime_nsec
    localfs.set_attributes(fid.fd, fid.kind, (t.valid, t.mode, t.uid, t.gid, t.size, atime_ns, mtime_ns))
    return m.Rsetattr()


def _signed(seconds: int) -> int:
    return seconds - (1 << 64) if seconds >> 63 else seconds


def xattrcreate(s: Session, t: m.Txattrcreate) -> m.Rxattrcreate:
    fid = s.fids.get(t.fid)
    if fid.is_open():
        raise OSError(EBADF, "the fid is open already")
    if t.attr_size > XATTR_SIZE_MAX:
        raise OSError(E2BIG, "larger than any extended attribute")
    fid.xattr = XattrWriter(t.name, t.attr_size, t.flags)
    return m.Rxattrcreate()


def _commit_xattr(fd: int, xattr: XattrWriter) -> None:
    """Set what was written; or remove it, which Linux's client spells as a value of no bytes and no flags."""
    if len(xattr.value) != xattr.size:
        raise OSError(ENODATA, "less was written than announced")
    if xattr.size or xattr.flags:
        localfs.set_xattr(fd, xattr.name, bytes(xattr.value), xattr.flags)
    else:
        localfs.remove_xattr(fd, xattr.name)


def link(s: Session, t: m.Tlink) -> m.Rlink:
    directory = _directory(s, t.dfid)
    localfs.make_link(s.fids.get(t.fid).fd, directory.fd, t.name)
    return m.Rlink()


def mkdir(s: Session, t: m.Tmkdir) -> m.Rmkdir:
    return m.Rmkdir(_make(s, t.dfid, t.name, S_IFDIR | t.mode & 0o7777, t.gid))


def renameat(s: Session, t: m.Trenameat) -> m.Rrenameat:
    old, new = _directory(s, t.olddirfid), _directory(s, t.newdirfid)
    localfs.rename(old.fd, t.oldname, new.fd, t.newname)
    return m.Rrenameat()


def unlinkat(s: Session, t: m.Tunlinkat) -> m.Runlinkat:
    dirfid, name, flags = t
    if flags & ~AT_REMOVEDIR:
        raise OSError(EINVAL, "unknown flags")
    localfs.remove(_directory(s, dirfid).fd, name, bool(flags))
    return _REMOVED


def write(s: Session, t: m.Twrite) -> m.Rwrite:
    fid = s.fids.get(t.fid)
    if not isinstance(fid.xattr, XattrWriter):
        return m.Rwrite(os.pwrite(fid.file, t.data, t.offset))
    if t.offset != len(fid.xattr.value) or t.offset + len(t.data) > fid.xattr.size:
        raise OSError(EINVAL, "not the next part of the value announced")
    fid.xattr.value += t.data
    return m.Rwrite(len(t.data))


LOOKING: dict[type[Message], Handler] = {
    m.Tstatfs: statfs,
    m.Tlopen: lopen,
    m.Treadlink: readlink,
    m.Tgetattr: getattr_,
    m.Txattrwalk: xattrwalk,
    m.Treaddir: readdir,
    m.Tfsync: fsync,
    m.Tlock: lock,
    m.Tgetlock: getlock,
    m.Tauth: auth,
    m.Tattach: attach,
    m.Tflush: flush,
    m.Twalk: walk_,
    m.Tread: read,
    m.Tclunk: clunk,
    m.Tremove: remove,
}

CHANGING: dict[type[Message], Handler] = {
    m.Tlcreate: lcreate,
    m.Tsymlink: symlink,
    m.Tmknod: mknod,
    m.Trename: rename,
    m.Tsetattr: setattr_,
    m.Txattrcreate: xattrcreate,
    m.Tlink: link,
    m.Tmkdir: mkdir,
    m.Trenameat: renameat,
    m.Tunlinkat: unlinkat,
    m.Twrite: write,
}
