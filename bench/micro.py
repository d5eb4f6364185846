"""Runs the micro-benchmark of guest/ in a container, and reads what it prints."""

from __future__ import annotations

import json

from bench.ground import Ground, Outcome
from bench.runtimes import Runtime
from bench.stats import Value
from tests.slowness import SLOWNESS

START_SECONDS = 20 * SLOWNESS
SLACK = 6  # a row may take this many times what it was told: one slow operation per batch is the least it can do


class Micro:
    """One pass over the rows takes `row_ms` each, whatever the runtime."""

    def __init__(self, ground: Ground, rows: list[str], row_ms: float) -> None:
        self.ground = ground
        self.rows = rows
        self.row_ms = row_ms

    def measure(self, runtime: Runtime) -> dict[str, Value]:
        work = self.ground.work
        args = [f"{work}/micro", work, str(self.row_ms), *self.rows]
        seconds = START_SECONDS + SLACK * len(self.rows) * self.row_ms / 1000
        outcome = self.ground.run(runtime, self.ground.small, args, seconds)
        return complete(parse(outcome.output), self.rows, outcome)


def parse(output: str) -> dict[str, Value]:
    """The lines that are ours; a runtime may print warnings of its own among them."""
    values: dict[str, Value] = {}
    for line in output.splitlines():
        if line.startswith('{"row"') and line.endswith("}"):
            record = json.loads(line)
            values[record["row"]] = record["error"] if "error" in record else float(record["ns"])
    return values


def complete(values: dict[str, Value], rows: list[str], outcome: Outcome) -> dict[str, Value]:
    """A value for every row: one that printed nothing has the end of the program as its reason."""
    return {row: values.get(row, outcome.reason()) for row in rows}
