"""The watchdog of the Sentry's loop: a loop that hangs is shown, one that is idle or busy is not."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging, os, select, sys, time
from sentry.wait import Loop
from sentry.watchdog import Watchdog

class Idle:
    "A platform without contexts: it waits for descriptors and the time."
    def watch(self, epoll_fd): self.epoll_fd = epoll_fd
    def wait(self, timeout_ns):
        select.select([self.epoll_fd], [], [], None if timeout_ns < 0 else timeout_ns / 1e9)
        return []

def handler_that_hangs():
    while {hangs} and os.fstat(shown).st_size == 0:
        time.sleep(0.05)
    loop.call_at(loop.now_ns() + int(3 * {patience_s} * 1e9), loop.stop)

logging.basicConfig(stream=sys.stderr, format="%(message)s")
loop = Loop(Idle())
shown = os.memfd_create("shown")
watchdog = Watchdog(loop, {patience_s}, {kills}, 2 if {kills} else shown)
watchdog.start()
loop.call_at(loop.now_ns() + 1_000_000, handler_that_hangs)
loop.run()
watchdog.stop()
os.write(2, os.pread(shown, 1 << 16, 0))
assert not loop._handlers
"""


def run(hangs, patience_s, kills=False):
    """A handler hangs until the watchdog has shown it; then the loop goes on for some time."""
    program = PROGRAM.format(hangs=hangs, patience_s=patience_s, kills=kills)
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.slow
def test_a_handler_that_hangs_is_shown_and_the_loop_goes_on():
    done = run(hangs=True, patience_s=0.5)
    assert done.returncode == 0
    assert "in handler_that_hangs" in done.stderr
    assert "the loop did not come round for up to" in done.stderr


@pytest.mark.slow
def test_an_idle_loop_is_left_alone():
    done = run(hangs=False, patience_s=1.5)  # a busy host may keep it from running for a moment
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_watchdog_that_kills_shows_the_handler_first():
    done = run(hangs=True, patience_s=1.5, kills=True)
    assert done.returncode == 1
    assert "in handler_that_hangs" in done.stderr
