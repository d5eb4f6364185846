"""A synchronous client: one call at a time on one connected socket.

A call is a request and, later, its response: who has other things to wait for polls fileno() in between.  For several
calls at once open several connections or use `aio`.
"""

from __future__ import annotations

import time
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket
from struct import pack

from .connection import ClientConnection
from .message import Response
from .status import OK, ConnectionLost, RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

_CHUNK = 64 * 1024


class Client:
    """A ttrpc client on a connected stream socket, which it owns from now on."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._connection = ClientConnection()

    @classmethod
    def connect(cls, path: str, timeout: float | None = None) -> Self:
        """Connect to a unix socket.  Raises OSError; `timeout` in seconds is for connecting only."""
        sock = socket(AF_UNIX, SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._sock.close()

    def fileno(self) -> int:
        """Readable when there is something to receive."""
        return self._sock.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self, service: str, method: str, payload: bytes, timeout: float | None = None, fds: Sequence[int] = ()
    ) -> bytes:
        """Call a method and return the response's payload.

        `fds` stay the caller's; the server gets copies.  Raises RpcError when the server answers with an error,
        ConnectionLost, and TimeoutError after `timeout` seconds: if the request was not sent whole by then, the
        connection is closed, else it remains usable.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        stream_id, data = self._connection.request(service, method, payload, int((timeout or 0) * 1e9))
        try:
            self._send(data, fds, deadline)
            return self._result(stream_id, deadline)
        finally:
            self._connection.forget(stream_id)

    def request(self, service: str, method: str, payload: bytes) -> int:
        """Begin a call that may take for ever; what `result` wants to know.  Raises ConnectionLost."""
        stream_id, data = self._connection.request(service, method, payload)
        self._send(data, (), None)
        return stream_id

    def result(self, stream_id: int) -> bytes:
        """Wait for the response of a call that has begun; its payload.  Raises RpcError and ConnectionLost."""
        return self._result(stream_id, None)

    def _result(self, stream_id: int, deadline: float | None) -> bytes:
        response = self._receive(stream_id, deadline)
        if response.code != OK:
            raise RpcError(response.code, response.message)
        return response.payload

    def _send(self, data: bytes, fds: Sequence[int], deadline: float | None) -> None:
        try:
            self._arm(deadline)
            rights = [(SOL_SOCKET, SCM_RIGHTS, pack(f"{len(fds)}i", *fds))] if fds else []
            sent = self._sock.sendmsg([data], rights)
            while sent < len(data):
                self._arm(deadline)
                sent += self._sock.send(data[sent:])
        except TimeoutError:
            self.close()
            raise
        except OSError as e:
            self.close()
            raise ConnectionLost(f"cannot send: {e}") from e

    def _receive(self, stream_id: int, deadline: float | None) -> Response:
        while True:
            self._arm(deadline)
            try:
                data = self._sock.recv(_CHUNK)
            except TimeoutError:
                raise
            except OSError as e:
                raise ConnectionLost(f"cannot receive: {e}") from e
            if not data:
                raise ConnectionLost("the server closed the connection")
            for response in self._connection.receive(data):
                if response.stream_id == stream_id:
                    return response

    def _arm(self, deadline: float | None) -> None:
        if deadline is None:
            self._sock.settimeout(None)
            return
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(remaining)
