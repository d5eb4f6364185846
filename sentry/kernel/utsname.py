"""Who this kernel says it is: uname(2), and the names of a UTS namespace."""

from __future__ import annotations

from typing import Final

from sentry.abi.errno import EINVAL

NAME_SIZE: Final = 64  # __NEW_UTS_LEN; a field is one longer
SYSNAME: Final = "Linux"
# What the implemented interface resembles: glibc and others compare it with the oldest kernel they accept.
RELEASE: Final = "6.1.0-pysc"
VERSION: Final = "#1 SMP pysc"
MACHINE: Final = "x86_64"
BANNER: Final = f"Linux version {RELEASE} (pysc@sandbox) (Python) {VERSION}"


class UtsNamespace:
    """The node and domain name (struct uts_namespace)."""

    __slots__ = ("__weakref__", "domainname", "nodename")

    def __init__(self, nodename: str = "localhost", domainname: str = "(none)") -> None:
        self.nodename = nodename.encode("utf-8", "surrogateescape")[:NAME_SIZE]
        self.domainname = domainname.encode("utf-8", "surrogateescape")[:NAME_SIZE]

    def copy(self) -> UtsNamespace:
        """For CLONE_NEWUTS."""
        names = UtsNamespace()
        names.nodename, names.domainname = self.nodename, self.domainname
        return names

    def pack(self) -> bytes:
        """struct new_utsname."""
        fields = (
            SYSNAME.encode(),
            self.nodename,
            RELEASE.encode(),
            VERSION.encode(),
            MACHINE.encode(),
            self.domainname,
        )
        return b"".join(field.ljust(NAME_SIZE + 1, b"\0") for field in fields)


def check_name_length(length: int) -> None:
    """EINVAL: longer than a name may be."""
    if not 0 <= length <= NAME_SIZE:
        raise EINVAL("name too long")
