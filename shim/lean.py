"""Keeps modules out of a shim that others of its modules import, and that it never uses: 3 MB, and 15 ms of a start."""

import os
import sys
from types import ModuleType

_UNUSED_OF_PROTOBUF = "google.protobuf.internal.python_message"
"""protobuf's messages in Python.  It is imported even where they are made by the compiled library."""


def leave_out() -> None:
    """To be called before asyncio or protobuf is imported."""
    sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio goes without if it must
    if _has_compiled_protobuf():
        sys.modules.setdefault(_UNUSED_OF_PROTOBUF, ModuleType(_UNUSED_OF_PROTOBUF))


def _has_compiled_protobuf() -> bool:
    if os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "upb") != "upb":
        return False
    try:
        import google._upb._message  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError:
        return False
    return True
