"""What was measured, and what follows from it.

A value is a number in its section's unit, or text: the reason why there is none.  A ratio compares values of the same
round only, because the speed of a machine drifts; the median over the rounds is what counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Value = float | str
Values = Sequence[Value]


def numbers(values: Values) -> list[float]:
    return [value for value in values if not isinstance(value, str)]


def summary(values: Values) -> Value | None:
    """The median of the numbers; without any, the most frequent reason; None for nothing at all."""
    if measured := numbers(values):
        return median(measured)
    reasons = Counter(value for value in values if isinstance(value, str))
    return reasons.most_common(1)[0][0] if reasons else None


def ratio(values: Values, base: Values) -> float | None:
    """How many times the base; None unless both have a number in one round at least."""
    pairs = [(a, b) for a, b in zip(values, base) if not isinstance(a, str) and not isinstance(b, str) and b > 0]
    return median(a / b for a, b in pairs) if pairs else None


@dataclass(slots=True)
class Results:
    """rounds[section][row][runtime]: one value per round."""

    rounds: dict[str, dict[str, dict[str, list[Value]]]] = field(default_factory=dict)

    def add(self, section: str, runtime: str, values: dict[str, Value]) -> None:
        rows = self.rounds.setdefault(section, {})
        for row, value in values.items():
            rows.setdefault(row, {}).setdefault(runtime, []).append(value)

    def values(self, section: str, row: str, runtime: str) -> list[Value]:
        return self.rounds.get(section, {}).get(row, {}).get(runtime, [])

    def summary(self, section: str, row: str, runtime: str) -> Value | None:
        return summary(self.values(section, row, runtime))

    def ratio(self, section: str, row: str, runtime: str, base: str) -> float | None:
        return ratio(self.values(section, row, runtime), self.values(section, row, base))

    def rows(self, section: str) -> list[str]:
        return list(self.rounds.get(section, {}))

    def to_json(self) -> dict[str, Any]:
        """The rounds, and for the reader each summary before them."""
        return {
            section: {
                row: {runtime: {"median": summary(values), "rounds": values} for runtime, values in by_runtime.items()}
                for row, by_runtime in rows.items()
            }
            for section, rows in self.rounds.items()
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Results:
        results = cls()
        for section, rows in data.items():
            for row, by_runtime in rows.items():
                for runtime, measured in by_runtime.items():
                    results.rounds.setdefault(section, {}).setdefault(row, {})[runtime] = measured["rounds"]
        return results
