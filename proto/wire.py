"""Fixed-size binary records, declared once as annotated classes.

    @wire
    class EpollEvent(Record):
        '''struct epoll_event, epoll_ctl(2).  Packed on x86-64 (EPOLL_PACKED).'''
        events: u32
        data: u64

gives a slots class with SIZE, OFFSETS, pack(), pack_into(), unpack_from(), a constructor in field order, equality
and a repr.  Little-endian and unpadded: padding is spelled out as a field, `pad: bytes = chars(4)`.

Why not dataclasses: importing them and building some dozens of slots classes costs tens of milliseconds at the start
of every process; this costs 0.1 ms a record.  For the same reason nothing here imports `typing` at run time: field
kinds are read from the annotations' text, so a module that declares records must begin with
`from __future__ import annotations`.
"""

from __future__ import annotations

from struct import Struct, calcsize

from proto.transform import dataclass_transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, TypeVar

    from _typeshed import ReadableBuffer, WriteableBuffer

    T = TypeVar("T")

# The integer kinds.  To a type checker they are int; to @wire and the 9P codec, their names are struct codes.
u8 = int
u16 = int
u32 = int
u64 = int
i8 = int
i16 = int
i32 = int
i64 = int

INTEGER_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i8": "b", "i16": "h", "i32": "i", "i64": "q"}


class _Chars:
    """What chars() leaves in the class body for @wire to find."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


def chars(size: int) -> Any:
    """A field of `size` raw bytes: char name[size].  Shorter values are padded with NULs when packed."""
    return _Chars(size)


class Record:
    """Base of all @wire classes: what a type checker needs to know of them, and what they share."""

    __slots__ = ()

    SIZE: ClassVar[int]
    OFFSETS: ClassVar[dict[str, int]]
    STRUCT: ClassVar[Struct]

    if TYPE_CHECKING:

        @classmethod
        def unpack_from(cls, buffer: ReadableBuffer, offset: int = 0) -> Self:
            """Read one record; struct.error if the buffer is too short."""

        def pack(self) -> bytes:
            """The SIZE bytes of this record; struct.error if a field is out of its range."""

        def pack_into(self, buffer: WriteableBuffer, offset: int = 0) -> None:
            """Write this record into a buffer."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.pack() == other.pack()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.OFFSETS)
        return f"{type(self).__name__}({fields})"


@dataclass_transform(field_specifiers=(chars,))
def wire(cls: type[T]) -> type[T]:
    """Turn a class of annotated fields into a record.  Fails at import, by name, on a field it does not know."""
    codes = {name: _code(cls, name, kind) for name, kind in vars(cls).get("__annotations__", {}).items()}
    layout = Struct("<" + "".join(codes.values()))
    replaced = {*codes, "__dict__", "__weakref__"}
    body = {key: value for key, value in vars(cls).items() if key not in replaced}
    body.update(__slots__=tuple(codes), __match_args__=tuple(codes), __hash__=None)
    body.update(STRUCT=layout, SIZE=layout.size, OFFSETS=_offsets(codes), **_methods(layout, tuple(codes)))
    made: type[T] = type(cls.__name__, cls.__bases__, body)
    return made


def _code(cls: type, name: str, kind: object) -> str:
    if not isinstance(kind, str):
        raise TypeError(f"{cls.__name__}.{name}: begin the module with `from __future__ import annotations`")
    if kind == "bytes":
        return f"{vars(cls)[name].size}s"
    if kind not in INTEGER_CODES:
        raise TypeError(f"{cls.__name__}.{name}: {kind} is not a kind of field")
    return INTEGER_CODES[kind]


def _offsets(codes: dict[str, str]) -> dict[str, int]:
    offsets = {}
    layout = "<"
    for name, code in codes.items():
        offsets[name] = calcsize(layout)
        layout += code
    return offsets


def _methods(layout: Struct, names: tuple[str, ...]) -> dict[str, Any]:
    """Straight-line __init__, pack and unpack_from: two to four times as fast as loops over the field names."""
    params = ", ".join(names)
    selves = ", ".join(f"self.{name}" for name in names)
    comma = "," if len(names) == 1 else ""
    source = f"""
def __init__(self, {params}):
    {selves}{comma} = {params}{comma}
def pack(self):
    return _pack({selves})
def pack_into(self, buffer, offset=0):
    _pack_into(buffer, offset, {selves})
def unpack_from(cls, buffer, offset=0):
    self = _new(cls)
    {selves}{comma} = _unpack_from(buffer, offset)
    return self
"""
    scope: dict[str, Any] = {
        "_pack": layout.pack,
        "_pack_into": layout.pack_into,
        "_unpack_from": layout.unpack_from,
        "_new": object.__new__,
    }
    made: dict[str, Any] = {}
    exec(source, scope, made)
    made["unpack_from"] = classmethod(made["unpack_from"])
    return made
