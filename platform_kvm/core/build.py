"""Builds platform_kvm.core._core, the C core of the kvm platform (cffi, API mode)."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = sorted(HERE.glob("[!_]*.c"))
HEADERS = sorted(HERE.glob("*.h"))

ffibuilder = FFI()
ffibuilder.cdef((HERE / "memory_cdef.h").read_text())
ffibuilder.set_source(
    "platform_kvm.core._core",
    '#include "memory_cdef.h"',
    sources=[str(source.relative_to(ROOT)) for source in SOURCES],
    include_dirs=[str(HERE)],
    depends=[str(header) for header in HEADERS],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(ROOT), verbose=True)
