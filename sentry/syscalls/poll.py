"""poll(2), ppoll(2), select(2) and pselect6(2).

Each asks the files once, plainly; only if none is ready does a coroutine wait on all their
queues and ask again after every wake-up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from sentry.abi.errno import EBADF, EFAULT, EINTR, EINVAL, ETIMEDOUT
from sentry.abi.poll import (
    POLLERR,
    POLLFD,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
)
from sentry.kernel.blocking import held, wait_any
from sentry.kernel.restart import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, Interrupted
from sentry.kernel.rlimits import NR_OPEN, RLIMIT_NOFILE
from sentry.syscalls.args import I32, U32, Addr, Size
from sentry.syscalls.registry import syscall
from sentry.syscalls.sigmask import with_mask
from sentry.syscalls.times import (
    deadline_after,
    milliseconds_deadline,
    pack_timespec,
    pack_timeval,
    read_timespec,
    read_timeval,
)
from sentry.vfs.file import File

if TYPE_CHECKING:
    from sentry.kernel.task import Task

Answer = int | Coroutine[Any, Any, int]
Watched = Sequence[tuple[File, int]]

ALWAYS: Final = POLLERR | POLLHUP
# What makes a descriptor readable, writable or exceptional for select: fs/select.c.
SELECT_IN: Final = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR
SELECT_OUT: Final = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR
SELECT_EXCEPT: Final = POLLPRI
SELECT_SETS: Final = (SELECT_IN, SELECT_OUT, SELECT_EXCEPT)
MASK_AND_SIZE: Final = struct.Struct("<QQ")


async def _wait_until(t: Task, watched: Watched, scan: Callable[[], int], deadline_ns: int | None, kind: int) -> int:
    """Wait until scan() counts something ready; 0 at the deadline.  Interrupted(kind)."""
    queues = [(file.queue, mask) for file, mask in watched]
    with held(*[file for file, _ in watched]):
        while True:
            try:
                await wait_any(t, queues, deadline_ns, kind)
            except ETIMEDOUT:
                return scan()
            n = scan()
            if n:
                return n


# -- poll --


class _Poll:
    """One poll(2) at work: the caller's array, and the files behind it."""

    __slots__ = ("addr", "entries", "results", "t", "watched")

    def __init__(self, t: Task, addr: int, count: int) -> None:
        """EINVAL: more than RLIMIT_NOFILE; EFAULT."""
        if count > t.tg.rlimits.get(RLIMIT_NOFILE)[0]:
            raise EINVAL("nfds")
        self.t = t
        self.addr = addr
        self.entries = list(POLLFD.iter_unpack(t.mem.read(addr, count * POLLFD.size))) if count else []
        self.watched: list[tuple[File, int]] = []
        self.results: list[int] = []

    def scan(self) -> int:
        """Ask every file; the number of those that are ready."""
        get = self.t.files.get
        results: list[int] = []
        watched: list[tuple[File, int]] = []
        n = 0
        for fd, wanted, _ in self.entries:
            found = 0
            if fd >= 0:
                mask = wanted & 0xFFFF | ALWAYS
                try:
                    file = get(fd)
                except EBADF:
                    found = POLLNVAL
                else:
                    found = file.poll() & mask
                    watched.append((file, mask))
            results.append(found)
            n += found != 0
        self.watched = watched
        self.results = results
        return n

    def store(self) -> None:
        """Write all events back.  EFAULT."""
        if self.entries:
            pack = POLLFD.pack
            self.t.mem.write(
                self.addr,
                b"".join(
                    [
                        pack(fd, wanted, found if found < 0x8000 else found - 0x10000)
                        for (fd, wanted, _), found in zip(self.entries, self.results)
                    ]
                ),
            )

    async def wait(self, deadline_ns: int | None, kind: int) -> int:
        """Until something is ready, or 0 at the deadline."""
        again = None
        if kind == ERESTART_RESTARTBLOCK:

            async def again() -> int:
                return await self.run(deadline_ns, kind)

        try:
            n = await _wait_until(self.t, self.watched, self.scan, deadline_ns, kind)
        except Interrupted:
            self.store()
            raise Interrupted(kind, again) from None
        self.store()
        return n

    async def run(self, deadline_ns: int | None, kind: int) -> int:
        """From the start again: restart_syscall(2)."""
        if not self.scan():
            return await self.wait(deadline_ns, kind)
        self.store()
        return self.count()

    def count(self) -> int:
        return len(self.results) - self.results.count(0)


@syscall
def poll(t: Task, fds_addr: Addr, count: U32, timeout_ms: I32) -> Answer:
    """poll(2).

    Linux: fs/select.c:do_sys_poll
    Blocks: until a descriptor is ready, a signal or the timeout
    Errors: EINVAL more than RLIMIT_NOFILE; EFAULT; EINTR (goes on with the rest of the timeout if no handler ran)
    """
    job = _Poll(t, fds_addr, count)
    if not job.scan():
        if timeout_ms:
            return job.wait(milliseconds_deadline(t, timeout_ms), ERESTART_RESTARTBLOCK)
        _nothing(t, ERESTARTNOHAND)
    job.store()
    return job.count()


def _nothing(t: Task, kind: int) -> None:
    """Nothing ready and no time to wait: a pending signal wins over 0 all the same."""
    if t.has_signal():
        raise Interrupted(kind)


@syscall
def ppoll(t: Task, fds_addr: Addr, count: U32, timeout_addr: Addr, mask_addr: Addr, mask_size: Size) -> Answer:
    """ppoll(2): with a struct timespec, which is updated to what is left, and a signal mask.

    Errors: EFAULT, EINVAL the timeout or the mask's size; as poll(2)
    """
    timeout_ns = read_timespec(t, timeout_addr) if timeout_addr else None

    def call(deadline_ns: int | None) -> Answer:
        job = _Poll(t, fds_addr, count)
        if not job.scan():
            if timeout_ns != 0:
                return job.wait(deadline_ns, ERESTARTNOHAND)
            _nothing(t, ERESTARTNOHAND)
        job.store()
        return job.count()

    return _timed(
        t, timeout_ns, timeout_addr, pack_timespec, lambda end: with_mask(t, mask_addr, mask_size, lambda: call(end))
    )


# -- timeouts that tell what is left --


def _timed(
    t: Task,
    timeout_ns: int | None,
    timeout_addr: int,
    pack: Callable[[int], bytes],
    call: Callable[[int | None], Answer],
) -> Answer:
    """call(deadline), then write back what is left of the timeout: poll_select_finish()."""
    if timeout_ns is None:
        return call(None)
    deadline_ns = deadline_after(t, timeout_ns)
    answer = call(deadline_ns)
    if not isinstance(answer, int):
        return _timed_wait(t, answer, deadline_ns, timeout_addr, pack)
    if timeout_ns:
        _tell_rest(t, deadline_ns, timeout_addr, pack)
    return answer


def _tell_rest(t: Task, deadline_ns: int, timeout_addr: int, pack: Callable[[int], bytes]) -> bool:
    """False if the timeout lies in read-only memory; that is no error of the call."""
    try:
        t.mem.write(timeout_addr, pack(max(deadline_ns - t.kernel.loop.now_ns(), 0)))
    except EFAULT:
        return False
    return True


async def _timed_wait(
    t: Task,
    waiting: Coroutine[Any, Any, int],
    deadline_ns: int,
    timeout_addr: int,
    pack: Callable[[int], bytes],
) -> int:
    try:
        result = await waiting
    except Interrupted:
        # Issued again, the call reads the rest from memory; that needs it to be there.
        if _tell_rest(t, deadline_ns, timeout_addr, pack):
            raise
        raise EINTR from None
    _tell_rest(t, deadline_ns, timeout_addr, pack)
    return result


# -- select --


class _Select:
    """One select(2) at work: three bit sets as numbers, and the files behind them."""

    __slots__ = ("addrs", "found", "length", "t", "wanted", "watched")

    def __init__(self, t: Task, count: int, addrs: tuple[int, int, int]) -> None:
        """EINVAL: negative count; EFAULT; EBADF: a bit of a descriptor that is not open."""
        if count < 0:
            raise EINVAL("nfds")
        count = min(count, NR_OPEN)
        self.t = t
        self.addrs = addrs
        self.length = (count + 63) // 64 * 8
        below = (1 << count) - 1
        self.wanted = [
            int.from_bytes(t.mem.read(addr, self.length), "little") & below if addr and count else 0 for addr in addrs
        ]
        fds = _bits(self.wanted[0] | self.wanted[1] | self.wanted[2])
        self.watched = [(t.files.get(fd), self._mask(fd)) for fd in fds]
        self.found = [0, 0, 0]

    def _mask(self, fd: int) -> int:
        mask = ALWAYS
        for wanted, events in zip(self.wanted, SELECT_SETS):
            if wanted >> fd & 1:
                mask |= events
        return mask

    def scan(self) -> int:
        """Ask every file; the number of bits set, which are kept for store()."""
        n = 0
        found = [0, 0, 0]
        fds = _bits(self.wanted[0] | self.wanted[1] | self.wanted[2])
        for fd, (file, _) in zip(fds, self.watched):
            events = file.poll()
            for index in range(3):
                if events & SELECT_SETS[index] and self.wanted[index] >> fd & 1:
                    found[index] |= 1 << fd
                    n += 1
        self.found = found
        return n

    def store(self) -> None:
        """Write the sets back.  EFAULT."""
        for addr, found in zip(self.addrs, self.found):
            if addr and self.length:
                self.t.mem.write(addr, found.to_bytes(self.length, "little"))

    async def wait(self, deadline_ns: int | None) -> int:
        n = await _wait_until(self.t, self.watched, self.scan, deadline_ns, ERESTARTNOHAND)
        self.store()
        return n


def _bits(value: int) -> list[int]:
    """The numbers of the bits that are set."""
    bits: list[int] = []
    while value:
        low = value & -value
        bits.append(low.bit_length() - 1)
        value ^= low
    return bits


def _select(
    t: Task, count: int, addrs: tuple[int, int, int], timeout_ns: int | None, deadline_ns: int | None
) -> Answer:
    job = _Select(t, count, addrs)
    n = job.scan()
    if not n:
        if timeout_ns != 0:
            return job.wait(deadline_ns)
        _nothing(t, ERESTARTNOHAND)
    job.store()
    return n


@syscall
def select(t: Task, count: I32, in_addr: Addr, out_addr: Addr, except_addr: Addr, timeout_addr: Addr) -> Answer:
    """select(2); the timeout is updated to what is left.

    Linux: fs/select.c:kern_select
    Blocks: until a descriptor is ready, a signal or the timeout
    Errors: EFAULT; EINVAL; EBADF; EINTR
    """
    timeout_ns = read_timeval(t, timeout_addr) if timeout_addr else None
    addrs = (in_addr, out_addr, except_addr)
    return _timed(t, timeout_ns, timeout_addr, pack_timeval, lambda end: _select(t, count, addrs, timeout_ns, end))


@syscall
def pselect6(
    t: Task, count: I32, in_addr: Addr, out_addr: Addr, except_addr: Addr, timeout_addr: Addr, sigmask_addr: Addr
) -> Answer:
    """pselect6(2): a struct timespec, and the address and size of a signal mask at sigmask_addr."""
    mask_addr, mask_size = 0, 0
    if sigmask_addr:
        mask_addr, mask_size = MASK_AND_SIZE.unpack(t.mem.read(sigmask_addr, MASK_AND_SIZE.size))
    timeout_ns = read_timespec(t, timeout_addr) if timeout_addr else None
    addrs = (in_addr, out_addr, except_addr)

    def call(end: int | None) -> Answer:
        return with_mask(t, mask_addr, mask_size, lambda: _select(t, count, addrs, timeout_ns, end))

    return _timed(t, timeout_ns, timeout_addr, pack_timespec, call)
