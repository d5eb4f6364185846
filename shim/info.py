"""What the shim says about itself: `-v` and `-info`."""

import sys

from proto.ttrpc.protobuf import bytes_field, text_field

NAME = "io.containerd.pysc.v1"
VERSION = "0.1.0"


def print_version() -> int:
    """Free text for people."""
    print(f"containerd-shim-pysc-v1:\n  Version: {VERSION}\n  Python:  {sys.version.split()[0]}")
    return 0


def print_info() -> int:
    """A RuntimeInfo message for containerd 2: name 1, version 2 { version 1 }."""
    version = text_field(1, VERSION)
    sys.stdout.buffer.write(text_field(1, NAME) + bytes_field(2, version))
    return 0
