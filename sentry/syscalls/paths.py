"""Names and structures that path calls take from application memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentry.abi.errno import EINVAL
from sentry.abi.fcntl import AT_EMPTY_PATH, PATH_MAX
from sentry.vfs.cachedwalk import walk_cached
from sentry.vfs.dentry import Path
from sentry.vfs.walk import walk

if TYPE_CHECKING:
    from sentry.kernel.task import Task


def read_path(t: Task, addr: int) -> str:
    """The name at addr (getname).  EFAULT; ENAMETOOLONG at PATH_MAX bytes.  An empty one is walk()'s business."""
    return t.mem.read_cstr(addr, PATH_MAX).decode("utf-8", "surrogateescape")


def read_optional(t: Task, path: int, flags: int) -> str:
    """read_path(); with AT_EMPTY_PATH a null pointer counts as an empty name (since Linux 6.11)."""
    return "" if flags & AT_EMPTY_PATH and not path else read_path(t, path)


def check_flags(flags: int, known: int) -> None:
    """EINVAL for a flag bit that is not known."""
    if flags & ~known:
        raise EINVAL("unknown flags")


async def walk_at(t: Task, dirfd: int, name: str, flags: int, follow: bool) -> Path:
    """The existing file that (dirfd, name) means; with AT_EMPTY_PATH and an empty name, dirfd itself."""
    if not name and flags & AT_EMPTY_PATH:
        return t.where(dirfd).start
    where = t.where(dirfd)
    return walk_cached(where, name, follow) or await walk(where, name, follow)
