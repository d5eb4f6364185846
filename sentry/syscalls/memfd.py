"""memfd_create(2).  The file is sentry/fs/memfd.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi.errno import EINVAL, ENAMETOOLONG, ENOSYS
from sentry.fs.memfd import new_memfd
from sentry.syscalls.args import U32_DECODE, Arg, PathAddr, flags_of
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

MFD_CLOEXEC: Final = 1
MFD_ALLOW_SEALING: Final = 2
MFD_HUGETLB: Final = 4
MFD_NOEXEC_SEAL: Final = 8
MFD_EXEC: Final = 16
NAMES: Final = {
    MFD_CLOEXEC: "MFD_CLOEXEC",
    MFD_ALLOW_SEALING: "MFD_ALLOW_SEALING",
    MFD_HUGETLB: "MFD_HUGETLB",
    MFD_NOEXEC_SEAL: "MFD_NOEXEC_SEAL",
    MFD_EXEC: "MFD_EXEC",
}
NAME_LIMIT: Final = 250  # MFD_NAME_MAX_LEN and a NUL
MemfdFlags = Annotated[int, Arg(U32_DECODE, flags_of(NAMES))]


@syscall(gaps="no huge pages; F_SEAL_WRITE does not look for writable mappings")
def memfd_create(t: Task, name_addr: PathAddr, flags: MemfdFlags) -> int:
    """memfd_create(2): a file of memory; its name only shows in /proc.

    Linux: mm/memfd.c
    Errors: EINVAL unknown flags, long name; EFAULT; ENOSYS huge pages; EMFILE
    """
    known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_NOEXEC_SEAL | MFD_EXEC
    if flags & ~known and not flags & MFD_HUGETLB:
        raise EINVAL("unknown flags")
    if flags & MFD_EXEC and flags & MFD_NOEXEC_SEAL:
        raise EINVAL("both MFD_EXEC and MFD_NOEXEC_SEAL")
    try:
        name = t.mem.read_cstr(name_addr, NAME_LIMIT).decode("utf-8", "surrogateescape")
    except ENAMETOOLONG:
        raise EINVAL("name too long") from None
    if flags & MFD_HUGETLB:
        raise ENOSYS("no huge pages")
    sealable, executable = bool(flags & MFD_ALLOW_SEALING), not flags & MFD_NOEXEC_SEAL
    file = new_memfd(t.caller, name, sealable, executable, t.container.memory)
    return t.files.install(file, bool(flags & MFD_CLOEXEC))
