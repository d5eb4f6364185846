"""pysc state, list, ps."""

from __future__ import annotations

import os
import time

from cli.args import Command, Flag, UsageError, Values
from cli.options import state_root
from proto.control import Process
from proto.jsontext import dumps, loads, pretty
from sandbox import state
from sandbox.errors import NotFound
from sandbox.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FORMATS = ("table", "json")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *rows]]
    return "".join(line + "\n" for line in lines)


def _format(values: Values) -> str:
    text: str = values["format"]
    if text not in FORMATS:
        raise UsageError(f"flag --format: {text!r} is not one of {', '.join(FORMATS)}")
    return text


def _timestamp(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


def described(sandbox: Sandbox) -> dict[str, Any]:
    """The OCI state and what runc adds to it."""
    container = sandbox.record.container
    created_ns = container.created_ns if container else 0
    extra = {"rootfs": _rootfs(sandbox), "created": _timestamp(created_ns), "owner": ""}
    return sandbox.oci_state() | extra


def _rootfs(sandbox: Sandbox) -> str:
    """As config.json has it by now; the bundle may be gone."""
    container = sandbox.record.container
    if container is None:
        return ""
    try:
        with open(f"{container.bundle}/config.json", "rb") as f:
            obj = loads(f.read())
        return os.path.join(container.bundle, obj["root"]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _state(flags: Values, values: Values, words: list[str]) -> int:
    print(pretty(described(Sandbox.load(state_root(flags), words[0]))))
    return 0


def _list(flags: Values, values: Values, words: list[str]) -> int:
    form, root = _format(values), state_root(flags)
    if values["quiet"]:
        print("".join(f"{name}\n" for name in state.list_ids(root)), end="")
        return 0
    found = []
    for name in state.list_ids(root):
        try:
            found.append(described(Sandbox.load(root, name)))
        except NotFound:  # removed while we looked
            continue
    if form == "json":
        print(dumps(found))
        return 0
    rows = [(s["id"], str(s["pid"]), s["status"], s["bundle"], s["created"], s["owner"]) for s in found]
    print(table(("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"), rows), end="")
    return 0


def _ps(flags: Values, values: Values, words: list[str]) -> int:
    form = _format(values)
    sandbox = Sandbox.load(state_root(flags), words[0])
    processes = sandbox.processes()
    if form == "json":
        # Engines look these up on the host (docker top).  Where the host has none of them, the sandbox stands for all.
        pids = list(sandbox.host_pids(processes).values())
        print(dumps(pids or [sandbox.pid] if processes else []))
    else:
        header = ("UID", "PID", "PPID", "THREADS", "STATE", "START", "TTY", "TIME", "CMD")
        print(table(header, [_row(process) for process in processes]), end="")
    return 0


def _row(p: Process) -> tuple[str, ...]:
    started = time.strftime("%H:%M", time.localtime(p.start_time_ns // 10**9))
    seconds = p.cpu_ns // 10**9
    used = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    command = " ".join(p.args) or f"[{p.command}]"
    return (str(p.uid), str(p.pid), str(p.ppid), str(p.tid_count), p.state, started, p.tty or "?", used, command)


_FORMAT = Flag("format", "table (default) or json", str, short="f", default="table")

COMMANDS = (
    Command("state", "ID", "Print a container's state as JSON.", _state, words=(1, 1)),
    Command(
        "list", "", "List the containers.", _list,
        (_FORMAT, Flag("quiet", "ids only", short="q")),
    ),
    Command(
        "ps", "ID", "List a container's processes; JSON: their pids on the host.", _ps,
        (_FORMAT,), (1, 1),
    ),
)  # fmt: skip
