"""Walking: from a fid, by names, to another fid."""

from __future__ import annotations

import os
from errno import EBUSY, ENOENT, ENOTDIR
from stat import S_IFMT

from gofer import localfs
from gofer.fids import Fid, fid_of_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gofer.fids import Path

    Step = Callable[[Fid, bytes], tuple[Fid, os.stat_result]]


def descend(fid: Fid, name: bytes) -> tuple[Fid, os.stat_result]:
    """A new fid on the entry, and its attributes.  ENOTDIR if fid is no directory, a symbolic link included."""
    fd = localfs.hold(fid.fd, name)
    try:
        st = os.stat(fd)
        return Fid(fd, S_IFMT(st.st_mode), (fid.path, name), fid.uid), st
    except BaseException:
        os.close(fd)
        raise


def walk(start: Fid, names: Sequence[bytes], step: Step = descend) -> tuple[list[os.stat_result], Fid]:
    """Go as far as the names lead: the attributes of each file on the way, and a fid on the last.

    Raises what stopped the first step, but ends quietly at a later one.  The fid is the caller's to close, unless it
    is start itself (no names).
    """
    fid = start
    passed: list[os.stat_result] = []
    for name in names:
        try:
            child, st = step(fid, name)
        except OSError:
            if not passed:
                raise
            break
        if fid is not start:
            fid.close()
        fid = child
        passed.append(st)
    return passed, fid


def _names_of(path: Path) -> list[bytes]:
    names: list[bytes] = []
    while path is not None:
        path, name = path
        names.append(name)
    names.reverse()
    return names


def parent(fid: Fid, root_fd: int) -> tuple[Fid, os.stat_result]:
    """The directory through which fid was reached, by its names from the root: `..` of the root is the root.

    The host's own `..` is never used: a directory that has been moved out of the served tree would lead out of it.
    """
    names = _names_of(fid.path)[:-1]
    root = fid_of_root(root_fd, fid.uid)
    if not names:
        return root, os.stat(root.fd)
    try:
        passed, found = walk(root, names)
    finally:
        root.close()
    if len(passed) == len(names):
        return found, passed[-1]
    found.close()
    raise OSError(ENOENT, "the way to the parent is gone")


def parent_step(root_fd: int) -> Step:
    """descend(), and `.` and `..` as well, which some clients send."""

    def step(fid: Fid, name: bytes) -> tuple[Fid, os.stat_result]:
        if name not in (b".", b".."):
            return descend(fid, name)
        if not fid.is_directory():
            raise OSError(ENOTDIR, "not a directory")
        return parent(fid, root_fd) if name == b".." else (fid.clone(), os.stat(fid.fd))

    return step


def entry(fid: Fid, root_fd: int) -> tuple[Fid, bytes]:
    """The directory entry through which fid was reached: (a fid on the directory, name).

    ENOENT if that entry is now another file, EBUSY if fid is the root.
    """
    if fid.path is None:
        raise OSError(EBUSY, "the root has no name")
    name = fid.path[1]
    directory, _ = parent(fid, root_fd)
    try:
        if not os.path.samestat(localfs.stat_entry(directory.fd, name), os.stat(fid.fd)):
            raise OSError(ENOENT, "renamed or replaced")
    except BaseException:
        directory.close()
        raise
    return directory, name
