"""The page's clocks follow the host's: closely, never back, and not at all where the counter is bad."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from sentry.abi.time import CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, FOREVER_NS, NSEC
from sentry.vdso._clock import ffi, lib
from sentry.vdso.calibration import (
    FIRST_PERIOD_NS,
    STRANGE_LIMIT,
    TOLERANCE_PPB,
    Calibration,
    CounterError,
    Difference,
    Reading,
    Track,
)
from tests.unit.vdso.mapped import FILE, LIMIT_S, Mapped, calibrate, gettime

HAMMER_S = 1.5
WIDE_TICKS = 100_000  # a sample during which others had the processor
THREADS = 4
ENOUGH = 1_000


class Hammer:
    """A process whose threads read one clock as quickly as they can, until the end of the with statement."""

    def __init__(self, reader: Path, mapped: Mapped, clock: int) -> None:
        environment = {name: str(offset) for name, offset in mapped.offsets.items()}
        command: list[str | Path] = [reader, str(mapped.fd), FILE, "hammer", str(THREADS), str(clock)]
        self.process = subprocess.Popen(
            command, env=environment, pass_fds=[mapped.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.readings = self.back = self.off = 0

    def __enter__(self) -> Hammer:
        return self

    def __exit__(self, *exc: object) -> None:
        output, _ = self.process.communicate(timeout=LIMIT_S)
        self.readings, self.back, self.off = map(int, output.split())


def swing(mapped: Mapped, calibration: Calibration) -> int:
    """Let the clocks run after lines that are half a millisecond ahead and behind in turn, each for an instant."""
    target = ffi.new("struct vdso_target *")
    sample = ffi.new("struct vdso_sample *")
    end = time.monotonic() + HAMMER_S
    updates = 0
    while time.monotonic() < end or updates <= ENOUGH:
        assert time.monotonic() < end + LIMIT_S
        lib.vdso_take_sample(sample, 4)
        if max(sample.mono_width, sample.raw_width) > WIDE_TICKS:
            continue
        wrong_ns = 500_000 if updates % 2 else -500_000
        target.mono = (sample.mono_tsc, sample.mono_ns + wrong_ns, mapped.params.mono.then.mult)
        target.raw = (sample.raw_tsc, sample.raw_ns + wrong_ns, mapped.params.raw.then.mult)
        target.real_ns, target.boot_ns = mapped.params.real_ns, mapped.params.boot_ns
        target.mend_ticks = 1
        lib.vdso_publish(mapped.params, target)
        updates += 1
    return updates


@pytest.mark.slow
@pytest.mark.parametrize("clock", [CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME])
def test_no_clock_goes_back_while_its_rate_is_swung(
    reader: Path, mapped: Mapped, calibrated: Calibration, clock: int
) -> None:
    """Nor does a reader see half of an update: that would be off by more than a swing."""
    with Hammer(reader, mapped, clock) as hammer:
        updates = swing(mapped, calibrated)
    assert updates > ENOUGH
    assert hammer.readings > ENOUGH
    assert (hammer.back, hammer.off) == (0, 0)


@pytest.mark.slow
def test_no_clock_goes_back_under_updates(reader: Path, mapped: Mapped, calibrated: Calibration) -> None:
    end = time.monotonic() + HAMMER_S
    with Hammer(reader, mapped, CLOCK_MONOTONIC) as hammer:
        while time.monotonic() < end:
            calibrated.update()
    assert calibrated.usable
    assert hammer.readings > ENOUGH
    assert (hammer.back, hammer.off) == (0, 0)


@pytest.mark.slow
def test_a_clock_drifts_by_less_than_a_microsecond_in_a_second(mapped: Mapped) -> None:
    """Without updates in between.  The host's daemons may adjust its clocks just then, so the best of a few counts."""
    calibration = calibrate(Calibration(mapped.page, trusting=True), bound_ppb=TOLERANCE_PPB // 2)
    drifts = []
    for _ in range(30):
        calibration.update()
        start_ns, doubt_ns = calibration.measure_error()
        time.sleep(1)
        end_ns, end_doubt_ns = calibration.measure_error()
        drifts.append(abs(end_ns - start_ns) + doubt_ns + end_doubt_ns)
        if drifts[-1] < 1_000:
            break
    assert min(drifts) < 1_000, drifts


def test_an_error_is_mended_within_its_time_and_no_longer(mapped: Mapped, calibrated: Calibration) -> None:
    """However late the next update is: the clock then goes at the host's rate again."""
    sample = ffi.new("struct vdso_sample *")
    lib.vdso_take_sample(sample, 16)
    mult = mapped.params.mono.then.mult
    second = (NSEC << lib.VDSO_SHIFT) // mult
    target = ffi.new("struct vdso_target *")
    target.mono, target.raw = (sample.mono_tsc, sample.mono_ns + 50_000, mult), (sample.raw_tsc, sample.raw_ns, mult)
    target.mend_ticks = second // 100
    behind_ns = -lib.vdso_publish(mapped.params, target)
    assert 49_000 < behind_ns < 51_000
    clock = mapped.params.mono
    for after, left_ns in ((0, behind_ns), (second // 200, behind_ns / 2), (second // 100, 0), (second * 1_000, 0)):
        tsc = clock.mend.tsc + after
        true_ns = sample.mono_ns + 50_000 + ((tsc - sample.mono_tsc) * mult >> lib.VDSO_SHIFT)
        assert abs(true_ns - lib.vdso_mono_at(mapped.params, tsc) - left_ns) < 5


def test_a_clock_that_is_far_behind_jumps_and_one_that_is_far_ahead_waits(
    mapped: Mapped, calibrated: Calibration
) -> None:
    sample = ffi.new("struct vdso_sample *")
    target = ffi.new("struct vdso_target *")
    target.mend_ticks = 1_000_000
    for wrong_ns in (5 * NSEC, -5 * NSEC):
        before_ns = lib.vdso_mono_at(mapped.params, 1 << 62)
        lib.vdso_take_sample(sample, 16)
        mult = mapped.params.mono.then.mult
        host_ns = sample.mono_ns + max(wrong_ns, 0)
        target.mono, target.raw = (sample.mono_tsc, host_ns, mult), (sample.raw_tsc, sample.raw_ns, mult)
        ahead_ns = lib.vdso_publish(mapped.params, target)
        assert abs(ahead_ns + wrong_ns) < NSEC
        mend = mapped.params.mono.mend
        if wrong_ns > 0:
            assert mend.mult == mult
            assert lib.vdso_mono_at(mapped.params, 1 << 62) > before_ns
        else:
            assert mult * 89 // 100 < mend.mult < mult
            assert lib.vdso_mono_at(mapped.params, mend.tsc) >= host_ns + 4 * NSEC


def test_the_applications_counter_may_differ_from_the_hosts(mapped: Mapped) -> None:
    offset = 1 << 40
    calibration = calibrate(Calibration(mapped.page, trusting=True, tsc_offset=offset))
    error_ns, doubt_ns = calibration.measure_error()
    assert abs(error_ns) < 10_000 + doubt_ns
    before = mapped.params.mono.mend.tsc
    calibration.tsc_offset = 0
    calibration.update()
    assert before - mapped.params.mono.mend.tsc > offset // 2
    error_ns, doubt_ns = calibration.measure_error()
    assert abs(error_ns) < 10_000 + doubt_ns
    assert gettime(mapped, CLOCK_MONOTONIC)[1] <= time.monotonic_ns() + 10_000


def test_updates_come_quickly_first_and_then_more_and_more_seldom(mapped: Mapped) -> None:
    calibration = Calibration(mapped.page, trusting=True)
    assert not calibration.usable
    assert calibration.reason
    periods = []
    for _ in range(4):
        now_ns = max(calibration.next_update_ns, time.monotonic_ns())
        time.sleep(max(now_ns - time.monotonic_ns(), 0) / 1e9)
        assert calibration.maybe_update(time.monotonic_ns())
        assert not calibration.maybe_update(calibration.next_update_ns - 1)
        periods.append(calibration.next_update_ns - calibration._mono.readings[-1].ns)
    assert periods == [FIRST_PERIOD_NS << n for n in range(4)]


def test_a_counter_that_changes_its_rate_makes_the_page_unusable_until_it_is_measured_again(mapped: Mapped) -> None:
    """What a suspended machine does.  One that does it again and again is not believed any more."""
    calibration = Calibration(mapped.page, trusting=True)
    for time_of_it in range(STRANGE_LIMIT):
        calibrate(calibration)
        assert (mapped.params.flags, calibration.reason) == (lib.VDSO_USABLE, "")
        calibration._mono.mult *= 2
        calibration.update()
        assert not calibration.usable
        assert mapped.params.flags == 0
        assert "drift apart" in calibration.reason
        assert (calibration.next_update_ns == FOREVER_NS) == (time_of_it == STRANGE_LIMIT - 1)
    assert not calibration.maybe_update(time.monotonic_ns() + 1_000 * NSEC)
    calibration.update()
    assert not calibration.usable


def test_a_page_is_unusable_from_the_start_where_the_processor_promises_nothing(mapped: Mapped) -> None:
    calibration = Calibration(mapped.page)
    invariant = bool(lib.vdso_counter_is_invariant())
    assert (calibration.next_update_ns < FOREVER_NS) == invariant
    assert invariant or "does not promise" in calibration.reason


def test_a_page_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        Calibration(bytearray(64))


# Tracks and differences, with made-up readings: 2 counts a nanosecond.


def test_a_track_knows_its_rate_better_with_time() -> None:
    track = Track()
    bounds = []
    for ms in (0, 10, 100, 1_000):
        track.add(Reading(ms * 2_000_000, ms * 1_000_000, 100))
        bounds.append(track.bound_ppb)
    assert track.mult == 1 << lib.VDSO_SHIFT - 1
    assert bounds == [NSEC, 5_000, 500, 50]


def test_a_track_forgets_what_is_over_a_second_old() -> None:
    track = Track()
    for ms in range(0, 5_000, 100):
        track.add(Reading(ms * 2_000_000, ms * 1_000_000, 100))
    assert track.readings[0].ns == 3_900_000_000
    assert len(track.readings) == 11


def test_a_track_does_not_grow_with_quick_updates() -> None:
    track = Track()
    for us in range(0, 100_000, 10):
        track.add(Reading(us * 2_000, us * 1_000, 100))
    assert len(track.readings) <= 102


def test_a_track_follows_a_rate_that_the_host_changes() -> None:
    track = Track()
    ns = 0
    for second in range(20):
        track.add(Reading(second * 2 * NSEC, ns, 100))
        ns += NSEC + (NSEC // 10 if second >= 10 else 0)
    assert track.mult == (11 << lib.VDSO_SHIFT) // 20


@pytest.mark.parametrize(
    ("reading", "why"),
    [
        (Reading(4_000_000_000 - 1, 3 * NSEC, 100), "went back"),
        (Reading(6_000_000_000, 2 * NSEC - 1, 100), "went back"),
        (Reading(6_000_000_000, 4 * NSEC, 100), "drift apart"),
        (Reading(60_000_000_000, 3 * NSEC, 100), "drift apart"),
    ],
)
def test_a_track_refuses_what_is_on_no_line(reading: Reading, why: str) -> None:
    track = Track()
    for second in range(3):
        track.add(Reading(second * 2 * NSEC, second * NSEC, 100))
    with pytest.raises(CounterError, match=why):
        track.add(reading)


def test_a_difference_is_narrowed_down_and_kept() -> None:
    difference = Difference()
    difference.add(90, 130)
    assert difference.ns == 110
    difference.add(100, 140)
    assert (difference.low, difference.high, difference.ns) == (100, 130, 110)
    difference.add(115, 125)
    assert difference.ns == 120


@pytest.mark.parametrize("step", [-NSEC, NSEC])
def test_a_difference_follows_a_clock_that_is_set(step: int) -> None:
    difference = Difference()
    difference.add(90, 130)
    difference.add(90 + step, 130 + step)
    assert (difference.low, difference.high, difference.ns) == (90 + step, 130 + step, 110 + step)
