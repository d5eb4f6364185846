"""What idle pods cost: the memory of one, of each further one, and of many.

Counted is the proportional set size (PSS): pages that several processes share are divided among them, so that the sum
over the processes is what the pods really take.  The kernel's own memory is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench.containerd import Containerd, first_error
from bench.runtimes import Runtime
from bench.stats import Value

IDLE_SECONDS = 8  # since a pod was started: it is not idle as soon as it has nothing to do
SETTLE_SECONDS = 10
SETTLED = 0.01
KINDS = {
    "warm": (b"pysc-warm",),
    "shim": (b"containerd-shim", b"pysc-nursery"),
    "gofer": (b"runsc-gofer", b"pysc-gofer"),
    "sandbox": (b"runsc-sandbox", b"pysc-sentry"),
}
PARTS = ("shim", "sandbox", "gofer", "stubs", "warm")


class Memory:
    """Starts pods one by one: one, then `few`, then `many`; in a daemon of their own, so that all of them are seen."""

    rows = (*PARTS, "pod", "pod_without_shim", "next_pod", "many_memory", "many_start")

    def __init__(self, new_daemon: Callable[[], Containerd], few: int, many: int) -> None:
        self.new_daemon = new_daemon
        self.few = few
        self.many = many

    def measure(self, runtime: Runtime) -> dict[str, Value]:
        with closing(self.new_daemon()) as containerd:
            return Pods(containerd, runtime, self.few, self.many).measure()


class Pods:
    """Of one runtime, on one daemon."""

    def __init__(self, containerd: Containerd, runtime: Runtime, few: int, many: int) -> None:
        self.containerd = containerd
        self.runtime = runtime
        self.few = few
        self.many = many

    def measure(self) -> dict[str, Value]:
        names: list[str] = []
        values: dict[str, Value] = {}
        self.containerd.options(self.runtime)  # what it tries to find them is not to be measured
        started = time.monotonic()
        try:
            for count in range(1, self.many + 1):
                names.append(self.containerd.start(self.runtime))
                if count in (1, self.few):
                    pause = time.monotonic()
                    values |= self.of_parts() if count == 1 else self.of_next(values)
                    started += time.monotonic() - pause
            values["many_start"] = (time.monotonic() - started) * 1000 / self.many
            values["many_memory"] = sum(self.settled().values()) / self.many
        except AssertionError as e:
            reason = f"pod {len(names) + 1}: {first_error(str(e))}"
            return {row: values.get(row, reason) for row in Memory.rows}
        finally:
            self.containerd.remove(*names)
        return values

    def of_parts(self) -> dict[str, Value]:
        parts = self.settled()
        whole = sum(parts.values())
        values: dict[str, Value] = {part: parts[part] if parts[part] else "it has none" for part in PARTS}
        return values | {"pod": whole, "pod_without_shim": whole - parts["shim"] - parts["warm"]}

    def of_next(self, values: dict[str, Value]) -> dict[str, Value]:
        first = values["pod"]
        assert isinstance(first, float)
        return {"next_pod": (sum(self.settled().values()) - first) / (self.few - 1)}

    def settled(self) -> dict[str, float]:
        """MB by part, when it does not change any more."""
        time.sleep(IDLE_SECONDS)
        deadline = time.monotonic() + SETTLE_SECONDS
        last = self.by_part()
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now = self.by_part()
            if abs(sum(now.values()) - sum(last.values())) <= SETTLED * sum(last.values()):
                return now
            last = now
        return last

    def by_part(self) -> dict[str, float]:
        parts = dict.fromkeys(PARTS, 0.0)
        for pid in self.containerd.processes():
            try:
                parts[part_of(pid)] += pss_kib(pid) * 1024 / 1e6
            except (FileNotFoundError, ProcessLookupError):
                continue
        return parts


def part_of(pid: int) -> str:
    """By its name; stubs are the sandbox's children, whatever they are called.  runc has only the program itself."""
    kind = kind_of(pid)
    if kind in ("warm", "shim", "gofer"):
        return kind
    return "sandbox" if kind == "sandbox" and kind_of(parent_of(pid)) != "sandbox" else "stubs"


def kind_of(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    comm = Path(f"/proc/{pid}/comm").read_bytes().strip()
    for kind, words in KINDS.items():
        if any(word in command or word in comm for word in words):
            return kind
    return ""


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
