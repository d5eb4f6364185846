"""clone(2), clone3(2), fork(2), vfork(2), unshare(2): flags, what is shared, what the child starts with."""

from __future__ import annotations

import struct

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import E2BIG, EAGAIN, EFAULT, EINVAL, EPERM, LinuxError
from sentry.kernel import clone as c
from sentry.kernel.rlimits import RLIMIT_NPROC
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import Task
from sentry.platform import SyscallTrap
from tests.fakes import ScriptedContext, Step
from tests.unit.kernel.world import DATA, ROOT, World, call, context, user

THREAD = c.CLONE_VM | c.CLONE_SIGHAND | c.CLONE_THREAD
PARENT_TID, CHILD_TID, ARGS = DATA, DATA + 8, DATA + 0x100


def clone(flags: int, stack: int = 0, parent_tid: int = 0, child_tid: int = 0, tls: int = 0) -> SyscallTrap:
    return call("clone", flags, stack, parent_tid, child_tid, tls)


def born(world: World, parent: Task, *steps: Step) -> Task:
    """The child of the parent's next clone, which runs these steps."""
    before = set(world.kernel.root_pidns.tasks.values())
    world.platform.script(*steps)
    context(parent).interrupt()
    world.run()
    (child,) = set(world.kernel.root_pidns.tasks.values()) - before
    return child


def word(t: Task, addr: int) -> int:
    return int.from_bytes(t.mem.read(addr, 4), "little")


# -- flags --


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (0, None),
        (THREAD, None),
        (c.CLONE_VM | c.CLONE_VFORK, None),
        (c.CLONE_VM | c.CLONE_SIGHAND, None),
        (c.CLONE_CLEAR_SIGHAND, None),
        (c.CLONE_FS | c.CLONE_NEWNS, EINVAL),
        (c.CLONE_FS | c.CLONE_NEWUSER, EINVAL),
        (c.CLONE_THREAD, EINVAL),
        (c.CLONE_THREAD | c.CLONE_VM, EINVAL),
        (c.CLONE_SIGHAND, EINVAL),
        (THREAD | c.CLONE_CLEAR_SIGHAND, EINVAL),
        (c.CLONE_PIDFD | c.CLONE_DETACHED, EINVAL),
        (c.CLONE_PIDFD | THREAD, EINVAL),
        (c.CLONE_NEWPID, EINVAL),
        (c.CLONE_INTO_CGROUP, EINVAL),
    ],
)
def test_combinations_of_flags(world: World, flags: int, error: type[LinuxError] | None) -> None:
    t = world.process()
    if error is None:
        c.check_flags(t, flags)
    else:
        with pytest.raises(error):
            c.check_flags(t, flags)


def test_pid_1_has_no_siblings(empty_world: World) -> None:
    init = empty_world.process()
    with pytest.raises(EINVAL):
        c.check_flags(init, c.CLONE_PARENT)
    c.check_flags(empty_world.process(), c.CLONE_PARENT)


@pytest.mark.parametrize("flag", [c.CLONE_NEWNS, c.CLONE_NEWUTS, c.CLONE_NEWIPC, c.CLONE_NEWUSER, c.CLONE_NEWNET])
def test_a_namespace_needs_a_capability_first(world: World, flag: int) -> None:
    with pytest.raises(EPERM):
        c.check_flags(world.process(creds=user()), flag)


def test_the_limit_of_processes_is_a_users(world: World) -> None:
    t = world.process(call("fork"), call("fork"), creds=user())
    other = world.process(call("fork"), creds=user(7))
    for task in (t, other):
        task.tg.rlimits.set(RLIMIT_NPROC, 2, 2)
    world.run()
    assert context(t).results == [4, -EAGAIN.code] and context(other).results == [5]
    assert len(t.tg.children) == 1
    root = world.process(call("fork"), creds=ROOT)
    root.tg.rlimits.set(RLIMIT_NPROC, 0, 0)
    world.run()
    assert context(root).results[0] > 0


# -- processes --


def test_fork_copies_memory_and_everything_else(world: World) -> None:
    t = world.process(call("pipe2", DATA, 0), call("fork"))
    t.mem.write(DATA + 64, b"before")
    t.sigmask = 5
    t.tg.handlers.set(sig.SIGUSR1, Action(0x1000))
    t.altstack = (DATA, 0, 4096)
    t.nice, t.no_new_privs, t.task_name = 3, True, "name"
    t.parent_death_signal, t.robust_list, t.clear_child_tid = 9, 99, 99
    context(t).xstate = b"x" * 576
    child = born(world, t)
    assert context(t).results == [0, 3]
    assert child.tg.parent is t.tg and child.tg in t.tg.children and child.tg.pgrp is t.tg.pgrp
    assert (child.sigmask, child.altstack, child.nice, child.no_new_privs) == (5, t.altstack, 3, True)
    assert (child.task_name, child.creds) == ("name", t.creds)
    assert (child.parent_death_signal, child.robust_list, child.clear_child_tid) == (0, 0, 0)
    assert (context(child).regs.rax, context(child).xstate) == (0, context(t).xstate)
    assert child.files is not t.files and child.files.get(0) is t.files.get(0)
    assert child.fs is not t.fs and child.mm is not t.mm
    child.mem.write(DATA + 64, b"after ")
    child.tg.handlers.set(sig.SIGUSR1, Action(0x2000))
    assert t.mem.read(DATA + 64, 6) == b"before" and t.tg.handlers.get(sig.SIGUSR1).handler == 0x1000


def test_pending_signals_are_the_parents_alone(world: World) -> None:
    t = world.process(call("fork"))
    t.sigmask = sig.bit(sig.SIGUSR1)
    t.tg.send_signal(SigInfo(sig.SIGUSR1))
    t.tg.send_to(t, SigInfo(sig.SIGUSR1))
    child = born(world, t)
    assert (child.pending.mask, child.tg.pending.mask) == (0, 0)


def test_clone_parent_makes_a_sibling_with_the_callers_exit_signal(world: World) -> None:
    parent = world.process()
    t = world.process(clone(c.CLONE_PARENT | sig.SIGUSR1), parent=parent)
    child = born(world, t)
    assert child.tg.parent is parent.tg and child.tg.exit_signal == sig.SIGCHLD


def test_what_a_clone_may_share(world: World) -> None:
    t = world.process(clone(c.CLONE_VM | c.CLONE_SIGHAND | c.CLONE_FILES | c.CLONE_FS))
    t.altstack = (DATA, 0, 4096)
    child = born(world, t)
    assert child.mm is t.mm and child.files is t.files and child.fs is t.fs and child.tg.handlers is t.tg.handlers
    assert (t.mm.users, t.files.refs) == (2, 2)
    assert child.altstack == (0, sig.SS_DISABLE, 0)
    assert child.tg is not t.tg


def test_vfork_waits_until_the_child_gives_the_memory_back(world: World) -> None:
    t = world.process(call("vfork"))
    t.altstack = (DATA, 0, 4096)
    child = born(world, t)
    assert context(t).results == [] and child.mm is t.mm and child.altstack == t.altstack
    context(child).steps.append(call("exit_group", 0))
    context(child).interrupt()
    world.run()
    assert context(t).results == [3]


def test_only_death_ends_a_wait_for_vfork(world: World) -> None:
    t = world.process(call("vfork"))
    t.tg.handlers.set(sig.SIGUSR1, Action(0x410000, sig.SA_RESTORER, 0x420000))
    child = born(world, t)
    t.tg.send_signal(SigInfo(sig.SIGUSR1))
    world.run()
    assert context(t).entered == [] and context(t).results == []
    t.tg.send_signal(SigInfo(sig.SIGKILL))
    world.run()
    assert t.tg.dead and not child.tg.dead


def test_clear_sighand_resets_handlers_and_keeps_ignored_signals(world: World) -> None:
    t = world.process()
    args = struct.pack("<8Q", c.CLONE_CLEAR_SIGHAND, 0, 0, 0, sig.SIGCHLD, 0, 0, 0)
    t.mem.write(ARGS, args)
    t.tg.handlers.set(sig.SIGUSR1, Action(0x1000))
    t.tg.handlers.set(sig.SIGUSR2, Action(sig.SIG_IGN))
    context(t).steps.append(call("clone3", ARGS, 64))
    child = born(world, t)
    assert child.tg.handlers.get(sig.SIGUSR1) == Action() and child.tg.handlers.is_ignored(sig.SIGUSR2)


# -- threads --


def test_a_thread_is_one_more_task_of_the_process(world: World) -> None:
    stack, tls = DATA + 0x8000, DATA + 0x9000
    flags = THREAD | c.CLONE_SETTLS | c.CLONE_PARENT_SETTID | c.CLONE_CHILD_SETTID | c.CLONE_CHILD_CLEARTID
    t = world.process(clone(flags, stack, PARENT_TID, CHILD_TID, tls))
    thread = born(world, t, call("getpid"), call("gettid"))
    assert thread.tg is t.tg and t.tg.tasks == [t, thread]
    assert context(t).results == [3] and context(thread).results == [2, 3]
    assert (context(thread).regs.rsp, context(thread).regs.fs_base) == (stack, tls)
    assert (word(t, PARENT_TID), word(t, CHILD_TID), thread.clear_child_tid) == (3, 3, CHILD_TID)
    assert t.tg.children == [] and t.tg.pgrp.members == {t.tg}


def test_tid_words_that_cannot_be_written_are_nobodys_problem(world: World) -> None:
    t = world.process(clone(THREAD | c.CLONE_PARENT_SETTID | c.CLONE_CHILD_SETTID, DATA, 8, 1 << 62))
    assert born(world, t).tid == 3


def test_the_childs_tid_word_is_in_the_childs_memory(world: World) -> None:
    t = world.process(clone(c.CLONE_CHILD_SETTID | sig.SIGCHLD, 0, 0, CHILD_TID))
    child = born(world, t)
    assert (word(t, CHILD_TID), word(child, CHILD_TID)) == (0, 3)


@pytest.mark.parametrize("tls", [1 << 47, 1 << 62, (1 << 64) - 1, (1 << 47) - 4096])
def test_a_tls_address_that_no_register_takes_is_eperm(world: World, tls: int) -> None:
    """The host refuses it: the child could neither run nor trap, and lived for ever."""
    t = world.process(clone(THREAD | c.CLONE_SETTLS, DATA, 0, 0, tls), call("arch_prctl", 0x1002, tls))
    world.run()
    assert context(t).results == [-EPERM.code] * 2
    assert t.tg.tasks == [t] and t.mm.users == 1


# -- clone3 --


def clone3_args(**fields: int) -> bytes:
    names = ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid")
    return struct.pack("<11Q", *(fields.get(name, 0) for name in (*names, "set_tid_size", "cgroup")))


@pytest.mark.parametrize(
    ("fields", "size", "result"),
    [
        ({"exit_signal": 17}, 88, 3),
        ({"exit_signal": 17}, 64, 3),
        ({"exit_signal": 17}, 96, 3),
        ({}, 63, -EINVAL.code),
        ({}, 4097, -E2BIG.code),
        ({"exit_signal": 65}, 88, -EINVAL.code),
        ({"stack": 4096}, 88, -EINVAL.code),
        ({"stack_size": 4096}, 88, -EINVAL.code),
        ({"flags": c.CLONE_DETACHED}, 88, -EINVAL.code),
        ({"flags": 1}, 88, -EINVAL.code),
        ({"flags": 1 << 40}, 88, -EINVAL.code),
        ({"flags": THREAD, "exit_signal": 17}, 88, -EINVAL.code),
        ({"flags": c.CLONE_PARENT, "exit_signal": 17}, 88, -EINVAL.code),
    ],
)
def test_clone3_arguments(world: World, fields: dict[str, int], size: int, result: int) -> None:
    t = world.process(call("clone3", ARGS, size))
    t.mem.write(ARGS, clone3_args(**fields))
    world.run()
    assert context(t).results == [result]


def test_clone3_with_fields_of_the_future(world: World) -> None:
    t = world.process(call("clone3", ARGS, 96), call("clone3", 8, 88))
    t.mem.write(ARGS, clone3_args(exit_signal=17) + b"\0\0\0\0\0\0\0\1")
    world.run()
    assert context(t).results == [-E2BIG.code, -EFAULT.code]


def test_clone3_gives_the_stack_by_its_lowest_address(world: World) -> None:
    t = world.process(call("clone3", ARGS, 88))
    t.mem.write(ARGS, clone3_args(flags=THREAD, stack=DATA, stack_size=0x4000))
    assert context(born(world, t)).regs.rsp == DATA + 0x4000


# -- failures --


class FailingContext(ScriptedContext):
    """Its clones fail as on a host without memory."""

    def clone(self, *, share_space: bool, same_process: bool) -> ScriptedContext:
        raise EAGAIN("the host's pids cgroup")


def test_a_host_that_refuses_is_the_callers_errno(world: World) -> None:
    t = world.process(call("fork"), clone(THREAD, DATA))
    context(t).__class__ = FailingContext
    world.run()
    assert context(t).results == [-EAGAIN.code] * 2
    assert t.tg.children == [] and t.tg.tasks == [t] and t.mm.users == 1


def test_no_number_left_undoes_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    t = world.process(call("fork"), clone(THREAD, DATA))
    monkeypatch.setattr("sentry.kernel.ids.PID_MAX", 0)
    world.run()
    assert context(t).results == [-EAGAIN.code] * 2
    assert t.tg.children == [] and t.tg.tasks == [t] and t.mm.users == 1
    assert [ctx.released for ctx in world.platform.contexts[-2:]] == [True, True]


# -- unshare --


@pytest.mark.parametrize(
    ("flags", "result"),
    [
        (0, 0),
        (c.CLONE_FS | c.CLONE_FILES | c.CLONE_SYSVSEM, 0),
        (c.CLONE_THREAD | c.CLONE_SIGHAND | c.CLONE_VM, 0),
        (0x800000, -EINVAL.code),
        (c.CLONE_NEWNS, -EINVAL.code),
    ],
)
def test_unshare_flags(world: World, flags: int, result: int) -> None:
    t = world.process(call("unshare", flags))
    world.run()
    assert context(t).results == [result]


def test_unshare_parts_what_was_shared(world: World) -> None:
    t = world.process(call("unshare", c.CLONE_FS | c.CLONE_FILES))
    other = world.thread(t)
    world.run()
    assert t.files is not other.files and t.fs is not other.fs
    assert (t.files.refs, other.files.refs) == (1, 1)


@pytest.mark.parametrize("flag", [c.CLONE_THREAD, c.CLONE_SIGHAND, c.CLONE_VM])
def test_a_thread_cannot_become_a_process(world: World, flag: int) -> None:
    t = world.process(call("unshare", flag))
    world.thread(t)
    world.run()
    assert context(t).results == [-EINVAL.code]


def test_a_container_has_no_more_tasks_than_its_limit(world: World) -> None:
    world.container.max_tasks = 3  # pid 1 and the caller are there
    t = world.process(call("fork"), call("fork"))
    world.run()
    assert context(t).results[0] > 0
    assert context(t).results[1] == -EAGAIN.code
