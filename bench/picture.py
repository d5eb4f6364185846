"""The ratios as a picture: one bar per runtime and row on a logarithmic scale, as SVG by hand.

The base (Linux itself, or runc) is the line at 1; bars to its right are slower.  A tick across a row is pysc's limit.
Colours come from a style sheet in the file, which follows the reader's light or dark theme; the ground is transparent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any

from bench.report import digits
from bench.stats import Results
from bench.table import NATIVE, SECTIONS, Row, Section

WIDTH, LABELS, MARGIN = 960, 230, 60
BAR, GAP, HEAD = 8, 9, 46
LOWEST, HIGHEST = 0.3, 1000.0

# Families of colours: the runtimes without a kernel of their own grey, the rival orange to red, ours blue to green.
PALETTE = {
    "runc": ("#9a9a9a", "#8b8b8b"),
    "crun": ("#c4c4c4", "#5f5f5f"),
    "runsc-systrap": ("#f2a65a", "#d98c3f"),
    "runsc-ptrace": ("#d9622b", "#e0703a"),
    "runsc-kvm": ("#a83232", "#c94f4f"),
    "pysc-systrap": ("#1f6fd6", "#4c97f0"),
    "pysc-ptrace": ("#7fb2ee", "#2f5f9e"),
    "pysc-kvm": ("#1a9a8a", "#35b8a6"),
}
OTHER = ("#888888", "#999999")

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.small { font-size: 9px; fill: #57606a }
.title { font-weight: 600; font-size: 14px }
.grid { stroke: #d0d7de; stroke-width: 1 }
.one { stroke: #57606a; stroke-width: 1.5 }
.limit { stroke: #cf222e; stroke-width: 2 }
"""
DARK_STYLE = """
text { fill: #e6edf3 }
.small { fill: #9da7b1 }
.grid { stroke: #30363d }
.one { stroke: #9da7b1 }
.limit { stroke: #ff7b72 }
"""


def picture(record: dict[str, Any]) -> str:
    results = Results.from_json(record["results"])
    runtimes = [name for name in record["machine"]["runtimes"] if name != NATIVE]
    parts = [*legend(runtimes)]
    y = 64.0
    for section in SECTIONS:
        drawn, y = draw_section(results, section, runtimes, y)
        parts += drawn
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}">'
    return "\n".join([head, f"<style>{style(runtimes)}</style>", *parts, "</svg>", ""])


def style(runtimes: list[str]) -> str:
    def colours(theme: int) -> str:
        return "".join(f".{name} {{ fill: {PALETTE.get(name, OTHER)[theme]} }}\n" for name in runtimes)

    return f"{STYLE}{colours(0)}@media (prefers-color-scheme: dark) {{{DARK_STYLE}{colours(1)}}}"


def legend(runtimes: list[str]) -> Iterator[str]:
    yield text(10, 20, "How many times as long, or as much (logarithmic scale; shorter is better)", "title")
    x = 10
    for name in runtimes:
        yield f'<rect class="{name}" x="{x}" y="32" width="12" height="12"/>'
        yield text(x + 16, 42, name)
        x += 32 + 8 * len(name)
    yield f'<line class="limit" x1="{x + 4}" x2="{x + 4}" y1="31" y2="45"/>'
    yield text(x + 10, 42, "limit for pysc")


def draw_section(results: Results, section: Section, runtimes: list[str], top: float) -> tuple[list[str], float]:
    """The elements, and where the next section begins.  Rows without a limit, the parts of a pod, are not drawn."""
    judged = [row for row in section.rows if row.base is not None or row.rival is not None]
    bars = {row: found for row in judged if (found := ratios_of(results, section, row, runtimes))}
    if not bars:
        return [], top
    rows: list[str] = []
    y = top + HEAD
    for row, found in bars.items():
        rows += draw_row(row, found, y)
        y += len(found) * BAR + GAP
    heading = text(10, top + 24, f"{section.title}, {section.base} = 1", "title")
    return [heading, *grid(top + HEAD - 6, y), *rows], y


def ratios_of(results: Results, section: Section, row: Row, runtimes: list[str]) -> dict[str, float]:
    ratios = {name: results.ratio(section.name, row.name, name, section.base) for name in runtimes}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None and name != section.base}


def draw_row(row: Row, ratios: dict[str, float], y: float) -> Iterator[str]:
    height = len(ratios) * BAR
    yield text(LABELS - 8, y + height / 2 + 4, row.title, anchor="end")
    for index, (name, ratio) in enumerate(ratios.items()):
        left, right = sorted((x_of(1), x_of(ratio)))
        at = y + index * BAR
        width = max(right - left, 1)
        yield f'<rect class="{name}" x="{left:.1f}" y="{at:.1f}" width="{width:.1f}" height="{BAR - 1}"/>'
        yield text(right + 4, at + BAR - 1, digits(ratio), "small")
    if row.base is not None:
        x = x_of(row.base)
        yield f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2:.1f}" y2="{y + height + 1:.1f}"/>'


def grid(top: float, bottom: float) -> Iterator[str]:
    for exponent in range(math.ceil(math.log10(LOWEST)), round(math.log10(HIGHEST)) + 1):
        x = x_of(10.0**exponent)
        kind = "one" if exponent == 0 else "grid"
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
        yield text(x, top - 3, f"{10.0**exponent:g}", "small", "middle")


def x_of(ratio: float) -> float:
    """Ratios beyond the scale end at its edge; the number beside the bar says what they are."""
    clamped = min(max(ratio, LOWEST), HIGHEST)
    share = math.log(clamped / LOWEST) / math.log(HIGHEST / LOWEST)
    return LABELS + share * (WIDTH - LABELS - MARGIN)


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
