"""Signals read from a descriptor, signalfd(2)."""

from __future__ import annotations

import struct
from typing import ClassVar, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN, EINVAL
from sentry.abi.fcntl import O_NONBLOCK, O_RDWR
from sentry.abi.poll import READABLE
from sentry.fs.anon import AnonFile
from sentry.kernel.delivery import dequeue
from sentry.kernel.signals import SigInfo
from sentry.kernel.task import current
from sentry.vfs.iov import Sink
from sentry.wait import WaitQueue

# struct signalfd_siginfo: signo errno code pid uid fd tid band overrun trapno status int ptr utime stime addr
SIGINFO: Final = struct.Struct("<IiiIIiIIIIiiQQQQ48x")
# What a siginfo_t made by rt_sigqueueinfo(2) holds behind its first 16 bytes: pid, uid, value.
QUEUED: Final = struct.Struct("<iIQ")


class SignalFile(AnonFile):
    """Takes signals of mask from whoever reads, whichever process made it."""

    __slots__ = ("mask",)

    KIND: ClassVar[str] = "[signalfd]"

    def __init__(self, mask: int, flags: int) -> None:
        super().__init__(O_RDWR | flags & O_NONBLOCK)
        self.mask = mask

    @property
    def queue(self) -> WaitQueue:
        """Each process waits for its own signals (sighand->signalfd_wqh)."""
        t = current()
        return t.tg.signal_queue if t is not None else WaitQueue()

    @queue.setter
    def queue(self, queue: WaitQueue) -> None:
        """The base class makes one that nobody uses."""

    def read(self, dst: Sink) -> int:
        """As many signals as fit."""
        if dst.remaining < SIGINFO.size:
            raise EINVAL
        t = current()
        done = 0
        while t is not None and dst.remaining >= SIGINFO.size:
            info = dequeue(t, self.mask)
            if info is None:
                break
            done += dst.put(pack_siginfo(info))
        if not done:
            raise EAGAIN
        return done

    def poll(self) -> int:
        t = current()
        return READABLE if t is not None and (t.pending.mask | t.tg.pending.mask) & self.mask else 0

    def fd_info(self) -> str:
        return f"sigmask:\t{self.mask:016x}\n"


def pack_siginfo(info: SigInfo) -> bytes:
    """struct signalfd_siginfo."""
    pid, uid, value = info.pid, info.uid, info.value
    if info.raw is not None:
        pid, uid, value = QUEUED.unpack_from(info.raw, 16)
    value &= 0xFFFFFFFFFFFFFFFF
    number = (value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
    return SIGINFO.pack(
        info.signo,
        info.errno,
        info.code,
        pid & 0xFFFFFFFF,
        uid,
        info.fd,
        info.timer_id if info.code == sig.SI_TIMER else 0,
        info.band & 0xFFFFFFFF,
        info.overrun,
        0,
        info.status,
        number,
        value,
        info.utime,
        info.stime,
        info.addr,
    )
