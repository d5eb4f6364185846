"""pipe(2) and pipe2(2).  The pipe itself is sentry/fs/pipefs.py."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi.errno import EFAULT, EINVAL
from sentry.abi.fcntl import O_CLOEXEC, O_NONBLOCK
from sentry.fs import pipefs
from sentry.syscalls.args import U32_DECODE, Addr, Arg, flags_of
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

PipeFlags = Annotated[int, Arg(U32_DECODE, flags_of({O_NONBLOCK: "O_NONBLOCK", O_CLOEXEC: "O_CLOEXEC"}))]
TWO_FDS: Final = struct.Struct("<ii")


@syscall(gaps="O_DIRECT (packet mode) is refused")
def pipe2(t: Task, fds_addr: Addr, flags: PipeFlags) -> int:
    """pipe2(2): make a pipe; store its read and write descriptors at fds_addr.

    Linux: fs/pipe.c:do_pipe2
    Errors:
      EINVAL  flags has a bit other than O_CLOEXEC, O_NONBLOCK
      EMFILE  the descriptor table is full; nothing was installed
      EFAULT  fds_addr is not writable; both descriptors are closed again
    """
    if flags & ~(O_CLOEXEC | O_NONBLOCK):
        raise EINVAL("unknown flags")
    fds = t.files.install_all(pipefs.new_pair(t.caller, flags & O_NONBLOCK), cloexec=bool(flags & O_CLOEXEC))
    try:
        t.mem.write(fds_addr, TWO_FDS.pack(*fds))
    except EFAULT:
        for fd in fds:
            t.files.close(fd)
        raise
    return 0


@syscall
def pipe(t: Task, fds_addr: Addr) -> int:
    """pipe(2)."""
    return pipe2(t, fds_addr, 0)
