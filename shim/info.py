"""What the shim says about itself: `-v` and `-info`."""

import sys

from proto.ttrpc.protobuf import DecodeError, as_bytes, bytes_field, fields, text_field

NAME = "io.containerd.pysc.v1"
VERSION = "0.1.0"
MAX_STDIN = 10 << 20


def print_version() -> int:
    """Free text for people."""
    print(f"containerd-shim-pysc-v1:\n  Version: {VERSION}\n  Python:  {sys.version.split()[0]}")
    return 0


def print_info() -> int:
    """A RuntimeInfo message for containerd 2: name 1, version 2 { version 1 }, options 3.

    The options are those that containerd has for this runtime: an Any on standard input, or nothing.
    """
    options = sys.stdin.buffer.read(MAX_STDIN) if not sys.stdin.isatty() else b""
    version = text_field(1, VERSION)
    message = text_field(1, NAME) + bytes_field(2, version)
    sys.stdout.buffer.write(message + (bytes_field(3, options) if _is_any(options) else b""))
    return 0


def _is_any(data: bytes) -> bool:
    """Whether it is an Any with a type: type_url 1."""
    try:
        return any(number == 1 and as_bytes(value) for number, value in fields(data))
    except DecodeError:
        return False
