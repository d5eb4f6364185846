"""Copying between application memory and host files: the body of read(2) and write(2) on a donated descriptor.

In slices, so that one call with a huge count neither takes as much memory of ours nor keeps
the one thread for long without need.
"""

from __future__ import annotations

import os
from typing import Final

from sentry.abi.errno import from_host
from sentry.vfs.iov import Sink, Source

SLICE: Final = 1 << 20


def read_host(fd: int, dst: Sink, offset: int) -> int:
    """pread(2) from fd into dst.  0 at the end of the file."""
    done = 0
    while True:
        want = dst.remaining
        if want > SLICE:
            want = SLICE
        try:
            data = os.pread(fd, want, offset + done)
        except OSError as e:
            if done:
                return done
            raise from_host(e) from None
        if not data:
            return done
        n = dst.put(data)
        done += n
        if n < want or not dst.remaining:
            return done


def write_host(fd: int, src: Source, offset: int) -> int:
    """pwrite(2) from src to fd; short when the host's was (no space) or memory ended."""
    done = 0
    while True:
        data = src.take(SLICE)
        if not data:
            return done
        try:
            n = os.pwrite(fd, data, offset + done)
        except OSError as e:
            if done:
                return done
            raise from_host(e) from None
        done += n
        if n < len(data) or not src.remaining:
            return done
