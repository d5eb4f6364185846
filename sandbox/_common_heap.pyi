"""What cffi makes of common_heap_build.py."""

from typing import Any

ffi: Any
lib: Any
