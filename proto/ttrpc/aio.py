"""ttrpc over asyncio: a client with many calls in flight and a server that runs each request in its own task.

Both sit on a raw non-blocking socket and the loop's readiness callbacks rather than on asyncio streams, because
those can carry no file descriptors.
"""

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from .connection import ClientConnection, ServerConnection
from .message import Request, Response
from .status import OK, UNIMPLEMENTED, UNKNOWN, ConnectionLost, RpcError

log = logging.getLogger(__name__)

_CHUNK = 64 * 1024

Handler = Callable[[Request], Awaitable[bytes]]
"""Answers one request with the response's payload, or raises RpcError."""


@dataclass(slots=True)
class _Outgoing:
    """A frame in the write queue; the descriptors leave with its first byte."""

    data: memoryview
    fds: Sequence[int]
    started: bool = False


class _Channel:
    """A connected socket driven by the loop: queues writes, reports reads and, once, the end.

    `received(data)` gets what arrived; `ended()` is called after end of file, an error or close().
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._received = received
        self._ended = ended
        self._queue: deque[_Outgoing] = deque()
        self._closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    @property
    def closed(self) -> bool:
        return self._closed

    def write(self, data: bytes, fds: Sequence[int] = ()) -> _Outgoing | None:
        """Queue one frame, or send it at once.  Returns the handle for unwrite() if it had to be queued."""
        if self._closed or not data:
            return None
        outgoing = _Outgoing(memoryview(data), fds)
        self._queue.append(outgoing)
        if len(self._queue) > 1:
            return outgoing
        self._flush()
        return outgoing if self._queue else None

    def unwrite(self, outgoing: _Outgoing | None) -> None:
        """Take a frame of which nothing has been sent out of the queue again."""
        if outgoing is not None and not outgoing.started and outgoing in self._queue:
            self._queue.remove(outgoing)

    def close(self) -> None:
        """Close the socket and report the end; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._ended()

    def _flush(self) -> None:
        try:
            while self._queue:
                self._send(self._queue[0])
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._flush)
            return
        except OSError as e:
            log.debug("send: %s", e)
            self.close()
            return
        self._loop.remove_writer(self._sock)

    def _send(self, outgoing: _Outgoing) -> None:
        """Send what the socket takes of one frame, and drop the frame from the queue when it has gone whole."""
        if outgoing.fds and not outgoing.started:
            sent = socket.send_fds(self._sock, [outgoing.data], list(outgoing.fds))
        else:
            sent = self._sock.send(outgoing.data)
        outgoing.started = True
        outgoing.data = outgoing.data[sent:]
        if not outgoing.data:
            self._queue.popleft()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            log.debug("receive: %s", e)
            data = b""
        if data:
            self._received(data)
        else:
            self.close()


class Client:
    """A client on a connected stream socket, which it owns from now on.  Make it inside the running loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._connection = ClientConnection()
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self._closed = asyncio.get_running_loop().create_future()
        self._channel = _Channel(sock, self._on_data, self._on_end)

    @classmethod
    async def connect(cls, path: str, timeout: float | None = None) -> Self:
        """Connect to a unix socket.  Raises OSError, of which TimeoutError is one."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._channel.closed

    async def wait_closed(self) -> None:
        """Wait until the connection has ended."""
        await asyncio.shield(self._closed)

    def close(self) -> None:
        """End the connection; calls in flight raise ConnectionLost.  Idempotent."""
        self._channel.close()

    async def call(
        self, service: str, method: str, payload: bytes, timeout: float | None = None, fds: Sequence[int] = ()
    ) -> bytes:
        """Call a method and return the response's payload.

        `fds` stay the caller's and must remain open until this returns; the server gets copies.  Raises RpcError when
        the server answers with an error, ConnectionLost, and TimeoutError after `timeout` seconds.  Cancelling is
        harmless: the stream is forgotten.
        """
        if self._channel.closed:
            raise ConnectionLost("the connection is closed")
        stream_id, data = self._connection.request(service, method, payload, int((timeout or 0) * 1e9))
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[stream_id] = answer
        unsent = None
        try:
            unsent = self._channel.write(data, fds)
            async with asyncio.timeout(timeout):
                response = await answer
        finally:
            self._channel.unwrite(unsent)
            self._connection.forget(stream_id)
            self._waiting.pop(stream_id, None)
        if response.code != OK:
            raise RpcError(response.code, response.message)
        return response.payload

    def _on_data(self, data: bytes) -> None:
        for response in self._connection.receive(data):
            answer = self._waiting.get(response.stream_id)
            if answer is not None and not answer.done():
                answer.set_result(response)

    def _on_end(self) -> None:
        self._closed.set_result(None)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionLost("the server closed the connection"))


class Server:
    """Serves methods on a listening unix socket, which it owns from now on.

    `services` maps a service's full name to its methods.  When a client goes away its handlers are cancelled; one
    that must not be interrupted shields itself.  A peer must have our own uid and gid, as with Go's server.
    Descriptors are not received.
    """

    def __init__(self, services: Mapping[str, Mapping[str, Handler]]) -> None:
        self._services = services
        self._listener: socket.socket | None = None
        self._connections: set[_ServedConnection] = set()

    def start(self, listener: socket.socket) -> None:
        """Begin to accept; returns at once."""
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._acceptable)

    def stop_accepting(self) -> None:
        """Close the listening socket; connections go on.  Idempotent."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Stop accepting and end all connections; their handlers are cancelled."""
        self.stop_accepting()
        for connection in list(self._connections):
            connection.channel.close()

    async def drain(self) -> None:
        """Wait until every request that has been received is answered."""
        while tasks := [task for connection in self._connections for task in connection.tasks]:
            await asyncio.wait(tasks)

    def _acceptable(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        if _is_own_user(sock):
            self._connections.add(_ServedConnection(sock, self._services, self._connections.discard))
        else:
            log.warning("refused a connection from another user")
            sock.close()


def _is_own_user(sock: socket.socket) -> bool:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _pid, uid, gid = struct.unpack("iII", raw)
    return (uid, gid) == (os.geteuid(), os.getegid())


class _ServedConnection:
    """One accepted connection and the tasks that work for it."""

    def __init__(
        self,
        sock: socket.socket,
        services: Mapping[str, Mapping[str, Handler]],
        ended: "Callable[[_ServedConnection], None]",
    ) -> None:
        self._services = services
        self._connection = ServerConnection()
        self._ended = ended
        self.tasks: set[asyncio.Task[None]] = set()
        self.channel = _Channel(sock, self._on_data, self._on_end)

    def _on_data(self, data: bytes) -> None:
        for request in self._connection.receive(data):
            task = asyncio.create_task(self._serve(request))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        self.channel.write(self._connection.data_to_send())

    def _on_end(self) -> None:
        self._connection.close()
        for task in self.tasks:
            task.cancel()
        self._ended(self)

    async def _serve(self, request: Request) -> None:
        stream_id = request.stream_id
        try:
            payload = await self._handler(request)(request)
            answer = self._connection.respond(stream_id, payload)
        except RpcError as e:
            answer = self._connection.error(stream_id, e.code, e.message)
        except Exception as e:
            log.exception("%s.%s failed", request.service, request.method)
            answer = self._connection.error(stream_id, UNKNOWN, f"{type(e).__name__}: {e}")
        self.channel.write(answer)

    def _handler(self, request: Request) -> Handler:
        methods = self._services.get(request.service)
        if methods is not None and (handler := methods.get(request.method)) is not None:
            return handler
        if methods is None:
            raise RpcError(UNIMPLEMENTED, f"service {request.service}")
        raise RpcError(UNIMPLEMENTED, f"method {request.method}")
