"""ttrpc over real unix sockets: the blocking client, the asyncio client and server, descriptors on the way."""

import array
import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proto.ttrpc import aio, blocking
from proto.ttrpc.connection import ServerConnection
from proto.ttrpc.message import Request
from proto.ttrpc.status import NOT_FOUND, UNIMPLEMENTED, UNKNOWN, ConnectionLost, RpcError

Answer = Callable[[ServerConnection, Request], bytes]


def serve(sock: socket.socket, answer: Answer, chunk: int = 65536) -> None:
    """A minimal blocking server on the sans-io connection, as a process without asyncio would write it."""
    connection = ServerConnection()
    with sock:
        while True:
            data, ancillary, _, _ = sock.recvmsg(chunk, 4096, socket.MSG_CMSG_CLOEXEC)
            if not data:
                return
            fds = array.array("i")
            for _, _, raw in ancillary:
                fds.frombytes(raw)
            for request in connection.receive(data, list(fds)):
                sock.sendall(answer(connection, request))


@contextmanager
def server_thread(answer: Answer, chunk: int = 65536) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs, answer, chunk))
    thread.start()
    try:
        yield ours
    finally:
        with suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        ours.close()
        thread.join()


def echo(connection: ServerConnection, request: Request) -> bytes:
    if request.method == "Fail":
        return connection.error(request.stream_id, NOT_FOUND, "no such thing: not found")
    return connection.respond(request.stream_id, request.payload)


def write_to_fds(connection: ServerConnection, request: Request) -> bytes:
    """Write the payload's first byte to each descriptor, then close them: shows which request got which."""
    for fd in request.fds:
        os.write(fd, request.payload[:1])
        os.close(fd)
    return connection.respond(request.stream_id, str(len(request.fds)).encode())


def test_blocking_call_returns_payload_and_raises_status() -> None:
    with server_thread(echo) as sock, blocking.Client(sock) as client:
        assert client.call("s", "Echo", b"hello") == b"hello"
        assert client.call("s", "Echo", b"x" * 1_000_000, timeout=20) == b"x" * 1_000_000
        with pytest.raises(RpcError) as e:
            client.call("s", "Fail", b"")
        assert (e.value.code, e.value.message) == (NOT_FOUND, "no such thing: not found")
        assert client.call("s", "Echo", b"") == b""


def test_blocking_call_times_out_and_goes_on() -> None:
    def silent_first(connection: ServerConnection, request: Request) -> bytes:
        return b"" if request.method == "Silent" else connection.respond(request.stream_id, b"ok")

    with server_thread(silent_first) as sock, blocking.Client(sock) as client:
        with pytest.raises(TimeoutError):
            client.call("s", "Silent", b"", timeout=0.02)
        assert client.call("s", "Echo", b"", timeout=20) == b"ok"


def test_blocking_call_reports_a_lost_connection() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with blocking.Client(ours) as client, pytest.raises(ConnectionLost):
        client.call("s", "m", b"")


@pytest.mark.parametrize("chunk", [1, 11, 65536])
def test_descriptors_arrive_with_their_request(chunk: int) -> None:
    reader, writer = os.pipe()
    try:
        with server_thread(write_to_fds, chunk) as sock, blocking.Client(sock) as client:
            assert client.call("s", "m", b"-") == b"0"
            assert client.call("s", "m", b"A" * 300, fds=[writer, writer]) == b"2"
            assert client.call("s", "m", b"B", fds=[writer]) == b"1"
        assert os.read(reader, 100) == b"AAB"
    finally:
        os.close(reader)
        os.close(writer)


async def test_concurrent_aio_calls_keep_their_descriptors_apart() -> None:
    pipes = [os.pipe() for _ in range(6)]
    try:
        with server_thread(write_to_fds) as sock:
            client = aio.Client(sock)
            calls = [
                client.call("s", "m", bytes([65 + i]) * 50_000 * i or b"A", fds=[w] if i % 2 else [])
                for i, (_, w) in enumerate(pipes)
            ]
            assert await asyncio.gather(*calls) == [b"0", b"1"] * 3
            client.close()
        assert [os.read(r, 9) for r, _ in pipes[1::2]] == [b"B", b"D", b"F"]
    finally:
        for pair in pipes:
            for fd in pair:
                os.close(fd)


class Service:
    """Methods that wait for each other, so that order is visible."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self, request: Request) -> bytes:
        self.started.set()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request.payload

    async def release(self, _: Request) -> bytes:
        self.released.set()
        return b"released"

    async def fail(self, request: Request) -> bytes:
        if request.payload:
            raise RpcError(NOT_FOUND, "not found")
        raise KeyError("bug")

    def table(self) -> dict[str, dict[str, aio.Handler]]:
        return {"svc": {"Wait": self.wait, "Release": self.release, "Fail": self.fail}}


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def server(service: Service, tmp_path: Path) -> "aio.Server":
    server = aio.Server(service.table())
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    server.start(listener)
    return server


@pytest.fixture
async def client(server: aio.Server, tmp_path: Path) -> "aio.Client":
    return await aio.Client.connect(str(tmp_path / "s"), timeout=20)


async def test_long_call_does_not_hold_up_others(client: aio.Client) -> None:
    waiting = asyncio.create_task(client.call("svc", "Wait", b"me"))
    assert await client.call("svc", "Release", b"") == b"released"
    assert await waiting == b"me"


@pytest.mark.parametrize(
    ("service_name", "method", "payload", "code", "message"),
    [
        ("svc", "Nope", b"", UNIMPLEMENTED, "method Nope"),
        ("nope", "Wait", b"", UNIMPLEMENTED, "service nope"),
        ("svc", "Fail", b"x", NOT_FOUND, "not found"),
        ("svc", "Fail", b"", UNKNOWN, "KeyError: 'bug'"),
    ],
)
async def test_failures_have_codes(
    client: aio.Client, service_name: str, method: str, payload: bytes, code: int, message: str
) -> None:
    with pytest.raises(RpcError) as e:
        await client.call(service_name, method, payload)
    assert (e.value.code, e.value.message) == (code, message)


async def test_handlers_are_cancelled_when_their_client_goes(client: aio.Client, service: Service) -> None:
    call = asyncio.create_task(client.call("svc", "Wait", b""))
    await service.started.wait()
    client.close()
    with pytest.raises(ConnectionLost):
        await call
    await asyncio.wait_for(service.cancelled.wait(), 20)


async def test_closing_the_server_ends_the_clients(client: aio.Client, server: aio.Server, service: Service) -> None:
    call = asyncio.create_task(client.call("svc", "Wait", b""))
    await service.started.wait()
    server.close()
    with pytest.raises(ConnectionLost):
        await call
    await asyncio.wait_for(client.wait_closed(), 20)
    with pytest.raises(ConnectionLost):
        await client.call("svc", "Wait", b"")


async def test_drain_waits_for_outstanding_answers(client: aio.Client, server: aio.Server, service: Service) -> None:
    call = asyncio.create_task(client.call("svc", "Wait", b"x"))
    await service.started.wait()
    server.stop_accepting()
    drained = asyncio.create_task(server.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    service.released.set()
    await drained
    assert await call == b"x"


async def test_timeout_and_cancellation_leave_the_connection_usable(client: aio.Client, service: Service) -> None:
    with pytest.raises(TimeoutError):
        await client.call("svc", "Wait", b"", timeout=0.02)
    call = asyncio.create_task(client.call("svc", "Wait", b""))
    await service.started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await client.call("svc", "Release", b"") == b"released"


async def test_request_that_never_left_is_taken_back_on_cancellation() -> None:
    """Its descriptors may be closed by the caller as soon as the call has raised."""
    ours, theirs = socket.socketpair()
    client = aio.Client(ours)
    first = asyncio.create_task(client.call("s", "Big", bytes(4_000_000)))
    reader, writer = os.pipe()
    second = asyncio.create_task(client.call("s", "Second", b"", fds=[writer]))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    os.close(writer)

    methods: list[str] = []

    def record(connection: ServerConnection, request: Request) -> bytes:
        methods.append(request.method)
        return echo(connection, request)

    thread = threading.Thread(target=serve, args=(theirs, record))
    thread.start()
    assert len(await first) == 4_000_000
    client.close()
    await asyncio.to_thread(thread.join)
    assert methods == ["Big"]
    assert os.read(reader, 1) == b""
    os.close(reader)
