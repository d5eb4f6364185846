"""The program `pysc`.

Making a sandbox takes longest where the Sentry's modules are imported; so that begins, in a process of its own, before
this one imports anything.
"""

import os
import sys

from sandbox.interpreter import start_nursery

MAKERS = frozenset({"run", "create"})
"""Commands that make sandboxes in the namespaces that we are in; `do` enters others first."""


def entry() -> None:
    """A word that only looks like such a command costs a process that is killed again."""
    started = start_nursery() if _has_standard_streams() and not MAKERS.isdisjoint(sys.argv[1:]) else None
    from cli.main import main

    if started is None:
        sys.exit(main())
    from sandbox.spawn import Nursery

    sys.exit(main(nursery=Nursery(*started)))


def _has_standard_streams() -> bool:
    """Without them the nursery's socket would get their numbers."""
    try:
        for fd in range(3):
            os.fstat(fd)
    except OSError:
        return False
    return True
