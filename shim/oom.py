"""Hears of processes of a container that the host's kernel killed because the memory limit was reached.

cgroup v1 tells through an eventfd when there is no memory, before it kills; v2 by its file memory.events, which is
ready for EPOLLPRI after each change.  Either is only the reason to look at the counter of kills: that says what
happened.
"""

import asyncio
import logging
import os
import select
from collections.abc import Callable

from sandbox.cgroup_stats import oom_kills
from sandbox.cgroups import Cgroup

log = logging.getLogger(__name__)

LOOKS_S = (0.0, 0.01, 0.05, 0.2, 1.0)
"""Pauses before each look at the counter; v1 tells before it counts."""


class OomWatcher:
    """Calls `happened` once for each time that the counter was seen higher than before."""

    def __init__(self, cgroup: Cgroup | None, happened: Callable[[], None]) -> None:
        self._cgroup = cgroup
        self._happened = happened
        self._seen = oom_kills(cgroup) if cgroup is not None else 0
        self.told = False
        """Whether it was ever called."""
        self._fds: list[int] = []
        self._epoll: select.epoll | None = None
        self._looking: asyncio.Task[None] | None = None
        try:
            self._watch()
        except OSError as e:
            log.warning("out of memory is noticed only at a container's end: %s", e)

    def _watch(self) -> None:
        directory = self._cgroup.directory_of("memory") if self._cgroup is not None else None
        if self._cgroup is None or directory is None:
            return
        if self._cgroup.version == 1:
            ready = self._event_fd(directory)
        else:
            self._epoll = select.epoll()
            events = self._open(f"{directory}/memory.events")
            self._epoll.register(events, select.EPOLLPRI)
            ready = self._epoll.fileno()
        asyncio.get_running_loop().add_reader(ready, self._told)

    def _open(self, path: str, flags: int = os.O_RDONLY) -> int:
        fd = os.open(path, flags | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    def _event_fd(self, directory: str) -> int:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fds.append(fd)
        control = self._open(f"{directory}/memory.oom_control")
        os.write(self._open(f"{directory}/cgroup.event_control", os.O_WRONLY), f"{fd} {control}".encode())
        return fd

    def _told(self) -> None:
        if self._epoll is None:
            try:
                os.eventfd_read(self._fds[0])
            except BlockingIOError:
                return
        else:
            os.pread(self._fds[0], 4096, 0)
            self._epoll.poll(0)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        for pause_s in LOOKS_S:
            await asyncio.sleep(pause_s)
            if self._look_once():
                return

    def _look_once(self) -> bool:
        assert self._cgroup is not None
        count = oom_kills(self._cgroup)
        if count <= self._seen:
            return False
        self._seen = count
        self.told = True
        self._happened()
        return True

    def check(self) -> None:
        """Look now: whoever hears of a container's exit asks at once for the reason."""
        if self._cgroup is not None:
            self._look_once()

    def close(self) -> None:
        """Stop watching; idempotent."""
        if self._looking is not None:
            self._looking.cancel()
        if self._fds:
            ready = self._epoll.fileno() if self._epoll is not None else self._fds[0]
            asyncio.get_running_loop().remove_reader(ready)
        if self._epoll is not None:
            self._epoll.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._epoll = None
