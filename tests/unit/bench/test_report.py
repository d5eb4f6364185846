"""Tables, notes and limits as text."""

from __future__ import annotations

import pytest

from bench import report
from bench.stats import Results
from bench.table import MICRO, SECTIONS, STARTUP, Row
from tests.unit.bench.records import RUNTIMES, record

GETPID, TCP = (row for row in MICRO.rows if row.name in ("getpid", "tcp"))


def results() -> Results:
    return Results.from_json(record()["results"])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (81.5, "ns", "81.5 ns"),
        (16_010.0, "ns", "16.0 µs"),
        (1_005_792.0, "ns", "1.01 ms"),
        (2.5e9, "ns", "2.50 s"),
        (0.5, "ms", "0.50 ms"),
        (1234.0, "ms", "1.23 s"),
        (36.04, "MB", "36.0 MB"),
        (1234.0, "MB", "1,234 MB"),
    ],
)
def test_quantities_have_three_digits_and_a_unit(value: float, unit: str, text: str):
    assert report.quantity(value, unit) == text


def test_a_cell_has_the_median_the_ratio_and_a_mark():
    assert report.cell(results(), MICRO, GETPID, "pysc-ptrace") == "10.0 µs ×50.0 ✗"
    assert report.cell(results(), MICRO, GETPID, "runsc-ptrace") == "18.0 µs ×90.0"
    assert report.cell(results(), MICRO, GETPID, "native") == "200 ns"


def test_a_cell_without_a_number_is_a_dash():
    assert report.cell(results(), MICRO, TCP, "pysc-ptrace") == "–"


def test_a_missing_number_has_a_reason_below():
    assert report.reasons(results(), MICRO, list(RUNTIMES)) == ["pysc-ptrace: TCP loopback 1 KiB: socket: EAFNOSUPPORT"]


def test_a_number_that_is_missing_in_some_rounds_is_reported():
    some = Results()
    for value in (1.0, "killed by SIGSEGV", 2.0):
        some.add("micro", "runc", {"getpid": value})
    assert report.reasons(some, MICRO, ["runc"]) == ["runc: getpid: killed by SIGSEGV (in 1 of 3 rounds)"]


def test_a_reason_that_many_rows_have_is_told_once():
    """A whole round that failed, say."""
    some = Results()
    rows = [row.name for row in MICRO.rows]
    some.add("micro", "runc", dict.fromkeys(rows, 1.0))
    some.add("micro", "runc", dict.fromkeys(rows, "exit status 1"))
    whole = len(rows)
    assert report.reasons(some, MICRO, ["runc"]) == [f"runc: {whole} of {whole} rows: exit status 1 (in 1 of 2 rounds)"]


def test_only_ours_misses_limits():
    found = [(miss.runtime, miss.row.name, miss.against) for miss in report.misses(results(), list(RUNTIMES))]
    assert found == [("pysc-ptrace", "getpid", "runsc-ptrace"), ("pysc-ptrace", "ctr_run", "runc")]


def test_a_limit_against_the_rival_is_missed_at_equality():
    """ "Less than", where the limit against the base says "at most"."""
    even = Results()
    for runtime, value in (("native", 1.0), ("runsc-ptrace", 60.0), ("pysc-ptrace", 60.0)):
        even.add("micro", runtime, {"row": value})
    assert list(report.misses_of(even, MICRO, Row("row", "row", base=60), "pysc-ptrace")) == []
    assert len(list(report.misses_of(even, MICRO, Row("row", "row", rival=1), "pysc-ptrace"))) == 1


def test_columns_of_the_text_line_up():
    lines = report.as_text([["a", "long header"], ["long label", "x"]]).splitlines()
    assert lines == ["a           long header", "long label            x"]


def test_sections_that_were_not_measured_are_left_out():
    text = report.printed(record())
    assert STARTUP.title in text
    assert "Programs" not in text


def test_the_document_keeps_what_is_around_the_markers():
    before = f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n"
    once = report.insert(before, report.markdown(record()))
    assert once.startswith("# Title\n\n") and once.endswith("\n\nafter\n")
    assert "old" not in once and "×50.0 ✗" in once and "runsc-kvm" in once
    assert report.insert(once, report.markdown(record())) == once


def test_a_document_without_markers_is_refused():
    with pytest.raises(ValueError, match="no '<!--"):
        report.insert("# Title\n", "text")


def test_every_row_of_the_table_has_a_name_of_its_own():
    for section in SECTIONS:
        names = [row.name for row in section.rows]
        assert len(set(names)) == len(names)
