"""dup(2) and fcntl(2): descriptors and what can be set on them.

fcntl's commands are functions of (t, fd, file, arg), found in one table.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from sentry.abi import fcntl as f
from sentry.abi import stat as st
from sentry.abi.errno import EAGAIN, EBADF, EINVAL, EPERM
from sentry.abi.fcntl import O_ASYNC, O_CLOEXEC, O_NOATIME, O_PATH, SEEK_CUR, SEEK_END, SEEK_SET
from sentry.fs.memfd import add_seals, get_seals
from sentry.fs.pipefs import pipe_size, set_pipe_size
from sentry.kernel.blocking import wait_on
from sentry.kernel.creds import CAP_SYS_RESOURCE
from sentry.kernel.fown import F_OWNER_PGRP, F_OWNER_PID, F_OWNER_TID, owner_of, set_async
from sentry.syscalls.args import U32, U64, Fd, OpenFlags
from sentry.syscalls.paths import check_flags
from sentry.syscalls.registry import syscall
from sentry.vfs.locks import LOCK_FREED, FileLocks, resolve_range

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.vfs.file import File

Result = int | Awaitable[int]
Command = Callable[["Task", int, "File", int], Result]

FLOCK: Final = struct.Struct("<hh4xqqi4x")
OWNER_EX: Final = struct.Struct("<ii")
INT_MIN: Final = -(1 << 31)
NSIG: Final = 64


def as_int(arg: int) -> int:
    """fcntl's third argument where it is an int."""
    return ((arg & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


# ---- dup.


@syscall
def dup(t: Task, fd: Fd) -> int:
    """dup(2): another descriptor for the same open file.  EBADF, EMFILE."""
    return t.files.install(t.files.get_any(fd))


@syscall
def dup2(t: Task, old_fd: Fd, new_fd: Fd) -> int:
    """dup2(2): dup, to a number given; equal numbers are left alone.  EBADF."""
    file = t.files.get_any(old_fd)
    if old_fd != new_fd:
        t.files.install_at(new_fd, file, False)
    return new_fd


@syscall
def dup3(t: Task, old_fd: Fd, new_fd: Fd, flags: OpenFlags) -> int:
    """dup3(2): dup2 with O_CLOEXEC.

    Linux: fs/file.c:ksys_dup3
    Errors: EINVAL (flags, equal numbers), EBADF (new_fd out of range, old_fd not open)
    """
    check_flags(flags, O_CLOEXEC)
    if old_fd == new_fd:
        raise EINVAL("equal descriptors")
    if not 0 <= new_fd < t.files.limit:
        raise EBADF
    t.files.install_at(new_fd, t.files.get_any(old_fd), bool(flags & O_CLOEXEC))
    return new_fd


def _dup_above(t: Task, file: File, arg: int, cloexec: bool) -> int:
    lowest = arg & 0xFFFFFFFF
    if lowest >= t.files.limit:
        raise EINVAL("above RLIMIT_NOFILE")
    return t.files.install(file, cloexec, lowest)


def _dupfd(t: Task, fd: int, file: File, arg: int) -> int:
    return _dup_above(t, file, arg, False)


def _dupfd_cloexec(t: Task, fd: int, file: File, arg: int) -> int:
    return _dup_above(t, file, arg, True)


def _dupfd_query(t: Task, fd: int, file: File, arg: int) -> int:
    """1 if both descriptors mean one open file description.  EBADF."""
    return int(t.files.get_any(as_int(arg)) is file)


# ---- Flags.


def _getfd(t: Task, fd: int, file: File, arg: int) -> int:
    return int(t.files.cloexec(fd))


def _setfd(t: Task, fd: int, file: File, arg: int) -> int:
    t.files.set_cloexec(fd, bool(arg & f.FD_CLOEXEC))
    return 0


def _getfl(t: Task, fd: int, file: File, arg: int) -> int:
    return file.flags


def _setfl(t: Task, fd: int, file: File, arg: int) -> int:
    """fs/fcntl.c:setfl: what cannot be changed is ignored.  EPERM: O_NOATIME on somebody else's file."""
    new = arg & f.SETFL_MASK | file.flags & ~f.SETFL_MASK
    if new & ~file.flags & O_NOATIME and not t.caller.owns(file.inode):
        raise EPERM
    if (new ^ file.flags) & O_ASYNC:
        if has_events(file):
            set_async(file, fd, bool(new & O_ASYNC))
        else:
            new ^= O_ASYNC
    file.flags = new
    return 0


def has_events(file: File) -> bool:
    """Can it become ready?  Files of other kinds have no fasync operation: O_ASYNC does not stick to them."""
    return file.inode.mode & st.S_IFMT not in (st.S_IFREG, st.S_IFDIR)


# ---- Locks.


async def set_lock(t: Task, locks: FileLocks, lock: tuple[object, int, int, int], pid: object, posix: bool) -> None:
    """Set a record lock (owner, kind, start, end), waiting for others.  EDEADLK, Interrupted."""
    while True:
        try:
            locks.set(*lock, pid)
            return
        except EAGAIN:
            if posix:
                with locks.waiting(*lock):
                    await wait_on(t, locks.queue, LOCK_FREED)
            else:
                await wait_on(t, locks.queue, LOCK_FREED)


def _read_flock(t: Task, file: File, addr: int) -> tuple[int, int, int, int]:
    """(type, first, last, pid) of the struct flock at addr.  EFAULT, EINVAL, EOVERFLOW."""
    kind, whence, start, length, pid = FLOCK.unpack(t.mem.read(addr, FLOCK.size))
    if whence == SEEK_SET:
        base = 0
    elif whence == SEEK_CUR:
        base = file.offset
    elif whence == SEEK_END:
        base = file.end_offset()
    else:
        raise EINVAL("whence")
    if kind not in (f.F_RDLCK, f.F_WRLCK, f.F_UNLCK):
        raise EINVAL("lock type")
    return (kind, *resolve_range(base, start, length), pid)


def _lock(t: Task, file: File, addr: int, ofd: bool, wait: bool) -> Result:
    """F_SETLK and its relatives: EFAULT, EINVAL, EBADF (not open in the way the lock is for), EAGAIN, EDEADLK."""
    kind, start, end, pid = _read_flock(t, file, addr)
    if ofd and pid:
        raise EINVAL("pid of an open file description lock")
    if (kind == f.F_RDLCK and not file.readable) or (kind == f.F_WRLCK and not file.writable):
        raise EBADF
    owner = file if ofd else t.files
    locks = file.inode.locks()
    holder = None if ofd else t.tg
    try:
        locks.set(owner, kind, start, end, holder)
        return 0
    except EAGAIN:
        if not wait:
            raise
    return _wait_for_lock(t, file, (owner, kind, start, end), holder)


async def _wait_for_lock(t: Task, file: File, lock: tuple[object, int, int, int], holder: object) -> int:
    """EBADF: the process closed the file meanwhile, after which it must not have locks on it."""
    file.hold()
    locks = file.inode.locks()
    try:
        await set_lock(t, locks, lock, holder, lock[0] is not file)
        if not any(held is file for _, held in t.files.items()):
            locks.set(lock[0], f.F_UNLCK, *lock[2:])
            raise EBADF
    finally:
        file.drop()
    return 0


def _get_lock(t: Task, file: File, addr: int, ofd: bool) -> int:
    """F_GETLK: describe a lock that is in the way, or say F_UNLCK."""
    kind, start, end, pid = _read_flock(t, file, addr)
    if ofd and pid:
        raise EINVAL("pid of an open file description lock")
    if kind == f.F_UNLCK:
        raise EINVAL("lock type")
    found = file.inode.locks().test(file if ofd else t.files, kind, start, end)
    if found is None:
        t.mem.write(addr, struct.pack("<h", f.F_UNLCK))
        return 0
    length = 0 if found.end == (1 << 63) - 1 else found.end - found.start + 1
    holder = -1 if found.pid is None else found.pid.leader.tid_in(t.pidns)
    t.mem.write(addr, FLOCK.pack(found.kind, SEEK_SET, found.start, length, holder))
    return 0


# ---- Owners of signals.


def _setown(t: Task, fd: int, file: File, arg: int) -> int:
    """F_SETOWN: a process, or (negative) a process group.  EINVAL, ESRCH."""
    who = as_int(arg)
    if who == INT_MIN:
        raise EINVAL("owner")
    owner_of(file).set(t.pidns, F_OWNER_PGRP if who < 0 else F_OWNER_PID, abs(who), t.creds)
    return 0


def _getown(t: Task, fd: int, file: File, arg: int) -> int:
    kind, number = owner_of(file).get(t.pidns)
    return -number if kind == F_OWNER_PGRP else number


def _setown_ex(t: Task, fd: int, file: File, arg: int) -> int:
    kind, number = OWNER_EX.unpack(t.mem.read(arg, OWNER_EX.size))
    if kind not in (F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP):
        raise EINVAL("owner type")
    owner_of(file).set(t.pidns, kind, number, t.creds)
    return 0


def _getown_ex(t: Task, fd: int, file: File, arg: int) -> int:
    t.mem.write(arg, OWNER_EX.pack(*owner_of(file).get(t.pidns)))
    return 0


def _setsig(t: Task, fd: int, file: File, arg: int) -> int:
    if arg > NSIG:
        raise EINVAL("signal")
    owner_of(file).signo = arg
    return 0


def _getsig(t: Task, fd: int, file: File, arg: int) -> int:
    return owner_of(file).signo


# ---- The rest.


def _getlease(t: Task, fd: int, file: File, arg: int) -> int:
    return f.F_UNLCK


def _set_pipe_size(t: Task, fd: int, file: File, arg: int) -> int:
    return set_pipe_size(file, arg, t.creds.has(CAP_SYS_RESOURCE))


def _add_seals(t: Task, fd: int, file: File, arg: int) -> int:
    add_seals(file, arg & 0xFFFFFFFF)
    return 0


COMMANDS: Final[dict[int, Command]] = {
    f.F_DUPFD: _dupfd,
    f.F_GETFD: _getfd,
    f.F_SETFD: _setfd,
    f.F_GETFL: _getfl,
    f.F_SETFL: _setfl,
    f.F_GETLK: lambda t, fd, file, arg: _get_lock(t, file, arg, ofd=False),
    f.F_SETLK: lambda t, fd, file, arg: _lock(t, file, arg, ofd=False, wait=False),
    f.F_SETLKW: lambda t, fd, file, arg: _lock(t, file, arg, ofd=False, wait=True),
    f.F_SETOWN: _setown,
    f.F_GETOWN: _getown,
    f.F_SETSIG: _setsig,
    f.F_GETSIG: _getsig,
    f.F_SETOWN_EX: _setown_ex,
    f.F_GETOWN_EX: _getown_ex,
    f.F_OFD_GETLK: lambda t, fd, file, arg: _get_lock(t, file, arg, ofd=True),
    f.F_OFD_SETLK: lambda t, fd, file, arg: _lock(t, file, arg, ofd=True, wait=False),
    f.F_OFD_SETLKW: lambda t, fd, file, arg: _lock(t, file, arg, ofd=True, wait=True),
    f.F_GETLEASE: _getlease,
    f.F_DUPFD_QUERY: _dupfd_query,
    f.F_DUPFD_CLOEXEC: _dupfd_cloexec,
    f.F_SETPIPE_SZ: _set_pipe_size,
    f.F_GETPIPE_SZ: lambda t, fd, file, arg: pipe_size(file),
    f.F_ADD_SEALS: _add_seals,
    f.F_GET_SEALS: lambda t, fd, file, arg: get_seals(file),
}
# All that a descriptor opened with O_PATH takes: fs/fcntl.c:check_fcntl_cmd.
ON_PATHS: Final = (f.F_DUPFD, f.F_DUPFD_CLOEXEC, f.F_DUPFD_QUERY, f.F_GETFD, f.F_SETFD, f.F_GETFL)


@syscall(gaps="no leases (F_SETLEASE), no F_NOTIFY, no write hints")
def fcntl(t: Task, fd: Fd, command: U32, arg: U64) -> Result:
    """fcntl(2): change a descriptor or an open file.

    Linux: fs/fcntl.c:do_fcntl
    Errors: EBADF, EINVAL (unknown command), those of the command
    """
    file = t.files.get_any(fd)
    if file.flags & O_PATH and command not in ON_PATHS:
        raise EBADF
    run = COMMANDS.get(command)
    if run is None:
        raise EINVAL("unknown command")
    return run(t, fd, file, arg)
