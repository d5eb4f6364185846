"""System calls that a platform may answer without asking, because their results seldom change.

The kernel says what the results are, and again whenever one may have become another: a task's start, execve, new
credentials, a new parent.  Whoever is to see every call (strace) is asked for each: then nothing is answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sentry.kernel.task import Task

# Without arguments, and their handlers have no effects.
CONSTANT: Final = ("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid")


def keep_current(t: Task) -> None:
    """Tell t's context what these calls return now."""
    kernel = t.kernel
    if not kernel.platform.answers:
        return
    if kernel.strace is not None:
        t.context.keep_answers({})
        return
    t.context.keep_answers({row.name: row.call(t, ()) for row in kernel.constant_calls})
