"""The protobuf wire format, as much of it as a handful of small messages needs.

It exists so that a process which speaks ttrpc need not load a protobuf library: the ttrpc envelopes and the few
messages on a quick start path are encoded and decoded with these functions.  Schemas live in the callers.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


VARINT = 0
I64 = 1
LEN = 2
I32 = 5

_U64 = (1 << 64) - 1


class DecodeError(ValueError):
    """The bytes are not a protobuf message, or a field has an unexpected wire type."""


def varint(value: int) -> bytes:
    """Encode value; a negative one as its 64-bit two's complement, as int32, int64 and enum fields do."""
    value &= _U64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def int_field(number: int, value: int) -> bytes:
    """An integer, enum or bool field; nothing when it has the default value."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """A bytes or string field or a nested message, present even when empty."""
    return varint(number << 3 | LEN) + varint(len(value)) + value


def text_field(number: int, value: str) -> bytes:
    """A string field; nothing when it is empty."""
    return bytes_field(number, value.encode()) if value else b""


def fields(data: bytes) -> "Iterator[tuple[int, int | bytes]]":
    """Yield (field number, value) in wire order: int for varints, bytes for everything else.

    Raises DecodeError as soon as the data turns out to be no message.
    """
    offset = 0
    while offset < len(data):
        tag, offset = _read_varint(data, offset)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise DecodeError("field number 0")
        if wire_type == VARINT:
            value, offset = _read_varint(data, offset)
            yield number, value
            continue
        if wire_type == LEN:
            size, offset = _read_varint(data, offset)
        elif wire_type == I64:
            size = 8
        elif wire_type == I32:
            size = 4
        else:
            raise DecodeError(f"field {number}: wire type {wire_type}")
        if size > len(data) - offset:
            raise DecodeError(f"field {number}: truncated")
        yield number, data[offset : offset + size]
        offset += size


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(data):
            raise DecodeError("truncated varint")
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, offset
    raise DecodeError("varint longer than 10 bytes")


def as_int(value: int | bytes) -> int:
    """The value of an int64, int32 or enum field."""
    if not isinstance(value, int):
        raise DecodeError("expected a varint")
    return value - (1 << 64) if value >> 63 else value


def as_bytes(value: int | bytes) -> bytes:
    """The value of a bytes field or the encoding of a nested message."""
    if not isinstance(value, bytes):
        raise DecodeError("expected length-delimited bytes")
    return value


def as_text(value: int | bytes) -> str:
    """The value of a string field."""
    try:
        return as_bytes(value).decode()
    except UnicodeDecodeError:
        raise DecodeError("string is not UTF-8") from None
