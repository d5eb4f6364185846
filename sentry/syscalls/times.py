"""Times in application memory: what every call with a timeout needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentry.abi.errno import EINVAL
from sentry.abi.time import FOREVER_NS, NSEC, TIMESPEC, TIMEVAL, USEC

if TYPE_CHECKING:
    from sentry.kernel.task import Task


def read_timespec(t: Task, addr: int) -> int:
    """The ns of a struct timespec that is a duration or a point in time.  EFAULT, EINVAL."""
    return timespec_ns(*TIMESPEC.unpack(t.mem.read(addr, TIMESPEC.size)))


def timespec_ns(seconds: int, nanoseconds: int) -> int:
    """EINVAL: negative, or more than a second of nanoseconds (timespec64_valid)."""
    if seconds < 0 or not 0 <= nanoseconds < NSEC:
        raise EINVAL("bad timespec")
    return min(seconds * NSEC + nanoseconds, FOREVER_NS)


def read_timeval(t: Task, addr: int) -> int:
    """The ns of a struct timeval.  EFAULT, EINVAL."""
    return timeval_ns(*TIMEVAL.unpack(t.mem.read(addr, TIMEVAL.size)))


def timeval_ns(seconds: int, microseconds: int) -> int:
    """EINVAL: negative, or more than a second of microseconds."""
    if seconds < 0 or not 0 <= microseconds < USEC:
        raise EINVAL("bad timeval")
    return min(seconds * NSEC + microseconds * 1000, FOREVER_NS)


def pack_timespec(ns: int) -> bytes:
    return TIMESPEC.pack(*divmod(ns, NSEC))


def pack_timeval(ns: int) -> bytes:
    seconds, rest = divmod(ns, NSEC)
    return TIMEVAL.pack(seconds, rest // 1000)


def deadline_after(t: Task, duration_ns: int) -> int:
    """That long from now, on the loop's clock."""
    return min(t.kernel.loop.now_ns() + duration_ns, FOREVER_NS)


def timeout_deadline(t: Task, addr: int) -> int | None:
    """The deadline of an optional struct timespec timeout at addr; None: wait for ever.  EFAULT, EINVAL."""
    return deadline_after(t, read_timespec(t, addr)) if addr else None


def milliseconds_deadline(t: Task, timeout: int) -> int | None:
    """The deadline of a timeout in milliseconds; None: negative, wait for ever."""
    return deadline_after(t, timeout * 1_000_000) if timeout >= 0 else None
