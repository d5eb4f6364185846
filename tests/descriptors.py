"""The descriptors that this process has open, for tests that nothing leaks."""

from __future__ import annotations

import os
from contextlib import suppress


def open_descriptors() -> set[tuple[int, int, int]]:
    """(number, device, inode) of each.

    To be compared by <=: what earlier tests have dropped may be closed at any time.
    """
    descriptors = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the one that lists them
            status = os.fstat(number)
            descriptors.add((number, status.st_dev, status.st_ino))
    return descriptors
