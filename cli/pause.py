"""pysc pause and resume."""

from collections.abc import Callable

from cli.args import Command, Values
from cli.options import state_root
from sandbox.errors import FailedPrecondition, NotFound, SandboxError
from sandbox.sandbox import Sandbox


def _pause(flags: Values, values: Values, words: list[str]) -> int:
    return _change(flags, words[0], Sandbox.pause)


def _resume(flags: Values, values: Values, words: list[str]) -> int:
    return _change(flags, words[0], Sandbox.resume)


def _change(flags: Values, container_id: str, how: Callable[[Sandbox], None]) -> int:
    try:
        how(Sandbox.load(state_root(flags), container_id))
    except NotFound as e:
        raise _explained(e) from None
    return 0


def _explained(e: NotFound) -> SandboxError:
    """Its sandbox is gone, or there never was one."""
    return e if "does not exist" in e.message else FailedPrecondition("container not running")


COMMANDS = (
    Command("pause", "ID", "Freeze all processes of a running container.", _pause, words=(1, 1)),
    Command("resume", "ID", "Let the processes of a paused container run on.", _resume, words=(1, 1)),
)
