"""exit(2) and exit_group(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentry.syscalls.args import I32
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task


@syscall
def exit_(t: Task, status: I32) -> None:
    """exit(2): end this thread."""
    t.exit_code = (status & 0xFF) << 8
    t.exiting = True
    t.attention = True


@syscall
def exit_group(t: Task, status: I32) -> None:
    """exit_group(2): end every thread of the process."""
    t.exit_code = (status & 0xFF) << 8
    t.tg.exit_group((status & 0xFF) << 8)
