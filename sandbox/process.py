"""Host processes that outlive their creator: named by pid and start time, so that a reused pid is never hit.

Signals go through a pidfd that was opened before the start time was checked; waiting works for any process, not only
for children.
"""

from __future__ import annotations

import errno
import os
import select
import time
from _signal import SIGKILL, pidfd_send_signal  # type: ignore[import-not-found]  # signal makes enums first

from proto.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ProcessId(Record):
    """One process for good."""

    pid: int
    start_time: int
    """Field 22 of /proc/PID/stat: clock ticks after boot."""

    def to_json(self) -> list[int]:
        return [self.pid, self.start_time]

    @classmethod
    def from_json(cls, obj: Any) -> ProcessId:
        pid, start_time = obj
        return cls(int(pid), int(start_time))


def _stat(pid: int) -> tuple[str, int]:
    """State letter and start time; ("", 0) if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return fields[0].decode(), int(fields[19])


def identify(pid: int) -> ProcessId:
    """The lasting name of a process that exists now."""
    return ProcessId(pid, _stat(pid)[1])


def is_alive(process: ProcessId) -> bool:
    """False also for a zombie: it only waits to be reaped."""
    state, start_time = _stat(process.pid)
    return bool(state) and state not in "ZX" and start_time == process.start_time


def _open(process: ProcessId) -> int | None:
    """A pidfd, or None if the process is gone (its pid may be somebody else's by now)."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError as e:
        if e.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
    if _stat(process.pid)[1] == process.start_time:
        return fd
    os.close(fd)
    return None


def kill(process: ProcessId, signo: int = SIGKILL) -> bool:
    """Signal it; False if it is gone."""
    fd = _open(process)
    if fd is None:
        return False
    try:
        pidfd_send_signal(fd, signo)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def reap(process: ProcessId) -> int | None:
    """If it is an ended child of ours, collect it.  The wait status, or None."""
    try:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return status if pid else None


def wait_gone(process: ProcessId, timeout: float) -> bool:
    """Wait until it has ended; reap it if it is ours.  False after `timeout` seconds."""
    fd = _open(process)
    if fd is None:
        return True
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout
    try:
        while not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if time.monotonic() >= deadline:
                return False
    finally:
        os.close(fd)
    reap(process)
    return True
