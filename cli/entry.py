"""The program `pysc`.

Making a sandbox takes longest where the Sentry's modules are imported; so that begins, in a process of its own, before
this one imports anything.
"""

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.expected import Expected


def entry() -> None:
    """Run the command, and end as it did."""
    gc.disable()  # loading makes thousands of objects and no garbage; and no command lives long or makes much
    nursery = _begin_nursery()
    from sandbox import quick_import

    quick_import.install(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    from cli.main import main

    _leave(main(nursery=nursery))


def _begin_nursery() -> "Expected | None":
    """If this looks like a command that makes a sandbox.  One that only looks so costs a process that is killed again.

    An unprivileged `do` enters a user namespace first, and its sandbox must be made in that.
    """
    words = frozenset(sys.argv[1:])
    makes = not words.isdisjoint(("run", "create")) or ("do" in words and os.geteuid() == 0)
    if not makes or not _has_standard_streams():
        return None
    from sandbox.expected import Expected

    return Expected(may_be_warm=words.isdisjoint(("create", "-d", "--detach")))


def _leave(status: int) -> None:
    """End without the interpreter's clean-up, which takes longer than most commands' work and finds nothing to do.

    `main` has flushed stdout and said so if it could not.
    """
    try:
        sys.stderr.flush()
    except OSError:
        pass
    os._exit(status)


def _has_standard_streams() -> bool:
    """Without them the nursery's socket would get their numbers."""
    try:
        for fd in range(3):
            os.fstat(fd)
    except OSError:
        return False
    return True
