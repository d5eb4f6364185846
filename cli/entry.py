"""The program `pysc`.

Making a sandbox takes longest where the Sentry's modules are imported; so that begins, in a process of its own, before
this one imports anything.
"""

import gc
import os
import sys

from sandbox.interpreter import start_nursery

MAKERS = frozenset({"run", "create"})
"""Commands that make sandboxes in the namespaces that we are in; `do` enters others first."""


def entry() -> None:
    """A word that only looks like such a command costs a process that is killed again."""
    gc.disable()  # loading makes thousands of objects and no garbage; and no command lives long or makes much
    started = start_nursery() if _has_standard_streams() and not MAKERS.isdisjoint(sys.argv[1:]) else None
    from cli.main import main

    if started is None:
        _leave(main())
        return
    from sandbox.spawn import Nursery

    _leave(main(nursery=Nursery(*started)))


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
