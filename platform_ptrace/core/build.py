"""Builds platform_ptrace.core._core, the C core of the ptrace and systrap platforms (cffi, API mode)."""

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONSTANTS = "\n".join(re.findall(r"^#define .*", (HERE / "constants.h").read_text(), re.MULTILINE))
SOURCES = sorted([*(ROOT / "platform_ptrace/core").glob("[!_]*.c"), *(ROOT / "platform_systrap/core").glob("[!_]*.c")])
HEADERS = ["core.h", "cdef.h", "constants.h"]

ffibuilder = FFI()
ffibuilder.cdef((HERE / "cdef.h").read_text() + CONSTANTS)
ffibuilder.set_source(
    "platform_ptrace.core._core",
    '#include "constants.h"\n#include "cdef.h"',
    sources=[str(source.relative_to(ROOT)) for source in SOURCES],
    include_dirs=[str(HERE)],
    depends=[*(str(HERE / header) for header in HEADERS), str(ROOT / "platform_systrap/core/ring.h")],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(ROOT), verbose=True)
