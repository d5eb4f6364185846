"""Resource limits of a process, getrlimit(2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sentry.abi.errno import EINVAL, EPERM

RLIMIT_CPU: Final = 0
RLIMIT_FSIZE: Final = 1
RLIMIT_DATA: Final = 2
RLIMIT_STACK: Final = 3
RLIMIT_CORE: Final = 4
RLIMIT_RSS: Final = 5
RLIMIT_NPROC: Final = 6
RLIMIT_NOFILE: Final = 7
RLIMIT_MEMLOCK: Final = 8
RLIMIT_AS: Final = 9
RLIMIT_LOCKS: Final = 10
RLIMIT_SIGPENDING: Final = 11
RLIMIT_MSGQUEUE: Final = 12
RLIMIT_NICE: Final = 13
RLIMIT_RTPRIO: Final = 14
RLIMIT_RTTIME: Final = 15

RLIM_INFINITY: Final = (1 << 64) - 1
NR_OPEN: Final = 1 << 20  # /proc/sys/fs/nr_open: no RLIMIT_NOFILE is above it

Limit = tuple[int, int]  # (soft, hard)

# In the order of their numbers, with what a fresh machine gives init: include/asm-generic/resource.h.
_DEFAULTS: Final[dict[str, Limit]] = {
    "RLIMIT_CPU": (RLIM_INFINITY, RLIM_INFINITY),
    "RLIMIT_FSIZE": (RLIM_INFINITY, RLIM_INFINITY),
    "RLIMIT_DATA": (RLIM_INFINITY, RLIM_INFINITY),
    "RLIMIT_STACK": (8 << 20, RLIM_INFINITY),
    "RLIMIT_CORE": (0, RLIM_INFINITY),
    "RLIMIT_RSS": (RLIM_INFINITY, RLIM_INFINITY),
    "RLIMIT_NPROC": (RLIM_INFINITY, RLIM_INFINITY),
    "RLIMIT_NOFILE": (1024, NR_OPEN),
    "RLIMIT_MEMLOCK": (8 << 20, 8 << 20),
    "RLIMIT_AS": (RLIM_INFINITY, RLIM_INFINITY),
    "RLIMIT_LOCKS": (RLIM_INFINITY, RLIM_INFINITY),
    "RLIMIT_SIGPENDING": (32768, 32768),
    "RLIMIT_MSGQUEUE": (819200, 819200),
    "RLIMIT_NICE": (0, 0),
    "RLIMIT_RTPRIO": (0, 0),
    "RLIMIT_RTTIME": (RLIM_INFINITY, RLIM_INFINITY),
}
NAMES: Final = tuple(_DEFAULTS)


class Rlimits:
    """The limits of one process; every fork has a copy.

    RLIMIT_NOFILE's soft value has a second home, FdTable.limit, which whoever sets it here
    keeps up to date.
    """

    __slots__ = ("_limits",)

    def __init__(self) -> None:
        self._limits = list(_DEFAULTS.values())

    def copy(self) -> Rlimits:
        limits = Rlimits()
        limits._limits = self._limits[:]
        return limits

    def get(self, resource: int) -> Limit:
        """(soft, hard).  EINVAL: there is no such resource."""
        if not 0 <= resource < len(NAMES):
            raise EINVAL("no such resource")
        return self._limits[resource]

    def set(self, resource: int, soft: int, hard: int, privileged: bool = True) -> None:
        """do_prlimit().  EINVAL; EPERM: hard was raised without CAP_SYS_RESOURCE, or is above nr_open."""
        old_hard = self.get(resource)[1]
        if soft > hard:
            raise EINVAL("soft limit above the hard one")
        if resource == RLIMIT_NOFILE and hard > NR_OPEN:
            raise EPERM("above nr_open")
        if hard > old_hard and not privileged:
            raise EPERM("only CAP_SYS_RESOURCE raises a hard limit")
        self._limits[resource] = (soft, hard)

    def apply(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        """Set limits by name, as OCI's process.rlimits gives them.  EINVAL, EPERM."""
        for name, soft, hard in wanted:
            if name not in NAMES:
                raise EINVAL(f"no such resource: {name}")
            self.set(NAMES.index(name), soft & RLIM_INFINITY, hard & RLIM_INFINITY)
