"""The loop, its jobs and timers, events and wait queues; time is the platform's, and jumps."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

import pytest

from sentry.abi.poll import POLLHUP, POLLIN, POLLOUT
from sentry.platform import InterruptTrap, SyscallTrap, Trap
from sentry.wait import Event, Job, Loop, Waiter, WaitQueue, breathe, park
from tests.fakes import ScriptedContext, ScriptedPlatform


@pytest.fixture
def platform() -> ScriptedPlatform:
    return ScriptedPlatform()


@pytest.fixture
def loop(platform: ScriptedPlatform) -> Loop:
    loop = Loop(platform)
    loop.now_ns = platform.now_ns
    platform.on_idle = loop.stop
    return loop


def run(loop: Loop) -> None:
    """Until nothing can happen."""
    loop._stopping = False
    loop.run()


# -- wait queues --


def test_a_waiter_is_called_for_the_events_of_its_mask_only() -> None:
    queue, seen = WaitQueue(), list[int]()
    queue.add(Waiter(POLLIN | POLLHUP, seen.append))
    for events in (POLLOUT, POLLIN, POLLIN | POLLOUT, POLLHUP):
        queue.wake(events)
    assert seen == [POLLIN, POLLIN | POLLOUT, POLLHUP]


def test_a_queue_is_true_while_somebody_waits() -> None:
    queue, waiter = WaitQueue(), Waiter(POLLIN, print)
    queue.wake(POLLIN)
    queue.remove(waiter)
    assert not queue
    queue.add(waiter)
    assert queue
    queue.remove(waiter)
    queue.remove(waiter)
    assert not queue


def test_waiters_are_called_in_the_order_in_which_they_came() -> None:
    queue, seen = WaitQueue(), list[str]()
    for name in "abc":
        queue.add(Waiter(POLLIN, lambda _, name=name: seen.append(name)))  # type: ignore[misc]
    queue.wake(POLLIN)
    assert seen == ["a", "b", "c"]


def test_a_waiter_may_leave_while_it_is_called() -> None:
    queue, seen = WaitQueue(), list[int]()

    def once(events: int) -> None:
        seen.append(events)
        queue.remove(first)

    first = Waiter(POLLIN, once)
    queue.add(first)
    queue.add(Waiter(POLLIN, seen.append))
    queue.wake(POLLIN)
    queue.wake(POLLIN)
    assert seen == [POLLIN] * 3


# -- jobs --


def test_jobs_run_in_the_order_in_which_they_were_woken(loop: Loop) -> None:
    order: list[str] = []

    async def body(name: str) -> None:
        order.append(name)
        order.append(name + str(await park()))

    jobs = [loop.spawn(body(name), name) for name in "ab"]
    run(loop)
    loop.wake(jobs[1], 1)
    loop.wake(jobs[0], 2)
    run(loop)
    assert order == ["a", "b", "b1", "a2"]
    assert all(job.done for job in jobs)


def test_only_the_first_wake_counts(loop: Loop) -> None:
    seen: list[object] = []

    async def body() -> None:
        seen.append(await park())
        seen.append(await park())

    job = loop.spawn(body(), "job")
    run(loop)
    loop.wake(job, "first")
    loop.wake(job, "second")
    run(loop)
    assert (seen, job.parked) == (["first"], True)


def test_waking_who_runs_or_has_ended_is_nothing(loop: Loop) -> None:
    async def body() -> None:
        loop.wake(loop.current_job())

    job = loop.spawn(body(), "job")
    run(loop)
    loop.wake(job)
    run(loop)
    assert job.done and not job.queued


def test_the_current_job_is_known_only_while_it_runs(loop: Loop) -> None:
    seen: list[Job | None] = []

    async def body() -> None:
        seen.append(loop.current)

    job = loop.spawn(body(), "job")
    assert loop.current is None
    run(loop)
    assert seen == [job]
    assert loop.current is None
    with pytest.raises(AssertionError):
        loop.current_job()


def test_a_failing_job_is_the_only_one_that_ends(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    async def bad() -> None:
        raise ValueError("on purpose")

    async def good() -> None:
        await park()
        done.append(1)

    other = loop.spawn(good(), "good")
    job = loop.spawn(bad(), "bad")
    run(loop)
    loop.wake(other)
    run(loop)
    assert job.done and done == [1]
    assert "job bad died of a bug" in caplog.text


def test_a_job_can_start_another_which_runs_in_the_same_turn(loop: Loop) -> None:
    done: list[str] = []

    async def child() -> None:
        done.append("child")

    async def parent() -> None:
        loop.spawn(child(), "child")
        done.append("parent")

    loop.spawn(parent(), "parent")
    run(loop)
    assert done == ["parent", "child"]


# -- events --


def test_an_event_wakes_everybody_and_stays(loop: Loop) -> None:
    event, done = Event(loop), list[str]()

    async def body(name: str) -> None:
        await event.wait()
        done.append(name)

    for name in "ab":
        loop.spawn(body(name), name)
    run(loop)
    assert done == []
    event.set()
    loop.spawn(body("late"), "late")
    run(loop)
    assert sorted(done) == ["a", "b", "late"]
    assert event._jobs == []


def test_who_is_woken_otherwise_goes_on_waiting_for_the_event(loop: Loop) -> None:
    event = Event(loop)
    job = loop.spawn(event.wait(), "job")
    run(loop)
    loop.wake(job, "something else")
    run(loop)
    assert not job.done and event._jobs == [job]
    event.set()
    run(loop)
    assert job.done


def test_long_work_lets_others_trap_between_its_slices(loop: Loop, platform: ScriptedPlatform) -> None:
    order: list[str] = []

    async def work() -> None:
        for n in range(3):
            order.append(f"slice {n}")
            await breathe(loop)

    async def task() -> None:
        while True:
            trap = await context.switch()
            order.append(f"trap {getattr(trap, 'number', '')}")

    platform.script(*[SyscallTrap(n, (0, 0, 0, 0, 0, 0)) for n in range(2)])
    context = platform.new_template(()).new_space()
    context.owner = loop.spawn(task(), "task")
    worker = loop.spawn(work(), "work")
    run(loop)
    assert order == ["slice 0", "trap 0", "slice 1", "trap 1", "slice 2"]
    assert worker.done and loop.resting == []


# -- timers --


def test_timers_run_in_the_order_of_their_deadlines(loop: Loop, platform: ScriptedPlatform) -> None:
    seen: list[tuple[str, int]] = []
    start = platform.now
    for name, delay in (("late", 300), ("early", 100), ("also early", 100), ("past", -5)):
        loop.call_at(start + delay, lambda name=name: seen.append((name, platform.now - start)))  # type: ignore[misc]
    run(loop)
    assert seen == [("past", 0), ("early", 100), ("also early", 100), ("late", 300)]


def test_a_cancelled_timer_does_not_run_and_nobody_waits_for_it(loop: Loop, platform: ScriptedPlatform) -> None:
    seen: list[int] = []
    start = platform.now
    loop.call_at(start + 500, lambda: seen.append(1)).cancel()
    run(loop)
    assert (seen, platform.now) == ([], start)


def test_a_timer_may_set_another(loop: Loop, platform: ScriptedPlatform) -> None:
    seen: list[int] = []
    start = platform.now

    def again() -> None:
        seen.append(platform.now - start)
        if len(seen) < 3:
            loop.call_at(platform.now + 10, again)

    loop.call_at(start, again)
    run(loop)
    assert seen == [0, 10, 20]


def test_a_failing_timer_does_not_stop_the_loop(
    loop: Loop, platform: ScriptedPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    """It once ended the Sentry, and every container in it."""
    seen: list[int] = []
    empty: list[None] = []
    loop.call_at(platform.now, lambda: empty.pop())
    loop.call_at(platform.now + 1, lambda: seen.append(1))
    run(loop)
    assert seen == [1]
    assert "IndexError" in caplog.text


def test_a_timer_wakes_a_job(loop: Loop, platform: ScriptedPlatform) -> None:
    start = platform.now

    async def sleep() -> int:
        job = loop.current_job()
        loop.call_at(start + 7, lambda: loop.wake(job, "time"))
        assert await park() == "time"
        seen.append(platform.now - start)
        return 0

    seen: list[int] = []

    async def body() -> None:
        await sleep()

    loop.spawn(body(), "sleeper")
    run(loop)
    assert seen == [7]


# -- host descriptors --


def test_a_ready_descriptor_calls_its_handler(loop: Loop) -> None:
    r, w = os.pipe()
    seen: list[int] = []

    def ready(events: int) -> None:
        seen.append(events)
        os.read(r, 10)

    loop.watch_fd(r, select.EPOLLIN, ready)
    run(loop)
    assert seen == []
    os.write(w, b"x")
    run(loop)
    assert seen == [select.EPOLLIN]
    loop.unwatch_fd(r)
    loop.unwatch_fd(r)
    os.write(w, b"x")
    run(loop)
    assert seen == [select.EPOLLIN]
    os.close(r)
    os.close(w)


def test_watching_again_changes_events_and_handler(loop: Loop) -> None:
    r, w = os.pipe()
    seen: list[str] = []
    loop.watch_fd(w, 0, lambda events: seen.append("old"))
    run(loop)

    def once(events: int) -> None:
        seen.append("new")
        loop.unwatch_fd(w)

    loop.watch_fd(w, select.EPOLLOUT, once)
    run(loop)
    assert seen == ["new"]
    os.close(r)
    os.close(w)


def test_a_failing_handler_does_not_stop_the_loop(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    r, w = os.pipe()

    def ready(events: int) -> None:
        loop.unwatch_fd(w)
        raise ValueError("on purpose")

    loop.watch_fd(w, select.EPOLLOUT, ready)
    run(loop)
    assert "on purpose" in caplog.text
    os.close(r)
    os.close(w)


def test_descriptors_are_looked_at_though_traps_never_end(loop: Loop, platform: ScriptedPlatform) -> None:
    """IO_EVERY: application code that traps all the time must not starve the rest."""
    r, w = os.pipe()
    traps = 0

    async def busy() -> None:
        nonlocal traps
        while not loop._stopping:
            await context.switch()
            traps += 1

    platform.script(*[SyscallTrap(0, (0, 0, 0, 0, 0, 0))] * 100)
    context = platform.new_template(()).new_space()
    context.owner = loop.spawn(busy(), "busy")
    loop.watch_fd(w, select.EPOLLOUT, lambda events: loop.stop())
    run(loop)
    assert traps <= Loop.IO_EVERY
    os.close(r)
    os.close(w)


# -- traps --


def test_a_trap_resumes_the_owner_of_its_context(loop: Loop, platform: ScriptedPlatform) -> None:
    seen: list[object] = []
    trap = SyscallTrap(1, (0, 0, 0, 0, 0, 0))

    async def body() -> None:
        seen.append(await context.switch())
        seen.append(await context.switch())

    platform.script(trap)
    context = platform.new_template(()).new_space()
    context.owner = job = loop.spawn(body(), "task")
    run(loop)
    assert (seen, job.parked) == ([trap], True)
    context.interrupt()
    run(loop)
    assert seen == [trap, InterruptTrap()]


def test_a_trap_of_a_context_without_owner_is_dropped(loop: Loop, platform: ScriptedPlatform) -> None:
    async def body() -> None:
        await context.switch()
        raise AssertionError("resumed")

    platform.script(SyscallTrap(1, (0, 0, 0, 0, 0, 0)))
    context = platform.new_template(()).new_space()
    job = loop.spawn(body(), "task")
    run(loop)
    assert not job.done


def test_stop_ends_run_before_the_next_wait(loop: Loop, platform: ScriptedPlatform) -> None:
    async def body() -> None:
        loop.stop()

    waits = platform.waits
    loop.spawn(body(), "job")
    loop.run()
    assert loop._stopping and platform.waits == waits


# -- idleness --


def test_a_loop_with_nothing_to_do_says_so_once(loop: Loop, platform: ScriptedPlatform) -> None:
    idle_at: list[int] = []
    start = platform.now
    loop.rest(5_000, lambda: idle_at.append(platform.now - start))
    run(loop)
    assert idle_at == [5_000]
    run(loop)
    assert idle_at == [5_000]  # nothing has happened since


def test_a_loop_is_idle_again_after_something_has_happened(loop: Loop, platform: ScriptedPlatform) -> None:
    r, w = os.pipe()
    idle_at: list[int] = []
    start = platform.now
    loop.rest(5_000, lambda: idle_at.append(platform.now - start))
    loop.watch_fd(r, select.EPOLLIN, lambda events: void(os.read(r, 10)))
    run(loop)
    os.write(w, b"x")
    run(loop)
    assert idle_at == [5_000, 10_000]
    os.close(r)
    os.close(w)


def test_a_loop_that_waits_for_a_timer_is_idle_too_but_not_before_its_time(
    loop: Loop, platform: ScriptedPlatform
) -> None:
    log: list[tuple[str, int]] = []
    start = platform.now
    loop.rest(5_000, lambda: log.append(("idle", platform.now - start)))
    for due in (3_000, 6_000, 30_000):
        loop.call_at(start + due, lambda: log.append(("timer", platform.now - start)))
    run(loop)
    assert log == [("timer", 3_000), ("timer", 6_000), ("idle", 11_000), ("timer", 30_000)]


def test_a_wait_that_ends_early_for_nothing_is_no_idleness(loop: Loop, platform: ScriptedPlatform) -> None:
    idle_at: list[int] = []
    start = platform.now
    loop.rest(5_000, lambda: idle_at.append(platform.now - start))
    wait, early = platform.wait, [1_000, 2_000]

    def wait_less(timeout_ns: int) -> Sequence[tuple[ScriptedContext, Trap]]:
        return wait(early.pop() if early else timeout_ns)

    platform.wait = wait_less  # type: ignore[method-assign,assignment]
    run(loop)
    assert idle_at == [8_000]


def void(_: object) -> None:
    """For a handler, whose result is of no use."""
