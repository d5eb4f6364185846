"""Signal-driven I/O: who gets SIGIO when an O_ASYNC file becomes ready (struct fown_struct, fs/fcntl.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi import signal as sig
from sentry.abi.errno import ESRCH
from sentry.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI
from sentry.kernel.creds import CAP_KILL, Creds
from sentry.kernel.signals import SigInfo, may_signal
from sentry.vfs.file import File
from sentry.wait import Waiter

if TYPE_CHECKING:
    from sentry.kernel.ids import PidNamespace, ProcessGroup
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

F_OWNER_TID: Final = 0
F_OWNER_PID: Final = 1
F_OWNER_PGRP: Final = 2

# si_code of a poll(2) event, sigaction(2).  The first that applies is reported.
_CODES: Final = ((POLLIN, 1), (POLLOUT, 2), (POLLERR, 4), (POLLPRI, 5), (POLLHUP, 6))
_WITH_CODES: Final = sig.SYNCHRONOUS | sig.bit(sig.SIGCHLD)
_WATCHED: Final = POLLIN | POLLOUT | POLLERR | POLLPRI | POLLHUP


class FileOwner:
    """What F_SETOWN, F_SETSIG and O_ASYNC set on an open file description; File.async_owner holds it.

    task, tg, pgrp  the owner: at most one of them is set
    creds           those of whoever set the owner: they decide whether a signal may be sent
    signo           F_SETSIG's, 0 for SIGIO without details
    fd              the descriptor that O_ASYNC was set through
    """

    __slots__ = ("creds", "fd", "pgrp", "signo", "task", "tg", "waiter")

    def __init__(self) -> None:
        self.task: Task | None = None
        self.tg: ThreadGroup | None = None
        self.pgrp: ProcessGroup | None = None
        self.creds = Creds()
        self.signo = 0
        self.fd = -1
        self.waiter: Waiter | None = None

    def set(self, ns: PidNamespace, kind: int, number: int, creds: Creds) -> None:
        """Let number in ns be the owner; 0: nobody.  ESRCH."""
        task = tg = pgrp = None
        if number:
            if kind == F_OWNER_PGRP:
                pgrp = ns.find_pgrp(number)
            elif kind == F_OWNER_TID:
                task = ns.find(number)
            else:
                tg = ns.find_tg(number)
            if task is None and tg is None and pgrp is None:
                raise ESRCH
        self.task, self.tg, self.pgrp, self.creds = task, tg, pgrp, creds

    def get(self, ns: PidNamespace) -> tuple[int, int]:
        """(kind, number as seen from ns)."""
        if self.pgrp is not None:
            return F_OWNER_PGRP, self.pgrp.id(ns)
        if self.task is not None:
            return F_OWNER_TID, self.task.tid_in(ns)
        return F_OWNER_PID, self.tg.leader.tid_in(ns) if self.tg is not None else 0

    def notify(self, events: int) -> None:
        """send_sigio()."""
        code = next((code for event, code in _CODES if events & event), 0)
        if not code:
            return
        info = SigInfo(sig.SIGIO, sig.SI_KERNEL)
        if self.signo:
            # Those that have codes of their own are not given these.
            code = sig.SI_SIGIO if sig.bit(self.signo) & _WITH_CODES else code
            info = SigInfo(self.signo, code, band=events, fd=self.fd)
        if self.task is not None:
            if may_signal(self.creds, self.task.creds, CAP_KILL):
                self.task.tg.send_to(self.task, info)
            return
        receivers = list(self.pgrp.members) if self.pgrp is not None else [self.tg] if self.tg is not None else []
        for tg in receivers:
            if not tg.dead and may_signal(self.creds, tg.leader.creds, CAP_KILL):
                tg.send_signal(info)


def owner_of(file: File) -> FileOwner:
    """The file's, made if it has none."""
    owner = file.async_owner
    if not isinstance(owner, FileOwner):
        owner = file.async_owner = FileOwner()
    return owner


def set_async(file: File, fd: int, on: bool) -> None:
    """Begin or end to signal: the change of O_ASYNC in the file's flags is the caller's."""
    owner = owner_of(file)
    if owner.waiter is not None:
        file.queue.remove(owner.waiter)
        owner.waiter = None
    if on:
        owner.fd = fd
        owner.waiter = Waiter(_WATCHED, owner.notify)
        file.queue.add(owner.waiter)
