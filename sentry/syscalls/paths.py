"""Names and structures that path calls take from application memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EINVAL, ENOENT
from sentry.abi.fcntl import AT_EMPTY_PATH, AT_FDCWD, PATH_MAX, RESOLVE_BENEATH, RESOLVE_IN_ROOT
from sentry.vfs.cachedwalk import find_any, find_cached, find_in, find_known, walk_cached
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Dentry, Path
from sentry.vfs.walk import Where, walk
from sentry.wait import Mutex

if TYPE_CHECKING:
    from sentry.kernel.task import Task

# Who asks, the directory, the (perhaps negative) dentry in it, the directory's names_lock.
Entry = tuple[Caller, Path, Dentry, Mutex | None]
_NO_ENTRY: Final = (b"", b".", b"..")

# The most frequent error by far, as a result: raising and catching it would take longer than finding it out.
NO_SUCH_FILE: Final = -ENOENT.code


def decode_name(name: bytes) -> str:
    """As dentries have it."""
    return name.decode("utf-8", "surrogateescape")


def read_path(t: Task, addr: int) -> str:
    """The name at addr, which may be empty (getname).  EFAULT; ENAMETOOLONG at PATH_MAX bytes."""
    return decode_name(t.mem.read_cstr(addr, PATH_MAX))


def read_name(t: Task, addr: int) -> str:
    """read_path() of a name that must not be empty.  ENOENT."""
    return named(t.mem.read_cstr(addr, PATH_MAX))


def named(name: bytes) -> str:
    """decode_name() of a name that must not be empty.  ENOENT."""
    if not name:
        raise ENOENT
    return decode_name(name)


def read_optional(t: Task, addr: int, flags: int) -> str:
    """A name that AT_EMPTY_PATH in flags allows to be empty, or to be a null pointer (since Linux 6.11).  ENOENT."""
    return decode_name(read_optional_bytes(t, addr, flags))


def read_optional_bytes(t: Task, addr: int, flags: int) -> bytes:
    """read_optional() for find_any_now()."""
    if flags & AT_EMPTY_PATH:
        return t.mem.read_cstr(addr, PATH_MAX) if addr else b""
    name = t.mem.read_cstr(addr, PATH_MAX)
    if not name:
        raise ENOENT
    return name


def check_flags(flags: int, known: int) -> None:
    """EINVAL for a flag bit that is not known."""
    if flags & ~known:
        raise EINVAL("unknown flags")


def start(t: Task, dirfd: int, name: str, resolve: int = 0) -> Where:
    """Where a walk begins.  dirfd is not looked at for an absolute name, unless RESOLVE_IN_ROOT or BENEATH.  EBADF."""
    if name[:1] == "/" and not resolve & (RESOLVE_IN_ROOT | RESOLVE_BENEATH):
        return t.where(AT_FDCWD, resolve)
    return t.where(dirfd, resolve)


def find_now(t: Task, dirfd: int, name: str, follow: bool, glance: bool = False) -> Path | None:
    """The file that (dirfd, name) means, if that can be said without waiting; None: await walk_at().

    glance: as for find_cached().
    Errors: EBADF, ENOENT, ENOTDIR, EACCES
    """
    fs = t.fs
    where = fs.cwd if dirfd == AT_FDCWD or name[:1] == "/" else t.where(dirfd).start
    return find_cached(fs.root, where, t.creds.caller(fs.umask), name, follow, glance)


def find_any_now(t: Task, dirfd: int, name: bytes, follow: bool, glance: bool = False) -> Path | None:
    """find_now() that does not raise ENOENT but leads to a negative dentry, and looks first into what is known.

    Errors: EBADF, ENOENT (the name is empty), ENOTDIR, EACCES
    """
    fs, creds = t.fs, t.creds
    here = dirfd == AT_FDCWD or name[:1] == b"/"
    if follow and here:
        known = fs.known_for(creds)
        return known.get(name) or find_known(known, fs.root, fs.cwd, creds.caller(fs.umask), name, glance)
    if not name:
        raise ENOENT
    caller = creds.caller(fs.umask)
    return find_any(fs.root, fs.cwd if here else t.where(dirfd).start, caller, decode_name(name), follow, glance)


def find_entry_now(t: Task, dirfd: int, name: bytes) -> Entry | None:
    """The directory entry that (dirfd, name) means, to be made or removed, if that can be said without waiting.

    None: walk.  So it is as well where there is no such directory, or somebody changes names in it just now.  The
    caller must not wait before it holds the directory's names_lock.
    Errors: EBADF, ENOENT (the name is empty), ENOTDIR, EACCES
    """
    head, slash, last = name.rpartition(b"/")
    if last in _NO_ENTRY:
        return None
    fs, creds = t.fs, t.creds
    caller = creds.caller(fs.umask)
    if slash:
        directory = find_any_now(t, dirfd, head or b"/", True)
        if directory is None:
            return None
    else:
        directory = fs.cwd if dirfd == AT_FDCWD else t.where(dirfd).start
    found = find_in(directory, caller, decode_name(last))
    return None if found is None else (caller, directory, *found)


async def walk_at(t: Task, dirfd: int, name: str, flags: int, follow: bool) -> Path:
    """The existing file that (dirfd, name) means; with AT_EMPTY_PATH and an empty name, dirfd itself."""
    if not name and flags & AT_EMPTY_PATH:
        return t.where(dirfd).start
    where = start(t, dirfd, name)
    return walk_cached(where, name, follow) or await walk(where, name, follow)
