"""The requests that "9P2000.L.pysc" adds, in numerical order.  Their contracts are in proto/ninep/dialect.py."""

from __future__ import annotations

import os
from errno import EBADF, EINVAL, EISDIR, ENOTDIR
from os import O_ACCMODE, O_TMPFILE
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISLNK

from gofer import localfs
from gofer.fids import Fid
from gofer.localfs import attr_of
from gofer.plain import check_walk, fill, io_unit, wants_change
from gofer.walk import walk
from proto.ninep import dialect as d
from proto.ninep.codec import pack_attr_entry
from proto.ninep.messages import MAX_WELEM, NOFID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.session import Handler, Session
    from proto.ninep.message import Message

_OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC
_REPLY_HEADER = 11  # of Rreaddirattr: size[4] type[1] tag[2] count[4]

# Stands for an entry whose attributes cannot be had (a dead FUSE mount, say): mode 0, which no file has.
_NO_ATTR = d.Attr(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def _directory(s: Session, number: int, newfid: int) -> Fid:
    """The directory to create in, after everything that could fail once the file is made."""
    fid = s.fids.get(number)
    if fid.kind != S_IFDIR:
        raise OSError(ENOTDIR, "not a directory")
    if newfid != NOFID:
        s.fids.check_free(newfid)
    return fid


def _keep(s: Session, newfid: int, fd: int, st: os.stat_result, directory: Fid, name: bytes) -> d.Attr:
    """Enter a new file under newfid, or let go of it if the client wants no fid."""
    if newfid == NOFID:
        os.close(fd)
    else:
        s.fids.put(newfid, Fid(fd, S_IFMT(st.st_mode), (directory.path, name), directory.uid))
    return attr_of(st, s.salt)


# ---- Requests that only look, or whose flags say whether they do.


def walkgetattr(s: Session, t: d.Twalkgetattr) -> d.Rwalkgetattr:
    if t.newfid == NOFID and len(t.names) == 1:
        return _stat_entry(s, s.fids.get(t.fid), t.names[0])
    start = check_walk(s, t.fid, t.newfid, t.names) if t.newfid != NOFID else _check_stat(s, t)
    if not t.names:
        return _clone(s, start, t)
    passed, fid = walk(start, t.names)
    kept = False
    try:
        target = localfs.read_link(fid.fd) if fid.kind == S_IFLNK else b""
        if t.newfid != NOFID and len(passed) == len(t.names):
            s.fids.put(t.newfid, fid)
            kept = True
    finally:
        if not kept:
            fid.close()
    salt = s.salt
    return d.Rwalkgetattr(target, [attr_of(st, salt) for st in passed])


def _stat_entry(s: Session, directory: Fid, name: bytes) -> d.Rwalkgetattr:
    """One name and no fid wanted: one system call, and no descriptor."""
    st = localfs.stat_entry(directory.fd, name)
    target = os.readlink(name, dir_fd=directory.fd) if S_ISLNK(st.st_mode) else b""
    return d.Rwalkgetattr(target, [attr_of(st, s.salt)])


def _check_stat(s: Session, t: d.Twalkgetattr) -> Fid:
    if len(t.names) > MAX_WELEM:
        raise OSError(EINVAL, "too many names")
    return s.fids.get(t.fid)


def _clone(s: Session, start: Fid, t: d.Twalkgetattr) -> d.Rwalkgetattr:
    target = localfs.read_link(start.fd) if start.kind == S_IFLNK else b""
    attr = attr_of(os.stat(start.fd), s.salt)
    if t.newfid not in (NOFID, t.fid):
        s.fids.put(t.newfid, start.clone())
    return d.Rwalkgetattr(target, [attr])


def lopenfd(s: Session, t: d.Tlopenfd) -> d.Rlopenfd:
    fid = s.fids.get(t.fid)
    change = wants_change(t.flags)
    if change:
        s.check_writable()
    if not fid.is_directory():
        s.donated = localfs.open_file(fid.fd, fid.kind, t.flags & _OPEN_FLAGS)
        return d.Rlopenfd(attr_of(os.stat(s.donated), s.salt), io_unit(s), 1)
    if change:
        raise OSError(EISDIR, "a directory")
    fid.open_directory()
    return d.Rlopenfd(attr_of(os.stat(fid.fd), s.salt), io_unit(s), 0)


def readdirattr(s: Session, t: d.Treaddirattr) -> d.Rreaddirattr:
    fid = s.fids.get(t.fid)
    if fid.stream is None:
        raise OSError(EBADF, "not an open directory")
    salt = s.salt
    dir_fd = fid.fd

    def pack(dir_entry: os.DirEntry[bytes], place: int) -> bytes:
        name = dir_entry.name
        try:
            attr = attr_of(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), salt)
        except FileNotFoundError:
            return b""  # removed since the host listed it
        except OSError:
            attr = _NO_ATTR
        return pack_attr_entry(attr, place, name)

    room = min(t.count, s.msize - _REPLY_HEADER)
    return d.Rreaddirattr(b"".join(fill(fid.stream, t.offset, room, pack)))


def clunkmany(s: Session, t: d.Tclunkmany) -> d.Rclunkmany:
    s.fids.drop(t.fids)
    return d.Rclunkmany()


def place(s: Session, t: d.Tplace) -> d.Rplace:
    os.sched_setaffinity(0, (t.cpu,))
    return d.Rplace()


def getxattr(s: Session, t: d.Tgetxattr) -> d.Rgetxattr:
    return d.Rgetxattr(localfs.get_xattr(s.fids.get(t.fid).fd, t.name))


def listxattr(s: Session, t: d.Tlistxattr) -> d.Rlistxattr:
    return d.Rlistxattr(localfs.list_xattr(s.fids.get(t.fid).fd))


# ---- Requests that change the tree.


def lcreatefd(s: Session, t: d.Tlcreatefd) -> d.Rlcreatefd:
    dfid, newfid, flags, mode, uid, gid, name = t
    directory = _directory(s, dfid, newfid)
    wanted = newfid != NOFID
    if flags & O_TMPFILE == O_TMPFILE:
        made = localfs.create_unnamed(directory.fd, flags & O_ACCMODE, mode, (uid, gid), wanted)
    else:
        made = localfs.create_file(directory.fd, name, flags & O_ACCMODE, mode, (uid, gid), wanted)
    s.donated, fd, st = made
    if wanted:
        s.fids.put(newfid, Fid(fd, S_IFREG, (directory.path, name), directory.uid))
    return d.Rlcreatefd.of((attr_of(st, s.salt), io_unit(s), 1))


def make(s: Session, t: d.Tmake) -> d.Rmake:
    directory = _directory(s, t.dfid, t.newfid)
    fd, st = localfs.make_node(directory.fd, t.name, t.mode, (t.uid, t.gid))
    return d.Rmake(_keep(s, t.newfid, fd, st, directory, t.name))


def makesymlink(s: Session, t: d.Tmakesymlink) -> d.Rmakesymlink:
    directory = _directory(s, t.dfid, t.newfid)
    fd, st = localfs.make_symlink(directory.fd, t.name, t.target, (t.uid, t.gid))
    return d.Rmakesymlink(_keep(s, t.newfid, fd, st, directory, t.name))


def makelink(s: Session, t: d.Tmakelink) -> d.Rmakelink:
    directory = _directory(s, t.dfid, NOFID)
    fid = s.fids.get(t.fid)
    localfs.make_link(fid.fd, directory.fd, t.name)
    return d.Rmakelink(attr_of(os.stat(fid.fd), s.salt))


def setgetattr(s: Session, t: d.Tsetgetattr) -> d.Rsetgetattr:
    fid = s.fids.get(t.fid)
    localfs.set_attributes(fid.fd, fid.kind, (t.valid, t.mode, t.uid, t.gid, t.size, t.atime_ns, t.mtime_ns))
    return d.Rsetgetattr(attr_of(os.stat(fid.fd), s.salt))


def setxattr(s: Session, t: d.Tsetxattr) -> d.Rsetxattr:
    localfs.set_xattr(s.fids.get(t.fid).fd, t.name, t.data, t.flags)
    return d.Rsetxattr()


def removexattr(s: Session, t: d.Tremovexattr) -> d.Rremovexattr:
    localfs.remove_xattr(s.fids.get(t.fid).fd, t.name)
    return d.Rremovexattr()


LOOKING: dict[type[Message], Handler] = {
    d.Twalkgetattr: walkgetattr,
    d.Tlopenfd: lopenfd,
    d.Treaddirattr: readdirattr,
    d.Tclunkmany: clunkmany,
    d.Tgetxattr: getxattr,
    d.Tlistxattr: listxattr,
    d.Tplace: place,
}

CHANGING: dict[type[Message], Handler] = {
    d.Tlcreatefd: lcreatefd,
    d.Tmake: make,
    d.Tmakesymlink: makesymlink,
    d.Tmakelink: makelink,
    d.Tsetgetattr: setgetattr,
    d.Tsetxattr: setxattr,
    d.Tremovexattr: removexattr,
}
