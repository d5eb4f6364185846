"""The vDSO's image, read once when this module is imported: a confined Sentry can open no file."""

from __future__ import annotations

import os
from typing import Final

from sentry.vdso._clock import ffi


def _read() -> bytes:
    path = os.path.join(os.path.dirname(__file__), "linux-vdso.so")
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: pysc was installed without its vDSO") from None


# The ELF file, whole pages of it, to be mapped read-only and executable; its first byte's address is AT_SYSINFO_EHDR.
IMAGE: Final[bytes] = _read()
# The page that holds struct vdso_params is mapped, read-only, this far below the image: vdso(7) calls it [vvar].
PARAMS_BELOW: Final = 4096
# How much of that page is struct vdso_params; it is at the page's start.
PARAMS_SIZE: Final[int] = ffi.sizeof("struct vdso_params")
