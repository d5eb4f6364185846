"""The entry point: global flags, the command, and the one place where errors become text and an exit status.

Modules of commands are imported only when asked for: `pysc state` runs for every health check of a container.
"""

from __future__ import annotations

import os
import sys
from _signal import SIG_IGN, SIGHUP, SIGINT, SIGPIPE, SIGTERM, signal  # type: ignore[import-not-found]

from cli.args import Command, UsageError, Values, check_words, describe_flags, parse
from cli.options import GLOBAL_FLAGS, settle
from sandbox.errors import NoSuchExecutable, NotExecutable, SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from sandbox.expected import Expected

USAGE_STATUS = 2
NOT_EXECUTABLE_STATUS = 126
NOT_FOUND_STATUS = 127

_INTERRUPTING = {SIGINT: "SIGINT", SIGTERM: "SIGTERM", SIGHUP: "SIGHUP"}


class Interrupted(BaseException):
    """A signal asks this command to give up: what it has half done is undone on the way out."""

    def __init__(self, signo: int) -> None:
        super().__init__(signo)
        self.signo = signo


def _lifecycle() -> tuple[Command, ...]:
    from cli.lifecycle import COMMANDS as commands

    return commands


def _run() -> tuple[Command, ...]:
    from cli.run import COMMANDS as commands

    return commands


def _exec() -> tuple[Command, ...]:
    from cli.exec import COMMANDS as commands

    return commands


def _pause() -> tuple[Command, ...]:
    from cli.pause import COMMANDS as commands

    return commands


def _update() -> tuple[Command, ...]:
    from cli.update import COMMANDS as commands

    return commands


def _events() -> tuple[Command, ...]:
    from cli.events import COMMANDS as commands

    return commands


def _checkpoint() -> tuple[Command, ...]:
    from cli.checkpoint import COMMANDS as commands

    return commands


def _query() -> tuple[Command, ...]:
    from cli.query import COMMANDS as commands

    return commands


def _spec() -> tuple[Command, ...]:
    from cli.spec import COMMANDS as commands

    return commands


def _do() -> tuple[Command, ...]:
    from cli.do import COMMANDS as commands

    return commands


def _syscalls() -> tuple[Command, ...]:
    from cli.syscalls import COMMANDS as commands

    return commands


def _debug() -> tuple[Command, ...]:
    from cli.debug import COMMANDS as commands

    return commands


def _config() -> tuple[Command, ...]:
    from cli.config import COMMANDS as commands

    return commands


def _doctor() -> tuple[Command, ...]:
    from cli.doctor import COMMANDS as commands

    return commands


def _installation() -> tuple[Command, ...]:
    from cli.install import COMMANDS as commands

    return commands


def _version() -> tuple[Command, ...]:
    from cli.version import COMMANDS as commands

    return commands


COMMANDS: dict[str, Callable[[], tuple[Command, ...]]] = {
    "run": _run,
    "do": _do,
    "create": _run,
    "start": _lifecycle,
    "state": _query,
    "kill": _lifecycle,
    "delete": _lifecycle,
    "exec": _exec,
    "list": _query,
    "ps": _query,
    "pause": _pause,
    "resume": _pause,
    "update": _update,
    "events": _events,
    "checkpoint": _checkpoint,
    "restore": _checkpoint,
    "spec": _spec,
    "syscalls": _syscalls,
    "debug": _debug,
    "config": _config,
    "doctor": _doctor,
    "install": _installation,
    "uninstall": _installation,
    "version": _version,
}


def find_command(name: str) -> Command:
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}; 'pysc help' lists them")
    return next(command for command in COMMANDS[name]() if command.name == name)


def main(argv: Sequence[str] | None = None, nursery: Expected | None = None) -> int:
    """Run one command; returns the exit status.  The nursery, if one is under way, forks a new sandbox's processes."""
    try:
        return _main(argv, nursery)
    finally:
        if nursery is not None:
            nursery.close()


def _main(argv: Sequence[str] | None, nursery: Expected | None) -> int:
    _open_standard_streams()
    for signo in _INTERRUPTING:
        signal(signo, _interrupt)
    flags = Values(GLOBAL_FLAGS)
    try:
        flags, words = parse(GLOBAL_FLAGS, sys.argv[1:] if argv is None else argv, flags_first=True)
        flags["nursery"] = nursery
        status = _dispatch(flags, words)
        sys.stdout.flush()
        return status
    except UsageError as e:
        return _report(flags, str(e), USAGE_STATUS)
    except NoSuchExecutable as e:
        return _report(flags, e.message, NOT_FOUND_STATUS)
    except NotExecutable as e:
        return _report(flags, e.message, NOT_EXECUTABLE_STATUS)
    except SandboxError as e:
        return _report(flags, e.message, 1)
    except Interrupted as e:
        return _report(flags, f"interrupted by {_INTERRUPTING[e.signo]}", 128 + e.signo)
    except BrokenPipeError:
        return _silence_stdout()
    except OSError as e:
        return _report(flags, f"{e.filename}: {e.strerror}" if e.filename else str(e), 1)
    except Exception as e:
        return _report(flags, f"internal error: {type(e).__name__}: {e}", 1, with_traceback=True)


def _open_standard_streams() -> None:
    """A descriptor below 3 that is not open would be given to the next file we open, and then be written to."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd < 3:
        fd = os.dup(fd)
    os.close(fd)


def _interrupt(signo: int, frame: FrameType | None) -> None:
    for each in _INTERRUPTING:
        signal(each, SIG_IGN)  # once is enough; tidying up must not be interrupted again
    raise Interrupted(signo)


def _silence_stdout() -> int:
    """Whoever read our output has seen enough; Python would complain once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status: int = 128 + SIGPIPE
    return status


def _dispatch(flags: Values, words: list[str]) -> int:
    settle(flags)
    if flags["version"]:
        words = ["version"]
    if not words and not flags["help"]:
        raise UsageError("a command is needed; 'pysc help' lists them")
    if flags["help"] or words[0] == "help":
        return _help(words[1:] if words[:1] == ["help"] else words)
    command = find_command(words[0])
    if any(word in ("--help", "-h") for word in words[1:2]):
        return _help(words[:1])
    try:
        values, rest = parse(command.flags, words[1:], command.flags_first)
        check_words(command, rest)
    except UsageError as e:
        raise UsageError(f"{command.name}: {e}; see 'pysc {command.name} --help'") from None
    return command.run(flags, values, rest)


def _help(words: Sequence[str]) -> int:
    if words:
        command = find_command(words[0])
        sys.stdout.write(f"Usage: pysc [flags] {command.name} [flags] {command.usage}\n\n{command.help}\n")
        if flags := describe_flags(command.flags):
            sys.stdout.write(f"\nFlags:\n{flags}")
        return 0
    sys.stdout.write("Usage: pysc [flags] COMMAND [flags] [arguments]\n\nCommands:\n")
    for name in COMMANDS:
        sys.stdout.write(f"  {name:<10} {find_command(name).help.partition(chr(10))[0]}\n")
    sys.stdout.write(f"\nFlags:\n{describe_flags(GLOBAL_FLAGS)}")
    return 0


def _report(flags: Values, message: str, status: int, with_traceback: bool = False) -> int:
    from cli.report import report

    report(flags, message, with_traceback)
    return status
