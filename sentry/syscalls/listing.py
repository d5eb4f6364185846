"""The system call table for people: number, name, support, what is missing, where it is."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, astuple, dataclass, fields

from sentry.syscalls.registry import Syscall, build_table

SUPPORT_WORDS = {"full": "yes", "partial": "partly", "none": "no"}


@dataclass(slots=True)
class Row:
    """note: what is missing from a call that is there; for one that is not, the errno and the reason."""

    number: int
    name: str
    support: str
    note: str
    file: str


def rows() -> list[Row]:
    """Every number of Linux, in order."""
    return [_row(number, call) for number, call in sorted(build_table().items())]


def _row(number: int, call: Syscall) -> Row:
    note = f"{call.errno.name}: {call.gaps}" if call.errno is not None else call.gaps
    return Row(number, call.name, call.support, note, call.module.replace(".", "/") + ".py")


def summary(table: list[Row]) -> str:
    """How many of each."""
    counts = {word: sum(row.support == support for row in table) for support, word in SUPPORT_WORDS.items()}
    return f"{len(table)} calls: {counts['yes']} complete, {counts['partly']} with gaps, {counts['no']} refused"


def as_table(table: list[Row]) -> str:
    lines = [f"{'NR':>3}  {'NAME':<24} {'SUPPORT':<8} NOTE"]
    lines += [f"{row.number:>3}  {row.name:<24} {row.support:<8} {row.note}".rstrip() for row in table]
    return "\n".join([*lines, summary(table), ""])


def as_json(table: list[Row]) -> str:
    return json.dumps([asdict(row) for row in table], indent=1) + "\n"


def as_csv(table: list[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    writer.writerows(astuple(row) for row in table)
    return out.getvalue()


def as_markdown(table: list[Row]) -> str:
    """docs/SYSCALLS.md."""
    lines = [
        "# System calls",
        "",
        "Made by `packaging/gen/syscalls_md.py` from the table in `sentry/syscalls`; do not edit.",
        "`pysc syscalls` prints the same.",
        "",
        f"x86-64: {summary(table)}. A number that is not here gives ENOSYS, as in Linux.",
        "",
        "| nr | name | support | what is missing, or the errno and why | file |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.number} | {row.name} | {SUPPORT_WORDS[row.support]} | {row.note} | {row.file.rpartition('/')[2]} |"
        for row in table
    ]
    return "\n".join([*lines, ""])


FORMATS = {"table": as_table, "json": as_json, "csv": as_csv, "markdown": as_markdown}
