"""The serving process: one for a container of its own or for a pod, from the fork in `start` to Shutdown."""

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import TextIO

from proto.ttrpc import aio
from sandbox import hostcalls
from sandbox.spawn import Nursery
from shim.address import leave_state_root, remove, state_root
from shim.events import Publisher
from shim.reaper import Reaper
from shim.rest import RestingSelector, Workers
from shim.service import NAMES, Surroundings, TaskService
from shim.tasks import Background

log = logging.getLogger(__name__)

IDLE_LIMIT_S = 60.0
IDLE_VARIABLE = "PYSC_SHIM_IDLE"
"""In the environment of containerd: another limit, in seconds."""
FLUSH_TIMEOUT_S = 5.0
SETTLE_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 2.0
MAX_THREADS = 32


@dataclass(slots=True)
class Config:
    """What `start` knows."""

    namespace: str
    id: str
    debug: bool
    socket_path: str
    events_address: str
    """containerd's ttrpc socket; "" if there is none."""
    nursery_fd: int


def serve(config: Config, listener_fd: int) -> int:
    """Serve on a socket that listens already, until told to stop; the process's exit status."""
    set_up_logging(config)
    # Threads are made on demand; many containers may be made at once, and none should wait for another.
    workers = Workers(MAX_THREADS)
    loop = asyncio.SelectorEventLoop(RestingSelector(workers))
    loop.set_default_executor(workers)
    asyncio.set_event_loop(loop)
    loop.run_until_complete(Daemon(config).run(socket.socket(fileno=listener_fd)))
    return 0  # whoever forked us ends the process now; closing the loop would only take time


class Daemon:
    """Wires the parts together and ends them in order."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopping = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """From the first connection to the last trace."""
        config = self._config
        hostcalls.prctl(hostcalls.PR_SET_CHILD_SUBREAPER, 1)
        background = Background()
        publisher = Publisher(config.events_address, config.namespace)
        root = state_root(config.namespace)
        nursery = Nursery(config.nursery_fd)
        surroundings = Surroundings(
            config.namespace, root, config.debug, publisher, Reaper(), background, nursery, self._stopping.set
        )
        service = TaskService(surroundings)
        server = aio.Server({name: service.methods() for name in NAMES})
        server.start(listener)
        self._handle_signals(service)
        idle = asyncio.create_task(self._stop_when_idle(service))
        await self._stopping.wait()
        idle.cancel()
        # The name goes first: a new shim of the same group can then bind it while this one still listens.
        remove(config.socket_path)
        server.stop_accepting()
        await service.close()
        leave_state_root(config.namespace)
        nursery.close()
        await publisher.close(FLUSH_TIMEOUT_S)
        await background.settle(SETTLE_TIMEOUT_S)
        await asyncio.wait([asyncio.create_task(server.drain())], timeout=DRAIN_TIMEOUT_S)
        server.close()

    def _handle_signals(self, service: TaskService) -> None:
        """An orderly end is for a shim without containers only: they would be left without a parent."""

        def asked_to_end() -> None:
            if service.is_empty:
                self._stopping.set()
            else:
                log.warning("ignored a request to end: there are containers left")

        for signo in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signo, asked_to_end)
        faulthandler.register(signal.SIGUSR1, all_threads=True)

    async def _stop_when_idle(self, service: TaskService) -> None:
        """End a shim that never gets its container, because containerd or its client died in between."""
        limit_s = _idle_limit_s()
        while await service.gets_container(limit_s):
            await service.gets_empty()
        log.warning("no container for %.0f s: ending", limit_s)
        self._stopping.set()


def _idle_limit_s() -> float:
    try:
        return float(os.environ[IDLE_VARIABLE])
    except (KeyError, ValueError):
        return IDLE_LIMIT_S


class _Formatter(logging.Formatter):
    """One line a message, in the form of containerd's own log, where it ends up."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fraction = int(record.created % 1 * 1e9)
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        quoted = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        level = record.levelname.lower()
        return f'time="{seconds}.{fraction:09}Z" level={level} msg="{quoted}" shim=pysc logger={record.name}'


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the bundle's log FIFO; while nobody reads it or it is full, messages are lost."""

    def handleError(self, record: logging.LogRecord) -> None:
        """containerd is down or slow; that is no reason to fail."""


def set_up_logging(config: Config) -> None:
    """Log to standard error, the bundle's log FIFO."""
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.DEBUG if config.debug else logging.INFO, handlers=[handler])
    log.info("shim of %s in namespace %s, pid %d", config.id, config.namespace, os.getpid())
