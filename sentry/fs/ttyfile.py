"""Open terminals: the files through which programs use a Tty's slave side."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN, EBUSY, EIO, ENXIO
from sentry.abi.fcntl import O_NOCTTY, O_NONBLOCK
from sentry.abi.poll import POLLERR, POLLHUP, READABLE, WRITABLE
from sentry.abi.tty import TOSTOP, VMIN, VTIME
from sentry.fs.tty import Tty, check_change, controlling_tty
from sentry.fs.ttyioctl import tty_ioctl
from sentry.kernel.creds import CAP_SYS_ADMIN
from sentry.kernel.task import current
from sentry.vfs.dentry import Path
from sentry.vfs.file import File
from sentry.vfs.inode import Inode, now_ns
from sentry.vfs.iov import Sink, Source
from sentry.wait import Timer

DECISECOND_NS: Final = 100_000_000


class TtyFile(File):
    """An open slave side: a program's terminal."""

    __slots__ = ("_expired", "_slept", "_timer", "hangups", "tty")

    writes_all: ClassVar[bool] = True
    is_master: ClassVar[bool] = False

    def __init__(self, tty: Tty, inode: Inode, path: Path | None, flags: int) -> None:
        super().__init__(inode, path, flags)
        self.tty = tty
        self.queue = tty.queue
        self.hangups = tty.hangups
        self._slept = False  # a blocking read found nothing last time
        self._timer: Timer | None = None  # VTIME is running
        self._expired = False  # and came to its end
        tty.slave_opened()

    def release(self) -> None:
        self._stop_timer()
        self.tty.slave_closed()

    @property
    def dead(self) -> bool:
        """Hung up since it was opened."""
        return self.hangups != self.tty.hangups

    # -- reading --

    def read(self, dst: Sink) -> int:
        """n_tty_read().  EIO: hung up while it slept; a later read is at the end of the file."""
        tty = self.tty
        if self.dead:
            slept, self._slept = self._slept, False
            if slept:
                raise EIO
            return 0
        check_change(tty, current(), sig.SIGTTIN)
        if not dst.remaining:
            return 0
        ldisc = tty.ldisc
        ready = ldisc.input_ready() if ldisc.by_lines else self._enough(len(ldisc.queue), dst.remaining)
        if not ready:
            self._slept = not self.flags & O_NONBLOCK
            raise EAGAIN
        self._slept = False
        self._stop_timer()
        data = ldisc.read(dst.remaining)
        n = dst.put(data) if data else 0
        tty.pump()
        self.inode.atime_ns = now_ns()
        return n

    def _enough(self, have: int, limit: int) -> bool:
        """Raw mode: does a read end with `have` bytes, termios(3) VMIN and VTIME?  Keeps the timer."""
        cc = self.tty.ldisc.termios.cc
        wanted, deciseconds = cc[VMIN], cc[VTIME]
        if have >= min(wanted or 1, limit) or not (wanted or deciseconds):
            return True
        if self.flags & O_NONBLOCK:
            return have > 0
        if deciseconds and (have or not wanted):
            if self._expired:
                return True
            # Between bytes it starts anew with each; without VMIN it runs once per read.
            if have:
                self._stop_timer()
            self._start_timer(deciseconds)
        return False

    def _start_timer(self, deciseconds: int) -> None:
        t = current()
        if self._timer is None and t is not None:
            loop = t.kernel.loop
            self._timer = loop.call_at(loop.now_ns() + deciseconds * DECISECOND_NS, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self.queue:  # else its reader was interrupted, and the next read must not find itself timed out
            self._expired = True
            self.queue.wake(READABLE)

    def _stop_timer(self) -> None:
        self._expired = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- writing --

    def write(self, src: Source) -> int:
        """n_tty_write().  EIO: hung up."""
        tty = self.tty
        if self.dead:
            raise EIO
        if tty.ldisc.termios.lflag & TOSTOP:
            check_change(tty, current(), sig.SIGTTOU)
        done = 0
        while src.remaining:
            room = tty.room()
            if not room and not done:
                raise EAGAIN
            data = src.take(room) if room else b""
            if not data:
                break
            tty.show(data)
            done += len(data)
        self.inode.mtime_ns = now_ns()
        return done

    # -- the rest --

    def poll(self) -> int:
        """n_tty_poll()."""
        if self.dead:
            return READABLE | WRITABLE | POLLERR | POLLHUP
        events = READABLE if self.tty.ldisc.input_ready(polling=True) else 0
        return events | WRITABLE if self.tty.room() else events

    def ioctl(self, t: Any, request: int, arg: int) -> int:
        return tty_ioctl(self, t, request, arg)

    def describe(self) -> str | None:
        """A console in a container without /dev/pts has no name of its own."""
        return f"/dev/{self.tty.name}" if self.path is None else None


def open_tty(tty: Tty, inode: Inode, path: Path | None, flags: int) -> TtyFile:
    """open(2) of a terminal; a session leader without one gets it as its controlling terminal, unless O_NOCTTY.

    EIO: the other side is gone, or holds it locked.  EBUSY: TIOCEXCL.
    """
    t = current()
    if tty.master_closed or tty.locked:
        raise EIO
    if tty.exclusive and not (t is not None and t.creds.has(CAP_SYS_ADMIN)):
        raise EBUSY
    file = TtyFile(tty, inode, path, flags & ~O_NOCTTY)
    if t is not None and not flags & O_NOCTTY and file.readable:
        tg = t.tg
        if tg.is_session_leader and controlling_tty(tg.session) is None and tty.session is None:
            tty.make_controlling(tg)
    return file


async def open_current(inode: Inode, path: Path, flags: int) -> File:
    """/dev/tty: the caller's controlling terminal, tty(4).  ENXIO: it has none."""
    t = current()
    tty = controlling_tty(t.tg.session) if t is not None else None
    if tty is None:
        raise ENXIO
    return open_tty(tty, inode, path, flags | O_NOCTTY)


async def open_console(inode: Inode, path: Path, flags: int) -> File:
    """/dev/console: the terminal that the container's first process was started with.  ENXIO: it has none."""
    t = current()
    process = t.container.processes.get("") if t is not None else None
    if process is None or process.tty is None:
        raise ENXIO
    return open_tty(process.tty, inode, path, flags | O_NOCTTY)
