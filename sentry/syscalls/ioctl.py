"""ioctl(2): what every descriptor knows is here, the rest is the file's own."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sentry.abi import stat as st
from sentry.abi.errno import EBADF, EISDIR, ENOTTY, EOPNOTSUPP
from sentry.abi.fcntl import O_ASYNC, O_NONBLOCK
from sentry.kernel.fown import F_OWNER_PGRP, F_OWNER_PID, owner_of, set_async
from sentry.syscalls.args import U32, Addr, Fd
from sentry.syscalls.fcntl import has_events
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.vfs.file import File

FIONREAD: Final = 0x541B
FIONBIO: Final = 0x5421
FIONCLEX: Final = 0x5450
FIOCLEX: Final = 0x5451
FIOASYNC: Final = 0x5452
FIOQSIZE: Final = 0x5460
FICLONE: Final = 0x40049409
FICLONERANGE: Final = 0x4020940D
FIDEDUPERANGE: Final = 0xC0189436
FIOSETOWN: Final = 0x8901
SIOCSPGRP: Final = 0x8902
FIOGETOWN: Final = 0x8903
SIOCGPGRP: Final = 0x8904

INT: Final = struct.Struct("<i")
LONG_LONG: Final = struct.Struct("<q")


@syscall(gaps="of files and directories FIONREAD, FIOQSIZE and the descriptor's flags only")
def ioctl(t: Task, fd: Fd, request: U32, arg: Addr) -> int:
    """ioctl(2): control a device, or a descriptor.

    Linux: fs/ioctl.c:do_vfs_ioctl
    Errors: EBADF, EFAULT, ENOTTY, those of the file
    """
    file = t.files.get(fd)
    if request == FIOCLEX:
        t.files.set_cloexec(fd, True)
    elif request == FIONCLEX:
        t.files.set_cloexec(fd, False)
    elif request == FIONBIO:
        file.flags = file.flags | O_NONBLOCK if read_int(t, arg) else file.flags & ~O_NONBLOCK
    elif request == FIOASYNC:
        _set_async(t, fd, file, bool(read_int(t, arg)))
    elif st.is_reg(file.inode.mode) or st.is_dir(file.inode.mode):
        return _of_file(t, file, request, arg)
    elif request in (FIOSETOWN, SIOCSPGRP) and is_socket(file):
        who = read_int(t, arg)
        owner_of(file).set(t.pidns, F_OWNER_PGRP if who < 0 else F_OWNER_PID, abs(who), t.creds)
    elif request in (FIOGETOWN, SIOCGPGRP) and is_socket(file):
        kind, number = owner_of(file).get(t.pidns)
        t.mem.write(arg, INT.pack(-number if kind == F_OWNER_PGRP else number))
    else:
        return file.ioctl(t, request, arg)
    return 0


def read_int(t: Task, addr: int) -> int:
    value: int = INT.unpack(t.mem.read(addr, INT.size))[0]
    return value


def is_socket(file: File) -> bool:
    return file.inode.mode & st.S_IFMT == st.S_IFSOCK


def _set_async(t: Task, fd: int, file: File, on: bool) -> None:
    """ENOTTY: the file has no events to signal."""
    if on != bool(file.flags & O_ASYNC):
        if not has_events(file):
            raise ENOTTY
        set_async(file, fd, on)
        file.flags ^= O_ASYNC


def _of_file(t: Task, file: File, request: int, arg: int) -> int:
    """Regular files and directories."""
    regular = st.is_reg(file.inode.mode)
    if request == FIONREAD and regular:
        t.mem.write(arg, INT.pack(max(-(1 << 31), min(file.end_offset() - file.offset, (1 << 31) - 1))))
        return 0
    if request == FIOQSIZE:
        t.mem.write(arg, LONG_LONG.pack(file.inode.size))
        return 0
    if request in (FICLONE, FICLONERANGE, FIDEDUPERANGE):
        if not regular:
            raise EISDIR
        if not file.writable:
            raise EBADF
        raise EOPNOTSUPP("no shared extents")
    return file.ioctl(t, request, arg)
