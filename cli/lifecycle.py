"""pysc start, kill, delete."""

import re
import signal

from cli.args import Command, Flag, UsageError, Values, ignored
from cli.options import state_root
from sandbox.errors import FailedPrecondition, NotFound
from sandbox.sandbox import Sandbox


def _start(flags: Values, values: Values, words: list[str]) -> int:
    Sandbox.load(state_root(flags), words[0]).start()
    return 0


def signal_number(text: str) -> int:
    """A signal by number or by name, with or without SIG.  Raises UsageError."""
    if text.isdigit() and 0 <= int(text) <= signal.SIGRTMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if match := re.fullmatch(r"RTMIN(\+(\d+))?|RTMAX(-(\d+))?", name):
        base = signal.SIGRTMIN if name.startswith("RTMIN") else signal.SIGRTMAX
        number = base + int(match[2] or 0) - int(match[4] or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    known = {each.name.removeprefix("SIG"): each.value for each in signal.Signals}
    if name not in known:
        raise UsageError(f"kill: unknown signal {text!r}")
    return known[name]


def _kill(flags: Values, values: Values, words: list[str]) -> int:
    signo = signal_number(words[1] if len(words) > 1 else "TERM")
    sandbox = Sandbox.load(state_root(flags), words[0])
    try:
        sandbox.signal(signo, all=values["all"])
    except NotFound:
        # The words that engines take for "already gone".
        if values["all"]:
            return 0
        raise FailedPrecondition(f"cannot signal {sandbox.id}: container not running") from None
    return 0


def _delete(flags: Values, values: Values, words: list[str]) -> int:
    try:
        Sandbox.load(state_root(flags), words[0]).delete(values["force"])
    except NotFound:
        if not values["force"]:
            raise
    return 0


COMMANDS = (
    Command("start", "ID", "Start a created container.", _start, words=(1, 1)),
    Command(
        "kill", "ID [SIGNAL]", "Send a signal, TERM by default, to a container's first process.", _kill,
        (Flag("all", "every process of the container", short="a"), *ignored("pid", kind=str)), (1, 2),
    ),
    Command(
        "delete", "ID", "Remove a container that is not running.", _delete,
        (Flag("force", "end it first if it runs; say nothing if there is none", short="f"),), (1, 1),
    ),
)  # fmt: skip
