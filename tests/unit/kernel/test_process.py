"""prctl(2), arch_prctl(2), kcmp(2), process_vm_readv(2): the process's own attributes, and looking at others."""

from __future__ import annotations

import struct

import pytest

from sentry.abi.errno import EBADF, EFAULT, EINVAL, EPERM, ESRCH
from sentry.kernel.task import Task
from sentry.platform import SyscallTrap
from tests.unit.kernel.world import DATA, MASK64, ROOT, World, call, context, user

LOCAL, REMOTE, HERE, THERE = DATA, DATA + 0x100, DATA + 0x1000, DATA + 0x8000


def results(world: World, t: Task, *calls: SyscallTrap) -> list[int]:
    done = len(context(t).results)
    context(t).steps.extend(calls)
    context(t).interrupt()
    world.run()
    return context(t).results[done:]


def prctl(*args: int) -> SyscallTrap:
    return call("prctl", *args)


# -- prctl --


def test_the_name_has_15_bytes(world: World) -> None:
    t = world.process(prctl(15, DATA), prctl(16, DATA + 100))
    t.mem.write(DATA, b"a name that is too long\0")
    world.run()
    assert t.task_name == "a name that is "
    assert t.mem.read(DATA + 100, 16) == b"a name that is \0"


def test_a_name_may_be_any_bytes(world: World) -> None:
    t = world.process(prctl(15, DATA), prctl(16, DATA + 100))
    t.mem.write(DATA, b"\xff\xfe\0")
    world.run()
    assert t.mem.read(DATA + 100, 4) == b"\xff\xfe\0\0"


@pytest.mark.parametrize(
    ("traps", "expected"),
    [
        ([prctl(1, 9), prctl(2, DATA), prctl(1, 65), prctl(1, MASK64)], [0, 0, -EINVAL.code, -EINVAL.code]),
        ([prctl(3), prctl(4, 0), prctl(3), prctl(4, 2)], [1, 0, 0, -EINVAL.code]),
        ([prctl(39), prctl(38, 1, 1), prctl(38, 0), prctl(38, 1), prctl(39)], [0, -EINVAL.code, -EINVAL.code, 0, 1]),
        ([prctl(39, 1), prctl(21), prctl(30)], [-EINVAL.code, 0, 50000]),
        ([prctl(36, 5), prctl(37, DATA), prctl(36, 0)], [0, 0, 0]),
        ([prctl(9999), prctl(0), prctl(MASK64)], [-EINVAL.code] * 3),
        ([prctl(2, 8), prctl(16, 8), prctl(15, 8), prctl(40, 8)], [-EFAULT.code] * 4),
        ([prctl(0x53564D41, 0, DATA, 4096, 0)], [-EINVAL.code]),
    ],
)
def test_attributes(world: World, traps: list[SyscallTrap], expected: list[int]) -> None:
    assert results(world, world.process(), *traps) == expected


def test_no_new_privs_is_a_threads_own_and_for_ever(world: World) -> None:
    t = world.process()
    other = world.thread(t)
    results(world, t, prctl(38, 1))
    assert t.no_new_privs and not other.no_new_privs


def test_the_address_of_the_tid_word(world: World) -> None:
    t = world.process()
    assert results(world, t, call("set_tid_address", 0x1234), prctl(40, DATA)) == [2, 0]
    assert t.mem.read(DATA, 8) == struct.pack("<Q", 0x1234)


def test_segment_bases(world: World) -> None:
    t = world.process()
    get_fs, get_gs = call("arch_prctl", 0x1003, DATA), call("arch_prctl", 0x1004, DATA + 8)
    traps = call("arch_prctl", 0x1002, 0x7000), call("arch_prctl", 0x1001, 0x8000), get_fs, get_gs
    assert results(world, t, *traps, call("arch_prctl", 0x1003, 8), call("arch_prctl", 1, 0)) == [
        *(0, 0, 0, 0),
        -EFAULT.code,
        -EINVAL.code,
    ]
    assert struct.unpack("<QQ", t.mem.read(DATA, 16)) == (0x7000, 0x8000)
    assert (context(t).regs.fs_base, context(t).regs.gs_base) == (0x7000, 0x8000)


# -- other processes --


def iov(*pieces: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QQ", addr, size) for addr, size in pieces)


def copy(name: str, pid: int, ours: int = 1, theirs: int = 1, flags: int = 0) -> SyscallTrap:
    return call(f"process_vm_{name}", pid, LOCAL, ours, REMOTE, theirs, flags)


def pair(world: World) -> tuple[Task, Task]:
    t, target = world.process(), world.process()
    world.run()
    return t, target


def test_memory_of_another_process_is_read_and_written(world: World) -> None:
    t, target = pair(world)
    target.mem.write(THERE, b"abcdefgh")
    t.mem.write(LOCAL, iov((HERE, 3), (HERE + 10, 5)))
    t.mem.write(REMOTE, iov((THERE, 2), (THERE + 4, 4)))
    assert results(world, t, copy("readv", 3, 2, 2)) == [6]
    assert t.mem.read(HERE, 20) == b"abe" + bytes(7) + b"fgh" + bytes(7)
    t.mem.write(HERE, b"XYZ")
    assert results(world, t, copy("writev", 3, 2, 2)) == [6]
    assert target.mem.read(THERE, 8) == b"XYcdZfgh"


def test_copies_stop_at_the_first_fault(world: World) -> None:
    t, target = pair(world)
    target.mem.write(THERE, b"x" * 100)
    t.mem.write(LOCAL, iov((HERE, 1 << 20)))
    t.mem.write(REMOTE, iov((THERE, 10), (8, 10)))
    assert results(world, t, copy("readv", 3, 1, 2)) == [10]
    t.mem.write(REMOTE, iov((8, 10), (THERE, 10)))
    assert results(world, t, copy("readv", 3, 1, 2)) == [-EFAULT.code]


def test_lengths_of_nonsense_do_not_keep_us_busy(world: World) -> None:
    """Pieces were once listed before the first was copied: an exabyte of them took our memory."""
    t, _ = pair(world)
    t.mem.write(LOCAL, iov((HERE, (1 << 63) - 1)))
    t.mem.write(REMOTE, iov((THERE, (1 << 63) - 1)))
    copied = results(world, t, copy("readv", 3))
    assert 0 < copied[0] < 1 << 20
    t.mem.write(REMOTE, iov((THERE, 1 << 63)))
    assert results(world, t, copy("readv", 3)) == [-EINVAL.code]


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (copy("readv", 3, flags=1), EINVAL),
        (copy("readv", 3, ours=1025), EINVAL),
        (copy("readv", 99), ESRCH),
        (copy("readv", 0), ESRCH),
        (call("process_vm_readv", 3, 8, 1, REMOTE, 1, 0), EFAULT),
    ],
)
def test_errors_of_copies(world: World, trap: SyscallTrap, error: type[Exception]) -> None:
    t, _ = pair(world)
    assert results(world, t, trap) == [-error.code]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"euid": 7}, False),
        ({"suid": 7}, False),
        ({"gid": 7}, False),
        ({"permitted": 1}, False),  # it could be made to use what the caller hasn't got
    ],
)
def test_whose_memory_one_may_look_at(world: World, changes: dict[str, int], allowed: bool) -> None:
    t, target = world.process(creds=user()), world.process(creds=user().changed(**changes))
    world.run()
    t.mem.write(LOCAL, iov((HERE, 1)))
    t.mem.write(REMOTE, iov((THERE, 1)))
    assert results(world, t, copy("readv", 3)) == [1 if allowed else -EPERM.code]
    target.tg.dumpable = 0
    assert results(world, t, copy("readv", 3)) == [-EPERM.code]
    t.creds = ROOT
    assert results(world, t, copy("readv", 3)) == [1]


# -- kcmp --


def test_kcmp_tells_what_is_shared(world: World) -> None:
    t = world.process(call("pipe2", DATA, 0), call("dup", 0))
    thread = world.thread(t)
    other = world.process()
    world.run()
    assert thread.tid == 3
    same = [call("kcmp", 2, 3, kind, 0, 0) for kind in range(5)]
    assert results(world, t, *same) == [0] * 5
    different = results(world, t, *[call("kcmp", 2, 4, kind, 0, 0) for kind in range(1, 5)])
    swapped = results(world, t, *[call("kcmp", 4, 2, kind, 0, 0) for kind in range(1, 5)])
    assert all(sorted(both) == [1, 2] for both in zip(different, swapped))
    assert results(world, t, call("kcmp", 2, 2, 0, 0, 2), call("kcmp", 2, 2, 0, 0, 1))[0] == 0
    assert other.tid == 4


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (call("kcmp", 99, 2, 1, 0, 0), ESRCH),
        (call("kcmp", 2, 99, 1, 0, 0), ESRCH),
        (call("kcmp", 2, 2, 9, 0, 0), EINVAL),
        (call("kcmp", 2, 2, 0, 99, 0), EBADF),
        (call("kcmp", 2, 2, 0, MASK64, 0), EBADF),
        (call("kcmp", 2, 3, 1, 0, 0), EPERM),
    ],
)
def test_errors_of_kcmp(world: World, trap: SyscallTrap, error: type[Exception]) -> None:
    t, _ = world.process(creds=user()), world.process(creds=ROOT)
    world.run()
    assert results(world, t, trap) == [-error.code]  # type: ignore[attr-defined]
