"""Status codes of a call (the gRPC numbers) and the exceptions of this package.

`RpcError` is the outcome of one call and leaves the connection alone; `ProtocolError` and `ConnectionLost` end the
connection.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
ABORTED: Final = 10
OUT_OF_RANGE: Final = 11
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
DATA_LOSS: Final = 15
UNAUTHENTICATED: Final = 16

NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class TtrpcError(Exception):
    """Base of everything this package raises on purpose."""


class RpcError(TtrpcError):
    """A call ended with a status other than OK.  Servers raise it, clients receive it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __repr__(self) -> str:
        name = NAMES[self.code] if 0 <= self.code < len(NAMES) else str(self.code)
        return f"RpcError({name}, {self.message!r})"


class ProtocolError(TtrpcError):
    """The peer sent bytes that are not ttrpc."""


class ConnectionLost(TtrpcError):
    """The connection ended before the response arrived."""
