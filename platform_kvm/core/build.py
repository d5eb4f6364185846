"""Builds platform_kvm.core._core, the C core of the kvm platform (cffi, API mode), and ring 0 within it."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONSTANTS = "\n".join(re.findall(r"^#define .*", (HERE / "constants.h").read_text(), re.MULTILINE))
SOURCES = sorted(source for source in HERE.glob("[!_]*.c") if source.name != "ring0.c")
HEADERS = sorted(HERE.glob("*.h"))
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"]
# No red zone and no vector registers: what they hold is the application's.
RING0_FLAGS = [
    *("-O2", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-fcf-protection=none"),
    *("-mno-red-zone", "-mgeneral-regs-only", "-fno-asynchronous-unwind-tables", "-fno-jump-tables"),
    *WARNINGS,
]


def build_ring0() -> Path:
    """Compile ring 0 and link it into one object."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    objects = [HERE / "ring0_entry.o", HERE / "ring0_c.o"]
    for source, target in zip(("ring0.S", "ring0.c"), objects):
        subprocess.run([*compiler, *RING0_FLAGS, "-c", str(HERE / source), "-o", str(target)], check=True)
    whole = HERE / "ring0.o"
    link = ["ld", "-r", "-z", "noexecstack", "-T", str(HERE / "ring0.ld"), "-o", str(whole)]
    subprocess.run([*link, *map(str, objects)], check=True)
    return whole


ffibuilder = FFI()
ffibuilder.cdef(CONSTANTS + (HERE / "cdef.h").read_text() + (HERE / "memory_cdef.h").read_text())
ffibuilder.set_source(
    "platform_kvm.core._core",
    '#include "constants.h"\n#include "cdef.h"\n#include "memory_cdef.h"',
    sources=[str(source.relative_to(ROOT)) for source in SOURCES],
    include_dirs=[str(HERE)],
    extra_objects=[str(build_ring0())],
    depends=[str(file) for file in (*HEADERS, HERE / "ring0.S", HERE / "ring0.c", HERE / "ring0.ld")],
    extra_compile_args=["-O2", "-pthread", *WARNINGS],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(ROOT), verbose=True)
