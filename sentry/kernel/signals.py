"""Signal state: what is pending, what is handled, and who may send.

Delivery, i.e. choosing a signal and acting on it, is delivery.py; frames are sigframe.py.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from proto.slotted import slotted
from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN

if TYPE_CHECKING:
    from sentry.kernel.creds import Creds

INTERRUPTED: Final = object()  # what a wait returns when a signal ended it


@slotted
class SigInfo:
    """siginfo_t.  Which fields mean something depends on signo and code, sigaction(2)."""

    signo: int
    code: int = sig.SI_USER
    errno: int = 0
    pid: int = 0
    uid: int = 0
    status: int = 0
    value: int = 0  # sigval, 64 bits
    addr: int = 0
    utime: int = 0  # clock ticks
    stime: int = 0
    timer_id: int = 0
    overrun: int = 0
    band: int = 0
    fd: int = 0
    raw: bytes | None = None  # as given by rt_sigqueueinfo(2)
    timer: object | None = None  # the POSIX timer it came from

    def pack(self) -> bytes:
        """As the application sees it: include/uapi/asm-generic/siginfo.h."""
        if self.raw is not None:
            return self.raw[: sig.SIGINFO_SIZE].ljust(sig.SIGINFO_SIZE, b"\0")
        head = struct.pack("<iiixxxx", self.signo, self.errno, self.code)
        return (head + self._union()).ljust(sig.SIGINFO_SIZE, b"\0")

    def _union(self) -> bytes:
        value = self.value & 0xFFFFFFFFFFFFFFFF
        if self.code == sig.SI_TIMER:
            return struct.pack("<iiQ", self.timer_id, self.overrun, value)
        if self.code == sig.SI_QUEUE or self.code == sig.SI_MESGQ:
            return struct.pack("<iIQ", self.pid, self.uid, value)
        if self.code <= 0 and self.code != sig.SI_SIGIO:
            return struct.pack("<iI", self.pid, self.uid)
        if self.code > 0 and sig.bit(self.signo) & sig.SYNCHRONOUS:
            return struct.pack("<Q", self.addr)
        if self.code == sig.SI_KERNEL:
            return b""
        if self.signo == sig.SIGCHLD and self.code > 0:
            return struct.pack("<iIixxxxqq", self.pid, self.uid, self.status, self.utime, self.stime)
        return struct.pack("<qi", self.band, self.fd)  # of whatever signal F_SETSIG chose


class Pending:
    """Pending signals (struct sigpending).  Standard signals do not queue, real-time ones do: signal(7)."""

    __slots__ = ("_infos", "mask")

    def __init__(self) -> None:
        self.mask = 0
        self._infos: dict[int, list[SigInfo]] = {}

    def add(self, info: SigInfo, limit: int | None = None) -> bool:
        """Queue it; False if it is pending already and not queued.

        Past limit, a real-time signal that a program sent with data is refused: EAGAIN.  Of others one
        stays pending, __send_signal_locked().
        """
        signo = info.signo
        bit = sig.bit(signo)
        full = limit is not None and signo >= sig.SIGRTMIN and self.count() >= limit
        if full and info.code < 0:
            raise EAGAIN("RLIMIT_SIGPENDING")
        if self.mask & bit:
            if full or signo < sig.SIGRTMIN:
                return False
            self._infos[signo].append(info)
            return True
        self.mask |= bit
        self._infos[signo] = [info]
        return True

    def count(self) -> int:
        return sum(len(infos) for infos in self._infos.values())

    def take(self, allowed: int) -> SigInfo | None:
        """Remove and return the signal to be delivered first among allowed: faults, then the lowest number."""
        wanted = self.mask & allowed
        if not wanted:
            return None
        wanted = wanted & sig.SYNCHRONOUS or wanted
        signo = (wanted & -wanted).bit_length()
        infos = self._infos[signo]
        info = infos.pop(0)
        if not infos:
            del self._infos[signo]
            self.mask &= ~sig.bit(signo)
        return info

    def holds(self, info: SigInfo) -> bool:
        """Is this very info waiting here?"""
        return any(other is info for other in self._infos.get(info.signo, ()))

    def discard(self, mask: int) -> None:
        """Forget every pending signal in mask."""
        for signo in [s for s in self._infos if mask & sig.bit(s)]:
            del self._infos[signo]
        self.mask &= ~mask


@slotted
class Action:
    """struct sigaction, kernel form."""

    handler: int = sig.SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0


class SignalHandlers:
    """The actions of a process, shared by CLONE_SIGHAND (struct sighand_struct)."""

    __slots__ = ("_actions",)

    def __init__(self) -> None:
        self._actions: dict[int, Action] = {}

    def get(self, signo: int) -> Action:
        return self._actions.get(signo) or Action()

    def set(self, signo: int, action: Action) -> None:
        self._actions[signo] = action

    def reset(self, signo: int) -> None:
        """Back to the default action."""
        self._actions.pop(signo, None)

    def copy(self) -> SignalHandlers:
        handlers = SignalHandlers()
        handlers._actions = dict(self._actions)
        return handlers

    def for_exec(self) -> SignalHandlers:
        """execve(2): handled signals go back to default, ignored ones stay ignored."""
        handlers = SignalHandlers()
        handlers._actions = {s: Action(sig.SIG_IGN) for s, a in self._actions.items() if a.handler == sig.SIG_IGN}
        return handlers

    def is_ignored(self, signo: int) -> bool:
        """Explicitly, or by default."""
        handler = self.get(signo).handler
        return handler == sig.SIG_IGN or (handler == sig.SIG_DFL and bool(sig.bit(signo) & sig.DEFAULT_IGNORED))

    def is_handled(self, signo: int) -> bool:
        return self.get(signo).handler > sig.SIG_IGN

    def masks(self) -> tuple[int, int]:
        """(ignored, caught) as /proc/PID/status shows them."""
        ignored = sum(sig.bit(s) for s, a in self._actions.items() if a.handler == sig.SIG_IGN)
        caught = sum(sig.bit(s) for s, a in self._actions.items() if a.handler > sig.SIG_IGN)
        return ignored, caught


def may_signal(sender: Creds, target: Creds, cap_kill: int) -> bool:
    """kill(2) permission, without the SIGCONT and session rule."""
    if sender.effective & cap_kill:
        return True
    return sender.euid in (target.uid, target.suid) or sender.uid in (target.uid, target.suid)
