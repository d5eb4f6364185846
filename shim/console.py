"""The shim's end of a terminal: a pty with a raw slave for the sandbox, and a pump between its master and the client.

The line discipline that the application sees is the Sentry's own; this pty only carries bytes and the window size.
"""

import asyncio
import fcntl
import logging
import os
import struct
import termios
import tty

log = logging.getLogger(__name__)

_CHUNK = 64 * 1024


class _Flow:
    """Copies from one non-blocking descriptor to another and stops reading while the receiver takes no more.

    `ended` is resolved at the source's end and when the sink cannot be written any more; by then everything that was
    read has been written.  Closes neither of them.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._pending = b""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(source, self._readable)

    def stop(self) -> None:
        """Copy no more; idempotent."""
        if not self.ended.done():
            self._loop.remove_reader(self._source)
            self._loop.remove_writer(self._sink)
            self.ended.set_result(None)

    def _readable(self) -> None:
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the other end of the pty is closed
            data = b""
        if not data:
            self.stop()
            return
        self._write(data)
        if self._pending:
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._writable)

    def _writable(self) -> None:
        self._write(self._pending)
        if not self._pending and not self.ended.done():
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._readable)

    def _write(self, data: bytes) -> None:
        try:
            self._pending = data[os.write(self._sink, data) :]
        except BlockingIOError:
            self._pending = data
        except OSError as e:
            log.debug("terminal: %s", e)
            self._pending = b""
            self.stop()


class Console:
    """A pty and its two flows.  Owns `sink` (the client's stdout) and `source` (its stdin, if there is one)."""

    def __init__(self, sink: int, source: int | None) -> None:
        self._sink = sink
        self._source = source
        self._master, self.slave = os.openpty()
        """The slave is for the sandbox; once donated, tell so by donated()."""
        os.set_blocking(self._master, False)
        tty.setraw(self.slave)
        self._output: _Flow | None = None
        self._input: _Flow | None = None

    def start(self) -> None:
        """Begin to copy."""
        self._output = _Flow(self._master, self._sink)
        if self._source is not None:
            self._input = _Flow(self._source, self._master)

    def resize(self, rows: int, cols: int) -> None:
        """Set the window size; 0 by 0 says nothing."""
        if rows and cols and self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def donated(self) -> None:
        """The sandbox has its copy of the slave: close ours, so that the end of its copies shows."""
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1

    async def wait_ended(self, timeout_s: float) -> None:
        """Wait, not too long, until all output has been passed on."""
        if self._output is not None:
            await asyncio.wait([self._output.ended], timeout=timeout_s)

    def close_output(self) -> None:
        """Let the client see the end of its output; idempotent."""
        if self._output is not None:
            self._output.stop()
        if self._sink >= 0:
            os.close(self._sink)
            self._sink = -1

    def close(self) -> None:
        """Stop and close everything; idempotent."""
        if self._master < 0:
            return
        self.donated()
        self.close_output()
        if self._input is not None:
            self._input.stop()
        if self._source is not None:
            os.close(self._source)
        os.close(self._master)
        self._master = -1
