"""Countdowns: the mechanism of all timers."""

import pytest

from sentry.kernel.timers import Countdown
from tests.fakeguest import Guest


class ManualClock:
    """Stands still until it is told."""

    resolution_ns = 1

    def __init__(self):
        self.now = 1000

    def now_ns(self):
        return self.now

    def wait_ns(self, left_ns):
        return left_ns


class Rig:
    def __init__(self):
        self.clock = ManualClock()
        self.ends = 0
        self.countdown = Countdown(Guest().loop, self.clock, self.ended)

    def ended(self):
        self.ends += 1

    def pass_time(self, ns):
        """The clock goes on, and the loop looks if its timer is still wanted."""
        self.clock.now += ns
        timer = self.countdown._timer
        if timer is not None and timer.callback is not None:
            timer.callback()


@pytest.fixture
def rig():
    return Rig()


def test_it_ends_once(rig):
    rig.countdown.set(100, 0)
    assert rig.countdown.left_ns() == 100
    rig.pass_time(99)
    assert (rig.ends, rig.countdown.left_ns()) == (0, 1)
    rig.pass_time(1)
    assert (rig.ends, rig.countdown.left_ns()) == (1, 0)
    rig.pass_time(1000)
    assert rig.ends == 1


def test_with_an_interval_it_stands_still_until_forwarded(rig):
    rig.countdown.set(100, 10)
    rig.pass_time(125)
    assert rig.ends == 1
    assert rig.countdown.left_ns() == 5
    assert rig.countdown.forward() == 3
    rig.pass_time(4)
    assert rig.ends == 1
    rig.pass_time(1)
    assert rig.ends == 2


def test_forwarding_before_the_end_is_nothing(rig):
    rig.countdown.set(100, 10)
    assert rig.countdown.forward() == 0
    assert rig.countdown.left_ns() == 100


def test_due_but_unseen_is_not_yet_unset(rig):
    rig.countdown.set(100, 0)
    rig.clock.now += 100
    assert rig.countdown.left_ns() == 1


def test_stopping(rig):
    rig.countdown.set(100, 10)
    rig.countdown.stop()
    rig.pass_time(1000)
    assert (rig.ends, rig.countdown.left_ns(), rig.countdown.forward()) == (0, 0, 0)


def test_a_clock_that_was_set_back_is_waited_for(rig):
    rig.countdown.set(2000, 0, absolute=True)
    rig.clock.now = 500
    rig.pass_time(1400)
    assert rig.ends == 0
    rig.pass_time(100)
    assert rig.ends == 1
