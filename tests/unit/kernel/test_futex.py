"""Futexes: futex(2)'s operations between threads and processes."""

from __future__ import annotations

import struct

import pytest

from sentry.abi.errno import EAGAIN, EFAULT, EINVAL, ENOSYS, ETIMEDOUT
from sentry.kernel.signals import SigInfo
from sentry.kernel.task import Task
from sentry.platform import SyscallTrap
from tests.unit.kernel.world import DATA, SHARED, World, call, context

WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_BITSET, WAKE_BITSET = 0, 1, 3, 4, 5, 9, 10
PRIVATE, REALTIME = 128, 256
WORD, OTHER, TIME = DATA + 0x400, DATA + 0x500, DATA + 0x600
ANY = 0xFFFFFFFF


def futex(op: int, val: int, timeout: int = 0, addr2: int = 0, val3: int = 0, addr: int = WORD) -> SyscallTrap:
    return call("futex", addr, op | PRIVATE, val, timeout, addr2, val3)


def waiters(world: World, count: int, op: SyscallTrap | None = None) -> tuple[Task, list[Task]]:
    """A process whose threads wait, in the order in which they are returned, and one thread that does not."""
    t = world.process()
    threads = [world.thread(t, op or futex(WAIT, 0)) for _ in range(count)]
    world.run()
    return t, threads


def act(world: World, t: Task, *calls: SyscallTrap) -> list[int]:
    """What a thread's calls return."""
    done = len(context(t).results)
    context(t).steps.extend(calls)
    context(t).interrupt()
    world.run()
    return context(t).results[done:]


def woken(threads: list[Task]) -> list[int]:
    return [n for n, t in enumerate(threads) if context(t).results]


def store(t: Task, addr: int, value: int) -> None:
    t.mem.write(addr, struct.pack("<I", value))


def load(t: Task, addr: int) -> int:
    return int.from_bytes(t.mem.read(addr, 4), "little")


# -- waiting and waking --


def test_a_wait_needs_the_expected_value(world: World) -> None:
    t = world.process(futex(WAIT, 1))
    world.run()
    assert context(t).results == [-EAGAIN.code]


def test_wake_is_first_come_first_served(world: World) -> None:
    t, threads = waiters(world, 4)
    assert act(world, t, futex(WAKE, 1)) == [1]
    assert woken(threads) == [0]
    assert act(world, t, futex(WAKE, 2)) == [2]
    assert woken(threads) == [0, 1, 2]
    assert act(world, t, futex(WAKE, 100), futex(WAKE, 100)) == [1, 0]
    assert [context(thread).results for thread in threads] == [[0]] * 4


@pytest.mark.parametrize("count", [0, -1])
def test_waking_nobody_wakes_one_as_linux_does(world: World, count: int) -> None:
    t, threads = waiters(world, 2)
    assert act(world, t, futex(WAKE, count)) == [1]
    assert woken(threads) == [0]


def test_words_are_apart(world: World) -> None:
    t, threads = waiters(world, 1)
    assert act(world, t, futex(WAKE, 1, addr=OTHER)) == [0]
    assert woken(threads) == []


def test_a_wait_ends_at_its_timeout(world: World) -> None:
    t = world.process(futex(WAIT, 0, TIME))
    t.mem.write(TIME, struct.pack("<qq", 1, 500))
    start = world.platform.now
    world.run()
    assert context(t).results == [-ETIMEDOUT.code]
    assert world.platform.now - start == 1_000_000_500
    assert world.kernel.futexes._queues == {}


def test_a_bitset_wait_has_an_absolute_timeout(world: World) -> None:
    t = world.process(futex(WAIT_BITSET, 0, TIME, 0, ANY))
    seconds, nanoseconds = divmod(world.platform.now + 700, 1_000_000_000)
    t.mem.write(TIME, struct.pack("<qq", seconds, nanoseconds))
    start = world.platform.now
    world.run()
    assert context(t).results == [-ETIMEDOUT.code] and world.platform.now - start == 700


@pytest.mark.parametrize(("seconds", "nanoseconds"), [(-1, 0), (0, -1), (0, 1_000_000_000)])
def test_a_malformed_timeout_is_einval(world: World, seconds: int, nanoseconds: int) -> None:
    t = world.process(futex(WAIT, 0, TIME))
    t.mem.write(TIME, struct.pack("<qq", seconds, nanoseconds))
    world.run()
    assert context(t).results == [-EINVAL.code]


def test_a_woken_waiter_reports_success_though_it_is_killed_or_timed_out_as_well(world: World) -> None:
    """The waker counted it: it must not look as if it had not been woken."""
    t = world.process()
    waiting = world.thread(t, futex(WAIT, 0, TIME))
    t.mem.write(TIME, struct.pack("<qq", 1, 0))
    at = world.platform.now + 1_000_000_000

    def meanwhile() -> None:
        assert world.kernel.futexes.wake((id(t.mm), WORD), 1) == 1
        waiting.notify()

    world.loop.call_at(at - 1, meanwhile)
    world.run()
    assert context(waiting).results == [0]


def test_a_signal_ends_a_wait_and_leaves_no_waiter(world: World) -> None:
    t, threads = waiters(world, 2)
    threads[0].tg.send_to(threads[0], SigInfo(10))
    world.run()
    assert t.tg.dead
    assert world.kernel.futexes._queues == {}


def test_bitsets_choose(world: World) -> None:
    t = world.process()
    threads = [world.thread(t, futex(WAIT_BITSET, 0, 0, 0, bits)) for bits in (1, 2, 3, 4)]
    world.run()
    assert act(world, t, futex(WAKE_BITSET, 100, 0, 0, 2)) == [2]
    assert woken(threads) == [1, 2]
    assert act(world, t, futex(WAKE, 1)) == [1]
    assert woken(threads) == [0, 1, 2]


@pytest.mark.parametrize("op", [WAIT_BITSET, WAKE_BITSET])
def test_an_empty_bitset_is_einval(world: World, op: int) -> None:
    t = world.process(futex(op, 0, 0, 0, 0))
    world.run()
    assert context(t).results == [-EINVAL.code]


# -- requeueing --


def test_requeue_moves_waiters_in_order(world: World) -> None:
    t, threads = waiters(world, 5)
    assert act(world, t, futex(REQUEUE, 1, 2, OTHER)) == [3]
    assert woken(threads) == [0]
    assert act(world, t, futex(WAKE, 100)) == [2]
    assert woken(threads) == [0, 3, 4]
    assert act(world, t, futex(WAKE, 1, addr=OTHER)) == [1]
    assert woken(threads) == [0, 1, 3, 4]


def test_requeue_to_the_same_word_counts_and_moves_nobody(world: World) -> None:
    t, threads = waiters(world, 3)
    assert act(world, t, futex(REQUEUE, 1, 1, WORD)) == [2]
    assert woken(threads) == [0]
    assert act(world, t, futex(WAKE, 1)) == [1]
    assert woken(threads) == [0, 1]


def test_cmp_requeue_compares_first(world: World) -> None:
    t, threads = waiters(world, 1)
    assert act(world, t, futex(CMP_REQUEUE, 0, 1, OTHER, 7), futex(CMP_REQUEUE, 0, 1, OTHER, 0)) == [-EAGAIN.code, 1]
    assert act(world, t, futex(WAKE, 1, addr=OTHER)) == [1]
    assert woken(threads) == [0]


def test_negative_counts_of_requeue_are_einval(world: World) -> None:
    t = world.process(futex(REQUEUE, -1, 0, OTHER), futex(REQUEUE, 0, -1, OTHER))
    world.run()
    assert context(t).results == [-EINVAL.code] * 2


def test_a_requeued_waiter_that_times_out_leaves_the_new_queue(world: World) -> None:
    t = world.process()
    t.mem.write(TIME, struct.pack("<qq", 1, 0))
    waiting = world.thread(t, futex(WAIT, 0, TIME))

    def meanwhile() -> None:
        assert world.kernel.futexes.requeue((id(t.mm), WORD), (id(t.mm), OTHER), 0, 1) == 1

    world.loop.call_at(world.platform.now + 5, meanwhile)
    world.run()
    assert context(waiting).results == [-ETIMEDOUT.code]
    assert world.kernel.futexes._queues == {}


# -- wake op --

SET, ADD, OR, ANDN, XOR, SHIFT = 0, 1, 2, 3, 4, 8
EQ, NE, LT, LE, GT, GE = range(6)


def encode(op: int, oparg: int, cmp: int, cmparg: int) -> int:
    return op << 28 | cmp << 24 | (oparg & 0xFFF) << 12 | cmparg & 0xFFF


@pytest.mark.parametrize(
    ("op", "argument", "before", "after"),
    [
        (SET, 5, 1, 5),
        (SET, -1, 1, ANY),
        (ADD, 1, 4, 5),
        (ADD, -1, 0, ANY),
        (OR, 6, 1, 7),
        (ANDN, 1, 7, 6),
        (XOR, 3, 5, 6),
        (OR | SHIFT, 4, 0, 16),
        (SET | SHIFT, 31, 0, 1 << 31),
    ],
)
def test_wake_op_changes_the_second_word(world: World, op: int, argument: int, before: int, after: int) -> None:
    t = world.process(futex(WAKE_OP, 0, 0, OTHER, encode(op, argument, NE, 0)))
    store(t, OTHER, before)
    world.run()
    assert context(t).results == [0] and load(t, OTHER) == after


@pytest.mark.parametrize(
    ("comparison", "old", "argument", "holds"),
    [
        (EQ, 3, 3, True),
        (EQ, 3, 4, False),
        (NE, 3, 4, True),
        (LT, ANY, 0, True),  # the old value is a signed number
        (LT, 1, 0, False),
        (LE, 2, 2, True),
        (GT, 5, -1, True),
        (GE, 0x80000000, 0, False),
    ],
)
def test_wake_op_wakes_on_the_second_word_by_its_old_value(
    world: World, comparison: int, old: int, argument: int, holds: bool
) -> None:
    t = world.process()
    first = world.thread(t, futex(WAIT, 0))
    second = world.thread(t, futex(WAIT, old, addr=OTHER))
    store(t, OTHER, old)
    world.run()
    result = act(world, t, futex(WAKE_OP, 1, 1, OTHER, encode(SET, 9, comparison, argument)))
    assert result == [1 + holds]
    assert woken([first, second]) == ([0, 1] if holds else [0])


@pytest.mark.parametrize("encoded", [encode(5, 0, EQ, 0), encode(SET, 0, 6, 0)])
def test_an_unknown_wake_op_is_enosys_and_wakes_nobody(world: World, encoded: int) -> None:
    t, threads = waiters(world, 1)
    assert act(world, t, futex(WAKE_OP, 1, 1, OTHER, encoded)) == [-ENOSYS.code]
    assert woken(threads) == []


# -- words --


@pytest.mark.parametrize("addr", [WORD + 1, WORD + 2])
def test_a_misaligned_word_is_einval(world: World, addr: int) -> None:
    t = world.process(futex(WAIT, 0, addr=addr), futex(WAKE, 1, addr=addr))
    world.run()
    assert context(t).results == [-EINVAL.code] * 2


@pytest.mark.parametrize("addr", [0, 1 << 46, 1 << 62, (1 << 64) - 4])
def test_a_word_that_is_not_there_is_efault(world: World, addr: int) -> None:
    t = world.process(futex(WAIT, 0, addr=addr), call("futex", addr, WAIT, 0), call("futex", addr, WAKE, 1))
    world.run()
    assert context(t).results == [-EFAULT.code] * 3


def test_a_private_wake_does_not_cross_processes(world: World) -> None:
    a = world.process(futex(WAIT, 0))
    b = world.process(futex(WAKE, 1), call("futex", WORD, WAKE, 1))
    world.run()
    assert context(b).results == [0, 0] and context(a).results == []


def test_a_shared_word_is_one_for_everybody_who_maps_it(world: World) -> None:
    a = world.process(call("fork"))
    a.mm.note_shared(SHARED, SHARED + 4096)
    world.platform.script(call("futex", SHARED, WAIT, 0))
    world.run()
    assert act(world, a, call("futex", SHARED, WAKE, 1)) == [1]
    assert world.platform.contexts[-1].results == [0]


def test_a_word_in_private_memory_needs_no_private_flag(world: World) -> None:
    t = world.process()
    waiting = world.thread(t, call("futex", WORD, WAIT, 0))
    world.run()
    assert act(world, t, futex(WAKE, 1)) == [1]
    assert woken([waiting]) == [0]


@pytest.mark.parametrize("op", [2, 6, 7, 8, 11, 13, 99, WAKE | REALTIME, WAIT | REALTIME])
def test_what_is_not_supported_is_enosys(world: World, op: int) -> None:
    t = world.process(futex(op, 0))
    world.run()
    assert context(t).results == [-ENOSYS.code]


# -- several words --


def vector(*entries: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QQII", value, addr, 2 | PRIVATE, 0) for value, addr in entries)


def test_waitv_says_which_word_woke_it(world: World) -> None:
    t = world.process()
    t.mem.write(DATA, vector((0, WORD), (0, OTHER)))
    waiting = world.thread(t, call("futex_waitv", DATA, 2, 0, 0, 0))
    world.run()
    assert act(world, t, futex(WAKE, 1, addr=OTHER)) == [1]
    assert context(waiting).results == [1]
    assert world.kernel.futexes._queues == {}


def test_waitv_needs_every_value(world: World) -> None:
    t = world.process(call("futex_waitv", DATA, 2, 0, 0, 0))
    t.mem.write(DATA, vector((0, WORD), (5, OTHER)))
    world.run()
    assert context(t).results == [-EAGAIN.code]
    assert world.kernel.futexes._queues == {}


def test_waitv_of_one_word_twice_counts_as_two(world: World) -> None:
    t = world.process()
    t.mem.write(DATA, vector((0, WORD), (0, WORD)))
    waiting = world.thread(t, call("futex_waitv", DATA, 2, 0, 0, 0))
    world.run()
    assert act(world, t, futex(WAKE, 1)) == [1]
    assert context(waiting).results == [0]


@pytest.mark.parametrize("count", [0, 129])
def test_waitv_takes_one_to_128_words(world: World, count: int) -> None:
    t = world.process(call("futex_waitv", DATA, count, 0, 0, 0))
    world.run()
    assert context(t).results == [-EINVAL.code]


def test_the_calls_of_futex2(world: World) -> None:
    t = world.process()
    threads = [world.thread(t, call("futex_wait", WORD, 0, ANY, 2 | PRIVATE, 0, 1)) for _ in range(2)]
    world.run()
    t.mem.write(DATA, vector((0, WORD), (0, OTHER)))
    results = act(
        world,
        t,
        call("futex_requeue", DATA, 0, 0, 1),
        call("futex_wake", OTHER, ANY, 1, 2 | PRIVATE),
        call("futex_wake", WORD, ANY, 0, 2 | PRIVATE),
        call("futex_wake", WORD, ANY, 5, 2 | PRIVATE),
        call("futex_wake", WORD, ANY, 5, 1),
    )
    assert results == [1, 1, 0, 1, -EINVAL.code]
    assert woken(threads) == [0, 1]
