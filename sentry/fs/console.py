"""A terminal whose master side is the Sentry: the console of a container, pumped to and from a host descriptor.

The host's end is a raw stream (a pseudo-terminal's master kept raw, a socket, a pipe); all
editing, echo and signals happen here, in our line discipline.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final

from sentry.abi.poll import ANY
from sentry.fs.devpts import DevPts, Slave
from sentry.fs.tty import QUEUE_LIMIT
from sentry.wait import Event, Waiter

if TYPE_CHECKING:
    from sentry.wait import Loop, Timer

CHUNK: Final = 16 << 10
SIZE_INTERVAL_NS: Final = 250_000_000
"""How long a new size of the host's terminal may go unnoticed."""


class Console:
    """Connects slave's terminal with the host descriptor fd, which becomes ours and is not to block.

    close() ends it as soon as everything was shown; when the host's end is closed, the terminal is hung
    up at once.  `ended` is set in the end.

    If fd is a terminal, ours has its size.  containerd's shim and conmon set that on the master and tell nobody, since
    the host's kernel would: by SIGWINCH to whoever has it as controlling terminal.  But a process has only one of
    these, and the Sentry any number of consoles; so we look, now and then and whenever something is typed.
    """

    def __init__(self, loop: Loop, slave: Slave, fd: int) -> None:
        self.slave = slave
        self.ended = Event(loop)
        self._closing = False
        self.tty = slave.tty
        self._loop = loop
        self._fd = fd
        os.set_blocking(fd, False)
        self._waiter = Waiter(ANY, lambda _events: self._tty_changed())
        self.tty.master_queue.add(self._waiter)
        self._watch()
        self._host_size: os.terminal_size | None = None
        self._look: Timer | None = None
        if os.isatty(fd):
            self._follow_size()

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def resize(self, rows: int, columns: int) -> None:
        self.tty.set_window(rows, columns)

    def close(self) -> None:
        """Show what is left, then end."""
        self._closing = True
        if not self.closed:
            self._go_on()

    def _hang_up(self) -> None:
        """Now; what was not shown yet is lost."""
        if self._look is not None:
            self._look.cancel()
        self._loop.unwatch_fd(self._fd)
        fd, self._fd = self._fd, -1
        os.close(fd)
        self.tty.master_queue.remove(self._waiter)
        self.slave.fs.forget(self.slave)
        self.tty.close_master()
        self.ended.set()

    # -- between the descriptor and the terminal --

    def _follow_size(self) -> None:
        self._take_size()
        self._look = self._loop.call_at(self._loop.now_ns() + SIZE_INTERVAL_NS, self._follow_size)

    def _take_size(self) -> None:
        """Ours changes only when the host's does: the application may have set another."""
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:  # "EIO": its master is closed, and we are about to hear of that
            return
        if size != self._host_size:
            self._host_size = size
            self.resize(size.lines, size.columns)

    def _watch(self) -> None:
        """Wait for whatever can go on: typing while there is room, the host while there is output."""
        events = 0
        if len(self.tty.typed) < QUEUE_LIMIT:
            events |= select.EPOLLIN
        if self.tty.output:
            events |= select.EPOLLOUT
        self._loop.watch_fd(self._fd, events, self._host_ready)

    def _host_ready(self, events: int) -> None:
        if events & select.EPOLLIN:
            self._fill()
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self._hang_up()
        if not self.closed:
            self._go_on()

    def _tty_changed(self) -> None:
        """There is something to show, or room to type again."""
        if not self.closed:
            self._go_on()

    def _go_on(self) -> None:
        self._drain()
        if self._closing and not self.closed and not self.tty.output:
            self._hang_up()
        if not self.closed:
            self._watch()

    def _fill(self) -> None:
        room = QUEUE_LIMIT - len(self.tty.typed)
        if not room:
            return
        try:
            data = os.read(self._fd, min(room, CHUNK))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            if self._look is not None:
                self._take_size()  # before the keys, as whoever sits there did it
            self.tty.type(data)
        else:
            self._hang_up()

    def _drain(self) -> None:
        """Show as much as the host takes."""
        output = self.tty.output
        while output:
            try:
                n = os.write(self._fd, output[:CHUNK])
            except BlockingIOError:
                return
            except OSError:  # nobody will see more
                self._hang_up()
                return
            self.tty.take_output(n)


def new_console(fs: DevPts, loop: Loop, fd: int, uid: int = 0, gid: int = 0) -> Console:
    """A terminal in fs for a process that is started with one.  ENOSPC: none is free; fd stays the caller's."""
    return Console(loop, fs.new_slave(uid, gid), fd)
