"""JSON by the interpreter's own scanner and encoder, without the package json around them.

That does little more with the same two functions, but loads re, and with it enum, functools and collections: a third
of the time that `pysc state` takes.  An interpreter that has them not, or otherwise, is left to json.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Plain:
    """What the scanner asks of a JSONDecoder: the defaults."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = float
    parse_int = int


_scan: Any = None
_encode: Any = None
try:
    import _json

    _halves: Any = _json
    _scan = _halves.make_scanner(_Plain)
    _encode = _halves.make_encoder(None, None, _halves.encode_basestring, None, ":", ",", False, False, True)
except (ImportError, AttributeError, TypeError):
    pass


def loads(text: str | bytes) -> Any:
    """The value of a JSON text.  Raises ValueError, saying where; RecursionError."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    if _scan is not None:
        try:
            value, end = _scan(text, 0)
            if not text[end:].strip(" \t\n\r"):
                return value
        except StopIteration:
            pass
    import json

    return json.loads(text)  # it begins with a blank, or is wrong: then json says how


def dumps(value: object) -> str:
    """A JSON text without blanks; characters beyond ASCII are left as they are."""
    if _encode is not None:
        return "".join(_encode(value, 0))
    import json

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def pretty(value: object, indent: str = "") -> str:
    """As dumps(), for people: each member of an object, and of those inside it, on a line of its own."""
    if not isinstance(value, dict) or not value:
        return dumps(value)
    inner = f"{indent}  "
    lines = [f"{inner}{dumps(str(key))}: {pretty(item, inner)}" for key, item in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
