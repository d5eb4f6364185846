"""File names of fixed length that stand for longer texts.

Used by what containerd and engines wait for, so it is the interpreter's own function: hashlib would load all of
OpenSSL, and for good into the processes that serve.
"""

import sys

try:
    if sys.version_info >= (3, 12):
        from _sha2 import sha256
    else:
        from _sha256 import sha256  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha256


def hashed(text: str) -> str:
    """64 hexadecimal digits."""
    return str(sha256(text.encode()).hexdigest())
