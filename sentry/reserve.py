"""Host descriptors that containers cannot use up.

The Sentry holds many a file of its containers by a descriptor of its own. They come up against the soft limit, which is
kept below the hard one; whoever serves the sandbox's owner goes past it, so that a container can always be killed.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

RESERVED: Final = 512  # a request may bring 253, and several may be under way
RESERVED_PART: Final = 4  # of a low limit: a quarter


def set_aside() -> None:
    """From now on, only reserved() gets at the last descriptors."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - min(RESERVED, hard // RESERVED_PART), hard))


@contextmanager
def reserved() -> Iterator[None]:
    """Descriptors that come into being here may be reserved ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
