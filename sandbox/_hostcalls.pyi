"""What cffi makes of hostcalls_build.py."""

from typing import Any

ffi: Any
lib: Any
