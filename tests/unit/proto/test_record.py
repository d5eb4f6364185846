"""Records: what their constructors take, and what makes two of them equal."""

import pytest

from proto.record import Record, field


class Base(Record):
    name: str
    size: int = 7
    words: list[str] = field(default_factory=list)


class Derived(Base):
    size: int = 8
    last: bool = False


def test_fields_come_by_position_or_by_name():
    assert vars(Base("a", 1, ["x"])) == vars(Base(words=["x"], size=1, name="a"))


def test_defaults_and_those_made_anew():
    first, second = Base("a"), Base("a")
    first.words.append("x")
    assert (first.size, second.words) == (7, [])


def test_a_derived_record_has_the_fields_of_its_base_first():
    made = Derived("a", 1, [], True)
    assert (made.name, made.last, Derived("b").size) == ("a", True, 8)


@pytest.mark.parametrize(
    "args, kwargs", [((), {}), (("a", 1, [], 2), {}), (("a",), {"name": "b"}), (("a",), {"nme": 1})]
)
def test_what_is_not_its_fields_is_refused(args, kwargs):
    with pytest.raises(TypeError, match="Base"):
        Base(*args, **kwargs)


def test_equal_are_records_of_one_kind_with_equal_fields():
    assert Base("a") == Base("a")
    assert Base("a") != Base("b")
    assert Base("a", 8) != Derived("a")


def test_repr_names_the_fields():
    assert repr(Base("a")) == "Base(name='a', size=7, words=[])"
