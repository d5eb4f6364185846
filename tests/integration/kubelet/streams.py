"""Exec, Attach and PortForward: the service gives a URL, at which its streaming server speaks over a web socket.

Each message is one byte for the channel, and data (k8s.io/apimachinery's wsstream, protocol v4.channel.k8s.io).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
SECONDS = 60


class Stream:
    """The channels of one connection; what came from each is collected."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.received: dict[int, bytes] = {}

    async def send(self, channel: int, data: bytes) -> None:
        await self._socket.send_bytes(bytes([channel]) + data)

    async def resize(self, rows: int, columns: int) -> None:
        await self.send(RESIZE, json.dumps({"Height": rows, "Width": columns}).encode())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Reads on until it is true; AssertionError at the end of the connection or of the time."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                assert await self._read(), f"the connection ended: {self.received}"

    async def expect(self, text: bytes, channel: int = STDOUT) -> None:
        await self.until(lambda: text in self.received.get(channel, b""))

    async def end(self) -> Any:
        """The status that the server sends last, once it has closed; None where it has sent none."""
        async with asyncio.timeout(SECONDS):
            while await self._read():
                pass
        return json.loads(self.received[ERROR]) if self.received.get(ERROR) else None

    async def _read(self) -> bool:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            return False
        channel, data = message.data[0], message.data[1:]
        self.received[channel] = self.received.get(channel, b"") + data
        return True


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Stream]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url, protocols=[PROTOCOL]) as socket:
        assert socket.protocol == PROTOCOL
        yield Stream(socket)
