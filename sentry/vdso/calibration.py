"""Keeps a parameter page true: measures the host's clocks against the processor's counter.

A host clock is a straight line over the counter, as long as nobody adjusts it.  Two readings of both give the line;
its rate is known the better the further they are apart.  Each update reads once more, aims the page's clocks at the
new line and lets them meet it within a second, CLOCK_REALTIME and CLOCK_BOOTTIME being CLOCK_MONOTONIC plus a
difference that only steps.  Between updates the clocks go on at the host's rate as last measured.  So they are off by
what a reading is (some ten nanoseconds), by the doubt in the rate, and by what the host has adjusted since.

Nothing here waits or has a thread: whoever owns the page calls maybe_update() from its loop and before applications
run on, and once at next_update_ns at the latest while they run.  Being late is harmless but for what the host adjusts.

Counters that do not go at one rate are found out twice: the processor says so, or the measurements do.  The page then
says that it is of no use, and its readers make real calls.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sentry.abi.time import COARSE_NS, FOREVER_NS, NSEC
from sentry.vdso._clock import ffi, lib

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TRIES: Final = 16  # readings for one sample, of which the tightest counts; together some microseconds
FIRST_PERIOD_NS: Final = 10_000_000
PERIOD_NS: Final = NSEC
WINDOW_NS: Final = NSEC  # rates are measured over this much: long enough for 0.1 ppm, short enough to follow ntpd(8)
APART_NS: Final = 1_000_000  # samples that are closer are one
MEND_NS: Final = NSEC  # in which a small error vanishes
LARGE_ERROR_NS: Final = 1_000
TOLERANCE_PPB: Final = 1_000  # 1 microsecond in a second
WIDE: Final = 8  # a sample that is so many times as wide as the best is left out
STRANGE_SHARE: Final = 8  # no host adjusts a clock's rate by an eighth: adjtimex(2) ends at a tenth
KNOWN_PPB: Final = NSEC // 100  # rates that are known this well can be compared for that
STRANGE_LIMIT: Final = 3
PROBATION_NS: Final = 10 * NSEC


def counter_is_invariant() -> bool:
    """Whether the processor promises that its counter always goes at one rate."""
    return bool(lib.vdso_counter_is_invariant())


class CounterError(Exception):
    """The counter and the host's clocks do not go together."""


class Reading(NamedTuple):
    """A host clock showed ns when the counter was at tsc, give or take width / 2."""

    tsc: int
    ns: int
    width: int


class Track:
    """The line that one host clock follows, through the readings of the last second or so."""

    def __init__(self) -> None:
        self.readings: deque[Reading] = deque()
        self.mult = 0  # ns for each count, << VDSO_SHIFT; 0: not known
        self.bound_ppb = NSEC  # by how much at most mult is wrong

    def add(self, reading: Reading) -> None:
        """Go on to this reading.  Raises CounterError if it is on no line with the ones before."""
        readings = self.readings
        if len(readings) > 1 and reading.ns - readings[-2].ns < APART_NS:
            readings.pop()
        if readings and (reading.tsc <= readings[-1].tsc or reading.ns < readings[-1].ns):
            raise CounterError("the counter went back")
        readings.append(reading)
        while len(readings) > 2 and reading.ns - readings[1].ns >= WINDOW_NS:
            readings.popleft()
        first = readings[0]
        if reading.ns - first.ns < APART_NS:
            return
        ticks = reading.tsc - first.tsc
        mult = (reading.ns - first.ns << lib.VDSO_SHIFT) // ticks
        old_bound_ppb, self.bound_ppb = self.bound_ppb, (first.width + reading.width) * NSEC // (2 * ticks)
        comparable = max(old_bound_ppb, self.bound_ppb) <= KNOWN_PPB
        if comparable and abs(mult - self.mult) * STRANGE_SHARE > self.mult:
            raise CounterError("the counter and the clock drift apart")
        self.mult = mult

    def aim(self, line: Any) -> None:
        """Fill in a struct vdso_line."""
        line.tsc, line.ns = self.readings[-1].tsc, self.readings[-1].ns
        line.mult = self.mult


class Difference:
    """One clock minus another: constant, known to lie in an interval, until somebody sets one of them."""

    def __init__(self) -> None:
        self.low, self.high = -FOREVER_NS, FOREVER_NS
        self.ns = 0

    def add(self, low: int, high: int) -> None:
        """Narrow it down.  What is known stays as it is while it may be right, so that the clock has no ripples."""
        if low > self.high or high < self.low:
            self.low, self.high = low, high
        self.low, self.high = max(low, self.low), min(high, self.high)
        if not self.low <= self.ns <= self.high:
            self.ns = (self.low + self.high) // 2


class Calibration:
    """The clocks of one parameter page.  One thread calls its methods.

    page is writable memory, 4096 bytes or PARAMS_SIZE, zeroed, that outlives this object and that applications can
    only read.  coarse_ns is what the coarse clocks are multiples of, 0 to leave them to the kernel.  cpu_source is
    one of VDSO_CPU_*: whether TSC_AUX holds what the application's getcpu(2) is to say.  trusting: believe in a
    counter that the processor does not call invariant, as that of a machine in software.  tolerance_ppb: how exactly
    the rate must be known before the page is of use; a wider one makes it of use sooner where readings are slow.
    """

    # Set by the owner, at any time; of effect from the next update on.
    tsc_offset: int  # the counter as applications read it, minus the host's

    # Set here: what was found out.
    usable: bool  # the page shows the time
    reason: str  # why not; "" if it does
    error_ns: int  # how far ahead the page's CLOCK_MONOTONIC was at the last update
    next_update_ns: int  # on CLOCK_MONOTONIC, when to update again; FOREVER_NS if never

    def __init__(
        self,
        page: WriteableBuffer,
        *,
        tsc_offset: int = 0,
        coarse_ns: int = COARSE_NS,
        cpu_source: int = 0,
        trusting: bool = False,
        tolerance_ppb: int = TOLERANCE_PPB,
    ) -> None:
        self._memory = ffi.from_buffer("char[]", page, require_writable=True)
        if len(self._memory) < ffi.sizeof("struct vdso_params"):
            raise ValueError("the parameter page is too small")
        self._page = ffi.cast("struct vdso_params *", self._memory)
        self._page.coarse_ns = coarse_ns
        self._page.cpu_source = cpu_source
        self._sample = ffi.new("struct vdso_sample *")
        self._target = ffi.new("struct vdso_target *")
        self._tolerance_ppb = tolerance_ppb
        self._strange = 0  # how often in a row the measurements disagreed
        self._strange_ns = -FOREVER_NS  # when they did last
        self._best_width = 0  # of CLOCK_MONOTONIC's readings, in ticks
        self.tsc_offset = tsc_offset
        self.error_ns = 0
        self.next_update_ns = 0
        self._begin("not yet measured")
        if not trusting and not counter_is_invariant():
            self._give_up("the processor does not promise a constant rate of its counter")

    def _begin(self, reason: str) -> None:
        """Know nothing, and tell the page's readers."""
        self.usable = False
        self.reason = reason
        self._mono, self._raw = Track(), Track()
        self._real, self._boot = Difference(), Difference()
        self._period_ns = FIRST_PERIOD_NS
        lib.vdso_withdraw(self._page)

    def _give_up(self, reason: str) -> None:
        self._begin(reason)
        self.next_update_ns = FOREVER_NS

    @property
    def bound_ppb(self) -> int:
        """By how many nanoseconds a second the rate may be wrong at most, if the host leaves its clocks alone."""
        return self._mono.bound_ppb

    def maybe_update(self, now_ns: int) -> bool:
        """Update if it is time, by CLOCK_MONOTONIC; says whether it was."""
        if now_ns < self.next_update_ns:
            return False
        self.update()
        return True

    def update(self) -> None:
        """Measure, and write what was found into the page.  Takes some ten microseconds.

        The first one only begins a measurement, the second after FIRST_PERIOD_NS or so may end it.
        """
        if self.next_update_ns == FOREVER_NS:
            return
        sample = self._sample
        lib.vdso_take_sample(sample, TRIES)
        now_ns = sample.mono_ns
        self.next_update_ns = now_ns + FIRST_PERIOD_NS
        if self._is_wide(sample.mono_width):
            return
        try:
            self._mono.add(Reading(sample.mono_tsc, sample.mono_ns, sample.mono_width))
            self._raw.add(Reading(sample.raw_tsc, sample.raw_ns, sample.raw_width))
        except CounterError as error:
            self._disagree(str(error), now_ns)
            return
        self._real.add(sample.real_low, sample.real_high)
        self._boot.add(sample.boot_low, sample.boot_high)
        if max(self._mono.bound_ppb, self._raw.bound_ppb) <= self._tolerance_ppb or self.usable:
            self._publish()
        if now_ns - self._strange_ns > PROBATION_NS:
            self._strange = 0
        self.next_update_ns = now_ns + self._period_ns
        self._period_ns = min(self._period_ns * 2, PERIOD_NS)

    def _is_wide(self, width: int) -> bool:
        """Whether the reading was disturbed: the lines known are better.  Not for ever, if all are so from now on."""
        if not self.usable or width <= self._best_width * WIDE:
            self._best_width = min(width, self._best_width or width)
            return False
        self._best_width += self._best_width // 4 + 1
        return True

    def _disagree(self, reason: str, now_ns: int) -> None:
        """Begin anew: the machine was suspended, or moved to another.  Give up on counters that are just bad."""
        self._strange += 1
        self._strange_ns = now_ns
        if self._strange < STRANGE_LIMIT:
            self._begin(reason)
        else:
            self._give_up(reason)

    def _publish(self) -> None:
        target = self._target
        self._mono.aim(target.mono)
        self._raw.aim(target.raw)
        target.real_ns, target.boot_ns = self._real.ns, self._boot.ns
        target.tsc_offset = self.tsc_offset
        target.mend_ticks = (MEND_NS << lib.VDSO_SHIFT) // self._mono.mult
        ahead_ns = lib.vdso_publish(self._page, target)
        self.error_ns = ahead_ns if self.usable else 0
        self.usable, self.reason = True, ""
        if abs(self.error_ns) > LARGE_ERROR_NS:
            self._period_ns = FIRST_PERIOD_NS

    def measure_error(self) -> tuple[int, int]:
        """How far ahead of the host's the page's CLOCK_MONOTONIC is now, and by how much that may be wrong; in ns.

        For a usable page.
        """
        sample = self._sample
        lib.vdso_take_sample(sample, TRIES)
        ahead_ns = lib.vdso_mono_at(self._page, sample.mono_tsc) - sample.mono_ns
        return ahead_ns, (sample.mono_width * self._mono.mult >> lib.VDSO_SHIFT + 1) + 1
