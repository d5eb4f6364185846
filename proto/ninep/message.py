"""What a 9P message is in memory: a tuple whose places have names.

Tuples, because struct packs and unpacks tuples: a message of fixed layout is decoded by two C calls and encoded by
one.  They cannot be changed once made.  Each class is declared by its fields, in the order of the wire:

    @message(110)
    class Twalk(Message):
        '''size[4] Twalk tag[2] fid[4] newfid[4] nwname[2] nwname*(wname[s])'''
        fid: u32
        newfid: u32
        names: list[Str]

Kinds of fields: the integers of proto.wire; Str, a counted string (`s` on the wire: length[2] and the bytes); Data, a
counted block (length[4] and the bytes); a @struct class (its fields in place); and list[...] of a Str, a u32 or a
@struct (count[2] and the elements).  Names are bytes, as everywhere in Linux: 9P says UTF-8, file names need not be.
"""

from __future__ import annotations

from operator import itemgetter

from proto.transform import dataclass_transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, ClassVar, TypeVar

    T = TypeVar("T", bound="Named")

    class _Tuple:
        """Named is no tuple to a type checker: fields may then be called `count` or `index`."""

        def __iter__(self) -> Iterator[Any]: ...

else:
    _Tuple = tuple

Str = bytes
Data = bytes

_new = tuple.__new__


class ProtocolError(Exception):
    """The peer broke the protocol.  Nothing after it on that connection can be trusted: close it."""


class Named(_Tuple):
    """A tuple with named places.  Equal only to the same class with the same values."""

    __slots__ = ()

    FIELDS: ClassVar[dict[str, str]] = {}

    if TYPE_CHECKING:

        @classmethod
        def of(cls: type[T], values: tuple[Any, ...]) -> T:
            """cls(*values) without a check that they are as many as the fields: for messages that are made often."""

    if not TYPE_CHECKING:  # a type checker derives the constructor from the fields

        def __new__(cls, *args, **kwargs):
            if kwargs:
                args += tuple(kwargs.pop(name) for name in list(cls.FIELDS)[len(args) :] if name in kwargs)
            if len(args) != len(cls.FIELDS) or kwargs:
                raise TypeError(f"{cls.__name__} takes the fields {', '.join(cls.FIELDS) or '(none)'}")
            return _new(cls, args)

        of = classmethod(_new)

        def __eq__(self, other):
            return type(other) is type(self) and tuple.__eq__(self, other)

        def __ne__(self, other):
            return not self == other

        def __hash__(self):
            return hash((type(self), tuple(self)))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.FIELDS)
        return f"{type(self).__name__}({fields})"


class Message(Named):
    """A 9P message without its size and tag."""

    __slots__ = ()

    TYPE: ClassVar[int] = 0


# Message classes by their number, and @struct classes by their name: what the codec is derived from.
MESSAGES: dict[int, type[Message]] = {}
STRUCTS: dict[str, type[Named]] = {}


@dataclass_transform(frozen_default=True)
def named(cls: type[T]) -> type[T]:
    """Rebuild the class with __slots__ and one accessor a field."""
    fields: dict[str, str] = vars(cls).get("__annotations__", {})
    body = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
    body.update({name: property(itemgetter(place)) for place, name in enumerate(fields)})
    body.update(__slots__=(), __match_args__=tuple(fields), FIELDS=fields)
    made: type[T] = type(cls.__name__, cls.__bases__, body)
    return made


@dataclass_transform(frozen_default=True)
def struct(cls: type[T]) -> type[T]:
    """A group of integers that occurs inside messages, such as a qid."""
    made = STRUCTS[cls.__name__] = named(cls)
    return made  # type: ignore[return-value]  # the dict forgets which class it is


@dataclass_transform(frozen_default=True)
def message(number: int) -> Callable[[type[T]], type[T]]:
    """Declare the message with this number.  A request is even; its reply is the next number."""

    def declare(cls: type[T]) -> type[T]:
        made: Any = named(cls)
        made.TYPE = number
        MESSAGES[number] = made
        return made  # type: ignore[no-any-return]  # as above

    return declare
