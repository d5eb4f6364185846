"""pysc update: new limits for a container, with runc's flags."""

import json
import sys
from pathlib import Path
from typing import Any

from cli.args import Command, Flag, UsageError, Values, ignored
from cli.options import state_root
from sandbox.errors import InvalidSpec
from sandbox.limits import parse_resources
from sandbox.sandbox import Sandbox
from sandbox.update import update

# Flag -> where it belongs in linux.resources.
SIZES = {
    "memory": ("memory", "limit"),
    "memory-swap": ("memory", "swap"),
    "memory-reservation": ("memory", "reservation"),
}
NUMBERS = {
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-idle": ("cpu", "idle"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
}
TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
UNITS = "kmgtp"


def size(text: str) -> int:
    """Bytes from a number with an optional unit (k, m, g, t, p; b, kb, kib ... too); -1: no limit.  ValueError."""
    if text == "-1":
        return -1
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    factor = 1
    if number and number[-1] in UNITS:
        factor = 1024 ** (UNITS.index(number[-1]) + 1)
        number = number[:-1].strip()
    value = float(number)
    if not 0 <= value < 1 << 63:
        raise ValueError(text)
    return int(value * factor)


def _resources(values: Values) -> Any:
    """linux.resources as the flags have it; --resources wins, as with runc."""
    if values["resources"]:
        return _read(values["resources"])
    found: dict[str, dict[str, Any]] = {}
    for table, convert in ((SIZES, size), (NUMBERS, int), (TEXTS, str)):
        for flag, (section, name) in table.items():
            text = values[flag]
            if text in (None, ""):
                continue
            try:
                found.setdefault(section, {})[name] = convert(text)
            except (ValueError, OverflowError):
                raise UsageError(f"update: flag --{flag}: {text!r} makes no sense") from None
    return found


def _read(name: str) -> Any:
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise InvalidSpec(f"resources: not valid JSON: {e}") from None


def _update(flags: Values, values: Values, words: list[str]) -> int:
    change = parse_resources(_resources(values))
    update(Sandbox.load(state_root(flags), words[0]), change)
    return 0


COMMANDS = (
    Command(
        "update", "ID", "Change a container's limits.", _update,
        (
            Flag("resources", "read linux.resources from a JSON file, - for standard input", str, "r", value="FILE"),
            Flag("memory", "memory limit in bytes, or with a unit; -1: none", str, value="SIZE"),
            Flag("memory-swap", "limit of memory and swap together; -1: none", str, value="SIZE"),
            Flag("memory-reservation", "memory that it should be left with", str, value="SIZE"),
            Flag("cpu-quota", "microseconds of processor time in a period; -1: no limit", str, value="US"),
            Flag("cpu-period", "length of a period in microseconds", str, value="US"),
            Flag("cpu-burst", "microseconds that may be saved up", str, value="US"),
            Flag("cpu-share", "share of processor time, beside other containers", str, value="NUMBER"),
            Flag("cpu-idle", "1: run only when nobody else wants to", str, value="0|1"),
            Flag("cpuset-cpus", "processors that it may use, such as 0-2,5", str, value="LIST"),
            Flag("cpuset-mems", "memory nodes that it may use", str, value="LIST"),
            Flag("pids-limit", "most processes and threads; -1: no limit", str, value="NUMBER"),
            *ignored("cpu-rt-period", "cpu-rt-runtime", "blkio-weight", "kernel-memory", "kernel-memory-tcp", kind=str),
            *ignored("l3-cache-schema", "mem-bw-schema", kind=str),
        ),
        (1, 1),
    ),
)  # fmt: skip
