"""How the commands of this package end: what fails is one message and status 125, and a signal clears up first."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from tests.kvm.kernel import Unavailable
from tests.kvm.machine import Failed

FAILED = 125


def to_stdout(chunk: bytes) -> None:
    os.write(1, chunk)


def finish(action: Callable[[], int]) -> int:
    """The action's status, for sys.exit."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    try:
        return action()
    except (Unavailable, Failed) as e:
        print(f"kvm machine: {e}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
