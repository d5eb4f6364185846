"""futex(2), futex_waitv(2), and the futex2 calls.  Queues are kernel/futex.py."""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from sentry.abi.errno import EAGAIN, EINVAL, ENOSYS
from sentry.kernel.futex import MATCH_ANY, Key
from sentry.kernel.restart import ERESTART_RESTARTBLOCK, Interrupted
from sentry.syscalls.args import I32, U32, U64, Addr, Flags
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

FUTEX_WAIT: Final = 0
FUTEX_WAKE: Final = 1
FUTEX_REQUEUE: Final = 3
FUTEX_CMP_REQUEUE: Final = 4
FUTEX_WAKE_OP: Final = 5
FUTEX_LOCK_PI: Final = 6
FUTEX_UNLOCK_PI: Final = 7
FUTEX_TRYLOCK_PI: Final = 8
FUTEX_WAIT_BITSET: Final = 9
FUTEX_WAKE_BITSET: Final = 10
FUTEX_PRIVATE_FLAG: Final = 128
FUTEX_CLOCK_REALTIME: Final = 256
FUTEX2_SIZE_U32: Final = 2
FUTEX2_PRIVATE: Final = 128
FUTEX_WAITV_MAX: Final = 128
CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
NS_PER_S: Final = 1_000_000_000


def _deadline(t: Task, addr: int, absolute: bool, realtime: bool) -> int | None:
    """A timespec as a deadline of the loop's clock; None if there is none.  EINVAL, EFAULT."""
    if not addr:
        return None
    seconds: int
    nanoseconds: int
    seconds, nanoseconds = struct.unpack("<qq", t.mem.read(addr, 16))
    if seconds < 0 or not 0 <= nanoseconds < NS_PER_S:
        raise EINVAL
    value = seconds * NS_PER_S + nanoseconds
    now = t.kernel.loop.now_ns()
    if not absolute:
        return now + value
    if realtime:
        return now + value - time.time_ns()
    return value


@syscall(gaps="no priority inheritance (FUTEX_LOCK_PI and its kin: ENOSYS)")
def futex(
    t: Task, addr: Addr, op: I32, val: U32, timeout: U64, addr2: Addr, val3: U32
) -> Coroutine[Any, Any, int] | int:
    """futex(2): wait for a word to change, wake who waits.

    Errors:
      EINVAL     a misaligned word, an empty bitset, a bad timeout
      EAGAIN     the word is not what was expected
      ETIMEDOUT  nobody woke us in time
      EFAULT     a bad pointer
      ENOSYS     an unknown operation
    """
    command = op & ~(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME)
    private = bool(op & FUTEX_PRIVATE_FLAG)
    realtime = bool(op & FUTEX_CLOCK_REALTIME)
    if realtime and command != FUTEX_WAIT_BITSET:
        raise ENOSYS
    futexes = t.kernel.futexes
    if command in (FUTEX_WAIT, FUTEX_WAIT_BITSET):
        absolute = command == FUTEX_WAIT_BITSET
        bitset = val3 if absolute else MATCH_ANY
        if not timeout and bitset:
            return futexes.wait(t, futexes.key(t, addr, private, reads=True), addr, val, bitset, None)
        return _wait(t, addr, private, val, bitset, _deadline(t, timeout, absolute, realtime))
    key = futexes.key(t, addr, private)
    if command == FUTEX_WAKE:
        return futexes.wake(key, max(_signed(val), 1))
    if command == FUTEX_WAKE_BITSET:
        if not val3:
            raise EINVAL
        return futexes.wake(key, max(_signed(val), 1), val3)
    if command in (FUTEX_REQUEUE, FUTEX_CMP_REQUEUE):
        key2 = futexes.key(t, addr2, private)
        count2 = timeout & 0xFFFFFFFF
        if _signed(val) < 0 or _signed(count2) < 0:
            raise EINVAL
        if command == FUTEX_CMP_REQUEUE and _load(t, addr) != val3:
            raise EAGAIN
        return futexes.requeue(key, key2, val, count2)
    if command == FUTEX_WAKE_OP:
        return _wake_op(t, key, futexes.key(t, addr2, private), addr2, val, timeout & 0xFFFFFFFF, val3)
    raise ENOSYS


def _signed(value: int) -> int:
    return value - (1 << 32) if value & 0x80000000 else value


def _load(t: Task, addr: int) -> int:
    return int.from_bytes(t.mem.read(addr, 4), "little")


async def _wait(t: Task, addr: int, private: bool, expected: int, bitset: int, deadline: int | None) -> int:
    if not bitset:
        raise EINVAL
    key = t.kernel.futexes.key(t, addr, private, reads=True)
    try:
        return await t.kernel.futexes.wait(t, key, addr, expected, bitset, deadline)
    except Interrupted:
        if deadline is None:
            raise
        again = _wait_again(t, addr, private, expected, bitset, deadline)
        raise Interrupted(ERESTART_RESTARTBLOCK, again) from None


def _wait_again(
    t: Task, addr: int, private: bool, expected: int, bitset: int, deadline: int
) -> Callable[[], Awaitable[int]]:
    return lambda: _wait(t, addr, private, expected, bitset, deadline)


def _wake_op(t: Task, key: Key, key2: Key, addr2: int, count: int, count2: int, encoded: int) -> int:
    """FUTEX_WAKE_OP: change the second word; wake on the first, and on the second if its old value compares."""
    operation, comparison = encoded >> 28 & 7, encoded >> 24 & 15
    argument = _sign_12(encoded >> 12)
    if encoded >> 31:
        argument = 1 << (argument & 31)
    old = _load(t, addr2)
    while (found := t.mem.cmpxchg32(addr2, old, _operate(operation, old, argument) & 0xFFFFFFFF)) != old:
        old = found
    a, b = _signed(old), _sign_12(encoded)
    checks = (a == b, a != b, a < b, a <= b, a > b, a >= b)
    if comparison >= len(checks):
        raise ENOSYS
    woken = t.kernel.futexes.wake(key, max(_signed(count), 1))
    if checks[comparison]:
        woken += t.kernel.futexes.wake(key2, max(_signed(count2), 1))
    return woken


def _operate(operation: int, old: int, argument: int) -> int:
    """FUTEX_OP_SET, ADD, OR, ANDN, XOR.  ENOSYS."""
    results = (argument, old + argument, old | argument, old & ~argument, old ^ argument)
    if operation >= len(results):
        raise ENOSYS
    return results[operation]


def _sign_12(value: int) -> int:
    return ((value & 0xFFF) ^ 0x800) - 0x800


def _check_flags2(flags: int) -> bool:
    """futex2 flags: 32-bit words only; returns whether private.  EINVAL."""
    if flags & ~(3 | FUTEX2_PRIVATE) or flags & 3 != FUTEX2_SIZE_U32:
        raise EINVAL
    return bool(flags & FUTEX2_PRIVATE)


@syscall
async def futex_waitv(t: Task, waiters: Addr, count: U32, flags: Flags, timeout: Addr, clock: I32) -> int:
    """futex_waitv(2): wait for any of several words.  EINVAL, EAGAIN, ETIMEDOUT, EFAULT."""
    if flags or not 1 <= count <= FUTEX_WAITV_MAX or not waiters:
        raise EINVAL
    if timeout and clock not in (CLOCK_REALTIME, CLOCK_MONOTONIC):
        raise EINVAL
    deadline = _deadline(t, timeout, True, clock == CLOCK_REALTIME)
    words = []
    for value, addr, word_flags, reserved in struct.iter_unpack("<QQII", t.mem.read(waiters, 24 * count)):
        if reserved:
            raise EINVAL
        words.append((t.kernel.futexes.key(t, addr, _check_flags2(word_flags)), addr, value & 0xFFFFFFFF))
    return await t.kernel.futexes.wait_many(t, words, deadline)


@syscall
def futex_wake(t: Task, addr: Addr, mask: U64, count: I32, flags: Flags) -> int:
    """futex_wake(2).  EINVAL, EFAULT."""
    private = _check_flags2(flags)
    if not mask or mask >> 32:
        raise EINVAL
    return t.kernel.futexes.wake(t.kernel.futexes.key(t, addr, private), count, mask)


@syscall
async def futex_wait(t: Task, addr: Addr, val: U64, mask: U64, flags: Flags, timeout: Addr, clock: I32) -> int:
    """futex_wait(2).  EINVAL, EAGAIN, ETIMEDOUT, EFAULT."""
    private = _check_flags2(flags)
    if not mask or mask >> 32 or val >> 32 or (timeout and clock not in (CLOCK_REALTIME, CLOCK_MONOTONIC)):
        raise EINVAL
    deadline = _deadline(t, timeout, True, clock == CLOCK_REALTIME)
    return await _wait(t, addr, private, val, mask, deadline)


@syscall
def futex_requeue(t: Task, waiters: Addr, flags: Flags, wake: I32, requeue: I32) -> int:
    """futex_requeue(2).  EINVAL, EAGAIN, EFAULT."""
    if flags or wake < 0 or requeue < 0:
        raise EINVAL
    (value, addr, flags1, _), (_, addr2, flags2, _) = struct.iter_unpack("<QQII", t.mem.read(waiters, 48))
    futexes = t.kernel.futexes
    key, key2 = (futexes.key(t, a, _check_flags2(f)) for a, f in ((addr, flags1), (addr2, flags2)))
    if _load(t, addr) != value & 0xFFFFFFFF:
        raise EAGAIN
    return futexes.requeue(key, key2, wake, requeue)
