"""What cffi makes of cdef.h."""

from typing import Any

ffi: Any
lib: Any
