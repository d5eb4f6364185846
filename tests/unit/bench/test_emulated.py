"""The table of `make bench-kvm`."""

from __future__ import annotations

from bench import emulated
from bench.report import END, insert
from bench.stats import Results
from tests.unit.bench.records import record


def results() -> Results:
    made = Results()
    for drift in (1.0, 2.0):
        made.add("micro", "native", {"getpid": 100.0 * drift, "stat": 500.0 * drift})
        made.add("micro", "pysc-kvm", {"getpid": 1000.0 * drift, "stat": "ENOSYS"})
        made.add("micro", "runsc-kvm", {"getpid": 4000.0 * drift, "stat": 9000.0 * drift})
    return made


def test_ours_is_compared_with_native_and_with_runsc_and_has_no_number_without_one():
    assert emulated.table(results(), ["native", "pysc-kvm", "runsc-kvm"]) == [
        ["Emulated", "native", "pysc-kvm", "runsc-kvm", "pysc-kvm / runsc-kvm"],
        ["getpid", "150 ns", "1.50 µs ×10.0", "6.00 µs ×40.0", "×0.25"],
        ["stat", "750 ns", "–", "13.5 µs ×18.0", "–"],
    ]


def test_the_document_keeps_the_other_results():
    document = f"a\n{emulated.BEGIN}\nold\n{END}\nb\n<!-- results: written by make bench -->\nkept\n{END}\n"
    written = insert(document, emulated.markdown(record() | {"results": results().to_json()}), emulated.BEGIN)
    assert "old" not in written
    assert "6.00 µs" not in written  # runsc-kvm is not among the record's runtimes
    assert written.endswith(f"{END}\nb\n<!-- results: written by make bench -->\nkept\n{END}\n")


def test_emulated_results_are_written_into_the_document_that_there_is():
    assert emulated.BEGIN in emulated.DOCUMENT.read_text()
