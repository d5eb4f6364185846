"""Pseudo terminals on the host side of a container's console."""

import os
import termios
import tty


def open_console(size: tuple[int, int] | None = None) -> tuple[int, int]:
    """A pty pair, master and slave; the slave is raw, for the line discipline is the Sentry's.

    size: rows and columns.
    """
    master, slave = os.openpty()
    tty.setraw(slave, termios.TCSANOW)
    if size is not None:
        termios.tcsetwinsize(slave, size)
    return master, slave


def window_size(fd: int) -> tuple[int, int] | None:
    """Rows and columns; None if it is no terminal or does not know."""
    try:
        rows, columns = termios.tcgetwinsize(fd)
    except (OSError, termios.error):
        return None
    return (rows, columns) if rows and columns else None


def send_master(path: str, master: int) -> None:
    """Hand a console's master to whoever listens on the unix socket `path`, by the OCI runtimes' convention: one
    message with the terminal's name and the descriptor.  Raises OSError."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect(path)
        socket.send_fds(s, [b"/dev/ptmx"], [master])
