"""signalfd(2) and signalfd4(2).  The file is sentry/fs/signalfd.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from sentry.abi.errno import EINVAL
from sentry.abi.fcntl import O_CLOEXEC, O_NONBLOCK
from sentry.abi.poll import ANY
from sentry.abi.signal import UNBLOCKABLE
from sentry.fs.signalfd import SignalFile
from sentry.syscalls.args import U32_DECODE, Addr, Arg, Fd, Size, flags_of
from sentry.syscalls.registry import syscall
from sentry.syscalls.sigmask import read_mask

if TYPE_CHECKING:
    from sentry.kernel.task import Task

SignalFlags = Annotated[int, Arg(U32_DECODE, flags_of({O_CLOEXEC: "SFD_CLOEXEC", O_NONBLOCK: "SFD_NONBLOCK"}))]


@syscall
def signalfd4(t: Task, fd: Fd, mask_addr: Addr, mask_size: Size, flags: SignalFlags) -> int:
    """signalfd4(2): a new descriptor (fd -1), or another mask for an old one.

    Linux: fs/signalfd.c:do_signalfd4
    Errors: EINVAL mask size, unknown flags, fd is no signalfd; EFAULT; EBADF; EMFILE
    """
    mask = read_mask(t, mask_addr, mask_size) & ~UNBLOCKABLE
    if flags & ~(O_CLOEXEC | O_NONBLOCK):
        raise EINVAL("unknown flags")
    if fd == -1:
        return t.files.install(SignalFile(mask, flags), bool(flags & O_CLOEXEC))
    file = t.files.get(fd)
    if not isinstance(file, SignalFile):
        raise EINVAL("not a signalfd")
    file.mask = mask
    t.tg.signal_queue.wake(ANY)
    return fd


@syscall
def signalfd(t: Task, fd: Fd, mask_addr: Addr, mask_size: Size) -> int:
    """signalfd(2), the old form without flags."""
    return signalfd4(t, fd, mask_addr, mask_size, 0)
