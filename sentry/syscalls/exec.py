"""execve(2) and execveat(2).  The work is in kernel/exec.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentry.abi.errno import EINVAL, ELOOP, ENOENT
from sentry.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from sentry.abi.stat import is_lnk
from sentry.kernel import exec as k
from sentry.syscalls.args import Addr, AtFlags, DirFd, PathAddr
from sentry.syscalls.paths import read_path
from sentry.syscalls.registry import syscall
from sentry.vfs.walk import walk

if TYPE_CHECKING:
    from sentry.kernel.task import Task


@syscall
async def execve(t: Task, name: PathAddr, argv: Addr, envp: Addr) -> int | None:
    """execve(2): run another program in this process.

    Errors: those of finding it (ENOENT, EACCES, ...), then
      ENOEXEC  no known format
      E2BIG    arguments and environment are too large
      EFAULT   a bad pointer
    """
    await execveat(t, AT_FDCWD, name, argv, envp, 0)
    return None


@syscall
async def execveat(t: Task, dirfd: DirFd, name: PathAddr, argv: Addr, envp: Addr, flags: AtFlags) -> int | None:
    """execveat(2): execve relative to a directory, or of the file that dirfd is.

    Errors: as execve, and
      EINVAL  unknown flags
      ELOOP   AT_SYMLINK_NOFOLLOW and a symbolic link
    """
    if flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW):
        raise EINVAL
    path_name = read_path(t, name)
    arguments = k.read_strings(t.mem, argv) or [b""]
    environment = k.read_strings(t.mem, envp)
    if not path_name and flags & AT_EMPTY_PATH:
        path = t.where(dirfd).start
        program = await k.open_executable(t.where(), path, arguments, environment, b"/dev/fd/%d" % dirfd)
    elif not path_name:
        raise ENOENT
    else:
        where = t.where() if path_name.startswith("/") else t.where(dirfd)
        if flags & AT_SYMLINK_NOFOLLOW and is_lnk((await walk(where, path_name, False)).inode.mode):
            raise ELOOP
        program = await k.open_program(where, path_name, arguments, environment)
    await k.execve(t, program)
    return None
