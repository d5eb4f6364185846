"""Signals to pid 1 of a container, kill(2): "only those for which it has installed a handler"."""

import struct

import pytest

from sentry.abi.signal import SIGRTMIN, SIGTERM, bit
from sentry.kernel.signals import SigInfo
from sentry.syscalls.signal import rt_sigtimedwait


@pytest.fixture
def init(guest):
    t = guest.process()
    t.tg.unkillable = True
    return t


def test_what_it_does_not_handle_is_dropped(init):
    init.tg.send_signal(SigInfo(SIGTERM))
    assert init.tg.pending.mask == 0


def test_what_it_blocks_stays_pending(init):
    """A timer's signal that a helper thread of pid 1 waits for was dropped once: SIGEV_THREAD never fired."""
    init.sigmask = bit(SIGTERM)
    init.tg.send_signal(SigInfo(SIGTERM))
    assert init.tg.pending.mask == bit(SIGTERM)


def test_what_a_thread_of_it_waits_for_arrives(guest, init):
    helper = guest.thread(init)
    helper.sigmask = (1 << 64) - 1
    wanted = init.mem.put(struct.pack("<Q", bit(SIGRTMIN)))
    waiting = guest.start(helper, rt_sigtimedwait, wanted, 0, 0, 8)
    guest.settle()

    init.tg.send_to(helper, SigInfo(SIGRTMIN))
    guest.settle()

    assert waiting.value() == SIGRTMIN
