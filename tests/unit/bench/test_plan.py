"""The order in which runtimes are measured."""

from __future__ import annotations

from bench import plan
from bench.plan import Step, turned
from bench.runtimes import Runtime
from bench.stats import Results, Value
from bench.table import MICRO

THREE = [Runtime("a"), Runtime("b"), Runtime("c")]


class Counting:
    """Every value is the number of the measurement."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def measure(self, runtime: Runtime) -> dict[str, Value]:
        self.seen.append(runtime.name)
        return {"getpid": float(len(self.seen))}


def test_every_round_has_every_runtime_once_in_a_turned_order():
    measurer, results = Counting(), Results()
    plan.run([Step(MICRO, lambda: measurer, THREE, rounds=3)], results)
    assert "".join(measurer.seen) == "abcbcacab"
    assert results.values("micro", "getpid", "a") == [1.0, 6.0, 8.0]


def test_nothing_to_measure_is_no_error():
    assert turned([], 3) == []
    plan.run([Step(MICRO, Counting, [], rounds=2)], Results())
