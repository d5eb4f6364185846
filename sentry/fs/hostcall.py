"""Host calls on descriptors of ours that Python's os module lacks.  All their arguments are plain numbers."""

from __future__ import annotations

import ctypes
import os
from typing import Final

from sentry.abi.errno import from_host

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with any mode; os.posix_fallocate knows none."""
    while _libc.fallocate(fd, mode, offset, length) < 0:
        code = ctypes.get_errno()
        if code != 4:  # EINTR: a signal came before anything was done
            raise from_host(OSError(code, os.strerror(code)))
