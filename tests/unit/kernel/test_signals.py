"""Pending signals, siginfo_t, handlers, and who may send."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN
from sentry.abi.poll import POLLIN
from sentry.kernel.creds import CAP_KILL, Creds
from sentry.kernel.fown import owner_of
from sentry.kernel.signals import Action, Pending, SigInfo, SignalHandlers, may_signal
from tests.unit.kernel.world import DATA, World, call

EVERY = (1 << sig.NSIG) - 1
RT = sig.SIGRTMIN + 3


def taken(pending: Pending, allowed: int = EVERY) -> list[int]:
    """Numbers in the order in which they are taken."""
    numbers: list[int] = []
    while (info := pending.take(allowed)) is not None:
        numbers.append(info.signo)
    return numbers


# -- pending signals --


def test_nothing_is_pending_at_first() -> None:
    pending = Pending()
    assert (pending.mask, pending.count(), pending.take(EVERY)) == (0, 0, None)


def test_standard_signals_do_not_queue_and_the_first_one_stays() -> None:
    pending = Pending()
    assert pending.add(SigInfo(sig.SIGUSR1, pid=1))
    assert not pending.add(SigInfo(sig.SIGUSR1, pid=2))
    info = pending.take(EVERY)
    assert info is not None and info.pid == 1
    assert pending.mask == 0


def test_real_time_signals_queue_in_order() -> None:
    pending = Pending()
    for value in range(3):
        assert pending.add(SigInfo(RT, sig.SI_QUEUE, value=value))
    infos = [pending.take(EVERY) for _ in range(4)]
    assert [info.value for info in infos if info] == [0, 1, 2]
    assert infos[3] is None and pending.mask == 0


def test_the_lowest_number_is_taken_first() -> None:
    pending = Pending()
    for signo in (64, sig.SIGTERM, RT, sig.SIGHUP, sig.SIGUSR1):
        pending.add(SigInfo(signo))
    assert taken(pending) == [sig.SIGHUP, sig.SIGUSR1, sig.SIGTERM, RT, 64]


def test_faults_are_taken_before_everything_else() -> None:
    """Their handlers must see the state at the fault, not that of another handler's first instruction."""
    pending = Pending()
    for signo in (sig.SIGHUP, sig.SIGSYS, sig.SIGSEGV, sig.SIGINT):
        pending.add(SigInfo(signo))
    assert taken(pending) == [sig.SIGSEGV, sig.SIGSYS, sig.SIGHUP, sig.SIGINT]


def test_only_what_is_allowed_is_taken() -> None:
    pending = Pending()
    pending.add(SigInfo(sig.SIGINT))
    pending.add(SigInfo(sig.SIGTERM))
    assert taken(pending, sig.bit(sig.SIGTERM)) == [sig.SIGTERM]
    assert pending.mask == sig.bit(sig.SIGINT)


def test_discard_forgets_every_instance() -> None:
    pending = Pending()
    for signo in (RT, RT, sig.SIGINT, sig.SIGTERM):
        pending.add(SigInfo(signo))
    pending.discard(sig.bit(RT) | sig.bit(sig.SIGINT) | sig.bit(sig.SIGHUP))
    assert taken(pending) == [sig.SIGTERM]


def test_holds_means_this_very_info() -> None:
    pending, info = Pending(), SigInfo(RT)
    pending.add(SigInfo(RT))
    assert not pending.holds(info)
    pending.add(info)
    assert pending.holds(info)
    pending.take(EVERY)
    pending.take(EVERY)
    assert not pending.holds(info)


@pytest.mark.parametrize("code", [sig.SI_QUEUE, sig.SI_TKILL])
def test_past_the_limit_a_real_time_signal_is_refused(code: int) -> None:
    pending = Pending()
    pending.add(SigInfo(RT, code), limit=1)
    with pytest.raises(EAGAIN):
        pending.add(SigInfo(RT, code), limit=1)
    with pytest.raises(EAGAIN):
        Pending().add(SigInfo(RT, code), limit=0)


@pytest.mark.parametrize("code", [sig.SI_USER, sig.SI_KERNEL, 1])
def test_past_the_limit_signals_of_kill_are_pending_once(code: int) -> None:
    """kill(2) never fails for it, and nobody can fill our memory with them."""
    pending = Pending()
    for _ in range(100):
        pending.add(SigInfo(RT, code), limit=3)
    assert pending.count() == 3
    other = Pending()
    assert other.add(SigInfo(RT, code), limit=0)
    assert taken(other) == [RT]


def test_the_limit_is_not_for_standard_signals() -> None:
    pending = Pending()
    assert pending.add(SigInfo(sig.SIGUSR1, sig.SI_QUEUE), limit=0)


@given(st.lists(st.tuples(st.integers(1, 64), st.booleans())))
def test_the_mask_is_always_that_of_what_is_queued(steps: list[tuple[int, bool]]) -> None:
    pending = Pending()
    expected: dict[int, int] = {}
    for signo, add in steps:
        if add:
            pending.add(SigInfo(signo))
            expected[signo] = expected.get(signo, 0) + 1 if signo >= sig.SIGRTMIN else 1
        elif pending.take(sig.bit(signo)) is not None:
            expected[signo] -= 1
    assert pending.mask == sum(sig.bit(signo) for signo, count in expected.items() if count)
    assert pending.count() == sum(expected.values())


# -- siginfo_t --


def fields(info: SigInfo, layout: str) -> tuple[int, ...]:
    """The union's fields, which begin at offset 16."""
    packed = info.pack()
    assert len(packed) == sig.SIGINFO_SIZE
    assert struct.unpack_from("<iii", packed) == (info.signo, info.errno, info.code)
    return struct.unpack_from(layout, packed, 16)


def test_siginfo_of_kill_says_who() -> None:
    assert fields(SigInfo(sig.SIGTERM, pid=7, uid=1000), "<iI") == (7, 1000)
    assert fields(SigInfo(sig.SIGTERM, sig.SI_TKILL, pid=7, uid=1 << 31), "<iI") == (7, 1 << 31)


def test_siginfo_of_sigqueue_has_a_value() -> None:
    info = SigInfo(RT, sig.SI_QUEUE, pid=7, uid=8, value=(1 << 64) - 5)
    assert fields(info, "<iIQ") == (7, 8, (1 << 64) - 5)


def test_siginfo_of_a_timer() -> None:
    info = SigInfo(RT, sig.SI_TIMER, timer_id=3, overrun=9, value=0x1122334455667788)
    assert fields(info, "<iiQ") == (3, 9, 0x1122334455667788)


def test_siginfo_of_a_child() -> None:
    info = SigInfo(sig.SIGCHLD, sig.CLD_EXITED, pid=5, uid=6, status=3, utime=1, stime=2)
    assert fields(info, "<iIixxxxqq") == (5, 6, 3, 1, 2)


def test_siginfo_of_a_fault_has_its_address() -> None:
    assert fields(SigInfo(sig.SIGSEGV, sig.SEGV_MAPERR, addr=0xDEAD000), "<Q") == (0xDEAD000,)


@pytest.mark.parametrize("signo", [sig.SIGIO, RT, sig.SIGUSR1])
def test_siginfo_of_a_ready_file_has_band_and_descriptor(signo: int) -> None:
    """Whatever signal F_SETSIG chose; real-time ones once lost both."""
    assert fields(SigInfo(signo, 1, band=0x41, fd=5), "<qi") == (0x41, 5)


@pytest.mark.parametrize("signo", [sig.SIGCHLD, sig.SIGSEGV])
def test_a_ready_file_by_a_signal_that_has_codes_of_its_own(signo: int) -> None:
    assert fields(SigInfo(signo, sig.SI_SIGIO, band=0x41, fd=5), "<qi") == (0x41, 5)


def test_f_setsig_sends_such_a_signal_with_another_code(world: World) -> None:
    t = world.process(call("pipe2", DATA, 0))
    t.sigmask = (1 << 64) - 1
    world.run()
    owner = owner_of(t.files.get(0))
    for signo, code in ((sig.SIGCHLD, sig.SI_SIGIO), (RT, 1), (sig.SIGIO, 1)):
        owner.tg, owner.creds, owner.signo = t.tg, t.creds, signo
        owner.notify(POLLIN)
        info = t.tg.pending.take(EVERY)
        assert info is not None and (info.signo, info.code, info.band) == (signo, code, POLLIN)


def test_siginfo_of_the_kernel_itself_is_empty() -> None:
    assert SigInfo(sig.SIGALRM, sig.SI_KERNEL).pack()[12:] == bytes(116)


def test_a_programs_own_siginfo_is_passed_on_whole() -> None:
    raw = bytes(range(128))
    assert SigInfo(RT, sig.SI_QUEUE, raw=raw).pack() == raw
    assert SigInfo(RT, sig.SI_QUEUE, raw=raw[:20]).pack() == raw[:20] + bytes(108)


# -- actions --


def test_ignored_explicitly_or_by_default() -> None:
    handlers = SignalHandlers()
    assert {s for s in range(1, 65) if handlers.is_ignored(s)} == {
        sig.SIGCHLD,
        sig.SIGCONT,
        sig.SIGURG,
        sig.SIGWINCH,
    }
    handlers.set(sig.SIGTERM, Action(sig.SIG_IGN))
    handlers.set(sig.SIGCHLD, Action(0x1000))
    assert handlers.is_ignored(sig.SIGTERM) and not handlers.is_ignored(sig.SIGCHLD)
    assert handlers.is_handled(sig.SIGCHLD) and not handlers.is_handled(sig.SIGTERM)
    assert handlers.masks() == (sig.bit(sig.SIGTERM), sig.bit(sig.SIGCHLD))
    handlers.reset(sig.SIGTERM)
    assert not handlers.is_ignored(sig.SIGTERM)


def test_execve_keeps_what_is_ignored_only() -> None:
    handlers = SignalHandlers()
    handlers.set(sig.SIGINT, Action(sig.SIG_IGN, sig.SA_RESTART, 5, 6))
    handlers.set(sig.SIGTERM, Action(0x1000))
    new = handlers.for_exec()
    assert new.get(sig.SIGINT) == Action(sig.SIG_IGN)
    assert new.get(sig.SIGTERM) == Action()
    assert handlers.get(sig.SIGTERM) == Action(0x1000)


def test_a_copy_is_apart() -> None:
    handlers = SignalHandlers()
    copy = handlers.copy()
    copy.set(sig.SIGTERM, Action(sig.SIG_IGN))
    assert not handlers.is_ignored(sig.SIGTERM)


# -- permission --


@pytest.mark.parametrize(
    ("sender", "target", "allowed"),
    [
        (Creds(uid=1, euid=1, suid=1), Creds(uid=1, euid=1, suid=1), True),
        (Creds(uid=1, euid=1, suid=1), Creds(uid=2, euid=2, suid=2), False),
        (Creds(uid=1, euid=2, suid=1), Creds(uid=2, euid=9, suid=9), True),  # effective to real
        (Creds(uid=1, euid=2, suid=1), Creds(uid=9, euid=9, suid=2), True),  # effective to saved
        (Creds(uid=1, euid=3, suid=3), Creds(uid=1, euid=9, suid=9), True),  # real to real
        (Creds(uid=1, euid=3, suid=3), Creds(uid=9, euid=9, suid=1), True),  # real to saved
        (Creds(uid=1, euid=1, suid=1), Creds(uid=9, euid=1, suid=9), False),  # the target's effective id says nothing
        (Creds(uid=3, euid=3, suid=1), Creds(uid=1, euid=1, suid=1), False),  # nor the sender's saved one
        (Creds(uid=1, euid=1, suid=1, effective=CAP_KILL), Creds(uid=2, euid=2, suid=2), True),
        (Creds(uid=0, euid=0, suid=0), Creds(uid=2, euid=2, suid=2), False),  # root without CAP_KILL
    ],
)
def test_may_signal(sender: Creds, target: Creds, allowed: bool) -> None:
    assert may_signal(sender, target, CAP_KILL) is allowed
