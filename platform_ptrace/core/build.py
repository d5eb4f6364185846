"""Builds platform_ptrace.core._core from cdef.h and core.c (cffi, API mode)."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
CONSTANTS = """
#define PT_REGS_VALID 1
#define PT_REGS_DIRTY 2
#define PT_REGS_RAX 4
#define PT_GONE 8
#define PT_EV_SYSCALL 1
#define PT_EV_FAULT 2
#define PT_EV_INTERRUPT 3
#define PT_EV_EXIT 4
"""

ffibuilder = FFI()
ffibuilder.cdef((HERE / "cdef.h").read_text() + CONSTANTS)
ffibuilder.set_source(
    "platform_ptrace.core._core",
    CONSTANTS + (HERE / "core.c").read_text(),
    include_dirs=[str(HERE)],
    depends=[str(HERE / "cdef.h"), str(HERE / "core.c")],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(HERE.parent.parent), verbose=True)
