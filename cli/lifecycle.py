"""pysc start, kill, delete."""

import _signal  # type: ignore[import-not-found]  # what signal has, but not made into enums

from cli.args import Command, Flag, UsageError, Values, ignored
from cli.options import state_root
from sandbox.errors import FailedPrecondition, NotFound
from sandbox.sandbox import Sandbox

SIGNALS: dict[str, int] = {
    name.removeprefix("SIG"): value
    for name, value in vars(_signal).items()
    if name.startswith("SIG") and not name.startswith("SIG_")
}


def _start(flags: Values, values: Values, words: list[str]) -> int:
    Sandbox.load(state_root(flags), words[0]).start()
    return 0


def signal_number(text: str) -> int:
    """A signal by number or by name, with or without SIG.  Raises UsageError."""
    if text.isdigit() and 0 <= int(text) <= _signal.SIGRTMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    for base, sign in (("RTMIN", "+"), ("RTMAX", "-")):
        distance = name.removeprefix(base).removeprefix(sign)
        if name.startswith(base + sign) and distance.isdigit():
            number = SIGNALS[base] + int(f"{sign}{distance}")
            if _signal.SIGRTMIN <= number <= _signal.SIGRTMAX:
                return number
    if name not in SIGNALS:
        raise UsageError(f"kill: unknown signal {text!r}")
    return SIGNALS[name]


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
