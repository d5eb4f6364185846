"""The host calls that Python's os module lacks, raising OSError as that does.

A thin door over `sandbox._hostcalls` (built from hostcalls_build.py).  Nothing here decides anything.
"""

from __future__ import annotations

import os

from sandbox._hostcalls import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

CLONE_NEWCGROUP: Final[int] = lib.CLONE_NEWCGROUP
CLONE_NEWIPC: Final[int] = lib.CLONE_NEWIPC
CLONE_NEWNET: Final[int] = lib.CLONE_NEWNET
CLONE_NEWNS: Final[int] = lib.CLONE_NEWNS
CLONE_NEWPID: Final[int] = lib.CLONE_NEWPID
CLONE_NEWUSER: Final[int] = lib.CLONE_NEWUSER
CLONE_NEWUTS: Final[int] = lib.CLONE_NEWUTS

MS_BIND: Final[int] = lib.MS_BIND
MS_NODEV: Final[int] = lib.MS_NODEV
MS_NOEXEC: Final[int] = lib.MS_NOEXEC
MS_NOSUID: Final[int] = lib.MS_NOSUID
MS_PRIVATE: Final[int] = lib.MS_PRIVATE
MS_RDONLY: Final[int] = lib.MS_RDONLY
MS_REC: Final[int] = lib.MS_REC
MS_REMOUNT: Final[int] = lib.MS_REMOUNT
MNT_DETACH: Final[int] = lib.MNT_DETACH

PR_CAPBSET_DROP: Final[int] = lib.PR_CAPBSET_DROP
PR_CAPBSET_READ: Final[int] = lib.PR_CAPBSET_READ
PR_CAP_AMBIENT: Final[int] = lib.PR_CAP_AMBIENT
PR_CAP_AMBIENT_CLEAR_ALL: Final[int] = lib.PR_CAP_AMBIENT_CLEAR_ALL
PR_SET_CHILD_SUBREAPER: Final[int] = lib.PR_SET_CHILD_SUBREAPER
PR_SET_DUMPABLE: Final[int] = lib.PR_SET_DUMPABLE
PR_SET_KEEPCAPS: Final[int] = lib.PR_SET_KEEPCAPS
PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final[int] = lib.PR_SET_NO_NEW_PRIVS

AT_RECURSIVE: Final[int] = lib.AT_RECURSIVE
OPEN_TREE_CLONE: Final[int] = lib.OPEN_TREE_CLONE
OPEN_TREE_CLOEXEC: Final[int] = lib.OPEN_TREE_CLOEXEC
MOUNT_ATTR_RDONLY: Final[int] = lib.MOUNT_ATTR_RDONLY
MOUNT_ATTR_NOSUID: Final[int] = lib.MOUNT_ATTR_NOSUID
MOUNT_ATTR_NODEV: Final[int] = lib.MOUNT_ATTR_NODEV
MOUNT_ATTR_NOSYMFOLLOW: Final[int] = lib.MOUNT_ATTR_NOSYMFOLLOW


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        code = ffi.errno
        if path is None:
            raise OSError(code, os.strerror(code))
        raise OSError(code, os.strerror(code), path)
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(lib.hc_unshare(flags))


def setns(fd: int, nstype: int) -> None:
    """setns(2)."""
    _check(lib.hc_setns(fd, nstype))


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    arguments = (os.fsencode(source), os.fsencode(target), fstype.encode(), flags, os.fsencode(data))
    _check(lib.hc_mount(*arguments), target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(lib.hc_umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(lib.hc_pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2), for options whose arguments are numbers."""
    return _check(lib.hc_prctl(option, arg2, arg3, arg4, arg5))


def set_name(name: str) -> None:
    """prctl(PR_SET_NAME): what ps and top show; 15 bytes are kept."""
    _check(lib.hc_set_name(name.encode()))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) on the calling thread; each set is a bit mask."""
    _check(lib.hc_capset(effective, permitted, inheritable))


def open_tree(path: str, flags: int, dirfd: int = -100) -> int:
    """open_tree(2) from the working directory, or `dirfd`; returns a descriptor."""
    return _check(lib.hc_open_tree(dirfd, os.fsencode(path), flags), path)


def mount_setattr(fd: int, flags: int, attr_set: int, attr_clr: int = 0) -> None:
    """mount_setattr(2) on the mount that `fd` refers to."""
    _check(lib.hc_mount_setattr(fd, flags, attr_set, attr_clr))


def load_filter(program: bytes) -> None:
    """seccomp(SECCOMP_SET_MODE_FILTER) for this thread; an array of struct sock_filter."""
    _check(lib.hc_load_filter(program, len(program) // 8))


def set_command_line(words: Sequence[str]) -> None:
    """What ps shows of this process; as much of it as there was room at its start, the last byte always a NUL."""
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end - proc_pid_stat(5)
    if start and end > start:
        text = os.fsencode("\0".join(words))[: end - start - 1]
        lib.hc_set_arguments(start, end, text, len(text))


def one_malloc_arena() -> None:
    """glibc gives each thread an arena of its own, for speed that Python's lock takes away again."""
    lib.hc_one_malloc_arena()
