"""The vDSO's image, read once when this module is imported: a confined Sentry can open no file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sentry.vdso._clock import ffi


def _read() -> bytes:
    path = Path(__file__).with_name("linux-vdso.so")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: pysc was installed without its vDSO") from None


# The ELF file, whole pages of it, to be mapped read-only and executable; its first byte's address is AT_SYSINFO_EHDR.
IMAGE: Final[bytes] = _read()
# The page that holds struct vdso_params is mapped, read-only, this far below the image: vdso(7) calls it [vvar].
PARAMS_BELOW: Final = 4096
# How much of that page is struct vdso_params; it is at the page's start.
PARAMS_SIZE: Final[int] = ffi.sizeof("struct vdso_params")
