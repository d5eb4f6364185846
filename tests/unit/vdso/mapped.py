"""The vDSO as an application has it: the parameter page, read-only, and the image above it, in this very process."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sentry.abi.time import NSEC
from sentry.vdso import image
from sentry.vdso._clock import ffi
from sentry.vdso.calibration import Calibration
from sentry.vdso.image import IMAGE, PARAMS_BELOW
from tests.unit.vdso.vdsoelf import VdsoElf

FILE = Path(image.__file__).with_name("linux-vdso.so")
FUNCTIONS = ("clock_gettime", "gettimeofday", "time", "clock_getres", "getcpu")

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.time.restype = ctypes.c_long
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.syscall.restype = ctypes.c_long

PROT_NONE = 0
MAP_FIXED = 0x10
LIMIT_S = 60


class Times(ctypes.Structure):
    """struct timespec, struct timeval."""

    _fields_ = [("sec", ctypes.c_int64), ("rest", ctypes.c_int64)]


TIMES = ctypes.POINTER(Times)


def offsets() -> dict[str, int]:
    """Where in the image the functions are."""
    elf = VdsoElf(IMAGE)
    found = {name: elf.by_gnu_hash(f"__vdso_{name}", "LINUX_2.6") for name in FUNCTIONS}
    return {name: symbol.value for name, symbol in found.items() if symbol}


def _map(addr: int, size: int, prot: int, flags: int, fd: int) -> int:
    at: int = libc.mmap(addr or None, size, prot, flags, fd, 0)
    if at == -1:
        raise OSError(ctypes.get_errno(), "mmap")
    return at


class Mapped:
    """page: the writer's view of the parameters.  Everything is unmapped by close()."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("vvar")
        os.truncate(self.fd, PARAMS_BELOW)
        self.page = mmap.mmap(self.fd, PARAMS_BELOW)
        self.size = PARAMS_BELOW + len(IMAGE)
        self.start = _map(0, self.size, PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        _map(self.start, PARAMS_BELOW, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, self.fd)
        image_fd = os.memfd_create("vdso")
        os.write(image_fd, IMAGE)
        read_execute = mmap.PROT_READ | mmap.PROT_EXEC
        _map(self.start + PARAMS_BELOW, len(IMAGE), read_execute, mmap.MAP_PRIVATE | MAP_FIXED, image_fd)
        os.close(image_fd)
        self.offsets = offsets()

    @property
    def params(self) -> Any:
        """The page as a struct vdso_params."""
        return ffi.cast("struct vdso_params *", ffi.from_buffer(self.page))

    def function(self, name: str, *types: Any) -> Callable[..., int]:
        prototype = ctypes.CFUNCTYPE(ctypes.c_long if name == "time" else ctypes.c_int, *types)
        return prototype(self.start + PARAMS_BELOW + self.offsets[name])

    def close(self) -> None:
        libc.munmap(self.start, self.size)
        os.close(self.fd)


def calibrate(calibration: Calibration, *, bound_ppb: int = 1_000) -> Calibration:
    """Update as the owner of a page does, until the clocks are usable and their rate is known this well."""
    end = time.monotonic() + LIMIT_S
    while not calibration.usable or calibration.bound_ppb > bound_ppb:
        assert time.monotonic() < end, calibration.reason
        time.sleep(max(calibration.next_update_ns - time.monotonic_ns(), 0) / 1e9)
        calibration.maybe_update(time.monotonic_ns())
    return calibration


def gettime(mapped: Mapped, clock: int) -> tuple[int, int]:
    """What clock_gettime returns, and the time in ns."""
    shown = Times(-1, -1)
    result = mapped.function("clock_gettime", ctypes.c_int, TIMES)(clock, shown)
    return result, shown.sec * NSEC + shown.rest
