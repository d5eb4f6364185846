"""Builds sentry.vdso._clock (cffi, API mode): samples the host's clocks, writes the parameter page."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HEADERS = ["cdef.h", "params.h", "x86_64.h"]

ffibuilder = FFI()
ffibuilder.cdef((HERE / "cdef.h").read_text())
ffibuilder.set_source(
    "sentry.vdso._clock",
    '#include "params.h"',
    sources=[str((HERE / "clock.c").relative_to(ROOT))],
    include_dirs=[str(HERE)],
    depends=[str(HERE / header) for header in HEADERS],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(ROOT), verbose=True)
