"""Starts fresh interpreters, which have nothing of ours but what they are given.

Imported by the shim's start action when every millisecond counts: nothing is imported here that Python has not loaded
anyway.
"""

import os
import site
import sys
from _signal import SIGKILL, SIGSTOP, valid_signals  # type: ignore[import-not-found]
from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# It comes first on sys.path: a distribution's own packages may have the names of ours, or of what is installed with us.
INSTALLATION = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

CLEAN_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

_RUN_MODULE = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)

_NURSERY = (
    "import sys; sys.path[:] = [sys.argv[1], *sys.path, *sys.argv[2].split(':')]; "
    "from sandbox import quick_import; quick_import.install(sys.argv[1]); "
    "from sandbox import nursery; nursery.{}(int(sys.argv[3]))"
)
_ROOM = " " * 256
"""A last argument: what the nursery's forks show as their command line takes its place."""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this installation in a fresh, isolated interpreter."""
    return [sys.executable, "-I", "-c", _RUN_MODULE, INSTALLATION, module, *arguments]


def fresh_interpreter(
    code: str,
    arguments: "Sequence[str]",
    inherited: "Sequence[int]",
    stdin: int | None = None,
    output: int | None = None,
    flags: str = "-I",
) -> int:
    """Run code in a process that has none of our descriptors but those named, under their own numbers.

    `output` is what becomes its stdout and stderr; None, here and for stdin: /dev/null.  Returns its pid.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        streams = (null if stdin is None else stdin, *[null if output is None else output] * 2)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)]
        # Onto itself: the descriptor loses its close-on-exec flag in the child only.
        actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in set(inherited)]
        return os.posix_spawn(
            sys.executable, [sys.executable, flags, "-c", code, *arguments], CLEAN_ENVIRONMENT,
            file_actions=actions, setsigmask=[], setsigdef=valid_signals() - {SIGKILL, SIGSTOP},
        )  # fmt: skip
    finally:
        os.close(null)


def start_nursery(main: str = "main") -> tuple[int, int]:
    """Have the Sentry's and the gofer's modules imported while the caller imports its own.

    `main`: which of nursery.py.  Our end of the nursery's socket, and its pid.
    """
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    fd = theirs.fileno()
    # Without module site, which takes a millisecond to find out where packages are: we know.
    packages = ":".join(folder for folder in site.getsitepackages() if folder in sys.path)
    arguments = [INSTALLATION, packages, str(fd), _ROOM]
    pid = fresh_interpreter(_NURSERY.format(main), arguments, inherited=[fd], flags="-IS")
    theirs.close()
    return ours.detach(), pid
