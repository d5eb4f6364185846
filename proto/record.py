"""Records: classes whose annotated fields make their constructor, equality and repr.

    class Mount(Record):
        destination: str
        type: str = "bind"
        options: list[str] = field(default_factory=list)

What dataclasses offer, as much of it as is needed here.  Those take longer to load, and to build the few dozen records
of a command such as `pysc state`, than all its work takes: they compile methods for each class, and these share theirs.
Records that are made for each system call or file message are `wire.py`'s affair.
"""

from __future__ import annotations

from proto.transform import dataclass_transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Self, TypeVar

    T = TypeVar("T")


class Factory:
    """What field() leaves in the class body for Record to find; so does slotted.py's made()."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """A field whose default is made anew for each record."""
    return Factory(default_factory)  # type: ignore[return-value]


@dataclass_transform(field_specifiers=(field,))
class Record:
    """Base of all records.  A record of a record has the base's fields first."""

    kinds: ClassVar[dict[str, Any]] = {}
    """The fields in order, and what they are annotated with."""
    _defaults: ClassVar[dict[str, Any]] = {}
    _factories: ClassVar[dict[str, Callable[[], object]]] = {}

    def __init_subclass__(cls) -> None:
        own = cls.__annotations__
        given = {name: vars(cls)[name] for name in own if name in vars(cls)}
        cls.kinds = {**cls.kinds, **own}
        cls._factories = {**cls._factories, **{k: v.make for k, v in given.items() if isinstance(v, Factory)}}
        cls._defaults = {**cls._defaults, **{k: v for k, v in given.items() if not isinstance(v, Factory)}}

    if not TYPE_CHECKING:  # a type checker makes up one for each class

        def __init__(self, *args: object, **kwargs: object) -> None:
            values = dict(zip(self.kinds, args))
            if len(args) > len(self.kinds) or not values.keys().isdisjoint(kwargs) or kwargs.keys() - self.kinds:
                raise TypeError(f"{type(self).__name__}: {args!r} {kwargs!r} are not its fields, each once")
            values.update(kwargs)
            for name in self.kinds:
                if name in values:
                    continue
                if name in self._factories:
                    values[name] = self._factories[name]()
                elif name in self._defaults:
                    values[name] = self._defaults[name]
                else:
                    raise TypeError(f"{type(self).__name__}: {name} is missing")
            self.__dict__.update(values)

    def replaced(self, **changes: object) -> Self:
        """A copy with other values in these fields."""
        return type(self)(**{**vars(self), **changes})

    @classmethod
    def has_default(cls, name: str) -> bool:
        """Whether a field need not be given."""
        return name in cls._defaults or name in cls._factories

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # its fields may change

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
