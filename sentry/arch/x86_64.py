"""The address space of x86-64."""

from __future__ import annotations

from typing import Final

from sentry.platform import PAGE_SIZE

# TASK_SIZE_MAX: no application address, and no FS or GS base, is from here on.  The host's processor would refuse it.
TASK_SIZE_MAX: Final = (1 << 47) - PAGE_SIZE
