"""timerfd_create(2), timerfd_settime(2), timerfd_gettime(2).  The timer is sentry/fs/timerfd.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from sentry.abi.errno import EINVAL, EPERM
from sentry.abi.fcntl import O_CLOEXEC, O_NONBLOCK
from sentry.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
    TFD_TIMER_CANCEL_ON_SET,
    TIMER_ABSTIME,
)
from sentry.fs.timerfd import TimerFile
from sentry.kernel.clocks import HOST_CLOCKS
from sentry.kernel.creds import CAP_WAKE_ALARM
from sentry.syscalls.args import I32_DECODE, U32_DECODE, Addr, Arg, Fd, flags_of
from sentry.syscalls.registry import syscall
from sentry.syscalls.time import ClockId
from sentry.syscalls.timer import pack_itimerspec, read_itimerspec

if TYPE_CHECKING:
    from sentry.kernel.task import Task

ALARM_CLOCKS: Final = (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM)
CLOCKS: Final = (CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, *ALARM_CLOCKS)
CreateFlags = Annotated[int, Arg(U32_DECODE, flags_of({O_CLOEXEC: "TFD_CLOEXEC", O_NONBLOCK: "TFD_NONBLOCK"}))]
SetFlags = Annotated[
    int,
    Arg(
        I32_DECODE,
        flags_of({TIMER_ABSTIME: "TFD_TIMER_ABSTIME", TFD_TIMER_CANCEL_ON_SET: "TFD_TIMER_CANCEL_ON_SET"}),
    ),
]


@syscall
def timerfd_create(t: Task, clock: ClockId, flags: CreateFlags) -> int:
    """timerfd_create(2): a timer that is not set yet.  Errors: EINVAL, EPERM, EMFILE."""
    if flags & ~(O_CLOEXEC | O_NONBLOCK) or clock not in CLOCKS:
        raise EINVAL
    if clock in ALARM_CLOCKS and not t.creds.has(CAP_WAKE_ALARM):
        raise EPERM
    return t.files.install(TimerFile(t.kernel.loop, HOST_CLOCKS[clock], flags), bool(flags & O_CLOEXEC))


def _timer(t: Task, fd: int) -> TimerFile:
    """EBADF; EINVAL: not a timer."""
    file = t.files.get(fd)
    if not isinstance(file, TimerFile):
        raise EINVAL("not a timerfd")
    return file


@syscall(gaps="TFD_TIMER_CANCEL_ON_SET is accepted, but setting the host's clock cancels nothing")
def timerfd_settime(t: Task, fd: Fd, flags: SetFlags, new_addr: Addr, old_addr: Addr) -> int:
    """timerfd_settime(2): set or (value 0) stop it.  Errors: EFAULT, EINVAL, EBADF."""
    value_ns, interval_ns = read_itimerspec(t, new_addr)
    if flags & ~(TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET):
        raise EINVAL("unknown flags")
    timer = _timer(t, fd)
    old = pack_itimerspec(timer.countdown)
    timer.settime_flags = flags
    timer.set(value_ns, interval_ns, bool(flags & TIMER_ABSTIME))
    if old_addr:
        t.mem.write(old_addr, old)
    return 0


@syscall
def timerfd_gettime(t: Task, fd: Fd, addr: Addr) -> int:
    """timerfd_gettime(2).  Errors: EBADF, EINVAL, EFAULT."""
    t.mem.write(addr, pack_itimerspec(_timer(t, fd).countdown))
    return 0
