"""Terminals: the device between a line discipline and its two sides.

A Tty has a slave side, which programs open as their terminal, and a master side: either a
PtyMaster that a terminal emulator holds (devpts.py), or the Sentry itself (console.py).

    master --type()--> typed --LineDiscipline.receive()--> its queue --read()--> slave
    slave --write()--> Output.process() --> output --take_output()--> master

Both directions are bounded, so each side waits for the other.  A terminal may control one
session: then keys send signals to its foreground group, and background groups that read or
write are stopped (job control, credentials(7)).  Files are in ttyfile.py and devpts.py,
ioctl_tty(2) in ttyioctl.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EIO
from sentry.abi.poll import ANY, POLLPRI, READABLE, WRITABLE
from sentry.abi.tty import (
    CREAD,
    CS8,
    CSIZE,
    EXTPROC,
    IXON,
    PARENB,
    TIOCPKT_DOSTOP,
    TIOCPKT_FLUSHREAD,
    TIOCPKT_FLUSHWRITE,
    TIOCPKT_IOCTL,
    TIOCPKT_NOSTOP,
    TIOCPKT_START,
    TIOCPKT_STOP,
    VSTART,
    VSTOP,
    Termios,
)
from sentry.fs.ntty import BUFFER_SIZE, LineDiscipline
from sentry.kernel.restart import ERESTARTSYS, Interrupted
from sentry.wait import WaitQueue

if TYPE_CHECKING:
    from sentry.kernel.ids import ProcessGroup, Session
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

QUEUE_LIMIT: Final = 16 << 10  # bytes typed and not yet received, and bytes written and not yet taken
ECHO_LIMIT: Final = 4096  # how much echo may exceed that by, before it is lost


class Tty:
    """One terminal.

    identity     rdev; name, as ps shows it
    settings     ldisc.termios by set_termios(); window; packet, exclusive, locked by ioctls
    data         typed, output: bytes on their way; ldisc has those that were received
    flow         stopped (by VSTOP), held (by TCOOFF): nothing goes to the master
    control      session: the one it controls.  The foreground group is kept there.
    life         slaves: open slave files; opened: there was one; master_closed; hangups: counts, files
                 opened before the last one are dead
    waiting      queue: the slave side; master_queue: the master side
    """

    __slots__ = (
        "_taken",
        "exclusive",
        "hangups",
        "held",
        "ldisc",
        "locked",
        "master_closed",
        "master_queue",
        "name",
        "opened",
        "output",
        "packet",
        "packet_status",
        "queue",
        "rdev",
        "session",
        "slaves",
        "stopped",
        "typed",
        "window",
    )

    def __init__(self, rdev: int, name: str) -> None:
        self.rdev = rdev
        self.name = name
        self.ldisc = LineDiscipline(self)
        self.window = (0, 0, 0, 0)
        self.packet = False
        self.packet_status = 0
        self.exclusive = False
        self.locked = False
        self.typed = bytearray()
        self.output = bytearray()
        self._taken = BUFFER_SIZE  # while keys are received: what was shown before them
        self.stopped = self.held = False
        self.session: Session | None = None
        self.slaves = 0
        self.opened = False
        self.master_closed = False
        self.hangups = 0
        self.queue = WaitQueue()
        self.master_queue = WaitQueue()

    # -- from the master --

    def type(self, data: bytes) -> int:
        """Bytes come from the terminal's keyboard; returns how many there was room for."""
        room = QUEUE_LIMIT - len(self.typed)
        accepted = data[:room]
        self.typed += accepted
        self.pump()
        return len(accepted)

    def pump(self) -> None:
        """Give the line discipline what it has room for."""
        if not self.typed:
            return
        self._taken = len(self.output)
        done = self.ldisc.receive(bytes(self.typed))
        self._taken = BUFFER_SIZE
        del self.typed[:done]
        if done:
            self.master_queue.wake(WRITABLE)
            if self.ldisc.input_ready():
                self.queue.wake(READABLE)

    def room(self) -> int:
        """How many bytes a program may write now."""
        return 0 if self.stopped else max(QUEUE_LIMIT - len(self.output), 0) // self.ldisc.output.widest

    def show(self, data: bytes) -> None:
        """A program wrote data, no more than there is room for."""
        self.output += self.ldisc.output.process(data)
        self.wake_master()

    def take_output(self, limit: int) -> bytes:
        """What the terminal shows next."""
        data = bytes(self.output[:limit])
        del self.output[:limit]
        if data and len(self.output) < QUEUE_LIMIT:
            self.queue.wake(WRITABLE)
        return data

    def set_window(self, rows: int, columns: int, xpixels: int = 0, ypixels: int = 0) -> None:
        """The terminal's size; the foreground group hears of a change (pty_resize)."""
        window = (rows, columns, xpixels, ypixels)
        if window != self.window:
            self.window = window
            self.signal_foreground(sig.SIGWINCH)

    # -- what the line discipline asks for (ntty.Line) --

    def emit(self, data: bytes) -> None:
        """Echo.  It is lost if nobody takes what was shown before."""
        if len(self.output) + len(data) <= QUEUE_LIMIT + ECHO_LIMIT:
            self.output += data
            self.wake_master()

    def signal_foreground(self, signo: int) -> None:
        foreground = self.session.foreground if self.session is not None else None
        if foreground is not None:
            foreground.signal(signo)

    def drop_output(self) -> None:
        """pty_flush_buffer(): in Linux the master's own line discipline has taken some of it, which stays."""
        del self.output[min(self._taken, BUFFER_SIZE - 1) :]
        self.tell_packet_reader(TIOCPKT_FLUSHWRITE)
        self.queue.wake(WRITABLE)

    def stop_output(self) -> None:
        """VSTOP (or TCOOFF): stop_tty()."""
        if not self.stopped:
            self.stopped = True
            self.tell_packet_reader(TIOCPKT_STOP, TIOCPKT_START)

    def start_output(self) -> None:
        """VSTART: start_tty().  Does not undo TCOOFF."""
        if self.stopped and not self.held:
            self.stopped = False
            self.tell_packet_reader(TIOCPKT_START, TIOCPKT_STOP)
            self.queue.wake(WRITABLE)

    def hold_output(self, on: bool) -> None:
        """TCOOFF and TCOON."""
        if on and not self.held:
            self.held = True
            self.stop_output()
        elif not on and self.held:
            self.held = False
            self.start_output()
            self.ldisc.flush_echo()

    def flush_input(self) -> None:
        """TCIFLUSH."""
        self.typed.clear()
        self.ldisc.flush_input()
        self.tell_packet_reader(TIOCPKT_FLUSHREAD)
        self.master_queue.wake(WRITABLE)

    def tell_packet_reader(self, status: int, instead_of: int = 0) -> None:
        """Packet mode: the master's next read reports status, ioctl_tty(2) TIOCPKT."""
        if self.packet:
            self.packet_status = self.packet_status & ~instead_of | status
            self.master_queue.wake(READABLE | POLLPRI)

    def wake_master(self) -> None:
        if self.output:
            self.master_queue.wake(READABLE)

    # -- settings --

    def set_termios(self, new: Termios) -> None:
        """TCSETS: pty_set_termios(), then the line discipline's part."""
        old = self.ldisc.termios
        new.cflag = new.cflag & ~(CSIZE | PARENB) | CS8 | CREAD
        was, now = _flows_as_usual(old), _flows_as_usual(new)
        if was != now:
            status = TIOCPKT_DOSTOP if now else TIOCPKT_NOSTOP
            self.tell_packet_reader(status, TIOCPKT_DOSTOP | TIOCPKT_NOSTOP)
        if (old.lflag | new.lflag) & EXTPROC:
            self.tell_packet_reader(TIOCPKT_IOCTL)
        self.ldisc.set_termios(new)
        self.queue.wake(READABLE | WRITABLE)
        self.pump()

    # -- the session --

    def make_controlling(self, tg: ThreadGroup) -> None:
        """It becomes the controlling terminal of tg's session, tg's group the foreground: __proc_set_tty()."""
        session = tg.session
        session.tty = self
        session.foreground = tg.pgrp
        self.session = session

    def release_session(self) -> None:
        """It controls no session any more."""
        session, self.session = self.session, None
        if session is not None and session.tty is self:
            session.tty = None
            session.foreground = None

    def leader_exited(self, session: Session) -> None:
        """The session's leader is gone: disassociate_ctty().  Also when the terminal was hung up before."""
        if session.foreground is not None:
            session.foreground.signal(sig.SIGHUP)
            if self.session is not session:
                session.foreground.signal(sig.SIGCONT)
        if self.session is session:
            self.release_session()
        else:
            session.tty = session.foreground = None

    # -- the ends --

    def slave_opened(self) -> None:
        self.slaves += 1
        self.opened = True

    def slave_closed(self) -> None:
        self.slaves -= 1
        if not self.slaves:
            self.exclusive = False
            self.master_queue.wake(ANY)

    def hang_up(self) -> None:
        """__tty_hangup(): the line is gone.  The session's leader hears of it; open files are dead.

        The session keeps pointing here until its leader ends, which then tells the foreground group
        (tty_old_pgrp); controlling_tty() does not count such a terminal.
        """
        self.hangups += 1
        session, self.session = self.session, None
        if session is not None and session.leader_tg is not None:
            session.leader_tg.send_kernel_signal(sig.SIGHUP)
            session.leader_tg.send_kernel_signal(sig.SIGCONT)
        self.typed.clear()
        self.output.clear()
        self.ldisc.flush_input()
        self.stopped = self.held = False
        self.queue.wake(ANY)
        self.master_queue.wake(ANY)

    def close_master(self) -> None:
        """The emulator is gone: pty_close()."""
        self.master_closed = True
        self.hang_up()


def _flows_as_usual(termios: Termios) -> bool:
    """VSTOP and VSTART work, and are ^S and ^Q: what TIOCPKT_DOSTOP reports."""
    return bool(termios.iflag & IXON) and termios.cc[VSTOP] == 0o23 and termios.cc[VSTART] == 0o21


def controlling_tty(session: Session) -> Tty | None:
    """The terminal that controls session now."""
    tty = session.tty
    return tty if tty is not None and tty.session is session else None


def check_change(tty: Tty, t: Task | None, signo: int) -> None:
    """__tty_check_change(): may t, if tty is its terminal, do what sends signo to background groups?

    EIO: it can't be stopped.  Interrupted: its group was sent signo, and the call is to be tried again.
    """
    if t is None or tty.session is None or t.tg.session is not tty.session:
        return
    foreground: ProcessGroup | None = tty.session.foreground
    pgrp = t.tg.pgrp
    if foreground is None or pgrp is foreground:
        return
    if t.signal_blocked_or_ignored(signo):
        if signo == sig.SIGTTIN:
            raise EIO
        return
    if pgrp.is_orphaned():
        raise EIO
    pgrp.signal(signo)
    raise Interrupted(ERESTARTSYS)
