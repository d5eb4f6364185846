"""The shim's end of a sandbox's control socket: proto.control's messages over asyncio ttrpc."""

import socket
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from proto import control
from proto.ttrpc import aio
from proto.ttrpc.status import DEADLINE_EXCEEDED, INTERNAL, RpcError

M = TypeVar("M", bound=control.Message)

CALL_TIMEOUT_S = 30.0
LIST_TIMEOUT_S = 2.0


class ControlClient:
    """Calls one container's Sentry.  Everything raises RpcError, or ConnectionLost when it is dead."""

    def __init__(self, sock: socket.socket, container_id: str) -> None:
        self._client = aio.Client(sock)
        self._id = container_id

    def close(self) -> None:
        """End the connection; idempotent."""
        self._client.close()

    async def exec(self, exec_id: str, process: dict[str, Any], terminal: bool, fds: Mapping[str, int]) -> int:
        """Start another process; its pid inside the container."""
        request = control.Exec(self._id, exec_id, process, terminal, list(fds))
        return (await self._call(request, control.ExecResponse, fds=list(fds.values()))).pid

    async def wait(self, exec_id: str) -> control.ExitStatus:
        """Wait until a process has ended, however long it takes."""
        return await self._call(control.Wait(self._id, exec_id), control.ExitStatus, timeout=None)

    async def signal(self, exec_id: str, signal: int, all: bool) -> None:
        """Send a signal; RpcError with NOT_FOUND if there is nobody left."""
        await self._call(control.Signal(self._id, signal, exec_id, all), control.Empty)

    async def pause(self) -> None:
        """Freeze the container's processes."""
        await self._call(control.Pause(self._id), control.Empty)

    async def resume(self) -> None:
        """Let them run on."""
        await self._call(control.Resume(self._id), control.Empty)

    async def resize(self, exec_id: str, rows: int, cols: int) -> None:
        """Tell the terminal's new size."""
        await self._call(control.Resize(self._id, rows, cols, exec_id), control.Empty)

    async def processes(self) -> list[control.Process]:
        """All processes of the container."""
        answer = await self._call(control.Processes(self._id), control.ProcessesResponse, timeout=LIST_TIMEOUT_S)
        return answer.processes

    async def _call(
        self,
        request: control.Message,
        kind: type[M],
        timeout: float | None = CALL_TIMEOUT_S,
        fds: Sequence[int] = (),
    ) -> M:
        method = type(request).__name__
        try:
            payload = await self._client.call(control.SERVICE, method, request.to_json(), timeout, fds)
            return kind.from_json(payload)
        except TimeoutError:
            raise RpcError(DEADLINE_EXCEEDED, f"the sandbox does not answer {method} in time") from None
        except control.MessageError as e:
            raise RpcError(INTERNAL, f"the sandbox's answer to {method}: {e}") from None
