"""Extended attributes that a file system keeps in memory: xattr(7)."""

from __future__ import annotations

from typing import Final

from sentry.abi.errno import EEXIST, EINVAL, ENODATA, ENOSPC, EOPNOTSUPP

XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
NAMESPACES: Final = ("user.", "trusted.", "security.")
# What one inode may hold, names and values together: they live in the Sentry's own memory.
LIMIT: Final = 64 << 10


def check_name(name: str) -> None:
    """EOPNOTSUPP: no handler for its namespace (system.posix_acl_* among them); EINVAL: nothing behind the prefix."""
    if not name.startswith(NAMESPACES):
        raise EOPNOTSUPP
    if name in NAMESPACES:
        raise EINVAL


class Xattrs:
    """The attributes of one inode."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def get(self, name: str) -> bytes:
        """EOPNOTSUPP, ENODATA."""
        check_name(name)
        value = self._values.get(name)
        if value is None:
            raise ENODATA
        return value

    def set(self, name: str, value: bytes, flags: int) -> None:
        """EOPNOTSUPP; EEXIST, ENODATA as flags ask; ENOSPC."""
        check_name(name)
        old = self._values.get(name)
        if old is not None and flags & XATTR_CREATE:
            raise EEXIST
        if old is None and flags & XATTR_REPLACE:
            raise ENODATA
        used = sum(len(other) + len(data) for other, data in self._values.items() if other != name)
        if used + len(name) + len(value) > LIMIT:
            raise ENOSPC
        self._values[name] = value

    def remove(self, name: str) -> None:
        """EOPNOTSUPP, ENODATA."""
        self.get(name)
        del self._values[name]

    def names(self) -> list[str]:
        return list(self._values)
