"""Waits for a process as if it were our own child: signals are passed on, a terminal is relayed, its status is ours.

One loop polls the sandbox's answer that says so, signals (through a wake-up pipe), the user's terminal and the
container's console.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal has, but not made into enums
import os
import select
import sys
import termios
import tty

from sandbox.console import window_size
from sandbox.errors import SandboxError
from sandbox.sandbox import Sandbox, Waiting

FORWARDED = (
    _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGALRM,
    _signal.SIGCONT, _signal.SIGWINCH,
)  # fmt: skip

_CHUNK = 16 * 1024
_DRAIN_SECONDS = 0.5
"""How long output may still come after the end, if somebody else keeps the console open."""


def supervise(sandbox: Sandbox, exec_id: str = "", console: int | None = None, start: bool = False) -> int:
    """Stay until the process ends; returns its exit status.  `console`: the master side of its terminal.

    `start`: it has not begun yet. From its first instruction on, signals to us are signals to it.
    """
    return _Supervisor(sandbox, exec_id, console).run(start)


class _RawTerminal:
    """Every key goes to the container, Ctrl-C too; the terminal is as it was afterwards."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before = termios.tcgetattr(fd) if os.isatty(fd) else None

    def __enter__(self) -> None:
        if self._before is not None:
            tty.setraw(self._fd, termios.TCSANOW)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


class _SignalsAsBytes:
    """While this lasts, the signals in FORWARDED do nothing but write their number to the pipe that is returned."""

    def __enter__(self) -> int:
        self._ends = os.pipe()
        for fd in self._ends:
            os.set_blocking(fd, False)
        self._previous = {signo: _signal.signal(signo, lambda *_: None) for signo in FORWARDED}
        self._previous_fd = _signal.set_wakeup_fd(self._ends[1])
        return self._ends[0]

    def __exit__(self, *_: object) -> None:
        _signal.set_wakeup_fd(self._previous_fd)
        for signo, handler in self._previous.items():
            _signal.signal(signo, handler)
        for fd in self._ends:
            os.close(fd)


class _Supervisor:
    """The state of one `supervise`."""

    def __init__(self, sandbox: Sandbox, exec_id: str, console: int | None) -> None:
        self.sandbox = sandbox
        self.exec_id = exec_id
        self.console = console
        self.input_open = console is not None
        self.to_console = b""
        """Typed, but the console has not taken it yet."""

    def run(self, start: bool) -> int:
        if self.console is not None:
            os.set_blocking(self.console, False)
        with _SignalsAsBytes() as signals:
            if self.console is None:
                return self._attend(start, signals)
            with _RawTerminal(0):
                return self._attend(start, signals)

    def _attend(self, start: bool, signals: int) -> int:
        if start:
            self.sandbox.start()
        self._resize()
        return self._status(signals)

    def _status(self, signals: int) -> int:
        """Serve until the process has ended."""
        try:
            with self.sandbox.waiting(self.exec_id) as waiting:
                while not self._turn(waiting, signals):
                    pass
                self._drain()
                return waiting.result().exit_status
        except SandboxError:
            if self.sandbox.has_died():
                last_words = self.sandbox.last_words() or "its log may say why"
                raise SandboxError(f"the sandbox has died: {last_words}") from None
            raise

    def _turn(self, waiting: Waiting, signals: int) -> bool:
        """Wait for something and act on it; True when the process has ended."""
        ended = waiting.fileno()
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        poller.register(signals, select.POLLIN)
        if self.input_open and not self.to_console:
            poller.register(0, select.POLLIN)
        if self.console is not None:
            poller.register(self.console, select.POLLIN | (select.POLLOUT if self.to_console else 0))
        events = dict(poller.poll())
        if signals in events:
            self._forward(os.read(signals, 1024))
        if 0 in events:
            self._read_input()
        if self.console is not None and self.console in events:
            self._serve_console(events[self.console])
        return ended in events

    def _forward(self, numbers: bytes) -> None:
        for signo in numbers:
            if signo == _signal.SIGWINCH:
                self._resize()
            elif signo in FORWARDED:
                try:
                    self.sandbox.signal(signo, self.exec_id)
                except SandboxError:
                    pass  # it has just ended, and the wait will say so

    def _resize(self) -> None:
        size = window_size(0) if self.console is not None else None
        if size is None or self.console is None:
            return
        try:
            termios.tcsetwinsize(self.console, size)
            self.sandbox.resize(*size, self.exec_id)
        except (OSError, SandboxError):
            pass  # it has just ended

    def _read_input(self) -> None:
        data = os.read(0, _CHUNK)
        if not data:
            self.input_open = False
        self.to_console = data

    def _serve_console(self, events: int) -> None:
        assert self.console is not None
        if events & select.POLLOUT and self.to_console:
            try:
                self.to_console = self.to_console[os.write(self.console, self.to_console) :]
            except OSError:
                self.to_console = b""
        if events & select.POLLIN:
            self._copy_output()
        elif events & (select.POLLHUP | select.POLLERR):
            # Nobody has it open inside at the moment; it is the end unless the wait says otherwise soon.
            self._close_console()

    def _copy_output(self) -> bool:
        """False at the end of the output."""
        assert self.console is not None
        try:
            data = os.read(self.console, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._close_console()
            return False
        while data:
            data = data[os.write(1, data) :]
        return True

    def _close_console(self) -> None:
        self.console = None
        self.input_open = False

    def _drain(self) -> None:
        """What was written before the end must be seen."""
        poller = select.poll()
        if self.console is None:
            return
        poller.register(self.console, select.POLLIN)
        while poller.poll(_DRAIN_SECONDS * 1000):
            if not self._copy_output():
                return


def flush_output() -> None:
    """Before a process of the container shares our standard streams."""
    sys.stdout.flush()
    sys.stderr.flush()
