"""What "9P2000.L.pysc" adds to 9P2000.L: attributes with every answer, donated descriptors, creation as a given user,
and where the server runs.

    attr[76] = ino[8] mode[4] nlink[4] uid[4] gid[4] rdev[8] size[8] blocks[8] atime_ns[8] mtime_ns[8] ctime_ns[8]
               blksize[4]

    200 size[4] Twalkgetattr tag[2] fid[4] newfid[4] nwname[2] nwname*(wname[s])
    201 size[4] Rwalkgetattr tag[2] target[s] nattr[2] nattr*(attr[76])
    202 size[4] Tlopenfd tag[2] fid[4] flags[4]
    203 size[4] Rlopenfd tag[2] attr[76] iounit[4] has_fd[1]
    204 size[4] Tlcreatefd tag[2] dfid[4] newfid[4] flags[4] mode[4] uid[4] gid[4] name[s]
    205 size[4] Rlcreatefd tag[2] attr[76] iounit[4] has_fd[1]
    206 size[4] Tmake tag[2] dfid[4] newfid[4] mode[4] uid[4] gid[4] name[s]
    207 size[4] Rmake tag[2] attr[76]
    208 size[4] Tmakesymlink tag[2] dfid[4] newfid[4] uid[4] gid[4] name[s] target[s]
    209 size[4] Rmakesymlink tag[2] attr[76]
    210 size[4] Tmakelink tag[2] dfid[4] fid[4] name[s]
    211 size[4] Rmakelink tag[2] attr[76]
    212 size[4] Treaddirattr tag[2] fid[4] offset[8] count[4]
    213 size[4] Rreaddirattr tag[2] count[4] data[count]        entries: attr[76] offset[8] name[s]
    214 size[4] Tsetgetattr tag[2] fid[4] valid[4] mode[4] uid[4] gid[4] size[8] atime_ns[8] mtime_ns[8]
    215 size[4] Rsetgetattr tag[2] attr[76]
    216 size[4] Tclunkmany tag[2] nfid[2] nfid*(fid[4])
    217 size[4] Rclunkmany tag[2]
    218 size[4] Tgetxattr tag[2] fid[4] name[s]
    219 size[4] Rgetxattr tag[2] count[4] data[count]
    220 size[4] Tsetxattr tag[2] fid[4] flags[4] name[s] count[4] data[count]
    221 size[4] Rsetxattr tag[2]
    222 size[4] Tlistxattr tag[2] fid[4]
    223 size[4] Rlistxattr tag[2] count[4] data[count]
    224 size[4] Tremovexattr tag[2] fid[4] name[s]
    225 size[4] Rremovexattr tag[2]
    226 size[4] Tplace tag[2] cpu[4]
    227 size[4] Rplace tag[2]

Rules common to them:
- Where a request has a newfid, NOFID in it means that the client wants no fid for the file.
- has_fd 1 says that exactly one host descriptor came for the frame, with its first byte or with that of an earlier one
  that was sent along (SCM_RIGHTS); descriptors come in the order of their frames.  Only regular files are donated; the
  fid itself stays unopened, so it can be opened again with another access mode, or clunked.
- Creating is exclusive (EEXIST).  The new file has the uid, gid and mode given (the client applies the umask) before
  the reply is sent; in a set-group-ID directory it takes the directory's group, and a directory its bit.
- `..` is not a name in this dialect.
"""

from __future__ import annotations

from proto.ninep.message import Data, Message, Named, Str, message, struct
from proto.wire import i64, u8, u32, u64

VERSION_PYSC = b"9P2000.L.pysc"


@struct
class Attr(Named):
    """attr[76]: struct stat, stat(2), less st_dev.  The type is in mode; ino is the qid's path; times are in ns."""

    ino: u64
    mode: u32
    nlink: u32
    uid: u32
    gid: u32
    rdev: u64
    size: u64
    blocks: u64
    atime_ns: i64
    mtime_ns: i64
    ctime_ns: i64
    blksize: u32


@message(200)
class Twalkgetattr(Message):
    """size[4] Twalkgetattr tag[2] fid[4] newfid[4] nwname[2] nwname*(wname[s])

    Walk and stat.  newfid is made only if all names were walked; no names: a clone of fid."""

    fid: u32
    newfid: u32
    names: list[Str]


@message(201)
class Rwalkgetattr(Message):
    """size[4] Rwalkgetattr tag[2] target[s] nattr[2] nattr*(attr[76])

    One attr for each name walked, fewer than asked if a later one is missing or stands behind something that is no
    directory; Rlerror if the first fails.  No names: the attr of fid itself.  If the last attr is a symbolic link's,
    target is where it points to, otherwise "".
    """

    target: Str
    attrs: list[Attr]


@message(202)
class Tlopenfd(Message):
    """size[4] Tlopenfd tag[2] fid[4] flags[4]

    flags: the access mode, O_TRUNC; others are ignored (O_APPEND is the client's business).  A directory becomes ready
    for Treaddir and Treaddirattr; a regular file's descriptor is donated; others: ENXIO (symbolic link: ELOOP).
    """

    fid: u32
    flags: u32


@message(203)
class Rlopenfd(Message):
    """size[4] Rlopenfd tag[2] attr[76] iounit[4] has_fd[1]: attr is that after opening (and truncating)."""

    attr: Attr
    iounit: u32
    has_fd: u8


@message(204)
class Tlcreatefd(Message):
    """size[4] Tlcreatefd tag[2] dfid[4] newfid[4] flags[4] mode[4] uid[4] gid[4] name[s]

    Make and open a regular file; dfid stays the directory.  flags: the access mode; mode: the permission bits.  With
    O_TMPFILE in flags name is not looked at: the file has none, and Tmakelink may give it one."""

    dfid: u32
    newfid: u32
    flags: u32
    mode: u32
    uid: u32
    gid: u32
    name: Str


@message(205)
class Rlcreatefd(Message):
    """size[4] Rlcreatefd tag[2] attr[76] iounit[4] has_fd[1]"""

    attr: Attr
    iounit: u32
    has_fd: u8


@message(206)
class Tmake(Message):
    """size[4] Tmake tag[2] dfid[4] newfid[4] mode[4] uid[4] gid[4] name[s]

    mkdir and mknod: mode's type is S_IFDIR, S_IFREG (or none), S_IFIFO or S_IFSOCK; devices: EPERM."""

    dfid: u32
    newfid: u32
    mode: u32
    uid: u32
    gid: u32
    name: Str


@message(207)
class Rmake(Message):
    """size[4] Rmake tag[2] attr[76]"""

    attr: Attr


@message(208)
class Tmakesymlink(Message):
    """size[4] Tmakesymlink tag[2] dfid[4] newfid[4] uid[4] gid[4] name[s] target[s]"""

    dfid: u32
    newfid: u32
    uid: u32
    gid: u32
    name: Str
    target: Str


@message(209)
class Rmakesymlink(Message):
    """size[4] Rmakesymlink tag[2] attr[76]"""

    attr: Attr


@message(210)
class Tmakelink(Message):
    """size[4] Tmakelink tag[2] dfid[4] fid[4] name[s]: make `name` in dfid another name of fid."""

    dfid: u32
    fid: u32
    name: Str


@message(211)
class Rmakelink(Message):
    """size[4] Rmakelink tag[2] attr[76]: of the file, its link count raised."""

    attr: Attr


@message(212)
class Treaddirattr(Message):
    """size[4] Treaddirattr tag[2] fid[4] offset[8] count[4]: offset is 0 or that of the last entry read."""

    fid: u32
    offset: u64
    count: u32


@message(213)
class Rreaddirattr(Message):
    """size[4] Rreaddirattr tag[2] count[4] data[count]

    As many whole entries as fit, attr[76] offset[8] name[s] each, without `.` and `..`.  So room for a longest one left
    over means the end, as no entries do; a count too small for one is EINVAL.  codec.attr_entries() reads them."""

    data: Data


@message(214)
class Tsetgetattr(Message):
    """size[4] Tsetgetattr tag[2] fid[4] valid[4] mode[4] uid[4] gid[4] size[8] atime_ns[8] mtime_ns[8]

    valid is made of Tsetattr's SETATTR_* bits.  They are applied in the order size, owner, mode, times."""

    fid: u32
    valid: u32
    mode: u32
    uid: u32
    gid: u32
    size: u64
    atime_ns: i64
    mtime_ns: i64


@message(215)
class Rsetgetattr(Message):
    """size[4] Rsetgetattr tag[2] attr[76]"""

    attr: Attr


@message(216)
class Tclunkmany(Message):
    """size[4] Tclunkmany tag[2] nfid[2] nfid*(fid[4]): unknown fids are passed over."""

    fids: list[u32]


@message(217)
class Rclunkmany(Message):
    """size[4] Rclunkmany tag[2]"""


@message(218)
class Tgetxattr(Message):
    """size[4] Tgetxattr tag[2] fid[4] name[s]"""

    fid: u32
    name: Str


@message(219)
class Rgetxattr(Message):
    """size[4] Rgetxattr tag[2] count[4] data[count]"""

    data: Data


@message(220)
class Tsetxattr(Message):
    """size[4] Tsetxattr tag[2] fid[4] flags[4] name[s] count[4] data[count]: flags are those of setxattr(2)."""

    fid: u32
    flags: u32
    name: Str
    data: Data


@message(221)
class Rsetxattr(Message):
    """size[4] Rsetxattr tag[2]"""


@message(222)
class Tlistxattr(Message):
    """size[4] Tlistxattr tag[2] fid[4]"""

    fid: u32


@message(223)
class Rlistxattr(Message):
    """size[4] Rlistxattr tag[2] count[4] data[count]: names, each ended by a NUL, as listxattr(2) gives them."""

    data: Data


@message(224)
class Tremovexattr(Message):
    """size[4] Tremovexattr tag[2] fid[4] name[s]"""

    fid: u32
    name: Str


@message(225)
class Rremovexattr(Message):
    """size[4] Rremovexattr tag[2]"""


@message(226)
class Tplace(Message):
    """size[4] Tplace tag[2] cpu[4]: the client runs on this processor; on the same one, it is answered sooner.

    Whoever sends a request and waits has nothing else to do on its processor, while another one has to be woken up."""

    cpu: u32


@message(227)
class Rplace(Message):
    """size[4] Rplace tag[2]"""
