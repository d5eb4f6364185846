"""Scheduling attributes: kept, checked and answered, though the host schedules."""

from __future__ import annotations

import struct

import pytest

from sentry.abi.errno import E2BIG, EACCES, EFAULT, EINVAL, EPERM, ESRCH
from sentry.kernel.kernel import HostFacts
from sentry.kernel.rlimits import RLIMIT_NICE
from sentry.kernel.task import Task
from sentry.platform import SyscallTrap
from tests.unit.kernel.world import DATA, World, call, context, user

OTHER, FIFO, RR, BATCH, IDLE = 0, 1, 2, 3, 5
PROCESS, GROUP, USER = range(3)


def results(world: World, t: Task, *calls: SyscallTrap) -> list[int]:
    done = len(context(t).results)
    context(t).steps.extend(calls)
    context(t).interrupt()
    world.run()
    return context(t).results[done:]


@pytest.fixture
def t(world: World) -> Task:
    world.container.facts = HostFacts(ncpus=4)
    return world.process()


# -- affinity --


def test_affinity_is_every_cpu_until_it_is_set(world: World, t: Task) -> None:
    get = call("sched_getaffinity", 0, 128, DATA)
    assert results(world, t, get) == [8]
    assert t.mem.read(DATA, 8) == struct.pack("<Q", 0b1111)
    t.mem.write(DATA, struct.pack("<Q", 0b110010))
    assert results(world, t, call("sched_setaffinity", 0, 8, DATA), get) == [0, 8]
    assert t.mem.read(DATA, 8) == struct.pack("<Q", 0b0010)


def test_affinity_is_inherited(world: World, t: Task) -> None:
    t.affinity = 2
    assert results(world, t, call("fork")) == [3]
    child = world.container.pidns.find(3)
    assert child is not None and child.affinity == 2


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (call("sched_setaffinity", 0, 0, DATA), EINVAL),
        (call("sched_setaffinity", 0, 8, DATA), EINVAL),  # CPU 4 and up: there are none
        (call("sched_setaffinity", 0, 8, 8), EFAULT),
        (call("sched_setaffinity", 99, 8, DATA), ESRCH),
        (call("sched_getaffinity", 0, 0, DATA), EINVAL),
        (call("sched_getaffinity", 0, 4, DATA), EINVAL),
        (call("sched_getaffinity", 0, 9, DATA), EINVAL),
        (call("sched_getaffinity", 99, 8, DATA), ESRCH),
        (call("sched_getaffinity", 0, 8, 8), EFAULT),
    ],
)
def test_errors_of_affinity(world: World, t: Task, trap: SyscallTrap, error: type[Exception]) -> None:
    t.mem.write(DATA, struct.pack("<Q", 0xF0))
    assert results(world, t, trap) == [-error.code]  # type: ignore[attr-defined]


# -- policies --


@pytest.mark.parametrize(
    ("policy", "priority", "result"),
    [
        (OTHER, 0, 0),
        (BATCH, 0, 0),
        (IDLE, 0, 0),
        (BATCH | 0x40000000, 0, 0),  # SCHED_RESET_ON_FORK
        (OTHER, 1, -EINVAL.code),
        (FIFO, 0, -EINVAL.code),
        (FIFO, 100, -EINVAL.code),
        (FIFO, 50, -EPERM.code),
        (RR, 1, -EPERM.code),
        (4, 0, -EINVAL.code),
        (-1, 0, -EINVAL.code),
    ],
)
def test_policies(world: World, t: Task, policy: int, priority: int, result: int) -> None:
    t.mem.write(DATA, struct.pack("<i", priority))
    assert results(world, t, call("sched_setscheduler", 0, policy, DATA)) == [result]
    kept = policy & 0xFF if result == 0 else OTHER
    assert results(world, t, call("sched_getscheduler", 0)) == [kept]


def test_parameters(world: World, t: Task) -> None:
    t.mem.write(DATA, b"\1\0\0\0" + b"\xff" * 4)
    assert results(
        world,
        t,
        call("sched_setparam", 0, DATA),
        call("sched_setparam", 0, 0),
        call("sched_getparam", 0, DATA + 4),
        call("sched_getparam", 0, 0),
        call("sched_getparam", -1, DATA),
        call("sched_getparam", 99, DATA),
    ) == [-EINVAL.code, -EINVAL.code, 0, -EINVAL.code, -EINVAL.code, -ESRCH.code]
    assert t.mem.read(DATA + 4, 4) == bytes(4)


@pytest.mark.parametrize(
    ("policy", "lowest", "highest"),
    [(OTHER, 0, 0), (FIFO, 1, 99), (RR, 1, 99), (BATCH, 0, 0), (IDLE, 0, 0), (6, 0, 0), (99, -22, -22)],
)
def test_ranges_of_priorities(world: World, t: Task, policy: int, lowest: int, highest: int) -> None:
    traps = call("sched_get_priority_min", policy), call("sched_get_priority_max", policy)
    assert results(world, t, *traps) == [lowest, highest]


def test_attributes_in_a_struct(world: World, t: Task) -> None:
    attr = struct.Struct("<IIQiIQQQ")
    t.mem.write(DATA, attr.pack(48, BATCH, 0, 5, 0, 0, 0, 0))
    assert results(world, t, call("sched_setattr", 0, DATA, 0), call("sched_getattr", 0, DATA + 64, 48, 0)) == [0, 0]
    assert attr.unpack(t.mem.read(DATA + 64, 48)) == (48, BATCH, 0, 5, 0, 0, 0, 0)
    t.mem.write(DATA, struct.pack("<I", 20))
    assert results(
        world,
        t,
        call("sched_setattr", 0, DATA, 0),
        call("sched_setattr", 0, DATA, 1),
        call("sched_getattr", 0, DATA, 47, 0),
        call("sched_getattr", 0, 0, 48, 0),
    ) == [-E2BIG.code, -EINVAL.code, -EINVAL.code, -EINVAL.code]


def test_yield_and_interval(world: World, t: Task) -> None:
    assert results(world, t, call("sched_yield"), call("sched_rr_get_interval", 0, DATA)) == [0, 0]
    assert struct.unpack("<qq", t.mem.read(DATA, 16))[0] == 0


# -- nice values --


def test_nice_values_are_kept_within_their_range(world: World, t: Task) -> None:
    for nice, shown in ((5, 15), (100, 1), (-100, 40)):
        assert results(world, t, call("setpriority", PROCESS, 0, nice), call("getpriority", PROCESS, 0)) == [0, shown]


def test_without_the_capability_priority_is_not_raised(world: World) -> None:
    t = world.process(creds=user())
    raise_it, lower = call("setpriority", PROCESS, 0, -1), call("setpriority", PROCESS, 0, 5)
    assert results(world, t, raise_it, lower, call("setpriority", PROCESS, 0, 4)) == [-EACCES.code, 0, -EACCES.code]
    t.tg.rlimits.set(RLIMIT_NICE, 16, 16)
    assert results(world, t, call("setpriority", PROCESS, 0, 4), call("setpriority", PROCESS, 0, 3)) == [
        0,
        -EACCES.code,
    ]


def test_groups_and_users(world: World, t: Task) -> None:
    child = world.process(parent=t)
    stranger = world.process(creds=user())
    world.run()
    assert results(world, t, call("setpriority", GROUP, 0, 3), call("setpriority", USER, 1000, 7)) == [0, 0]
    assert (t.nice, child.nice, stranger.nice) == (3, 3, 7)
    child.nice = 1
    assert results(world, t, call("getpriority", GROUP, 2), call("getpriority", USER, 1000)) == [19, 13]


def test_one_that_may_not_be_changed_does_not_keep_the_others_from_it(world: World) -> None:
    t = world.process(creds=user())
    first, last = world.process(parent=t, creds=user(7)), world.process(parent=t, creds=user())
    world.run()
    assert results(world, t, call("setpriority", GROUP, 0, 3)) == [-EPERM.code]
    assert (t.nice, first.nice, last.nice) == (3, 0, 3)


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (call("getpriority", 3, 0), EINVAL),
        (call("getpriority", PROCESS, 99), ESRCH),
        (call("getpriority", GROUP, 99), ESRCH),
        (call("getpriority", USER, 99), ESRCH),
        (call("setpriority", -1, 0, 0), EINVAL),
        (call("ioprio_get", 0, 0), EINVAL),
        (call("ioprio_get", 1, 99), ESRCH),
        (call("ioprio_set", 1, 0, 4 << 13), EINVAL),
        (call("ioprio_set", 1, 0, 1), EINVAL),
    ],
)
def test_errors_of_priorities(world: World, t: Task, trap: SyscallTrap, error: type[Exception]) -> None:
    assert results(world, t, trap) == [-error.code]  # type: ignore[attr-defined]


def test_priorities_of_input_and_output(world: World, t: Task) -> None:
    assert results(world, t, call("ioprio_set", 1, 0, 2 << 13 | 4), call("ioprio_get", 1, 0)) == [0, 2 << 13 | 4]
    t.creds = user()
    assert results(world, t, call("ioprio_set", 1, 0, 1 << 13 | 4)) == [-EPERM.code]
