"""ioctl_tty(2): what both sides of a terminal can be asked and told.

The master's file answers for the slave, as Linux does (tty_pair_get_tty): a terminal emulator
sets the size and reads the settings of the terminal it plays.  What only a master can do is
in devpts.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from sentry.abi import signal as sig
from sentry.abi import tty as abi
from sentry.abi.errno import EINVAL, EIO, ENOTTY, EPERM, ESRCH
from sentry.abi.tty import Termios
from sentry.fs.tty import Tty, check_change, controlling_tty
from sentry.kernel.creds import CAP_SYS_ADMIN

if TYPE_CHECKING:
    from sentry.kernel.task import Task

INT: Final = struct.Struct("<i")


class TerminalFile(Protocol):
    """A slave's or a master's open file."""

    is_master: ClassVar[bool]
    tty: Tty

    @property
    def dead(self) -> bool: ...
    @property
    def readable(self) -> bool: ...


Handler = Callable[[TerminalFile, "Task", int], int]


def tty_ioctl(file: TerminalFile, t: Any, request: int, arg: int) -> int:
    """A slave's file.  ENOTTY: no such request.  EIO: hung up."""
    if file.dead:
        raise ENOTTY if request == abi.TIOCSPGRP else EIO
    handler = _SLAVE.get(request)
    if handler is None:
        raise ENOTTY
    return handler(file, t, arg)


def shared_ioctl(file: TerminalFile, t: Any, request: int, arg: int) -> int:
    """A master's file, for requests that mean the slave.  ENOTTY."""
    handler = _BOTH.get(request)
    if handler is None:
        raise ENOTTY
    return handler(file, t, arg)


def put_int(t: Task, addr: int, value: int) -> int:
    t.mem.write(addr, INT.pack(value))
    return 0


def get_int(t: Task, addr: int) -> int:
    return int(INT.unpack(t.mem.read(addr, INT.size))[0])


# -- settings --


def _tcgets(file: TerminalFile, t: Task, arg: int) -> int:
    t.mem.write(arg, file.tty.ldisc.termios.pack())
    return 0


def _tcgets2(file: TerminalFile, t: Task, arg: int) -> int:
    t.mem.write(arg, file.tty.ldisc.termios.pack2())
    return 0


def _tcgeta(file: TerminalFile, t: Task, arg: int) -> int:
    t.mem.write(arg, file.tty.ldisc.termios.pack_termio())
    return 0


def _setter(layout: struct.Struct, unpack: Callable[[Termios, bytes], None], flush: bool) -> Handler:
    """TCSETS and its many forms.

    Those that wait until output was sent have nothing to wait for: what left the slave is sent, pty(7).
    """

    def set_termios(file: TerminalFile, t: Task, arg: int) -> int:
        tty = file.tty
        check_change(tty, t, sig.SIGTTOU)
        new = tty.ldisc.termios.copy()
        unpack(new, t.mem.read(arg, layout.size))
        if flush:
            tty.flush_input()
        tty.set_termios(new)
        return 0

    return set_termios


def _tiocgwinsz(file: TerminalFile, t: Task, arg: int) -> int:
    t.mem.write(arg, abi.WINSIZE.pack(*file.tty.window))
    return 0


def _tiocswinsz(file: TerminalFile, t: Task, arg: int) -> int:
    file.tty.set_window(*abi.WINSIZE.unpack(t.mem.read(arg, abi.WINSIZE.size)))
    return 0


# -- the session --


def _check_own(file: TerminalFile, t: Task) -> None:
    """Through the slave, only the session that it controls may ask.  ENOTTY."""
    if not file.is_master and controlling_tty(t.tg.session) is not file.tty:
        raise ENOTTY


def _tiocgpgrp(file: TerminalFile, t: Task, arg: int) -> int:
    _check_own(file, t)
    session = file.tty.session
    foreground = session.foreground if session is not None else None
    return put_int(t, arg, foreground.id(t.pidns) if foreground is not None else 0)


def _tiocspgrp(file: TerminalFile, t: Task, arg: int) -> int:
    """tcsetpgrp(3).  ENOTTY, EFAULT, EINVAL, ESRCH, EPERM."""
    tty = file.tty
    try:
        check_change(tty, t, sig.SIGTTOU)
    except EIO:
        raise ENOTTY from None
    number = get_int(t, arg)
    if number < 0:
        raise EINVAL
    session = t.tg.session
    if controlling_tty(session) is not tty:
        raise ENOTTY
    pgrp = t.pidns.find_pgrp(number)
    if pgrp is None:
        raise ESRCH
    if pgrp.session is not session:
        raise EPERM
    session.foreground = pgrp
    return 0


def _tiocgsid(file: TerminalFile, t: Task, arg: int) -> int:
    _check_own(file, t)
    session = file.tty.session
    if session is None:
        raise ENOTTY
    return put_int(t, arg, session.id(t.pidns))


def _tiocsctty(file: TerminalFile, t: Task, arg: int) -> int:
    """Make it the controlling terminal of the calling session leader; arg 1 lets root steal it.  EPERM."""
    tty, tg = file.tty, t.tg
    if tg.is_session_leader and tty.session is tg.session:
        return 0
    if not tg.is_session_leader or controlling_tty(tg.session) is not None:
        raise EPERM
    privileged = t.creds.has(CAP_SYS_ADMIN)
    if tty.session is not None:
        if arg != 1 or not privileged:
            raise EPERM
        tty.release_session()
    if not file.readable and not privileged:
        raise EPERM
    tty.make_controlling(tg)
    return 0


def _tiocnotty(file: TerminalFile, t: Task, arg: int) -> int:
    """Give the controlling terminal up; a leader gives it up for its session.  ENOTTY.

    Linux lets any other process give it up for itself alone; here it belongs to the session, and stays.
    """
    tty, session = file.tty, t.tg.session
    if controlling_tty(session) is not tty:
        raise ENOTTY
    if t.tg.is_session_leader:
        tty.signal_foreground(sig.SIGHUP)
        tty.signal_foreground(sig.SIGCONT)
        tty.release_session()
    return 0


# -- data and flow --


def _fionread(file: TerminalFile, t: Task, arg: int) -> int:
    return put_int(t, arg, file.tty.ldisc.available())


def _tiocoutq(file: TerminalFile, t: Task, arg: int) -> int:
    """What was written is at the other side at once."""
    return put_int(t, arg, 0)


def _tcflsh(file: TerminalFile, t: Task, arg: int) -> int:
    tty = file.tty
    check_change(tty, t, sig.SIGTTOU)
    if arg not in (abi.TCIFLUSH, abi.TCOFLUSH, abi.TCIOFLUSH):
        raise EINVAL
    if arg != abi.TCOFLUSH:
        tty.flush_input()
    if arg != abi.TCIFLUSH:
        tty.drop_output()
    return 0


def _tcxonc(file: TerminalFile, t: Task, arg: int) -> int:
    tty = file.tty
    check_change(tty, t, sig.SIGTTOU)
    cc = tty.ldisc.termios.cc
    match arg:
        case abi.TCOOFF | abi.TCOON:
            tty.hold_output(arg == abi.TCOOFF)
        case abi.TCIOFF if cc[abi.VSTOP]:
            tty.output.append(cc[abi.VSTOP])
            tty.wake_master()
        case abi.TCION if cc[abi.VSTART]:
            tty.output.append(cc[abi.VSTART])
            tty.wake_master()
        case abi.TCIOFF | abi.TCION:
            pass
        case _:
            raise EINVAL
    return 0


def _break(file: TerminalFile, t: Task, arg: int) -> int:
    """TCSBRK and its like: a pseudo-terminal has no line that could be broken."""
    check_change(file.tty, t, sig.SIGTTOU)
    return 0


# -- the device --


def _tiocexcl(file: TerminalFile, t: Task, arg: int) -> int:
    file.tty.exclusive = True
    return 0


def _tiocnxcl(file: TerminalFile, t: Task, arg: int) -> int:
    file.tty.exclusive = False
    return 0


def _tiocgexcl(file: TerminalFile, t: Task, arg: int) -> int:
    return put_int(t, arg, int(file.tty.exclusive))


def _tiocgdev(file: TerminalFile, t: Task, arg: int) -> int:
    return put_int(t, arg, file.tty.rdev)


def _tiocgetd(file: TerminalFile, t: Task, arg: int) -> int:
    return put_int(t, arg, 0)


def _tiocsetd(file: TerminalFile, t: Task, arg: int) -> int:
    """N_TTY (0) is the only line discipline.  EINVAL."""
    if get_int(t, arg) != 0:
        raise EINVAL
    check_change(file.tty, t, sig.SIGTTOU)
    return 0


def _tiocsti(file: TerminalFile, t: Task, arg: int) -> int:
    """Faking input is refused, as with dev.tty.legacy_tiocsti=0 on Linux: it is a way out of a terminal."""
    raise EIO


_BOTH: Final[dict[int, Handler]] = {
    abi.TCGETS: _tcgets,
    abi.TCGETS2: _tcgets2,
    abi.TCGETA: _tcgeta,
    abi.TCSETS: _setter(abi.TERMIOS, Termios.unpack, flush=False),
    abi.TCSETSW: _setter(abi.TERMIOS, Termios.unpack, flush=False),
    abi.TCSETSF: _setter(abi.TERMIOS, Termios.unpack, flush=True),
    abi.TCSETS2: _setter(abi.TERMIOS2, Termios.unpack2, flush=False),
    abi.TCSETSW2: _setter(abi.TERMIOS2, Termios.unpack2, flush=False),
    abi.TCSETSF2: _setter(abi.TERMIOS2, Termios.unpack2, flush=True),
    abi.TCSETA: _setter(abi.TERMIO, Termios.unpack_termio, flush=False),
    abi.TCSETAW: _setter(abi.TERMIO, Termios.unpack_termio, flush=False),
    abi.TCSETAF: _setter(abi.TERMIO, Termios.unpack_termio, flush=True),
    abi.TIOCGWINSZ: _tiocgwinsz,
    abi.TIOCSWINSZ: _tiocswinsz,
    abi.TIOCGPGRP: _tiocgpgrp,
    abi.TIOCSPGRP: _tiocspgrp,
    abi.TIOCGSID: _tiocgsid,
    abi.TIOCSCTTY: _tiocsctty,
    abi.TIOCOUTQ: _tiocoutq,
    abi.TIOCEXCL: _tiocexcl,
    abi.TIOCNXCL: _tiocnxcl,
    abi.TIOCGEXCL: _tiocgexcl,
    abi.TIOCGETD: _tiocgetd,
    abi.TIOCSTI: _tiocsti,
    abi.TCSBRK: _break,
    abi.TCSBRKP: _break,
}

_SLAVE: Final[dict[int, Handler]] = _BOTH | {
    abi.TIOCNOTTY: _tiocnotty,
    abi.FIONREAD: _fionread,
    abi.TCFLSH: _tcflsh,
    abi.TCXONC: _tcxonc,
    abi.TIOCGDEV: _tiocgdev,
    abi.TIOCSETD: _tiocsetd,
}
