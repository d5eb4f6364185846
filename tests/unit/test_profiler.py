"""The profiler sees what runs, counts calls, and leaves everything as it was."""

import signal
import time

import pytest

from cli.debug import by_call, by_function, report
from proto.control import CallCost, ProfileResponse
from sentry.profiler import Profiler
from sentry.syscalls.registry import HANDLERS, build_table
from tests.fakeguest import Guest

# Signals reach the main thread only, and there Python's own handlers are the process's.
pytestmark = pytest.mark.own_process


@pytest.fixture
def profiler():
    """For the test to start, so that nothing else of what runs is sampled."""
    made = Profiler(build_table())
    yield made
    made.stop()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def spend(cpu_seconds):
    deadline = time.process_time() + cpu_seconds
    while time.process_time() < deadline:
        pass


def test_stacks_name_the_functions_that_use_the_processor(profiler):
    profiler.start()
    spend(0.2)
    profiler.stop()

    assert profiler.samples > 5
    stacks = [line.rpartition(" ")[0].split(";") for line in profiler.folded()]
    assert any(stack[-1] == f"{__name__}:spend" for stack in stacks)
    assert all(f"{__name__}:test_stacks_name_the_functions_that_use_the_processor" in stack for stack in stacks)
    assert sum(int(line.rpartition(" ")[2]) for line in profiler.folded()) == profiler.samples


def test_sleep_is_not_sampled(profiler):
    profiler.start()
    time.sleep(0.1)
    profiler.stop()

    assert profiler.samples <= 1


def test_nothing_is_left_in_place():
    table = build_table()
    for row in table.values():
        row.prepare()
    before = {name: row.call for name, row in HANDLERS.items()}
    profiler = Profiler(table)
    profiler.start()
    assert HANDLERS["getpid"].call is not before["getpid"]

    profiler.stop()

    assert {name: row.call for name, row in HANDLERS.items()} == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    signal.raise_signal(signal.SIGPROF)  # one that was on its way ends nobody
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


class Clock:
    """Goes on by one at each look."""

    ns = 0

    def __call__(self):
        self.ns += 1
        return self.ns


def test_calls_are_counted_and_timed_without_what_they_wait(profiler, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    profiler.start()
    guest = Guest()
    t = guest.process()
    fds = t.mem.alloc(8)
    guest.call(t, lambda t: HANDLERS["pipe2"].call(t, (fds, 0, 0, 0, 0, 0)))
    reader = guest.start(t, lambda t: HANDLERS["read"].call(t, (0, fds, 1, 0, 0, 0)))
    guest.settle()
    clock.ns += 1_000_000  # the call waits: that is not its handler's time
    other = guest.thread(t)
    assert guest.call(other, lambda t: HANDLERS["write"].call(t, (1, fds, 1, 0, 0, 0))) == 1
    assert guest.finish(reader) == 1

    assert [profiler.calls[name].count for name in ("pipe2", "read", "write", "getpid")] == [1, 1, 1, 0]
    assert profiler.calls["read"].ns == 3  # the call, up to where it parks, and from there


def test_errors_pass_through_and_count(profiler):
    profiler.start()
    guest = Guest()
    t = guest.process()

    with pytest.raises(Exception, match="EBADF"):
        HANDLERS["read"].call(t, (7, 0, 1, 0, 0, 0))

    assert profiler.calls["read"].count == 1


def test_report_shows_shares_and_means():
    measured = ProfileResponse(
        samples=10,
        stacks=["a:main;a:loop;b:walk 6", "a:main;a:loop 3", "a:main;a:loop;a:loop;c:pack 1"],
        calls=[CallCost("stat", 4, 8_000), CallCost("read", 1, 90_000)],
    )

    assert by_function(measured.stacks)[:2] == [("  60.0", "  60.0", "b:walk"), ("  30.0", " 100.0", "a:loop")]
    assert by_call(measured.calls) == [("1", "90.0", "0.1", "read"), ("4", "2.0", "0.0", "stat")]
    assert report(measured).startswith("10 samples")
    assert report(ProfileResponse(0)) == "0 samples of the Sentry at work\n"
