"""Records the system calls that the host's kernel acts on, for a process and all its descendants.

The raw_syscalls tracepoint comes after ptrace and seccomp have had their say: a call that either of them suppressed
does not appear. So what is missing here was not executed by the host, whoever answered it instead.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ENTRY = re.compile(r"-(\d+) .* sys_enter: NR (-?\d+) \(([^)]*)\)")
BUFFER_KIB = 65536


class Call(NamedTuple):
    pid: int
    number: int
    args: tuple[int, ...]


class Unavailable(Exception):
    """This host has no tracefs, or does not let us use it."""


class Trace:
    def __init__(self, instance: Path) -> None:
        self.instance = instance

    def set(self, name: str, value: str) -> None:
        (self.instance / name).write_text(value)

    def calls(self) -> Iterator[Call]:
        with (self.instance / "trace").open(errors="replace") as lines:
            for line in lines:
                if match := ENTRY.search(line):
                    args = tuple(int(arg, 16) for arg in match[3].split(", "))
                    yield Call(int(match[1]), int(match[2]), args)

    def lost(self) -> int:
        """Entries that did not fit; anything but 0 makes the record useless."""
        stats = (self.instance / "per_cpu").glob("cpu*/stats")
        return sum(int(n) for path in stats for n in re.findall(r"^overrun: (\d+)", path.read_text(), re.MULTILINE))


@contextmanager
def tracefs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tracefs-") as folder:
        mounted = subprocess.run(["mount", "-t", "tracefs", "none", folder], capture_output=True, text=True)
        if mounted.returncode != 0:
            raise Unavailable(mounted.stderr.strip())
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@contextmanager
def tracing() -> Iterator[Trace]:
    """Traces the calling thread and everything it starts; read the trace inside the block, after stop()."""
    with tracefs() as root:
        instance = root / "instances" / f"pysc-{uuid.uuid4().hex[:8]}"
        if not (root / "events" / "raw_syscalls").exists():
            raise Unavailable("the host's kernel has no raw_syscalls tracepoint")
        instance.mkdir()
        trace = Trace(instance)
        try:
            trace.set("buffer_size_kb", str(BUFFER_KIB))
            trace.set("options/event-fork", "1")
            trace.set("set_event_pid", str(threading.get_native_id()))
            trace.set("events/raw_syscalls/sys_enter/enable", "1")
            yield trace
        finally:
            trace.set("events/raw_syscalls/sys_enter/enable", "0")
            instance.rmdir()
