"""A synchronous client: one call at a time on one connected socket.

For several calls at once, as a long poll beside others, open one connection for each thread or use `aio`.
"""

import socket
import time
from collections.abc import Sequence
from typing import Self

from .connection import ClientConnection
from .message import Response
from .status import OK, ConnectionLost, RpcError

_CHUNK = 64 * 1024


class Client:
    """A ttrpc client on a connected stream socket, which it owns from now on."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._connection = ClientConnection()

    @classmethod
    def connect(cls, path: str, timeout: float | None = None) -> Self:
        """Connect to a unix socket.  Raises OSError; `timeout` in seconds is for connecting only."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
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
            response = self._receive(stream_id, deadline)
        finally:
            self._connection.forget(stream_id)
        if response.code != OK:
            raise RpcError(response.code, response.message)
        return response.payload

    def _send(self, data: bytes, fds: Sequence[int], deadline: float | None) -> None:
        try:
            self._arm(deadline)
            sent = socket.send_fds(self._sock, [data], list(fds)) if fds else self._sock.send(data)
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
