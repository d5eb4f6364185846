"""Classes of annotated fields with slots: a lighter kind of dataclass, for what is made often.

    @slotted
    class FaultTrap:
        signo: int
        code: int = 0

gives a constructor in the order of the fields, equality and a repr.  A field whose name begins with an underscore is
the class's own: it is neither compared nor shown.

Why not dataclasses: importing them, and building two dozen classes by them, costs a start ten milliseconds.  Here a
class compiles its constructor, which then is as fast as one written by hand, and the rest is shared.  The classes of
record.py are cheaper still to declare, and slower to make.
"""

from __future__ import annotations

from proto.record import Factory
from proto.transform import dataclass_transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, TypeVar

    T = TypeVar("T")


def made(make: Callable[[], T], init: Literal[False] = False) -> T:
    """A field that the constructor is not given, but makes."""
    return Factory(make)  # type: ignore[return-value]


@dataclass_transform(field_specifiers=(made,))
def slotted(cls: type[T]) -> type[T]:
    """Rebuild the class with __slots__ and the methods below."""
    own = vars(cls)
    fields: tuple[str, ...] = tuple(own.get("__annotations__", ()))
    body = {name: value for name, value in own.items() if name not in (*fields, "__dict__", "__weakref__")}
    body.update(__slots__=fields, __match_args__=fields, __eq__=_equal, __hash__=None, __repr__=_shown)
    body["__init__"] = _constructor(fields, {name: own[name] for name in fields if name in own})
    rebuilt: type[T] = type(cls.__name__, cls.__bases__, body)
    return rebuilt


def _constructor(fields: tuple[str, ...], given: dict[str, Any]) -> Any:
    makers = {name: value.make for name, value in given.items() if isinstance(value, Factory)}
    params = [name for name in fields if name not in makers]
    values = "".join(f"\n    self.{name} = {name}{'()' if name in makers else ''}" for name in fields)
    scope: dict[str, Any] = dict(makers)
    exec(f"def __init__({', '.join(('self', *params))}):{values or ' pass'}", scope)
    constructor = scope["__init__"]
    constructor.__defaults__ = tuple(value for name, value in given.items() if name not in makers)
    return constructor


def _public(record: Any) -> tuple[object, ...]:
    return tuple(getattr(record, name) for name in record.__slots__ if not name.startswith("_"))


def _equal(self: object, other: object) -> bool:
    return type(other) is type(self) and _public(self) == _public(other)


def _shown(self: Any) -> str:
    fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__ if not name.startswith("_"))
    return f"{type(self).__name__}({fields})"
