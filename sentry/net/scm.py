"""Ancillary data, cmsg(3): what a sender attaches, and what a receiver gets to see.  net/core/scm.c."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sentry.abi.errno import EFAULT, EINVAL, EMFILE, EPERM, ESRCH, ETOOMANYREFS
from sentry.abi.socket import (
    CMSGHDR,
    INT,
    MSG_CTRUNC,
    SCM_CREDENTIALS,
    SCM_MAX_FD,
    SCM_PIDFD,
    SCM_RIGHTS,
    SO_TIMESTAMP,
    SO_TIMESTAMPNS,
    SOL_SOCKET,
    TIMEVAL,
    UCRED,
    cmsg_align,
)
from sentry.fs.pidfd import PidFd
from sentry.kernel.creds import CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, CAP_SYS_RESOURCE
from sentry.kernel.rlimits import RLIMIT_NOFILE
from sentry.net.identity import NOBODY, Identity

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.net.flight import Flights
    from sentry.net.message import Outgoing, Received
    from sentry.net.socket import Socket
    from sentry.vfs.file import File

NS: int = 1_000_000_000


# -- sending --


def parse(control: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(level, type, data) of each struct cmsghdr.  EINVAL: a length that cannot be."""
    at = 0
    while at + CMSGHDR.size <= len(control):
        length, level, kind = CMSGHDR.unpack_from(control, at)
        if not CMSGHDR.size <= length <= len(control) - at:
            raise EINVAL("cmsg_len")
        yield level, kind, control[at + CMSGHDR.size : at + length]
        at += cmsg_align(length)


def attach(t: Task, flights: Flights, out: Outgoing, control: bytes) -> None:
    """__scm_send(): descriptors and credentials.

    Errors: EINVAL; EBADF; EPERM, ESRCH credentials of others; ETOOMANYREFS
    """
    files: list[File] = []
    for level, kind, data in parse(control):
        if level != SOL_SOCKET:
            continue
        if kind == SCM_RIGHTS:
            files += _files(t, data)
            if len(files) > SCM_MAX_FD:
                raise EINVAL("too many descriptors")
        elif kind == SCM_CREDENTIALS:
            out.creds = _credentials(t, data)
        else:
            raise EINVAL("unknown ancillary data")
    if files:
        uid = t.creds.uid
        if flights.count_of(uid) > t.tg.rlimits.get(RLIMIT_NOFILE)[0]:
            if not t.creds.has(CAP_SYS_RESOURCE | CAP_SYS_ADMIN):
                raise ETOOMANYREFS
        out.parcel = flights.send(files, uid)


def _files(t: Task, data: bytes) -> list[File]:
    """EBADF."""
    whole = len(data) // INT.size * INT.size
    if whole > SCM_MAX_FD * INT.size:
        raise EINVAL("too many descriptors")
    return [t.files.get_any(fd) for (fd,) in INT.iter_unpack(data[:whole])]


def _credentials(t: Task, data: bytes) -> Identity:
    """scm_check_creds(): one's own, unless privileged."""
    if len(data) != UCRED.size:
        raise EINVAL("struct ucred")
    pid, uid, gid = UCRED.unpack(data)
    creds = t.creds
    if (
        (pid != t.tg.leader.tid and not creds.has(CAP_SYS_ADMIN))
        or (uid not in (creds.uid, creds.euid, creds.suid) and not creds.has(CAP_SETUID))
        or (gid not in (creds.gid, creds.egid, creds.sgid) and not creds.has(CAP_SETGID))
    ):
        raise EPERM
    found = t.pidns.find(pid)
    if found is None:
        raise ESRCH
    return Identity(found.tg, found.numbers, uid, gid)


# -- receiving --


class ControlWriter:
    """Builds the control messages that fit in room bytes (put_cmsg())."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data = b""
        self.flags = 0

    def put(self, kind: int, data: bytes) -> None:
        """One of SOL_SOCKET; cut short, or left out, where there is no room."""
        length = CMSGHDR.size + len(data)
        if self.room < length:
            self.flags |= MSG_CTRUNC
            if self.room < CMSGHDR.size:
                return
            length = self.room
        cmsg = CMSGHDR.pack(length, SOL_SOCKET, kind) + data[: length - CMSGHDR.size]
        cmsg += bytes(min(cmsg_align(length), self.room) - length)
        self.data += cmsg
        self.room -= len(cmsg)

    def descriptors_that_fit(self) -> int:
        return max(self.room - CMSGHDR.size, 0) // INT.size


def deliver(t: Task, socket: Socket, got: Received, room: int, cloexec: bool) -> tuple[bytes, int, list[int]]:
    """scm_recv(): (control data, MSG_CTRUNC or 0, the descriptors that it names).  Installs descriptors in t."""
    writer = ControlWriter(room)
    installed: list[int] = []
    if got.nothing:
        return b"", 0, installed
    if got.time_ns:
        writer.put(socket.timestamp, _timestamp(socket.timestamp, got.time_ns))
    if socket.passcred:
        writer.put(SCM_CREDENTIALS, got.creds.ucred(t.pidns) if got.creds is not None else NOBODY)
    if got.files:
        installed = install(t, got.files[: writer.descriptors_that_fit()], cloexec)
        if installed:
            writer.put(SCM_RIGHTS, b"".join(INT.pack(fd) for fd in installed))
        if len(installed) < len(got.files):
            writer.flags |= MSG_CTRUNC
    if socket.passpidfd and got.creds is not None:
        fds = install(t, [PidFd(got.creds.tg)], cloexec) if writer.descriptors_that_fit() else []
        writer.put(SCM_PIDFD, INT.pack(fds[0] if fds else -EMFILE.code))
        installed += fds
    return writer.data, writer.flags, installed


def _timestamp(kind: int, time_ns: int) -> bytes:
    seconds, rest = divmod(time_ns, NS)
    assert kind in (SO_TIMESTAMP, SO_TIMESTAMPNS)
    return TIMEVAL.pack(seconds, rest // 1000 if kind == SO_TIMESTAMP else rest)


def install(t: Task, files: Sequence[File], cloexec: bool) -> list[int]:
    """A descriptor for each, as far as there are any."""
    fds: list[int] = []
    try:
        for file in files:
            fds.append(t.files.install(file, cloexec))
    except EMFILE:
        pass
    return fds


def uninstall(t: Task, fds: list[int]) -> None:
    """What install() did, undone: the receiver could not be told."""
    for fd in fds:
        t.files.close(fd)


def store(t: Task, addr: int, data: bytes, fds: list[int]) -> None:
    """Write control data.  EFAULT: then nothing was received."""
    try:
        t.mem.write(addr, data)
    except EFAULT:
        uninstall(t, fds)
        raise
