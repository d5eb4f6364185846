"""Classes of annotated fields with slots."""

from __future__ import annotations

import pytest

from proto.slotted import made, slotted


@slotted
class Point:
    """Two numbers."""

    x: int
    y: int = 0
    _seen: list[int] = made(list)

    def norm(self) -> int:
        return abs(self.x) + abs(self.y)


@slotted
class Nothing:
    """No fields."""


def test_fields_are_given_in_order_or_by_name_or_left_out() -> None:
    assert Point(1, 2) == Point(y=2, x=1)
    assert Point(3) == Point(3, 0)
    assert Point(-3, 4).norm() == 7
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1, 2, [])  # type: ignore[call-arg]


def test_fields_are_slots_and_can_be_matched() -> None:
    point = Point(1, 2)
    with pytest.raises(AttributeError):
        point.z = 3  # type: ignore[attr-defined]
    match point:
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_what_is_made_is_made_for_each_and_neither_compared_nor_shown() -> None:
    one, other = Point(1), Point(1)
    one._seen.append(1)
    assert other._seen == []
    assert one == other
    assert repr(one) == "Point(x=1, y=0)"


def test_only_equal_fields_of_the_same_class_are_equal() -> None:
    assert Point(1) != Point(2)
    assert Point(1) != object()
    assert Nothing() == Nothing()
    assert repr(Nothing()) == "Nothing()"
