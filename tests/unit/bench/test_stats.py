"""Medians and ratios over rounds, with rounds that have no number."""

from __future__ import annotations

import json

from bench.stats import Results, ratio, summary


def test_summary_is_the_median_of_the_numbers():
    assert summary([3.0, "no end within its time", 1.0, 2.0]) == 2.0


def test_summary_without_numbers_is_the_most_frequent_reason():
    assert summary(["a", "b", "b"]) == "b"


def test_summary_of_nothing_is_none():
    assert summary([]) is None


def test_ratio_compares_values_of_the_same_round():
    """The machine was twice as slow in the second round; that is not the runtime's doing."""
    assert ratio([30.0, 60.0], [10.0, 20.0]) == 3.0


def test_ratio_leaves_out_rounds_that_one_side_has_no_number_in():
    assert ratio([30.0, "failed", 50.0], [10.0, 20.0, "failed"]) == 3.0


def test_ratio_without_a_common_round_is_none():
    assert ratio([30.0, "failed"], ["failed", 20.0]) is None
    assert ratio([30.0], []) is None


def test_ratio_to_a_base_of_zero_is_none():
    assert ratio([1.0], [0.0]) is None


def test_results_survive_json():
    results = Results()
    results.add("micro", "native", {"getpid": 80.0, "tcp": "socket: EAFNOSUPPORT"})
    results.add("micro", "native", {"getpid": 90.0, "tcp": "socket: EAFNOSUPPORT"})
    again = Results.from_json(json.loads(json.dumps(results.to_json())))
    assert again == results
    assert again.values("micro", "getpid", "native") == [80.0, 90.0]


def test_what_was_not_measured_has_no_values():
    assert Results().values("micro", "getpid", "native") == []
    assert Results().summary("micro", "getpid", "native") is None
