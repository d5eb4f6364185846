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
    time.sleep({hangs_s})

logging.basicConfig(stream=sys.stderr, format="%(message)s")
loop = Loop(Idle())
watchdog = Watchdog(loop, {patience_s}, {kills}, 2)
watchdog.start()
loop.call_at(loop.now_ns() + 1_000_000, handler_that_hangs)
loop.call_at(loop.now_ns() + int(({hangs_s} + 3 * {patience_s}) * 1e9), loop.stop)
loop.run()
watchdog.stop()
assert not loop._handlers
"""


def run(hangs_s, patience_s=0.5, kills=False):
    """The watchdog becomes impatient after half as much more than patience_s at the latest."""
    program = PROGRAM.format(hangs_s=hangs_s, patience_s=patience_s, kills=kills)
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.slow
def test_a_handler_that_hangs_is_shown_and_the_loop_goes_on():
    done = run(hangs_s=2)
    assert done.returncode == 0
    shown, _, told = done.stderr.partition("the loop did not come round for up to")
    assert "in handler_that_hangs" in shown
    assert told


@pytest.mark.slow
def test_an_idle_loop_is_left_alone():
    done = run(hangs_s=0, patience_s=1.5)  # a busy host may keep it from running for a moment
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_watchdog_that_kills_shows_the_handler_first():
    done = run(hangs_s=600, patience_s=1.5, kills=True)
    assert done.returncode == 1
    assert "in handler_that_hangs" in done.stderr
