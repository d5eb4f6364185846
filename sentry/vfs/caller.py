"""Who performs a file operation, and the permission rules that depend on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.slotted import slotted
from sentry.abi.errno import EACCES, EPERM
from sentry.abi.stat import S_IFDIR, S_IFMT, S_ISVTX

if TYPE_CHECKING:
    from sentry.vfs.inode import Inode

MAY_EXEC = 1
MAY_WRITE = 2
MAY_READ = 4

CAP_CHOWN = 1 << 0
CAP_DAC_OVERRIDE = 1 << 1
CAP_DAC_READ_SEARCH = 1 << 2
CAP_FOWNER = 1 << 3
CAP_FSETID = 1 << 4
CAP_SETFCAP = 1 << 31
CAP_SYS_ADMIN = 1 << 21
CAP_MKNOD = 1 << 27


@slotted
class Caller:
    """The credentials that file access is judged by (struct cred's fs part), and the umask.

    caps holds one bit per capability number.
    """

    fsuid: int = 0
    fsgid: int = 0
    groups: frozenset[int] = frozenset()
    caps: int = 0
    umask: int = 0o022

    def in_group(self, gid: int) -> bool:
        return gid == self.fsgid or gid in self.groups

    def check(self, inode: Inode, wanted: int) -> None:
        """inode_permission(9) without the read-only test: raises EACCES.  wanted: MAY_* bits."""
        mode = inode.mode
        if self.fsuid == inode.uid:
            granted = mode >> 6
        elif self.in_group(inode.gid):
            granted = mode >> 3
        else:
            granted = mode
        if wanted & ~granted & 7 and not self._overrides(mode, wanted):
            raise EACCES

    def _overrides(self, mode: int, wanted: int) -> bool:
        """fs/namei.c:generic_permission, the capability half."""
        is_dir = mode & S_IFMT == S_IFDIR
        if self.caps & CAP_DAC_OVERRIDE and (is_dir or not wanted & MAY_EXEC or mode & 0o111):
            return True
        if not self.caps & CAP_DAC_READ_SEARCH:
            return False
        return not wanted & MAY_WRITE if is_dir else wanted == MAY_READ

    def owns(self, inode: Inode) -> bool:
        """inode_owner_or_capable()."""
        return self.fsuid == inode.uid or bool(self.caps & CAP_FOWNER)

    def check_owner(self, inode: Inode) -> None:
        if not self.owns(inode):
            raise EPERM

    def check_delete(self, directory: Inode, victim: Inode) -> None:
        """fs/namei.c:may_delete: write and search on the directory, and its sticky bit.  EACCES, EPERM."""
        self.check(directory, MAY_WRITE | MAY_EXEC)
        if directory.mode & S_ISVTX and self.fsuid not in (victim.uid, directory.uid) and not self.caps & CAP_FOWNER:
            raise EPERM
