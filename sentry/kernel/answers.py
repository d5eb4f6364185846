"""System calls about which a platform need not ask.

Some it may answer by itself, because their results seldom change.  The kernel says what the results are, and again
whenever one may have become another: a task's start, execve, new credentials, a new parent.

Others the host may carry out, because the kernel would let it in any case: memory calls that are nothing but memory.

Whoever is to see every call (strace, a profile) is asked for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.kernel.rlimits import RLIM_INFINITY, RLIMIT_AS

if TYPE_CHECKING:
    from sentry.kernel.task import Task

# Without arguments, and their handlers have no effects.
CONSTANT: Final = ("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid")


def approve_memory(t: Task) -> None:
    """Say whether t's ordinary memory calls are carried out unasked: not if RLIMIT_AS may be in their way."""
    unlimited = t.tg.rlimits.get(RLIMIT_AS)[0] == RLIM_INFINITY
    t.context.approve_memory(unlimited and t.kernel.strace is None and not t.kernel.profiled)


def keep_current(t: Task) -> None:
    """Tell t's context what these calls return now."""
    kernel = t.kernel
    if not kernel.platform.answers:
        return
    if kernel.strace is not None:
        t.context.keep_answers({})
        return
    t.context.keep_answers({row.name: row.call(t, ()) for row in kernel.constant_calls})
