"""The time as applications see it without leaving the guest: our vDSO, and the page of parameters that it reads.

Both lie in one memory file, the page first: ring 0 has the page as well, and every address space both, the page below
the image. An application that makes its copy of the page writable, writes to a copy.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Any, Final

from platform_kvm.core._core import lib
from sentry.platform import PAGE_SIZE
from sentry.vdso.calibration import TOLERANCE_PPB, Calibration
from sentry.vdso.image import IMAGE, PARAMS_BELOW

PROT_READ: Final = 1
PROT_EXEC: Final = 4
MAP_PRIVATE: Final = 2
MAP_FIXED: Final = 0x10
EMULATED_TOLERANCE_PPB: Final = 20_000  # reading the clock takes microseconds there
RDTSCP: Final = 1  # VDSO_CPU_RDTSCP
assert PARAMS_BELOW == PAGE_SIZE


class TimePage:
    """fd: the memory file, of which page is the first page."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("pysc-vdso", os.MFD_CLOEXEC)
        os.truncate(self.fd, PAGE_SIZE + len(IMAGE))
        os.pwrite(self.fd, IMAGE, PAGE_SIZE)
        self.page = mmap.mmap(self.fd, PAGE_SIZE)
        self.calibration: Calibration | None = None
        self.next_update_ns = 1 << 63

    def calibrate(self, trusting: bool) -> None:
        """Begin to show the time.  The guest's counter must be the host's; trusting: whatever it is."""
        source = RDTSCP if lib.kv_has_rdtscp() else 0
        tolerance_ppb = EMULATED_TOLERANCE_PPB if trusting else TOLERANCE_PPB
        self.calibration = Calibration(self.page, cpu_source=source, trusting=trusting, tolerance_ppb=tolerance_ppb)
        self.update()

    def update(self) -> None:
        """To be called at next_update_ns, of CLOCK_MONOTONIC, at the latest while applications run."""
        if self.calibration is not None:
            self.calibration.maybe_update(time.monotonic_ns())
            self.next_update_ns = self.calibration.next_update_ns

    def map_into(self, space: Any) -> int:
        """Put both into a new address space of the core's; where the image is, or -errno."""
        size = PAGE_SIZE + len(IMAGE)
        at = int(lib.kv_map_kind(space, 0, size, PROT_READ, MAP_PRIVATE, self.fd, 0, lib.KV_VVAR))
        if at < 0:
            return at
        image = at + PAGE_SIZE
        unmapped = lib.kv_unmap(space, image, len(IMAGE))
        if unmapped < 0:
            return int(unmapped)
        prot, flags = PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED
        return int(lib.kv_map_kind(space, image, len(IMAGE), prot, flags, self.fd, PAGE_SIZE, lib.KV_VDSO))

    def close(self) -> None:
        self.calibration = None
        self.page.close()
        os.close(self.fd)
