"""Builds sandbox._common_heap (cffi, API mode) from common_heap.c."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "common_heap.c"

ffibuilder = FFI()
ffibuilder.cdef("""
int ch_hold(const uintptr_t *ranges, int count, uintptr_t roots);
size_t ch_go_back(void);
void ch_unmap_pages(const uintptr_t *ranges, int count);
""")
ffibuilder.set_source(
    "sandbox._common_heap",
    SOURCE.read_text(),
    depends=[str(SOURCE)],
    define_macros=[("_CFFI_NO_LIMITED_API", None)],  # it looks into Python's objects
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(HERE.parent), verbose=True)
