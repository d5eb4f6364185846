"""flock, POSIX and OFD locks of one inode."""

from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sentry.abi.errno import EAGAIN, EDEADLK, EINVAL, EOVERFLOW
from sentry.abi.fcntl import F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_SH, LOCK_UN
from sentry.abi.poll import ANY
from sentry.vfs.locks import OFFSET_MAX, FileLocks, _waits_for, resolve_range
from sentry.wait import Waiter

R, W, U = F_RDLCK, F_WRLCK, F_UNLCK


@pytest.fixture
def locks():
    return FileLocks()


@pytest.fixture
def wakes(locks):
    seen: list[int] = []
    locks.queue.add(Waiter(ANY, seen.append))
    return seen


def ranges(locks, owner="a"):
    return [(lock.kind, lock.start, lock.end) for lock in locks.held(owner)]


# What a owner's locks are after each sequence of requests.
SPLITTING = [
    ([(W, 0, 9)], [(W, 0, 9)]),
    ([(W, 0, 9), (U, 3, 5)], [(W, 0, 2), (W, 6, 9)]),
    ([(W, 0, 9), (R, 3, 5)], [(W, 0, 2), (R, 3, 5), (W, 6, 9)]),
    ([(W, 0, 9), (R, 3, 5), (W, 3, 5)], [(W, 0, 9)]),
    ([(W, 0, 4), (W, 5, 9)], [(W, 0, 9)]),
    ([(W, 5, 9), (W, 0, 4)], [(W, 0, 9)]),
    ([(W, 0, 1), (W, 4, 5), (W, 2, 3)], [(W, 0, 5)]),
    ([(R, 0, 4), (W, 5, 9)], [(R, 0, 4), (W, 5, 9)]),
    ([(W, 0, 3), (W, 6, 9), (W, 2, 7)], [(W, 0, 9)]),
    ([(W, 2, 3), (R, 0, 9)], [(R, 0, 9)]),
    ([(W, 0, 9), (U, 0, 9)], []),
    ([(W, 0, 9), (U, 20, 30)], [(W, 0, 9)]),
    ([(W, 100, OFFSET_MAX), (U, 200, OFFSET_MAX)], [(W, 100, 199)]),
    ([(U, 0, OFFSET_MAX)], []),
]


@pytest.mark.parametrize(("requests", "expected"), SPLITTING)
def test_ranges_split_and_merge(locks, requests, expected):
    for kind, start, end in requests:
        locks.set("a", kind, start, end)

    assert ranges(locks) == expected


CONFLICTS = [
    (R, R, False),
    (R, W, True),
    (W, R, True),
    (W, W, True),
]


@pytest.mark.parametrize(("held", "wanted", "conflict"), CONFLICTS)
def test_only_readers_share_a_range(locks, held, wanted, conflict):
    locks.set("a", held, 10, 19, pid=7)

    if conflict:
        with pytest.raises(EAGAIN):
            locks.set("b", wanted, 19, 25)
        found = locks.test("b", wanted, 19, 25)
        assert (found.kind, found.start, found.end, found.pid) == (held, 10, 19, 7)
    else:
        locks.set("b", wanted, 19, 25)
    assert locks.test("b", wanted, 20, 25) is None
    assert locks.test("a", W, 0, 9) is None


def test_a_refused_request_changes_nothing(locks):
    locks.set("a", R, 0, 9)
    locks.set("b", R, 5, 14)

    with pytest.raises(EAGAIN):
        locks.set("b", W, 0, 14)

    assert ranges(locks, "b") == [(R, 5, 14)]


def test_merging_keeps_the_pid_of_the_older_neighbour(locks):
    locks.set("a", W, 0, 4, pid=1)
    locks.set("a", W, 5, 9, pid=2)

    assert [(lock.end, lock.pid) for lock in locks.held("a")] == [(9, 1)]


def test_what_frees_a_range_wakes_waiters(locks, wakes):
    locks.set("a", W, 0, 9)
    assert wakes == []

    locks.set("a", R, 0, 9)
    assert len(wakes) == 1
    locks.set("a", U, 50, 60)
    assert len(wakes) == 1
    locks.release_owner("a")
    assert len(wakes) == 2
    locks.release_owner("a")
    assert len(wakes) == 2


def test_a_file_takes_its_ofd_and_flock_locks_along(locks, wakes):
    locks.set("file", W, 0, 9)
    locks.flock("file", LOCK_EX)

    locks.release_file("file")

    locks.set("other", W, 0, 9)
    locks.flock("other", LOCK_EX)
    assert len(wakes) == 1


def test_flock_shares_among_readers_and_ignores_record_locks(locks):
    locks.set("a", W, 0, OFFSET_MAX)
    locks.flock("f", LOCK_SH)
    locks.flock("g", LOCK_SH)

    with pytest.raises(EAGAIN):
        locks.flock("h", LOCK_EX)


def test_a_failed_flock_conversion_loses_the_old_lock(locks, wakes):
    """As flock(2) warns."""
    locks.flock("f", LOCK_SH)
    locks.flock("g", LOCK_SH)
    with pytest.raises(EAGAIN):
        locks.flock("f", LOCK_EX)

    assert wakes
    locks.flock("g", LOCK_EX)


def test_flock_is_idempotent_and_unlocking_nothing_is_fine(locks, wakes):
    locks.flock("f", LOCK_UN)
    locks.flock("f", LOCK_EX)
    locks.flock("f", LOCK_EX)
    assert wakes == []
    assert locks.flock_held("f") == LOCK_EX
    assert locks.flock_held("g") is None

    locks.flock("f", LOCK_UN)
    locks.flock("g", LOCK_EX)


def test_two_owners_that_wait_for_each_other_deadlock():
    first, second = FileLocks(), FileLocks()
    first.set("a", W, 0, 0)
    second.set("b", W, 0, 0)

    with first.waiting("b", W, 0, 0), pytest.raises(EDEADLK), second.waiting("a", W, 0, 0):
        pass
    with second.waiting("a", W, 0, 0):
        pass
    assert not _waits_for


def test_a_long_chain_deadlocks_only_when_it_closes(locks):
    for n in range(20):
        locks.set(n, W, n, n)
    with ExitStack() as waits:
        for n in range(19):
            waits.enter_context(locks.waiting(n, W, n + 1, n + 1))
        with locks.waiting("outside", W, 0, 19):
            pass

        with pytest.raises(EDEADLK), locks.waiting(19, W, 0, 0):
            pass


RANGES = [
    (0, 0, 0, (0, OFFSET_MAX)),
    (10, 5, 3, (15, 17)),
    (10, 0, -4, (6, 9)),
    (10, -10, 1, (0, 0)),
    (0, 0, OFFSET_MAX, (0, OFFSET_MAX - 1)),
    (0, 1, OFFSET_MAX, (1, OFFSET_MAX)),
    (0, 2, OFFSET_MAX, EOVERFLOW),
    (5, OFFSET_MAX, 0, EOVERFLOW),
    (0, -1, 0, EINVAL),
    (3, 0, -4, EINVAL),
]


@pytest.mark.parametrize(("base", "start", "length", "expected"), RANGES)
def test_struct_flock_ranges(base, start, length, expected):
    if isinstance(expected, tuple):
        assert resolve_range(base, start, length) == expected
    else:
        with pytest.raises(expected):
            resolve_range(base, start, length)


SIZE = 12
kinds = some.sampled_from([R, W, U])
requests = some.lists(
    some.tuples(some.sampled_from("abc"), kinds, some.integers(0, SIZE - 1), some.integers(1, 6)), max_size=40
)


@settings(derandomize=True)
@given(requests)
def test_locks_behave_like_one_kind_per_owner_and_byte(requests):
    """The model: for each byte a dict owner -> kind."""
    locks = FileLocks()
    model: list[dict[object, int]] = [{} for _ in range(SIZE + 6)]
    for owner, kind, start, length in requests:
        touched = model[start : start + length]
        blocked = kind != U and any(o != owner and W in (kind, k) for byte in touched for o, k in byte.items())
        assert (locks.test(owner, kind, start, start + length - 1) is not None) == blocked or kind == U
        try:
            locks.set(owner, kind, start, start + length - 1)
        except EAGAIN:
            assert blocked
            continue
        assert not blocked
        for byte in touched:
            byte.pop(owner, None)
            if kind != U:
                byte[owner] = kind

        for name in "abc":
            assert expand(ranges(locks, name)) == [byte.get(name) for byte in model]
            assert_canonical(ranges(locks, name))


def expand(held):
    kinds = [None] * (SIZE + 6)
    for kind, start, end in held:
        for at in range(start, end + 1):
            assert kinds[at] is None, "overlap"
            kinds[at] = kind
    return kinds


def assert_canonical(held):
    assert held == sorted(held, key=lambda lock: lock[1])
    for (kind, _, end), (next_kind, start, _) in pairwise(held):
        assert end + 1 < start or kind != next_kind, "neighbours that should have been merged"
