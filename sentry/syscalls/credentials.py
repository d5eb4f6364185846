"""User and group ids, capabilities: credentials(7), capabilities(7)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EINVAL, EPERM, ESRCH
from sentry.kernel import creds as cr
from sentry.kernel.answers import keep_current
from sentry.kernel.creds import Creds, fixup_for_fsuid, fixup_for_uids
from sentry.syscalls.args import I32, U32, Addr
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

UNCHANGED: Final = 0xFFFFFFFF
NGROUPS_MAX: Final = 65536
CAP_VERSION_1: Final = 0x19980330
CAP_VERSION_2: Final = 0x20071026
CAP_VERSION_3: Final = 0x20080522


@syscall
def getuid(t: Task) -> int:
    """getuid(2)."""
    return t.creds.uid


@syscall
def geteuid(t: Task) -> int:
    """geteuid(2)."""
    return t.creds.euid


@syscall
def getgid(t: Task) -> int:
    """getgid(2)."""
    return t.creds.gid


@syscall
def getegid(t: Task) -> int:
    """getegid(2)."""
    return t.creds.egid


def _store(t: Task, addrs: tuple[int, ...], values: tuple[int, ...]) -> int:
    for addr, value in zip(addrs, values):
        t.mem.write(addr, value.to_bytes(4, "little"))
    return 0


@syscall
def getresuid(t: Task, ruid: Addr, euid: Addr, suid: Addr) -> int:
    """getresuid(2).  EFAULT."""
    return _store(t, (ruid, euid, suid), (t.creds.uid, t.creds.euid, t.creds.suid))


@syscall
def getresgid(t: Task, rgid: Addr, egid: Addr, sgid: Addr) -> int:
    """getresgid(2).  EFAULT."""
    return _store(t, (rgid, egid, sgid), (t.creds.gid, t.creds.egid, t.creds.sgid))


def _commit_uids(t: Task, uid: int, euid: int, suid: int) -> int:
    old = t.creds
    new = fixup_for_uids(old, old.changed(uid=uid, euid=euid, suid=suid, fsuid=euid))
    _commit(t, new)
    return 0


def _commit(t: Task, new: Creds) -> None:
    """commit_creds(): a change of the effective ids ends dumpability and the parent-death signal."""
    old, t.creds = t.creds, new
    if (old.euid, old.egid, old.fsuid, old.fsgid) != (new.euid, new.egid, new.fsuid, new.fsgid):
        t.tg.dumpable = 0
        t.parent_death_signal = 0
    keep_current(t)


@syscall
def setuid(t: Task, uid: U32) -> int:
    """setuid(2).  EINVAL, EPERM."""
    c = t.creds
    if uid == UNCHANGED:
        raise EINVAL
    if c.has(cr.CAP_SETUID):
        return _commit_uids(t, uid, uid, uid)
    if uid not in (c.uid, c.suid):
        raise EPERM
    return _commit_uids(t, c.uid, uid, c.suid)


@syscall
def setreuid(t: Task, ruid: U32, euid: U32) -> int:
    """setreuid(2).  EPERM."""
    c = t.creds
    privileged = c.has(cr.CAP_SETUID)
    new_ruid = c.uid if ruid == UNCHANGED else ruid
    new_euid = c.euid if euid == UNCHANGED else euid
    if not privileged and (new_ruid not in (c.uid, c.euid) or new_euid not in (c.uid, c.euid, c.suid)):
        raise EPERM
    keep = ruid == UNCHANGED and (euid == UNCHANGED or new_euid == c.uid)
    return _commit_uids(t, new_ruid, new_euid, c.suid if keep else new_euid)


@syscall
def setresuid(t: Task, ruid: U32, euid: U32, suid: U32) -> int:
    """setresuid(2).  EPERM."""
    c = t.creds
    own = (c.uid, c.euid, c.suid)
    new = tuple(old if value == UNCHANGED else value for old, value in zip(own, (ruid, euid, suid)))
    if not c.has(cr.CAP_SETUID) and any(value not in own for value in new):
        raise EPERM
    return _commit_uids(t, *new)


@syscall
def setgid(t: Task, gid: U32) -> int:
    """setgid(2).  EINVAL, EPERM."""
    c = t.creds
    if gid == UNCHANGED:
        raise EINVAL
    if c.has(cr.CAP_SETGID):
        _commit(t, c.changed(gid=gid, egid=gid, sgid=gid, fsgid=gid))
    elif gid in (c.gid, c.sgid):
        _commit(t, c.changed(egid=gid, fsgid=gid))
    else:
        raise EPERM
    return 0


@syscall
def setregid(t: Task, rgid: U32, egid: U32) -> int:
    """setregid(2).  EPERM."""
    c = t.creds
    new_rgid = c.gid if rgid == UNCHANGED else rgid
    new_egid = c.egid if egid == UNCHANGED else egid
    allowed = c.has(cr.CAP_SETGID) or (new_rgid in (c.gid, c.egid) and new_egid in (c.gid, c.egid, c.sgid))
    if not allowed:
        raise EPERM
    keep = rgid == UNCHANGED and (egid == UNCHANGED or new_egid == c.gid)
    _commit(t, c.changed(gid=new_rgid, egid=new_egid, sgid=c.sgid if keep else new_egid, fsgid=new_egid))
    return 0


@syscall
def setresgid(t: Task, rgid: U32, egid: U32, sgid: U32) -> int:
    """setresgid(2).  EPERM."""
    c = t.creds
    own = (c.gid, c.egid, c.sgid)
    new = tuple(old if value == UNCHANGED else value for old, value in zip(own, (rgid, egid, sgid)))
    if not c.has(cr.CAP_SETGID) and any(value not in own for value in new):
        raise EPERM
    _commit(t, c.changed(gid=new[0], egid=new[1], sgid=new[2], fsgid=new[1]))
    return 0


@syscall
def setfsuid(t: Task, uid: U32) -> int:
    """setfsuid(2): returns the old one, whether or not it changed."""
    c = t.creds
    if uid != UNCHANGED and (c.has(cr.CAP_SETUID) or uid in (c.uid, c.euid, c.suid, c.fsuid)):
        _commit(t, fixup_for_fsuid(c, c.changed(fsuid=uid)))
    return c.fsuid


@syscall
def setfsgid(t: Task, gid: U32) -> int:
    """setfsgid(2): returns the old one, whether or not it changed."""
    c = t.creds
    if gid != UNCHANGED and (c.has(cr.CAP_SETGID) or gid in (c.gid, c.egid, c.sgid, c.fsgid)):
        _commit(t, c.changed(fsgid=gid))
    return c.fsgid


@syscall
def getgroups(t: Task, size: I32, list_addr: Addr) -> int:
    """getgroups(2).  EINVAL: negative or too small.  EFAULT."""
    groups = t.creds.groups
    if size < 0:
        raise EINVAL
    if size == 0:
        return len(groups)
    if size < len(groups):
        raise EINVAL
    t.mem.write(list_addr, struct.pack(f"<{len(groups)}I", *groups))
    return len(groups)


@syscall
def setgroups(t: Task, size: I32, list_addr: Addr) -> int:
    """setgroups(2).  EPERM, EINVAL, EFAULT."""
    if not t.creds.has(cr.CAP_SETGID):
        raise EPERM
    if not 0 <= size <= NGROUPS_MAX:
        raise EINVAL
    groups = struct.unpack(f"<{size}I", t.mem.read(list_addr, 4 * size)) if size else ()
    t.creds = t.creds.changed(groups=tuple(sorted(groups)))
    return 0


# -- capabilities --


def _cap_header(t: Task, addr: int) -> tuple[int, int]:
    """(how many 32-bit words each set has, pid).  EINVAL after writing the version we prefer.  EFAULT."""
    version, pid = struct.unpack("<Ii", t.mem.read(addr, 8))
    words = {CAP_VERSION_1: 1, CAP_VERSION_2: 2, CAP_VERSION_3: 2}.get(version)
    if words is None:
        t.mem.write(addr, struct.pack("<I", CAP_VERSION_3))
        raise EINVAL
    return words, pid


@syscall
def capget(t: Task, header_addr: Addr, data_addr: Addr) -> int:
    """capget(2).

    Errors:
      EINVAL  an unknown version, or a negative pid
      ESRCH   no such thread
      EFAULT  a bad pointer
    """
    try:
        words, pid = _cap_header(t, header_addr)
    except EINVAL:
        if not data_addr:
            return 0
        raise
    if not data_addr:
        return 0
    if pid < 0:
        raise EINVAL
    target = t if pid == 0 else t.pidns.find(pid)
    if target is None:
        raise ESRCH
    c = target.creds
    data = b"".join(
        struct.pack("<III", *((s >> shift) & 0xFFFFFFFF for s in (c.effective, c.permitted, c.inheritable)))
        for shift in (0, 32)[:words]
    )
    t.mem.write(data_addr, data)
    return 0


@syscall
def capset(t: Task, header_addr: Addr, data_addr: Addr) -> int:
    """capset(2): change the caller's own sets.

    Errors:
      EINVAL  an unknown version
      EPERM   another thread; a set that may not grow like this
      EFAULT  a bad pointer
    """
    words, pid = _cap_header(t, header_addr)
    if pid not in (0, t.tid):
        raise EPERM
    values = struct.unpack(f"<{3 * words}I", t.mem.read(data_addr, 12 * words))
    effective, permitted, inheritable = (
        sum(values[3 * w + i] << (32 * w) for w in range(words)) & cr.ALL_CAPS for i in range(3)
    )
    c = t.creds
    if permitted & ~c.permitted or effective & ~permitted:
        raise EPERM
    if inheritable & ~(c.inheritable | c.bounding):
        raise EPERM
    if inheritable & ~(c.inheritable | c.permitted) and not c.has(cr.CAP_SETPCAP):
        raise EPERM
    t.creds = c.changed(
        effective=effective,
        permitted=permitted,
        inheritable=inheritable,
        ambient=c.ambient & permitted & inheritable,
    )
    return 0
