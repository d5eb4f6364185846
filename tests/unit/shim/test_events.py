"""The event queue against a real ttrpc server that plays containerd."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proto.containerd.events_pb2 import TaskExit, TaskStart
from proto.containerd.forward_pb2 import ForwardRequest
from proto.ttrpc import aio
from proto.ttrpc.message import Request
from proto.ttrpc.status import INVALID_ARGUMENT, UNAVAILABLE, RpcError
from shim import events
from shim.events import Publisher


class Containerd:
    """An Events service that notes what it gets; `refusals` are raised first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: list[str] = []
        self.envelopes: list[ForwardRequest] = []
        self.refusals: list[Exception] = []
        self._server: aio.Server | None = None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        self._server = aio.Server({events.SERVICE: {"Forward": self.forward}})
        self._server.start(listener)

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def forward(self, request: Request) -> bytes:
        if self.refusals:
            raise self.refusals.pop(0)
        forwarded = ForwardRequest.FromString(request.payload)
        self.envelopes.append(forwarded)
        self.topics.append(forwarded.envelope.topic)
        return b""


@pytest.fixture
async def containerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Containerd]:
    monkeypatch.setattr(events, "MAX_PAUSE_S", 0.01)
    containerd = Containerd(tmp_path / "s")
    containerd.start()
    yield containerd
    containerd.stop()


@pytest.fixture
async def publisher(containerd: Containerd) -> Publisher:
    return Publisher(str(containerd.path), "ns1")


async def test_envelope_has_what_containerd_demands(containerd: Containerd, publisher: Publisher) -> None:
    publisher.publish(TaskExit(container_id="c1", id="e1", exit_status=3))
    await publisher.close(20)
    [forwarded] = containerd.envelopes
    envelope = forwarded.envelope
    assert (envelope.namespace, envelope.topic) == ("ns1", "/tasks/exit")
    assert envelope.timestamp.seconds > 0
    assert envelope.event.type_url == "containerd.events.TaskExit"
    assert TaskExit.FromString(envelope.event.value).exit_status == 3


async def test_order_survives_failures(containerd: Containerd, publisher: Publisher) -> None:
    containerd.refusals = [RpcError(UNAVAILABLE, "busy"), RuntimeError("crash")]
    publisher.publish(TaskStart(container_id="c1"))
    publisher.publish(TaskExit(container_id="c1"))
    await publisher.close(20)
    assert containerd.topics == ["/tasks/start", "/tasks/exit"]


async def test_events_outlive_a_restart_of_containerd(containerd: Containerd, publisher: Publisher) -> None:
    publisher.publish(TaskStart(container_id="c1"))
    while not containerd.topics:
        await asyncio.sleep(0.001)
    containerd.stop()
    publisher.publish(TaskExit(container_id="c1"))
    await asyncio.sleep(0.03)
    containerd.start()
    await publisher.close(20)
    assert containerd.topics == ["/tasks/start", "/tasks/exit"]


async def test_event_refused_for_good_does_not_hold_up_the_rest(containerd: Containerd, publisher: Publisher) -> None:
    containerd.refusals = [RpcError(INVALID_ARGUMENT, "bad")]
    publisher.publish(TaskStart(container_id="c1"))
    publisher.publish(TaskExit(container_id="c1"))
    await publisher.close(20)
    assert containerd.topics == ["/tasks/exit"]


async def test_close_gives_up_when_containerd_is_gone(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path / "nobody"), "ns1")
    publisher.publish(TaskStart(container_id="c1"))
    await asyncio.wait_for(publisher.close(0.02), 20)


async def test_without_an_address_events_are_dropped() -> None:
    publisher = Publisher("", "ns1")
    publisher.publish(TaskStart(container_id="c1"))
    await publisher.close(0)


async def test_full_queue_drops_the_oldest(containerd: Containerd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE_LENGTH", 2)
    publisher = Publisher(str(containerd.path), "ns1")
    for n in range(4):
        publisher.publish(TaskStart(container_id=str(n)))
    await publisher.close(20)
    ids = [TaskStart.FromString(e.envelope.event.value).container_id for e in containerd.envelopes]
    assert ids == ["2", "3"]
