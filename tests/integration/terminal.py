"""A command under a pseudo-terminal, as a person at a shell would run it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time


class Terminal:
    """Starts the command with the terminal as its controlling one; typed keys and what the screen shows are bytes."""

    def __init__(self, command: list[str], rows: int = 24, columns: int = 80) -> None:
        self.master, slave = os.openpty()
        self.screen = b""
        self.resize(rows, columns)
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", "--wait", *command], stdin=slave, stdout=slave, stderr=slave, close_fds=True
            )
        finally:
            os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize_until(self, rows: int, columns: int, text: bytes) -> None:
        """Until that shows, which stays on the screen.  Tells more than once: the command may not listen yet."""
        deadline = time.monotonic() + 60
        while text not in self.screen:
            assert time.monotonic() < deadline, f"no {text!r} on the terminal, only {self.screen!r}"
            self.resize(rows, columns - 1)
            self.resize(rows, columns)
            self.read(0.5)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, text: bytes, seconds: float = 60) -> bytes:
        """Waits until the text shows; what came before it. Both are taken off the screen."""
        deadline = time.monotonic() + seconds
        while text not in self.screen:
            left = deadline - time.monotonic()
            if left <= 0 or not self.read(left):
                raise AssertionError(f"no {text!r} on the terminal, only {self.screen!r}")
        before, _, self.screen = self.screen.partition(text)
        return before

    def read(self, seconds: float) -> bool:
        """Reads once; False at the end or when nothing comes in time."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False  # EIO: the command is gone
        self.screen += data
        return bool(data)

    def wait(self, seconds: float = 60) -> int:
        """The command's exit status; reads on meanwhile, so that it can end."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"the command does not end; on the terminal is {self.screen!r}")
            self.read(0.05)
        while self.read(0):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
