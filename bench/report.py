"""Results as text: tables for a terminal and for docs/performance.md, and the limits that are missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.stats import Results
from bench.table import OURS, RIVAL, SECTIONS, Row, Section

MISSING = "–"
MISS = "✗"
FEW = 5
BEGIN, END = "<!-- results: written by make bench -->", "<!-- end of results -->"
SCALES = {"ns": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")), "ms": ((1e3, "s"), (1, "ms")), "MB": ((1, "MB"),)}


@dataclass(frozen=True, slots=True)
class Miss:
    """A limit that a row does not keep; nothing to compare with is no miss."""

    runtime: str
    row: Row
    against: str
    ratio: float
    limit: float

    def __str__(self) -> str:
        return f"{self.row.title} {times(self.ratio)} (limit {times(self.limit)})"


def quantity(value: float, unit: str) -> str:
    """Three digits and the unit that suits."""
    scale, name = next(((s, n) for s, n in SCALES[unit] if value >= s), SCALES[unit][-1])
    return f"{digits(value / scale)} {name}"


def digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(ratio: float) -> str:
    """Without zeros that say nothing: a limit of 60 is ×60."""
    text = digits(ratio)
    return "×" + (text.rstrip("0").rstrip(".") if "." in text else text)


def misses(results: Results, runtimes: list[str]) -> Iterator[Miss]:
    for section in SECTIONS:
        for row in section.rows:
            for runtime in runtimes:
                if runtime.startswith(OURS):
                    yield from misses_of(results, section, row, runtime)


def misses_of(results: Results, section: Section, row: Row, runtime: str) -> Iterator[Miss]:
    for against, limit, strict in ((section.base, row.base, False), (RIVAL, row.rival, True)):
        ratio = results.ratio(section.name, row.name, runtime, against)
        if limit is None or ratio is None:
            continue
        if ratio > limit or (strict and ratio == limit):
            yield Miss(runtime, row, against, ratio, limit)


def limits(section: Section, row: Row) -> str:
    parts = [f"≤ {row.base:g} {section.base}"] if row.base is not None else []
    parts += [f"< {row.rival:g} {RIVAL}"] if row.rival is not None else []
    return ", ".join(parts)


def cell(results: Results, section: Section, row: Row, runtime: str) -> str:
    """`16.0 µs ×195 ✗`: the median, how many times the base, and whether a limit is missed."""
    value = results.summary(section.name, row.name, runtime)
    if value is None or isinstance(value, str):
        return MISSING
    parts = [quantity(value, row.unit or section.unit)]
    ratio = results.ratio(section.name, row.name, runtime, section.base)
    if ratio is not None and runtime != section.base:
        parts.append(f"×{digits(ratio)}")
    if runtime.startswith(OURS) and any(misses_of(results, section, row, runtime)):
        parts.append(MISS)
    return " ".join(parts)


def table(results: Results, section: Section, runtimes: list[str]) -> list[list[str]]:
    """With a header; rows and runtimes that were not measured are left out."""
    rows = [row for row in section.rows if row.name in results.rows(section.name)]
    columns = [name for name in runtimes if any(results.values(section.name, row.name, name) for row in rows)]
    header = [section.title, *columns, "limits for pysc"]
    body = [[row.title, *(cell(results, section, row, name) for name in columns), limits(section, row)] for row in rows]
    return [header, *body] if rows else []


def reasons(results: Results, section: Section, runtimes: list[str]) -> list[str]:
    """Why there is no number, and where there was none in some of the rounds only."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in section.rows:
        for runtime in runtimes:
            values = results.values(section.name, row.name, runtime)
            texts = [value for value in values if isinstance(value, str)]
            if texts:
                part = "" if len(texts) == len(values) else f" (in {len(texts)} of {len(values)} rounds)"
                found.setdefault((runtime, f"{texts[0]}{part}"), []).append(row.title)
    return [f"{runtime}: {some_of(rows, section)}: {reason}" for (runtime, reason), rows in found.items()]


def some_of(rows: list[str], section: Section) -> str:
    """By name when they are few; a whole round can fail."""
    return ", ".join(rows) if len(rows) <= FEW else f"{len(rows)} of {len(section.rows)} rows"


def as_text(rows: list[list[str]]) -> str:
    """Columns, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.rjust(width) if column else text.ljust(width) for column, (text, width) in pairs)
        for pairs in (enumerate(zip(row, widths)) for row in rows)
    )


def as_markdown(rows: list[list[str]]) -> str:
    ruled = [rows[0], ["---", *["--:"] * (len(rows[0]) - 2), "---"], *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def missed_lines(results: Results, runtimes: list[str]) -> list[str]:
    """One line per platform of ours and opponent."""
    found: dict[tuple[str, str], list[str]] = {}
    for miss in misses(results, runtimes):
        found.setdefault((miss.runtime, miss.against), []).append(str(miss))
    return [f"{runtime} against {against} misses: {'; '.join(rows)}" for (runtime, against), rows in found.items()]


def printed(record: dict[str, Any]) -> str:
    """The whole for a terminal."""
    results, runtimes = Results.from_json(record["results"]), list(record["machine"]["runtimes"])
    parts = [as_text(rows) for section in SECTIONS if (rows := table(results, section, runtimes))]
    notes = [f"{MISSING} {line}" for section in SECTIONS for line in reasons(results, section, runtimes)]
    notes += [f"{MISS} {line}" for line in missed_lines(results, runtimes)]
    notes += [f"without {name}: {reason}" for name, reason in record["left_out"].items()]
    return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)


def section_markdown(results: Results, section: Section, runtimes: list[str]) -> list[str]:
    rows = table(results, section, runtimes)
    if not rows:
        return []
    notes = "\n".join(f"- {line}" for line in reasons(results, section, runtimes))
    parts = [f"### {section.title}", as_markdown(rows)]
    return [*parts, f"Without a number ({MISSING}):\n\n{notes}"] if notes else parts


def runtimes_markdown(record: dict[str, Any]) -> str:
    rows = [["runtime", "version", "how"]]
    rows += [[name, r["version"], r["note"]] for name, r in record["machine"]["runtimes"].items()]
    rows += [[name, "", f"left out: {reason}"] for name, reason in record["left_out"].items()]
    return as_markdown(rows)


def markdown(record: dict[str, Any]) -> str:
    """What stands between the markers in docs/performance.md."""
    machine = record["machine"]
    results, runtimes = Results.from_json(record["results"]), list(machine["runtimes"])
    where = (
        f"{machine['date']}, commit {machine['commit']}: {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_gb']} GB, Linux {machine['kernel']}, Python {machine['python']}; "
        f"load average before the start {machine['load_before']:.2f}."
    )
    parts = [where, runtimes_markdown(record)]
    for section in SECTIONS:
        parts += section_markdown(results, section, runtimes)
    missed = "\n".join(f"- {line}" for line in missed_lines(results, runtimes))
    return "\n\n".join([*parts, "### Limits that are missed", missed or "None."])


def insert(document: str, text: str, marker: str = BEGIN) -> str:
    """The document with what is between the marker and the next END replaced.  Raises ValueError without them."""
    before, begin, rest = document.partition(marker)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {marker!r} … {END!r} in the document")
    return f"{before}{marker}\n\n{text}\n\n{END}{after}"
