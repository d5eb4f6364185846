"""The 9P codec: encode() and Decoder, derived from the fields that the messages declare.

For each message class one encoder and one decoder are generated as straight-line source when it is first used (a
connection uses some twenty of the ninety), because every open or stat that misses the Sentry's cache passes here four
times.  A generated decoder never checks a length on the way: slices that run out come back short, and the one
comparison at the end (was exactly this frame consumed?) finds that out.
"""

from __future__ import annotations

import struct
from struct import Struct

from proto.ninep import dialect, messages
from proto.ninep.message import MESSAGES, STRUCTS, Message, ProtocolError, named
from proto.wire import INTEGER_CODES, u8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

HEADER_SIZE = 7  # size[4] type[1] tag[2]
MIN_MSIZE = 4096
MAX_MSIZE = 1 << 20
DEFAULT_MSIZE = 128 << 10

_HEADER = Struct("<IBH")
_SIZE = Struct("<I")


@named
class Unknown(Message):
    """A well-framed message of a type that we do not know."""

    type: u8


def encode(tag: int, message: Message) -> bytes:
    """The frame of a message.  struct.error if a field is out of its range: the caller's bug, not the peer's."""
    frame: bytes = encoders[type(message)](tag, message)
    return frame


class Decoder:
    """Feed it whatever arrived; it yields whole (tag, message) pairs.  Knows no socket, no clock.

    msize may be changed at any time; it holds for the frames not yet yielded.
    """

    def __init__(self, msize: int = MAX_MSIZE) -> None:
        self.msize = msize
        self._partial = bytearray()
        self._wanted = 0

    def whole(self, data: bytes) -> tuple[int, Message] | None:
        """The message, if data is exactly one and nothing was left over, as it nearly always is; None: feed() it."""
        length = len(data)
        if self._partial or length < HEADER_SIZE:
            return None
        size, kind, tag = _HEADER.unpack_from(data)
        if size != length or size > self.msize:
            return None
        decoder = _decoders[kind]
        if decoder is None:
            return tag, Unknown(kind)
        try:
            return tag, decoder(data, HEADER_SIZE, size)
        except struct.error as error:
            raise ProtocolError(f"{MESSAGES[kind].__name__}: {error}") from None

    def feed(self, data: bytes) -> Iterator[tuple[int, Message]]:
        """Messages completed by data.  Exhaust the iterator before feeding again; ProtocolError ends everything."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return iter(())
            data = bytes(self._partial)
            self._partial.clear()
        return self._split(data)

    def _split(self, data: bytes) -> Iterator[tuple[int, Message]]:
        position = 0
        length = len(data)
        while length - position >= HEADER_SIZE:
            size, kind, tag = _HEADER.unpack_from(data, position)
            end = position + self._checked(size)
            if end > length:
                break
            yield tag, _decode(kind, data, position + HEADER_SIZE, end)
            position = end
        self._keep(data[position:])

    def _keep(self, rest: bytes) -> None:
        """Put away the beginning of a frame; refuse it now if its size alone is wrong."""
        self._partial += rest
        self._wanted = HEADER_SIZE
        if len(rest) >= _SIZE.size:
            self._wanted = self._checked(_SIZE.unpack_from(rest)[0])

    def _checked(self, size: int) -> int:
        if HEADER_SIZE <= size <= self.msize:
            return size
        raise ProtocolError(f"frame of {size} bytes, msize is {self.msize}")


def _decode(kind: int, data: bytes, position: int, end: int) -> Message:
    decoder = _decoders[kind]
    if decoder is None:
        return Unknown(kind)
    try:
        message: Message = decoder(data, position, end)
    except struct.error as error:
        raise ProtocolError(f"{MESSAGES[kind].__name__}: {error}") from None
    return message


# ---- The entries inside Rreaddir.data and Rreaddirattr.data.

_DIRENT = Struct("<BIQQBH")
_ATTR = Struct("<" + "".join(INTEGER_CODES[kind] for kind in dialect.Attr.FIELDS.values()))
_ATTR_ENTRY = Struct(_ATTR.format + "QH")

ATTR_SIZE = _ATTR.size
DIRENT_SIZE = _DIRENT.size  # without the name
ATTR_ENTRY_SIZE = _ATTR_ENTRY.size  # without the name


def pack_dirent(qid: messages.Qid, offset: int, kind: int, name: bytes) -> bytes:
    """One entry of Rreaddir; kind is a DT_* of readdir(3)."""
    return _DIRENT.pack(qid.type, qid.version, qid.path, offset, kind, len(name)) + name


def dirents(data: bytes) -> list[tuple[messages.Qid, int, int, bytes]]:
    """The entries of an Rreaddir: (qid, offset, kind, name)."""
    return [
        (messages.Qid(*fields[:3]), fields[3], fields[4], name) for fields, name in _entries(_DIRENT, data, "Rreaddir")
    ]


def pack_attr_entry(attr: dialect.Attr, offset: int, name: bytes) -> bytes:
    """One entry of Rreaddirattr."""
    return _ATTR_ENTRY.pack(*attr, offset, len(name)) + name


def attr_entries(data: bytes) -> list[tuple[bytes, int, dialect.Attr]]:
    """The entries of an Rreaddirattr: (name, offset, attr)."""
    make = _make(dialect.Attr)
    return [(name, fields[12], make(fields[:12])) for fields, name in _entries(_ATTR_ENTRY, data, "Rreaddirattr")]


def _entries(layout: Struct, data: bytes, where: str) -> Iterator[tuple[Any, bytes]]:
    """Fixed fields, the last of them the length of the name that follows; ProtocolError on a piece of an entry."""
    position = 0
    while position < len(data):
        if len(data) - position < layout.size:
            raise ProtocolError(f"{where}: an entry is cut")
        fields = layout.unpack_from(data, position)
        start = position + layout.size
        position = start + fields[-1]
        yield fields, data[start:position]
    if position != len(data):
        raise ProtocolError(f"{where}: a name is cut")


# ---- Generating the two functions of a message class.


class _Source:
    """Collects the source of one encoder and one decoder while the fields are walked in order.

    `codes` is the run of integers not yet closed off by a field of variable length.
    """

    def __init__(self, cls: type[Message]) -> None:
        self.scope: dict[str, Any] = {"_cls": cls, "_make": tuple.__new__, "_fail": _fail}
        self.codes = "IBH"
        self.packed = ["_size", str(cls.TYPE), "_tag"]
        self.unpacked: list[str] = []
        self.frame: list[str] = []  # the summands of the encoded frame
        self.fixed = 0  # its bytes of fixed length
        self.sizes: list[str] = []  # the lengths of the others
        self.prepare: list[str] = []  # statements of the encoder before that
        self.decode: list[str] = []  # statements of the decoder
        self.values: list[str] = []  # the fields of the decoded message

    def integer(self, code: str, packed: str, unpacked: str) -> None:
        self.codes += code
        self.packed.append(packed)
        self.unpacked.append(unpacked)

    def close_run(self) -> None:
        """Turn the integers so far into one pack and one unpack call."""
        if not self.codes:
            return
        place = len(self.frame)
        codes = self.codes[3:] if not place else self.codes  # the Decoder has read the header
        self.scope[f"_pack{place}"] = Struct("<" + self.codes).pack
        self.scope[f"_unpack{place}"] = Struct("<" + codes).unpack_from
        self.frame.append(f"_pack{place}({', '.join(self.packed)})")
        self.fixed += struct.calcsize("<" + self.codes)
        if codes:
            self.decode.append(f"{', '.join(self.unpacked)}, = _unpack{place}(_b, _p)")
            self.decode.append(f"_p += {struct.calcsize('<' + codes)}")
        self.codes, self.packed, self.unpacked = "", [], []

    def counted(self, code: str, name: str, item_size: int = 1) -> None:
        """The count of a field of variable length, and the slice _x of the frame that its items fill."""
        self.integer(code, f"len({name})", "_n")
        self.close_run()
        self.decode += [f"_q = _p + _n * {item_size}" if item_size > 1 else "_q = _p + _n"]

    def summand(self, name: str) -> None:
        self.frame.append(name)
        self.sizes.append(f"len({name})")


def _fail(name: str) -> None:
    raise ProtocolError(f"{name}: the frame is too short or too long for its fields")


def _add_string(source: _Source, name: str, code: str) -> None:
    source.counted(code, name)
    source.decode += [f"{name} = _b[_p:_q]", "_p = _q"]
    source.summand(name)


def _add_struct(source: _Source, name: str, kind: str) -> None:
    parts = [f"{name}_{part}" for part in STRUCTS[kind].FIELDS]
    for place, (part, code) in enumerate(zip(parts, STRUCTS[kind].FIELDS.values())):
        source.integer(INTEGER_CODES[code], f"{name}[{place}]", part)
    source.scope[f"_{kind}"] = STRUCTS[kind]
    source.values[-1] = f"_make(_{kind}, ({', '.join(parts)},))"


def _add_list(source: _Source, name: str, kind: str) -> None:
    if kind == "Str":
        source.scope["_length"] = Struct("<H")
        source.counted("H", name)
        source.prepare.append(f"_{name} = b''.join([_length.pack(len(_s)) + _s for _s in {name}])")
        source.decode += [
            f"{name} = []",
            "for _ in range(_n):",
            "    _q = _p + 2 + _length.unpack_from(_b, _p)[0]",
            f"    {name}.append(_b[_p + 2:_q])",
            "    _p = _q",
        ]
    else:
        _add_list_of_integers(source, name, kind)
    source.summand(f"_{name}")


def _add_list_of_integers(source: _Source, name: str, kind: str) -> None:
    if kind in STRUCTS:
        item = Struct("<" + "".join(INTEGER_CODES[code] for code in STRUCTS[kind].FIELDS.values()))
        source.prepare.append(f"_{name} = b''.join([_item.pack(*_s) for _s in {name}])")
        element = f"_make(_{kind}, _s)"
        source.scope[f"_{kind}"] = STRUCTS[kind]
    else:
        item = Struct("<" + INTEGER_CODES[kind])
        source.prepare.append(f"_{name} = b''.join([_item.pack(_s) for _s in {name}])")
        element = "_s[0]"
    source.scope["_item"] = item
    source.counted("H", name, item.size)
    source.decode += [f"{name} = [{element} for _s in _item.iter_unpack(_b[_p:_q])]", "_p = _q"]


def _add_field(source: _Source, name: str, kind: str) -> None:
    source.values.append(name)
    if kind in INTEGER_CODES:
        source.integer(INTEGER_CODES[kind], name, name)
    elif kind in ("Str", "Data"):
        _add_string(source, name, "H" if kind == "Str" else "I")
    elif kind in STRUCTS:
        _add_struct(source, name, kind)
    else:
        _add_list(source, name, kind.removeprefix("list[").removesuffix("]"))


def _source_of(cls: type[Message]) -> _Source:
    source = _Source(cls)
    for name, kind in cls.FIELDS.items():
        _add_field(source, name, kind)
    source.close_run()
    return source


def _encoder(cls: type[Message]) -> Any:
    """Generate encode(tag, message)."""
    source = _source_of(cls)
    names = "".join(f"{name}, " for name in cls.FIELDS)
    lines = [f"{names}= _m"] if names else []
    lines += [*source.prepare, f"_size = {' + '.join([str(source.fixed), *source.sizes])}"]
    lines += ["return " + " + ".join(source.frame)]
    return _compiled("encode(_tag, _m)", lines, source)


def _decoder(cls: type[Message]) -> Any:
    """Generate decode(bytes, start, end)."""
    source = _source_of(cls)
    lines = [*source.decode, f"if _p != _e: _fail({cls.__name__!r})"]
    lines += [f"return _make(_cls, ({''.join(value + ', ' for value in source.values)}))"]
    return _compiled("decode(_b, _p, _e)", lines, source)


def _compiled(signature: str, lines: list[str], source: _Source) -> Any:
    """Not both functions at once: a peer needs one of most classes, and compiling takes longer than all else here."""
    exec("\n    ".join([f"def {signature}:", *lines]), source.scope)
    return source.scope[signature.partition("(")[0]]


def _make(cls: type[Any]) -> Callable[[tuple[Any, ...]], Any]:
    """Instances from tuples that are known to have the right length."""
    return lambda values: tuple.__new__(cls, values)


class _Encoders(dict[type[Message], "Callable[[int, Message], bytes]"]):
    """Class -> encoder, generated on first use."""

    def __missing__(self, cls: type[Message]) -> Callable[[int, Message], bytes]:
        made: Callable[[int, Message], bytes] = _encoder(cls)
        self[cls] = made
        return made


class _Decoders(dict[int, "Callable[[bytes, int, int], Message] | None"]):
    """Type number -> decoder, generated on first use; None if there is no such type."""

    def __missing__(self, kind: int) -> Callable[[bytes, int, int], Message] | None:
        made = _decoder(MESSAGES[kind]) if kind in MESSAGES else None
        self[kind] = made
        return made


encoders = _Encoders()  # for who has no time for encode()
_decoders = _Decoders()


def prepare() -> None:
    """Generate all of them now, in a process from which many others are forked."""
    for kind, cls in MESSAGES.items():
        encoders[cls], _decoders[kind] = _encoder(cls), _decoder(cls)


def prepare_to_answer(requests: Iterable[type[Message]]) -> None:
    """Generate now what a server needs for these."""
    for cls in requests:
        _decoders[cls.TYPE] = _decoder(cls)
        reply = MESSAGES[cls.TYPE + 1]
        encoders[reply] = _encoder(reply)
