"""dup(2) and fcntl(2): descriptors and what can be set on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentry.abi.errno import EBADF, EINVAL
from sentry.abi.fcntl import O_CLOEXEC
from sentry.syscalls.args import Fd, OpenFlags
from sentry.syscalls.open import release_posix_locks
from sentry.syscalls.paths import check_flags
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.vfs.file import File


@syscall
def dup(t: Task, fd: Fd) -> int:
    """dup(2): another descriptor for the same open file.  EBADF, EMFILE."""
    return t.files.install(t.files.get_any(fd))


@syscall
def dup2(t: Task, old_fd: Fd, new_fd: Fd) -> int:
    """dup2(2): dup, to a number given; equal numbers are left alone."""
    file = t.files.get_any(old_fd)
    if old_fd == new_fd:
        return new_fd
    return replace(t, file, new_fd, False)


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
    return replace(t, t.files.get_any(old_fd), new_fd, bool(flags & O_CLOEXEC))


def replace(t: Task, file: File, new_fd: int, cloexec: bool) -> int:
    """Put file at new_fd, closing what is there."""
    old = t.files._files.get(new_fd)
    if old is not None:
        release_posix_locks(t, old)
    t.files.install_at(new_fd, file, cloexec)
    return new_fd
