"""The kernel log, syslog(2) and /dev/kmsg: what dmesg(1) shows.

Lines look like Linux's: a level in angle brackets, the seconds since start, the text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from sentry.kernel.utsname import BANNER
from sentry.wait import WaitQueue

KERN_ERR: Final = 3
KERN_WARNING: Final = 4
KERN_NOTICE: Final = 5
KERN_INFO: Final = 6

BUFFER_BYTES: Final = 1 << 17

BOOT_LINES: Final = (
    BANNER,
    "Booting a kernel that is itself a program",
    "Reading every system call before answering it",
    "Teaching snakes to walk paths",
    "Polishing file descriptors 0, 1 and 2",
    "Asking the gofer to fetch the root file system",
    "Winding up the timers",
    "Counting to a billion in nanoseconds",
    "Hiding the host behind a curtain",
    "Ready!",
)


class KernelLog:
    """A ring of log records that forgets the oldest.

    records   (sequence, level, microseconds since start, text)
    queue     woken for each new record: SYSLOG_ACTION_READ and /dev/kmsg wait on it
    """

    __slots__ = ("_bytes", "_clear_sequence", "_next", "_now_ns", "_read_sequence", "_start_ns", "queue", "records")

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.records: deque[tuple[int, int, int, str]] = deque()
        self.queue = WaitQueue()
        self._now_ns = now_ns
        self._start_ns = now_ns()
        self._bytes = 0
        self._next = 0
        self._read_sequence = 0  # the first record that SYSLOG_ACTION_READ has not consumed
        self._clear_sequence = 0  # the first one that SYSLOG_ACTION_CLEAR left

    def add(self, text: str, level: int = KERN_INFO) -> None:
        """printk()."""
        microseconds = (self._now_ns() - self._start_ns) // 1000
        for line in text.splitlines():
            self.records.append((self._next, level, microseconds, line))
            self._next += 1
            self._bytes += _size(line)
        while self._bytes > BUFFER_BYTES:
            self._bytes -= _size(self.records.popleft()[3])
        self.queue.wake(1)

    def add_boot_lines(self) -> None:
        """What a booting kernel has to say."""
        for line in BOOT_LINES:
            self.add(line)

    # -- syslog(2) --

    def read(self, limit: int) -> bytes:
        """SYSLOG_ACTION_READ: whole lines nobody has read, at most limit bytes; b"" if there are none."""
        taken = bytearray()
        for record in self.records:
            if record[0] < self._read_sequence:
                continue
            line = _format(record)
            if len(taken) + len(line) > limit:
                break
            taken += line
            self._read_sequence = record[0] + 1
        return bytes(taken)

    def read_all(self, limit: int) -> bytes:
        """SYSLOG_ACTION_READ_ALL: the newest whole lines that fit in limit bytes, since the last clear."""
        lines: list[bytes] = []
        size = 0
        for record in reversed(self.records):
            line = _format(record)
            size += len(line)
            if record[0] < self._clear_sequence or size > limit:
                break
            lines.append(line)
        return b"".join(reversed(lines))

    def clear(self) -> None:
        """SYSLOG_ACTION_CLEAR: nothing is lost to read(), but read_all() starts here."""
        self._clear_sequence = self._next

    def unread_bytes(self) -> int:
        return sum(len(_format(record)) for record in self.records if record[0] >= self._read_sequence)


def _size(text: str) -> int:
    return len(text) + 24


def _format(record: tuple[int, int, int, str]) -> bytes:
    _, level, microseconds, text = record
    return f"<{level}>[{microseconds // 1_000_000:5d}.{microseconds % 1_000_000:06d}] {text}\n".encode()


def kmsg_line(record: tuple[int, int, int, str]) -> bytes:
    """One record as a read of /dev/kmsg gives it: Documentation/ABI/testing/dev-kmsg."""
    sequence, level, microseconds, text = record
    return f"{level},{sequence},{microseconds},-;{text}\n".encode()
