"""What cffi makes of memory_cdef.h."""

from typing import Any

ffi: Any
lib: Any
