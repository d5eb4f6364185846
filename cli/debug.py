"""pysc debug: looking into a running sandbox.  So far: profile, where the Sentry's time goes."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cli.args import Command, Flag, UsageError, Values
from cli.options import state_root
from cli.query import table
from proto.control import CallCost, Profile, ProfileResponse
from sandbox.sandbox import CALL_TIMEOUT, Sandbox

MAX_SECONDS = 600
SHOWN_FUNCTIONS = 30
SHOWN_CALLS = 20


def _debug(flags: Values, values: Values, words: list[str]) -> int:
    what, container = words
    if what != "profile":
        raise UsageError(f"debug: {what!r} is unknown; there is: profile")
    seconds: int = values["seconds"]
    if not 0 < seconds <= MAX_SECONDS:
        raise UsageError(f"debug: --seconds: {seconds} is not between 1 and {MAX_SECONDS}")
    sandbox = Sandbox.load(state_root(flags), container)
    request = Profile(container, seconds * 1000)
    measured = sandbox.call("Profile", request, ProfileResponse, seconds + CALL_TIMEOUT)
    if values["output"]:
        Path(values["output"]).write_text("".join(line + "\n" for line in measured.stacks))
    sys.stdout.write(report(measured))
    return 0


def report(measured: ProfileResponse) -> str:
    """Two tables: by function, and by system call."""
    parts = [f"{measured.samples} samples of the Sentry at work\n"]
    if measured.stacks:
        parts.append("\n" + table(("SELF %", "WITH CALLEES %", "FUNCTION"), by_function(measured.stacks)))
    if measured.calls:
        parts.append("\n" + table(("CALLS", "MEAN us", "TOTAL ms", "SYSTEM CALL"), by_call(measured.calls)))
    return "".join(parts)


def by_function(stacks: Sequence[str]) -> list[tuple[str, ...]]:
    """The functions in which most time is spent, with their share: their own, and with what they call."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks:
        text, _, count = line.rpartition(" ")
        names = text.split(";")
        own[names[-1]] += int(count)
        for name in set(names):
            whole[name] += int(count)
    total = own.total()
    found = sorted(whole, key=lambda name: (-own[name], -whole[name], name))[:SHOWN_FUNCTIONS]
    return [(f"{100 * own[name] / total:6.1f}", f"{100 * whole[name] / total:6.1f}", name) for name in found]


def by_call(calls: Sequence[CallCost]) -> list[tuple[str, ...]]:
    """The system calls whose handlers take most time in sum."""
    found = sorted(calls, key=lambda call: -call.ns)[:SHOWN_CALLS]
    return [(str(c.count), f"{c.ns / c.count / 1e3:.1f}", f"{c.ns / 1e6:.1f}", c.name) for c in found]


COMMANDS = (
    Command(
        "debug", "profile ID", "Show where the Sentry's time goes while a container runs.", _debug,
        (
            Flag("seconds", "how long to measure (10)", int, default=10),
            Flag("output", "also write the stacks to this file, one a line, as flame graphs are drawn from", str,
                 short="o", value="FILE"),
        ),
        (2, 2),
    ),
)  # fmt: skip
