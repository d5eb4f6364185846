"""Memory: mmap, munmap, mprotect, mremap, msync, madvise, brk, mlock, mincore."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sentry.abi.errno import EACCES, EINTR, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM, LinuxError
from sentry.abi.fcntl import O_ACCMODE, O_RDONLY, O_RDWR
from sentry.kernel.rlimits import RLIM_INFINITY, RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK
from sentry.mm.mm import MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, page_up
from sentry.platform import PAGE_SIZE
from sentry.syscalls.args import I32, U64, Addr, Fd, Flags, MapFlags, Prot, Size
from sentry.syscalls.registry import NO_RESULT, syscall
from sentry.vfs.dentry import MS_NOEXEC
from sentry.wait import breathe

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.vfs.file import File

MAP_TYPE: Final = 0x0F
MAP_SHARED_VALIDATE: Final = 3
MAP_32BIT: Final = 0x40
MAP_GROWSDOWN: Final = 0x100
MAP_DENYWRITE: Final = 0x800
MAP_EXECUTABLE: Final = 0x1000
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_NONBLOCK: Final = 0x10000
MAP_STACK: Final = 0x20000
MAP_HUGETLB: Final = 0x40000
MAP_SYNC: Final = 0x80000
LEGACY_FLAGS: Final = (
    *(MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_DENYWRITE, MAP_EXECUTABLE, MAP_GROWSDOWN),
    *(MAP_LOCKED, MAP_NORESERVE, MAP_POPULATE, MAP_NONBLOCK, MAP_STACK, MAP_HUGETLB, MAP_32BIT),
)
LEGACY_MASK: Final = sum(LEGACY_FLAGS) | MAP_FIXED_NOREPLACE
# What the host is asked for: the rest is advice, or a wish that a sandbox does not grant (locking).
# MAP_DENYWRITE and MAP_EXECUTABLE mean nothing to the host either.
IGNORED_FLAGS: Final = 0x1800
UNREMARKABLE: Final = IGNORED_FLAGS | MAP_NORESERVE | MAP_STACK
HOST_FLAGS: Final = (
    MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_32BIT | MAP_NORESERVE | MAP_POPULATE
    | MAP_STACK | MAP_FIXED_NOREPLACE
)  # fmt: skip
PROT_EXEC: Final = 4
PROT_WRITE: Final = 2
PROT_READ: Final = 1
PROT_KNOWN: Final = 0x0F | 0x01000000 | 0x02000000
PROT_GROWSDOWN: Final = 0x01000000
PROT_GROWSUP: Final = 0x02000000
MMAP_MIN_ADDR: Final = 65536
SLICE: Final = 16 << 20  # memory that the host is asked to find at once
MINCORE_STEP: Final = 1 << 16  # pages whose answer is written at once: a mapping may have very many

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4
MS_ASYNC: Final = 1
MS_INVALIDATE: Final = 2
MS_SYNC: Final = 4
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
# Advice that changes what the application sees; the host carries it out.
REAL_ADVICE: Final = frozenset({MADV_DONTNEED, MADV_FREE, 10, 11, 18, 19, MADV_POPULATE_READ, MADV_POPULATE_WRITE, 24})
# Advice about performance, or about things that the sandbox does not do (core dumps, poison): checked only.
HINTS: Final = frozenset({0, 1, 2, 3, 12, 13, 14, 15, 16, 17, 20, 21, 25})


def _check_range(t: Task, addr: int, length: int) -> None:
    """ENOMEM past the end of the address space; the platform's own region counts as past it."""
    end = t.mem.end
    if length > end or addr > end - length:
        raise ENOMEM


def _check_as_limit(t: Task, length: int) -> None:
    limit = t.tg.rlimits.get(RLIMIT_AS)[0]
    if limit != RLIM_INFINITY and t.mem.resident_pages()[0] * PAGE_SIZE + length > limit:
        raise ENOMEM


@syscall(gaps="MAP_LOCKED and MAP_GROWSDOWN are mapped plainly; no MAP_HUGETLB")
def mmap(
    t: Task, addr: Addr, length: Size, prot: Prot, flags: MapFlags, fd: Fd, offset: U64
) -> Coroutine[Any, Any, int] | int | None:
    """mmap(2): map memory or a file.

    Errors, in this order:
      EINVAL      offset or a fixed address is not page-aligned; length is 0; neither shared nor private
      EBADF       fd is not open
      ENOMEM      too long, past the end, or over a limit
      EEXIST      MAP_FIXED_NOREPLACE over an existing mapping
      EACCES      the file is not open for what prot needs
      EPERM       PROT_EXEC from a noexec mount; below mmap_min_addr
      ENODEV      the file can't be mapped
      EOPNOTSUPP  MAP_SHARED_VALIDATE with an unknown flag
    """
    # By far the most frequent: fresh memory, wherever there is room.
    if flags & ~UNREMARKABLE == MAP_PRIVATE | MAP_ANONYMOUS and not addr | offset and 0 < length < 1 << 40:
        if t.tg.rlimits.get(RLIMIT_AS)[0] == RLIM_INFINITY:
            if t.context.let_through("mmap", (0, length, prot & 7, flags)):
                return NO_RESULT
    if offset % PAGE_SIZE:
        raise EINVAL
    file = None if flags & MAP_ANONYMOUS else t.files.get(fd)
    if not length:
        raise EINVAL
    size = page_up(length)
    if size > t.mem.end:
        raise ENOMEM
    if offset + size >= 1 << 63:
        raise EOVERFLOW
    kind = _mapping_type(flags, file)
    if flags & MAP_HUGETLB:
        raise EINVAL("no huge pages are reserved")
    fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)
    if fixed:
        if addr % PAGE_SIZE:
            raise EINVAL
        _check_range(t, addr, size)
        if addr < MMAP_MIN_ADDR:
            raise EPERM
    elif addr >= t.mem.end - size or addr < MMAP_MIN_ADDR:
        addr = 0
    _check_as_limit(t, size)
    host_flags = flags & HOST_FLAGS & ~MAP_TYPE | kind
    if file is not None or kind == MAP_SHARED or (flags & MAP_POPULATE and size > SLICE):
        return _map_with_care(t, file, addr, size, prot, host_flags, offset)
    if host_flags == flags & ~IGNORED_FLAGS and t.context.let_through("mmap", (addr, length, prot & 7, flags)):
        return NO_RESULT
    return t.mem.map(addr, size, prot & 7, host_flags, -1, 0)


async def _map_with_care(
    t: Task, file: File | None, addr: int, size: int, prot: int, host_flags: int, offset: int
) -> int:
    """What is shared or a file's is remembered; much memory is found in slices."""
    populate = host_flags & MAP_POPULATE and size > SLICE
    if populate:
        host_flags &= ~MAP_POPULATE
    if file is None:
        result = t.mem.map(addr, size, prot & 7, host_flags, -1, 0)
    else:
        result = await _map_file(t, file, addr, size, prot, host_flags, offset)
    if host_flags & MAP_TYPE == MAP_SHARED:
        t.mm.note_shared(result, result + size)
    if populate:
        with suppress(LinuxError):  # it is no failure of mmap's
            await _populate(t, result, size, MADV_POPULATE_WRITE if prot & PROT_WRITE else MADV_POPULATE_READ)
    return result


async def _populate(t: Task, addr: int, size: int, advice: int) -> int:
    """In slices: while the host finds memory, nobody else in the sandbox is served.  0.  EINTR: the task is to end."""
    for at in range(addr, addr + size, SLICE):
        t.mem.advise(at, min(addr + size - at, SLICE), advice)
        await breathe(t.kernel.loop)
        if t.exiting:
            raise EINTR
    return 0


def _mapping_type(flags: int, file: File | None) -> int:
    """MAP_SHARED or MAP_PRIVATE.  EINVAL, EOPNOTSUPP."""
    kind = flags & MAP_TYPE
    if kind == MAP_SHARED_VALIDATE:
        if file is None:
            raise EINVAL
        if flags & ~(LEGACY_MASK | MAP_SHARED_VALIDATE):
            raise EOPNOTSUPP
        return MAP_SHARED
    if kind not in (MAP_SHARED, MAP_PRIVATE):
        raise EINVAL
    return kind


async def _map_file(t: Task, file: File, addr: int, size: int, prot: int, host_flags: int, offset: int) -> int:
    kind = host_flags & MAP_TYPE
    shared_write = kind == MAP_SHARED and file.flags & 3 == O_RDWR
    if not file.readable or (kind == MAP_SHARED and prot & PROT_WRITE and not file.writable):
        raise EACCES
    if prot & PROT_EXEC and file.path is not None and file.path.mount.flags & MS_NOEXEC:
        raise EPERM
    host_fd = await file.host_fd(shared_write)
    info = os.fstat(host_fd)
    t.mm.note_file(info.st_dev, info.st_ino, file.path if file.path is not None else file.describe() or "")
    if kind == MAP_SHARED and not shared_write and fcntl.fcntl(host_fd, fcntl.F_GETFL) & O_ACCMODE != O_RDONLY:
        # Without write access there, mprotect(2) can't add it later: the host refuses.
        readonly_fd = t.kernel.readonly_copy(host_fd)
        try:
            return t.mem.map(addr, size, prot & 7, host_flags, readonly_fd, offset)
        finally:
            os.close(readonly_fd)
    return t.mem.map(addr, size, prot & 7, host_flags, host_fd, offset)


@syscall
def munmap(t: Task, addr: Addr, length: Size) -> int | None:
    """munmap(2).  EINVAL: misaligned, empty, or past the end."""
    if addr % PAGE_SIZE or not length or length > t.mem.end or addr > t.mem.end - length:
        raise EINVAL
    if t.context.let_through("munmap", (addr, length)):
        return NO_RESULT
    t.mem.unmap(addr, page_up(length))
    return 0


@syscall
def mprotect(t: Task, addr: Addr, length: Size, prot: Prot) -> int | None:
    """mprotect(2).

    Errors:
      EINVAL  misaligned, or both PROT_GROWSDOWN and PROT_GROWSUP
      ENOMEM  part of the range is not mapped
      EACCES  writing to a shared mapping of a read-only descriptor
    """
    if (prot & PROT_GROWSDOWN and prot & PROT_GROWSUP) or prot & ~PROT_KNOWN or addr % PAGE_SIZE:
        raise EINVAL
    if not length:
        return 0
    size = page_up(length)
    _check_range(t, addr, size)
    if prot & (PROT_GROWSDOWN | PROT_GROWSUP):
        raise EINVAL("no mapping grows")
    if t.context.let_through("mprotect", (addr, length, prot & 7)):
        return NO_RESULT
    t.mem.protect(addr, size, prot & 7)
    return 0


@syscall(gaps="protection keys: only -1")
def pkey_mprotect(t: Task, addr: Addr, length: Size, prot: Prot, pkey: I32) -> int | None:
    """pkey_mprotect(2): mprotect, without a key.  EINVAL: any other key."""
    if pkey != -1:
        raise EINVAL
    return mprotect(t, addr, length, prot)


@syscall
def mremap(t: Task, old: Addr, old_size: Size, new_size: Size, flags: Flags, new: Addr) -> int | None:
    """mremap(2).

    Errors:
      EINVAL  unknown or contradictory flags, misaligned, empty, overlapping
      EFAULT  the old range is not one mapping
      ENOMEM  no room where it is and MREMAP_MAYMOVE is not given; past the end
    """
    if flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) or old % PAGE_SIZE or not new_size:
        raise EINVAL
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and not flags & MREMAP_MAYMOVE:
        raise EINVAL
    old_size, new_size = page_up(old_size), page_up(new_size)
    if old_size > t.mem.end or old > t.mem.end - old_size or new_size > t.mem.end:
        raise EINVAL
    if flags & MREMAP_FIXED:
        if new % PAGE_SIZE or new > t.mem.end - new_size:
            raise EINVAL
        if new < MMAP_MIN_ADDR:
            raise EPERM
    else:
        new = 0  # not an argument then: the register may hold anything
    if new_size > old_size:
        _check_as_limit(t, new_size - old_size)
    shared = t.mm.may_be_shared(old)
    args = (old, old_size, new_size, flags)
    if not shared and t.context.let_through("mremap", (*args, new) if flags & MREMAP_FIXED else args):
        return NO_RESULT
    result = t.mem.remap(old, old_size, new_size, flags, new)
    if shared:
        t.mm.note_shared(result, result + new_size)
    return result


@syscall
def msync(t: Task, addr: Addr, length: Size, flags: Flags) -> int:
    """msync(2).  EINVAL: flags, alignment.  ENOMEM: part of the range is not mapped."""
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or addr % PAGE_SIZE:
        raise EINVAL
    if flags & MS_ASYNC and flags & MS_SYNC:
        raise EINVAL
    size = page_up(length)
    _check_range(t, addr, size)
    if size:
        t.mem.sync(addr, size, flags)
    return 0


@syscall(gaps="hints are checked and not passed on")
def madvise(t: Task, addr: Addr, length: Size, advice: I32) -> Awaitable[int] | int | None:
    """madvise(2).  EINVAL: unknown advice, misaligned.  ENOMEM: part of the range is not mapped."""
    if advice not in REAL_ADVICE and advice not in HINTS:
        raise EINVAL
    if addr % PAGE_SIZE:
        raise EINVAL
    size = page_up(length)
    if size < length or size > t.mem.end or addr > t.mem.end - size:
        raise EINVAL
    if size > SLICE and advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        return _populate(t, addr, size, advice)
    if size and advice in REAL_ADVICE:
        if t.context.let_through("madvise", (addr, length, advice)):
            return NO_RESULT
        t.mem.advise(addr, size, advice)
    return 0


@syscall
def brk(t: Task, addr: Addr) -> int:
    """brk(2): move the heap's end; returns where it is, unchanged if it can't be moved."""
    limit = t.tg.rlimits.get(RLIMIT_DATA)[0]
    return t.mm.set_brk(addr, limit)


def _check_mapped(t: Task, addr: int, size: int) -> None:
    """ENOMEM unless every page of the range is mapped."""
    at, end = addr, addr + size
    for mapping in t.mem.mappings():
        if mapping.start <= at < mapping.end:
            at = mapping.end
        if at >= end:
            return
    if at < end:
        raise ENOMEM


@syscall(gaps="memory is not pinned on the host; ranges and RLIMIT_MEMLOCK are checked")
def mlock(t: Task, addr: Addr, length: Size) -> int:
    """mlock(2).  ENOMEM: not mapped, or over the limit.  EPERM: the limit is 0."""
    start = addr & ~(PAGE_SIZE - 1)
    size = page_up(length + (addr - start))
    limit = t.tg.rlimits.get(RLIMIT_MEMLOCK)[0]
    if not t.creds.effective & 1 << 14:
        if limit == 0:
            raise EPERM
        if limit != RLIM_INFINITY and size > limit:
            raise ENOMEM
    _check_range(t, start, size)
    if size:
        _check_mapped(t, start, size)
    return 0


@syscall(gaps="as mlock")
def mlock2(t: Task, addr: Addr, length: Size, flags: Flags) -> int:
    """mlock2(2).  EINVAL: unknown flags."""
    if flags & ~1:
        raise EINVAL
    return mlock(t, addr, length)


@syscall(gaps="as mlock")
def munlock(t: Task, addr: Addr, length: Size) -> int:
    """munlock(2).  ENOMEM: not mapped."""
    start = addr & ~(PAGE_SIZE - 1)
    size = page_up(length + (addr - start))
    _check_range(t, start, size)
    if size:
        _check_mapped(t, start, size)
    return 0


@syscall(gaps="memory is not pinned on the host")
def mlockall(t: Task, flags: Flags) -> int:
    """mlockall(2).  EINVAL: flags.  EPERM: not allowed to lock."""
    if not flags or flags & ~7 or flags == 4:
        raise EINVAL
    if not t.creds.effective & 1 << 14 and not t.tg.rlimits.get(RLIMIT_MEMLOCK)[0]:
        raise EPERM
    return 0


@syscall
def munlockall(t: Task) -> int:
    """munlockall(2)."""
    return 0


@syscall(gaps="every mapped page counts as resident")
def mincore(t: Task, addr: Addr, length: Size, vec: Addr) -> int:
    """mincore(2).  EINVAL: misaligned.  ENOMEM: not mapped.  EFAULT."""
    if addr % PAGE_SIZE:
        raise EINVAL
    size = page_up(length)
    _check_range(t, addr, size)
    if size:
        _check_mapped(t, addr, size)
        for page in range(0, size // PAGE_SIZE, MINCORE_STEP):
            t.mem.write(vec + page, b"\1" * min(size // PAGE_SIZE - page, MINCORE_STEP))
    return 0
