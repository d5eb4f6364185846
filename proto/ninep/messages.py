"""The messages of 9P2000.L, in numerical order; each docstring is the wire line of diod's protocol.md.

Linux: include/net/9p/9p.h (numbers and flags), net/9p/client.c (formats).  Every request Tx has the reply Rx with the
next number, or Rlerror.  The messages that pysc adds are in dialect.py.
"""

from __future__ import annotations

from proto.ninep.message import Data, Message, Named, Str, message, struct
from proto.wire import u8, u16, u32, u64

VERSION_L = b"9P2000.L"
VERSION_UNKNOWN = b"unknown"

NOTAG = 0xFFFF
NOFID = 0xFFFFFFFF
NONUNAME = 0xFFFFFFFF
MAX_WELEM = 16

# What a frame of Tread or Twrite has beside the data, rounded up: msize - IO_HEADER bytes fit.
IO_HEADER = 24

QT_DIR = 0x80
QT_SYMLINK = 0x02
QT_FILE = 0x00

# Tgetattr.request_mask and Rgetattr.valid: mode nlink uid gid rdev atime mtime ctime ino size blocks.
GETATTR_BASIC = 0x7FF

SETATTR_MODE = 0x001
SETATTR_UID = 0x002
SETATTR_GID = 0x004
SETATTR_SIZE = 0x008
SETATTR_ATIME = 0x010
SETATTR_MTIME = 0x020
SETATTR_CTIME = 0x040
SETATTR_ATIME_SET = 0x080
SETATTR_MTIME_SET = 0x100

LOCK_TYPE_RDLCK = 0
LOCK_TYPE_WRLCK = 1
LOCK_TYPE_UNLCK = 2
LOCK_FLAGS_BLOCK = 1
LOCK_SUCCESS = 0
LOCK_BLOCKED = 1
LOCK_ERROR = 2


@struct
class Qid(Named):
    """qid[13] = type[1] version[4] path[8]: the server's name for a file; path is its inode number."""

    type: u8
    version: u32
    path: u64


@message(7)
class Rlerror(Message):
    """size[4] Rlerror tag[2] ecode[4]: the request failed with this Linux errno."""

    ecode: u32


@message(8)
class Tstatfs(Message):
    """size[4] Tstatfs tag[2] fid[4]"""

    fid: u32


@message(9)
class Rstatfs(Message):
    """size[4] Rstatfs tag[2] type[4] bsize[4] blocks[8] bfree[8] bavail[8] files[8] ffree[8] fsid[8] namelen[4]"""

    type: u32
    bsize: u32
    blocks: u64
    bfree: u64
    bavail: u64
    files: u64
    ffree: u64
    fsid: u64
    namelen: u32


@message(12)
class Tlopen(Message):
    """size[4] Tlopen tag[2] fid[4] flags[4]: flags are those of open(2)."""

    fid: u32
    flags: u32


@message(13)
class Rlopen(Message):
    """size[4] Rlopen tag[2] qid[13] iounit[4]"""

    qid: Qid
    iounit: u32


@message(14)
class Tlcreate(Message):
    """size[4] Tlcreate tag[2] fid[4] name[s] flags[4] mode[4] gid[4]: the fid becomes the new, open file."""

    fid: u32
    name: Str
    flags: u32
    mode: u32
    gid: u32


@message(15)
class Rlcreate(Message):
    """size[4] Rlcreate tag[2] qid[13] iounit[4]"""

    qid: Qid
    iounit: u32


@message(16)
class Tsymlink(Message):
    """size[4] Tsymlink tag[2] fid[4] name[s] symtgt[s] gid[4]"""

    fid: u32
    name: Str
    target: Str
    gid: u32


@message(17)
class Rsymlink(Message):
    """size[4] Rsymlink tag[2] qid[13]"""

    qid: Qid


@message(18)
class Tmknod(Message):
    """size[4] Tmknod tag[2] dfid[4] name[s] mode[4] major[4] minor[4] gid[4]"""

    dfid: u32
    name: Str
    mode: u32
    major: u32
    minor: u32
    gid: u32


@message(19)
class Rmknod(Message):
    """size[4] Rmknod tag[2] qid[13]"""

    qid: Qid


@message(20)
class Trename(Message):
    """size[4] Trename tag[2] fid[4] dfid[4] name[s]"""

    fid: u32
    dfid: u32
    name: Str


@message(21)
class Rrename(Message):
    """size[4] Rrename tag[2]"""


@message(22)
class Treadlink(Message):
    """size[4] Treadlink tag[2] fid[4]"""

    fid: u32


@message(23)
class Rreadlink(Message):
    """size[4] Rreadlink tag[2] target[s]"""

    target: Str


@message(24)
class Tgetattr(Message):
    """size[4] Tgetattr tag[2] fid[4] request_mask[8]"""

    fid: u32
    request_mask: u64


@message(25)
class Rgetattr(Message):
    """size[4] Rgetattr tag[2] valid[8] qid[13] mode[4] uid[4] gid[4] nlink[8] rdev[8] size[8] blksize[8] blocks[8]
    atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8] ctime_sec[8] ctime_nsec[8] btime_sec[8] btime_nsec[8]
    gen[8] data_version[8]"""

    valid: u64
    qid: Qid
    mode: u32
    uid: u32
    gid: u32
    nlink: u64
    rdev: u64
    size: u64
    blksize: u64
    blocks: u64
    atime_sec: u64
    atime_nsec: u64
    mtime_sec: u64
    mtime_nsec: u64
    ctime_sec: u64
    ctime_nsec: u64
    btime_sec: u64
    btime_nsec: u64
    gen: u64
    data_version: u64


@message(26)
class Tsetattr(Message):
    """size[4] Tsetattr tag[2] fid[4] valid[4] mode[4] uid[4] gid[4] size[8] atime_sec[8] atime_nsec[8] mtime_sec[8]
    mtime_nsec[8]: valid says which; a time without its _SET bit means now."""

    fid: u32
    valid: u32
    mode: u32
    uid: u32
    gid: u32
    size: u64
    atime_sec: u64
    atime_nsec: u64
    mtime_sec: u64
    mtime_nsec: u64


@message(27)
class Rsetattr(Message):
    """size[4] Rsetattr tag[2]"""


@message(30)
class Txattrwalk(Message):
    """size[4] Txattrwalk tag[2] fid[4] newfid[4] name[s]: newfid reads as the value, or as the list if name is ""."""

    fid: u32
    newfid: u32
    name: Str


@message(31)
class Rxattrwalk(Message):
    """size[4] Rxattrwalk tag[2] size[8]"""

    size: u64


@message(32)
class Txattrcreate(Message):
    """size[4] Txattrcreate tag[2] fid[4] name[s] attr_size[8] flags[4]: what is then written to fid is set on clunk."""

    fid: u32
    name: Str
    attr_size: u64
    flags: u32


@message(33)
class Rxattrcreate(Message):
    """size[4] Rxattrcreate tag[2]"""


@message(40)
class Treaddir(Message):
    """size[4] Treaddir tag[2] fid[4] offset[8] count[4]: offset is 0 or that of the last entry read."""

    fid: u32
    offset: u64
    count: u32


@message(41)
class Rreaddir(Message):
    """size[4] Rreaddir tag[2] count[4] data[count]: whole entries, qid[13] offset[8] type[1] name[s] each."""

    data: Data


@message(50)
class Tfsync(Message):
    """size[4] Tfsync tag[2] fid[4] datasync[4]: the form that Linux sends; datasync 1 is fdatasync(2)."""

    fid: u32
    datasync: u32


@message(51)
class Rfsync(Message):
    """size[4] Rfsync tag[2]"""


@message(52)
class Tlock(Message):
    """size[4] Tlock tag[2] fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s]"""

    fid: u32
    type: u8
    flags: u32
    start: u64
    length: u64
    proc_id: u32
    client_id: Str


@message(53)
class Rlock(Message):
    """size[4] Rlock tag[2] status[1]"""

    status: u8


@message(54)
class Tgetlock(Message):
    """size[4] Tgetlock tag[2] fid[4] type[1] start[8] length[8] proc_id[4] client_id[s]"""

    fid: u32
    type: u8
    start: u64
    length: u64
    proc_id: u32
    client_id: Str


@message(55)
class Rgetlock(Message):
    """size[4] Rgetlock tag[2] type[1] start[8] length[8] proc_id[4] client_id[s]"""

    type: u8
    start: u64
    length: u64
    proc_id: u32
    client_id: Str


@message(70)
class Tlink(Message):
    """size[4] Tlink tag[2] dfid[4] fid[4] name[s]: make `name` in dfid another name of fid."""

    dfid: u32
    fid: u32
    name: Str


@message(71)
class Rlink(Message):
    """size[4] Rlink tag[2]"""


@message(72)
class Tmkdir(Message):
    """size[4] Tmkdir tag[2] dfid[4] name[s] mode[4] gid[4]"""

    dfid: u32
    name: Str
    mode: u32
    gid: u32


@message(73)
class Rmkdir(Message):
    """size[4] Rmkdir tag[2] qid[13]"""

    qid: Qid


@message(74)
class Trenameat(Message):
    """size[4] Trenameat tag[2] olddirfid[4] oldname[s] newdirfid[4] newname[s]"""

    olddirfid: u32
    oldname: Str
    newdirfid: u32
    newname: Str


@message(75)
class Rrenameat(Message):
    """size[4] Rrenameat tag[2]"""


@message(76)
class Tunlinkat(Message):
    """size[4] Tunlinkat tag[2] dirfid[4] name[s] flags[4]: flags is 0 or AT_REMOVEDIR."""

    dirfid: u32
    name: Str
    flags: u32


@message(77)
class Runlinkat(Message):
    """size[4] Runlinkat tag[2]"""


@message(100)
class Tversion(Message):
    """size[4] Tversion tag[2] msize[4] version[s]: begins a session; all fids of an earlier one are gone."""

    msize: u32
    version: Str


@message(101)
class Rversion(Message):
    """size[4] Rversion tag[2] msize[4] version[s]"""

    msize: u32
    version: Str


@message(102)
class Tauth(Message):
    """size[4] Tauth tag[2] afid[4] uname[s] aname[s] n_uname[4]"""

    afid: u32
    uname: Str
    aname: Str
    n_uname: u32


@message(103)
class Rauth(Message):
    """size[4] Rauth tag[2] aqid[13]"""

    aqid: Qid


@message(104)
class Tattach(Message):
    """size[4] Tattach tag[2] fid[4] afid[4] uname[s] aname[s] n_uname[4]"""

    fid: u32
    afid: u32
    uname: Str
    aname: Str
    n_uname: u32


@message(105)
class Rattach(Message):
    """size[4] Rattach tag[2] qid[13]"""

    qid: Qid


@message(108)
class Tflush(Message):
    """size[4] Tflush tag[2] oldtag[2]"""

    oldtag: u16


@message(109)
class Rflush(Message):
    """size[4] Rflush tag[2]"""


@message(110)
class Twalk(Message):
    """size[4] Twalk tag[2] fid[4] newfid[4] nwname[2] nwname*(wname[s])"""

    fid: u32
    newfid: u32
    names: list[Str]


@message(111)
class Rwalk(Message):
    """size[4] Rwalk tag[2] nwqid[2] nwqid*(wqid[13])"""

    qids: list[Qid]


@message(116)
class Tread(Message):
    """size[4] Tread tag[2] fid[4] offset[8] count[4]"""

    fid: u32
    offset: u64
    count: u32


@message(117)
class Rread(Message):
    """size[4] Rread tag[2] count[4] data[count]"""

    data: Data


@message(118)
class Twrite(Message):
    """size[4] Twrite tag[2] fid[4] offset[8] count[4] data[count]"""

    fid: u32
    offset: u64
    data: Data


@message(119)
class Rwrite(Message):
    """size[4] Rwrite tag[2] count[4]"""

    count: u32


@message(120)
class Tclunk(Message):
    """size[4] Tclunk tag[2] fid[4]"""

    fid: u32


@message(121)
class Rclunk(Message):
    """size[4] Rclunk tag[2]"""


@message(122)
class Tremove(Message):
    """size[4] Tremove tag[2] fid[4]: remove the file and clunk the fid, even if removing fails."""

    fid: u32


@message(123)
class Rremove(Message):
    """size[4] Rremove tag[2]"""
