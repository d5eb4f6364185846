"""The end of threads and processes: status, zombies, orphans, robust futexes, the parent's news."""

from __future__ import annotations

import struct

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import ECHILD
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import Task
from sentry.platform import ExitTrap, SyscallTrap
from tests.fakes import Step
from tests.unit.kernel.world import DATA, World, call, context

STATUS, HEAD, LOCK = DATA, DATA + 0x100, DATA + 0x200
WAITERS, DIED = 0x80000000, 0x40000000
CHILD_CLEARTID = 0x200000


def results(world: World, t: Task, *calls: Step) -> list[int]:
    done = len(context(t).results)
    context(t).steps.extend(calls)
    context(t).interrupt()
    world.run()
    return context(t).results[done:]


def kill(world: World, t: Task, signo: int = sig.SIGKILL) -> None:
    t.tg.send_signal(SigInfo(signo))
    world.run()


def status(t: Task) -> int:
    return int.from_bytes(t.mem.read(STATUS, 4), "little")


# -- what an end leaves --


@pytest.mark.parametrize(("code", "word"), [(0, 0), (3, 0x300), (256 + 7, 0x700), (-1, 0xFF00)])
def test_the_exit_status_is_eight_bits(world: World, code: int, word: int) -> None:
    parent = world.process(call("wait4", -1, STATUS, 0, 0))
    world.process(call("exit_group", code), parent=parent)
    world.run()
    assert context(parent).results == [3] and status(parent) == word


def test_a_zombie_keeps_its_number_until_it_is_waited_for(world: World) -> None:
    parent = world.process()
    t = world.process(call("exit_group", 0), parent=parent)
    world.run()
    assert t.tg.dead and world.container.pidns.find_tg(3) is t.tg and t.tg in parent.tg.children
    assert results(world, parent, call("kill", 3, 9), call("wait4", 3, 0, 0, 0), call("kill", 3, 9)) == [0, 3, -3]
    assert parent.tg.children == []


def test_everything_is_given_back(world: World) -> None:
    parent = world.process()
    t = world.process(call("pipe2", DATA, 0), parent=parent)
    world.run()
    reader = t.files.get(0)
    kill(world, t)
    assert context(t).released and t.mm.users == 0
    assert t.files.refs == 0 and reader.refs == 0


def test_a_process_lives_as_long_as_any_of_its_threads(world: World) -> None:
    parent = world.process(call("wait4", -1, STATUS, 0, 0))
    t = world.process(call("exit", 1), parent=parent)
    other = world.thread(t)
    world.run()
    assert not t.tg.dead and context(parent).results == []
    assert world.container.pidns.find_tg(3) is t.tg
    results(world, other, call("exit", 2))
    assert context(parent).results == [3] and status(parent) == 0x200


def test_a_threads_number_is_free_when_it_ends(world: World) -> None:
    t = world.process()
    other = world.thread(t, call("exit", 0))
    world.run()
    assert world.container.pidns.find(other.tid) is None and t.tg.tasks == [t]


def test_exit_group_ends_threads_wherever_they_are(world: World) -> None:
    t = world.process()
    threads = [world.thread(t, *steps) for steps in ((), (call("pause"),), (call("vfork"),))]
    world.platform.script(call("pause"))
    world.run()
    results(world, t, call("exit_group", 5))
    assert t.tg.dead and t.tg.tasks == [] and t.tg.exit_code == 0x500
    assert all(context(thread).released for thread in threads)


def test_the_first_reason_to_end_is_the_one_that_counts(world: World) -> None:
    parent = world.process(call("wait4", -1, STATUS, 0, 0))
    t = world.process(call("exit_group", 1), parent=parent)
    world.thread(t, call("exit_group", 2))
    world.run()
    assert status(parent) == 0x100


def test_a_stub_that_was_killed_from_outside_is_a_sigkill(world: World) -> None:
    parent = world.process(call("wait4", -1, STATUS, 0, 0))
    t = world.process(ExitTrap(9), parent=parent)
    other = world.thread(t)
    world.run()
    assert status(parent) == 9 and context(other).released


# -- what the parent hears --


def test_the_parent_gets_sigchld_with_details(world: World) -> None:
    parent = world.process()
    parent.sigmask = sig.bit(sig.SIGCHLD)
    t = world.process(parent=parent)
    context(t).used_ns = 50_000_000
    world.run()
    kill(world, t, sig.SIGTERM)
    info = parent.tg.pending.take(~0)
    assert info is not None
    assert (info.signo, info.code, info.pid, info.status, info.utime) == (17, sig.CLD_KILLED, 3, sig.SIGTERM, 5)


@pytest.mark.parametrize("action", [Action(sig.SIG_IGN), Action(sig.SIG_DFL, sig.SA_NOCLDWAIT)])
def test_a_parent_that_ignores_its_children_leaves_no_zombies(world: World, action: Action) -> None:
    parent = world.process(call("wait4", -1, STATUS, 0, 0))
    parent.tg.handlers.set(sig.SIGCHLD, action)
    a, b = (world.process(parent=parent) for _ in range(2))
    world.run()
    kill(world, a)
    assert parent.tg.children == [b.tg] and context(parent).results == []
    kill(world, b)
    assert context(parent).results == [-ECHILD.code]
    assert world.container.pidns.find(3) is None


def test_another_exit_signal(world: World) -> None:
    parent = world.process(call("clone", sig.SIGUSR1), call("wait4", -1, 0, 0, 0), call("wait4", -1, 0, 0x80000000, 0))
    parent.sigmask = sig.bit(sig.SIGUSR1)
    world.platform.script(call("exit_group", 0))
    world.run()
    assert context(parent).results == [3, -ECHILD.code, 3]
    assert parent.tg.pending.mask == sig.bit(sig.SIGUSR1)


# -- orphans --


def test_orphans_go_to_pid_1(world: World) -> None:
    parent = world.process()
    child = world.process(parent=parent)
    world.run()
    kill(world, parent)
    init = world.container.pidns.init
    assert child.tg.parent is init and init is not None and child.tg in init.children
    assert results(world, child, call("getppid")) == [1]


def test_orphans_go_to_the_nearest_subreaper(world: World) -> None:
    reaper = world.process(call("prctl", 36, 1))
    parent = world.process(parent=reaper)
    child = world.process(parent=parent)
    world.run()
    kill(world, parent)
    assert child.tg.parent is reaper.tg


def test_a_zombie_that_is_left_is_reported_to_its_new_parent(world: World) -> None:
    reaper = world.process(call("prctl", 36, 1))
    reaper.sigmask = sig.bit(sig.SIGCHLD)
    parent = world.process(parent=reaper)
    child = world.process(parent=parent)
    world.run()
    kill(world, child, sig.SIGTERM)
    reaper.tg.pending.discard(~0)
    kill(world, parent)
    infos = [reaper.tg.pending.take(~0)]
    assert infos[0] is not None and (infos[0].code, infos[0].status) == (sig.CLD_KILLED, sig.SIGTERM)
    assert sorted(results(world, reaper, *[call("wait4", -1, STATUS, 0, 0)] * 2)) == [3, 4]


def test_the_parents_death_signal(world: World) -> None:
    parent = world.process()
    child = world.process(call("prctl", 1, sig.SIGUSR1), parent=parent)
    child.sigmask = sig.bit(sig.SIGUSR1)
    world.run()
    kill(world, parent)
    assert child.tg.pending.mask == sig.bit(sig.SIGUSR1)


def test_the_end_of_pid_1_is_the_end_of_all(empty_world: World) -> None:
    world = empty_world
    init = world.process()
    others = [world.process(parent=init), world.process()]
    stopped = world.process(parent=others[0])
    world.run()
    kill(world, stopped, sig.SIGSTOP)
    results(world, init, call("exit_group", 4))
    assert all(t.tg.dead for t in (init, *others, stopped))
    assert world.kernel.root_pidns.tasks == {}
    assert world.container.pidns.init is None


# -- the words that a thread leaves behind --


def test_the_tid_word_is_cleared_and_woken(world: World) -> None:
    t = world.process()
    waiting = world.thread(t, call("futex", LOCK, 0, 77, 0))
    other = world.thread(t, call("set_tid_address", LOCK), call("exit", 0))
    t.mem.write(LOCK, struct.pack("<I", 77))
    world.run()
    assert t.mem.read(LOCK, 4) == bytes(4)
    assert context(waiting).results == [0] and context(other).released


def test_the_tid_word_of_a_process_alone_is_left(world: World) -> None:
    """Linux: nobody else could see it."""
    t = world.process(call("set_tid_address", LOCK), call("exit", 0))
    space = t.mem
    space.write(LOCK, b"keep")
    world.run()
    assert space.read(LOCK, 4) == b"keep"


@pytest.mark.parametrize("addr", [0x1000, 1 << 62, (1 << 64) - 1, LOCK + 1])
def test_a_bad_tid_word_is_nobodys_problem(world: World, addr: int) -> None:
    t = world.process()
    other = world.thread(t, call("set_tid_address", addr), call("exit", 0))
    world.run()
    assert context(other).released


def robust(world: World, words: list[int], pending: int = 0, offset: int = 8) -> tuple[Task, Task]:
    """A thread with a robust list of words (0: its tid), about to end; each entry lies before its word."""
    t = world.process()
    t.mem.write(LOCK, bytes(0x100))
    ending = world.thread(t, call("set_robust_list", HEAD, 24), call("exit", 0))
    entries = [LOCK + 16 * n for n in range(len(words))]
    for n, word in enumerate(words):
        following = entries[n + 1] if n + 1 < len(entries) else HEAD
        t.mem.write(entries[n], struct.pack("<QI", following, word or ending.tid))
    t.mem.write(HEAD, struct.pack("<QqQ", entries[0] if entries else HEAD, offset, pending))
    return t, ending


def words_of(t: Task, count: int) -> list[int]:
    return [int.from_bytes(t.mem.read(LOCK + 16 * n + 8, 4), "little") for n in range(count)]


def test_robust_futexes_are_marked_and_one_waiter_woken(world: World) -> None:
    t, ending = robust(world, [0, 99, WAITERS | 4, DIED | 4])
    assert ending.tid == 3
    t, ending = robust(world, [0, 99, WAITERS | 5])
    assert ending.tid == 5
    waiting = [world.thread(t, call("futex", LOCK + 40, 0, WAITERS | 5, 0)) for _ in range(2)]
    context(ending).steps.appendleft(call("getpid"))
    world.run()
    assert words_of(t, 3) == [DIED, 99, WAITERS | DIED]
    assert [context(thread).results for thread in waiting] == [[0], []]


def test_the_pending_operation_is_handled_last_and_once(world: World) -> None:
    t, ending = robust(world, [0, 0], pending=LOCK + 32)
    t.mem.write(LOCK + 40, struct.pack("<I", ending.tid))
    world.run()
    assert words_of(t, 3) == [DIED] * 3


def test_an_unlock_that_was_cut_short_wakes_the_next(world: World) -> None:
    """The word is 0 already, the wake did not happen: handle_futex_death()'s special case."""
    t, _ = robust(world, [], pending=LOCK)
    waiting = world.thread(t, call("futex", LOCK + 8, 0, 0, 0))
    world.run()
    assert context(waiting).results == [0]


@pytest.mark.parametrize(
    ("head", "offset", "pending"),
    [
        (LOCK, 1 << 62, 0),
        (LOCK, -(1 << 62), 0),
        (0, 0, 0),
        (1 << 63, 8, 0),
        ((1 << 64) - 1, 8, (1 << 64) - 1),
        (HEAD, 8, 1 << 62),
        (LOCK, 1, 0),
    ],
)
def test_a_broken_robust_list_ends_the_thread_all_the_same(world: World, head: int, offset: int, pending: int) -> None:
    t = world.process()
    ending = world.thread(t, call("set_robust_list", HEAD, 24), call("exit", 0))
    t.mem.write(LOCK, struct.pack("<QQ", LOCK, ending.tid))  # a list that goes round for ever
    t.mem.write(HEAD, struct.pack("<QqQ", head, offset, pending))
    world.run()
    assert context(ending).released and t.tg.tasks == [t]


def test_get_robust_list(world: World) -> None:
    t = world.process(call("set_robust_list", HEAD, 24), call("get_robust_list", 0, DATA, DATA + 8))
    other = world.process(call("get_robust_list", 2, DATA, DATA + 8), call("set_robust_list", HEAD, 23))
    other.creds = other.creds.changed(effective=0)
    world.run()
    assert struct.unpack("<QQ", t.mem.read(DATA, 16)) == (HEAD, 24)
    assert context(other).results == [-1, -22]


# -- processor time --


def test_the_time_of_ended_threads_and_children_is_kept(world: World) -> None:
    parent = world.process()
    t = world.process(parent=parent)
    other = world.thread(t, call("exit", 0))
    context(other).used_ns, context(t).used_ns = 30, 12
    world.run()
    assert t.tg.cpu_ns() == (42, 0)
    kill(world, t)
    assert t.tg.cpu_ns() == (42, 0)
    results(world, parent, call("wait4", -1, 0, 0, 0))
    assert parent.tg.child_cpu_ns == (42, 0)


def never(_: object) -> SyscallTrap:
    raise AssertionError("it runs on after its end")


def test_nobody_runs_on_after_its_end(world: World) -> None:
    t = world.process(call("exit", 0), never)
    world.run()
    assert t.tg.dead
