"""Publishes task events to containerd, one after the other, in the order in which they were queued.

An event whose delivery fails stays at the head and is tried again: a later one must not overtake it, and one that
was lost because containerd was just restarting would never be asked for.
"""

import asyncio
import logging
import time
from collections import deque

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from proto.containerd import forward_pb2
from proto.ttrpc import aio
from proto.ttrpc.status import INVALID_ARGUMENT, ConnectionLost, RpcError

log = logging.getLogger(__name__)

SERVICE = "containerd.services.events.ttrpc.v1.Events"
QUEUE_LENGTH = 2048
CALL_TIMEOUT_S = 5.0
MAX_PAUSE_S = 5.0
MAX_REFUSALS = 5

# Message -> topic.
TOPICS = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskOOM": "/tasks/oom",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
}


def timestamp(unix_ns: int) -> Timestamp:
    """A protobuf Timestamp."""
    seconds, nanos = divmod(unix_ns, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


class Publisher:
    """A queue and the task that empties it.  With no address (CRI-O has none) events are dropped."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._queue: deque[bytes] = deque()
        self._client: aio.Client | None = None
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task = asyncio.create_task(self._run()) if address else None

    def publish(self, event: Message) -> None:
        """Queue an event; never waits."""
        if self._task is None:
            return
        if len(self._queue) >= QUEUE_LENGTH:
            log.error("event queue is full: the oldest event is lost")
            self._queue.popleft()
        self._queue.append(self._pack(event))
        self._filled.set()
        self._empty.clear()

    async def close(self, timeout_s: float) -> None:
        """Deliver what is queued, if that is possible in time, and stop."""
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            log.error("%d events were not delivered", len(self._queue))
        self._task.cancel()
        self._disconnect()

    def _pack(self, event: Message) -> bytes:
        name = event.DESCRIPTOR.name
        envelope = forward_pb2.Envelope(
            timestamp=timestamp(time.time_ns()), namespace=self._namespace, topic=TOPICS[name]
        )
        envelope.event.type_url = event.DESCRIPTOR.full_name
        envelope.event.value = event.SerializeToString()
        return forward_pb2.ForwardRequest(envelope=envelope).SerializeToString()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            while self._queue:
                head = self._queue[0]
                await self._deliver(head)
                if self._queue and self._queue[0] is head:  # it may have been dropped meanwhile
                    self._queue.popleft()
            self._filled.clear()
            self._empty.set()

    async def _deliver(self, event: bytes) -> None:
        """Send one event until containerd has taken it or refuses it for good."""
        refusals = 0
        pause_s = 0.0
        while True:
            try:
                await self._forward(event)
                return
            except RpcError as e:
                refusals += 1
                if e.code == INVALID_ARGUMENT or refusals == MAX_REFUSALS:
                    log.error("containerd refuses an event: %s", e)
                    return
            except (ConnectionLost, OSError) as e:  # TimeoutError is an OSError
                self._disconnect()
                if pause_s:
                    log.warning("cannot deliver an event yet: %s", e)
            # The first retry comes at once: a connection from before containerd's restart fails just once.
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s + 1.0, MAX_PAUSE_S)

    async def _forward(self, event: bytes) -> None:
        if self._client is None or self._client.closed:
            self._client = await aio.Client.connect(self._address, CALL_TIMEOUT_S)
        await self._client.call(SERVICE, "Forward", event, CALL_TIMEOUT_S)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
