"""What the vDSO's functions answer, beside what the kernel does."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentry.abi.time import (
    CLOCK_BOOTTIME,
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_COARSE,
    CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME,
    CLOCK_REALTIME_COARSE,
    COARSE_NS,
    NSEC,
)
from sentry.vdso._clock import lib
from sentry.vdso.calibration import Calibration
from tests.unit.vdso.mapped import FILE, TIMES, Mapped, Times, calibrate, gettime, libc

FINE = (CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME)
COARSE = (CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE)
NUMBERS = [*range(-64, 64), -(1 << 31), (1 << 31) - 1, 1 << 16, 4 * os.getpid()]
CLOSE_NS = 100_000  # a host's reading may be that far from ours: its own interrupts are in between
SYS_gettimeofday, SYS_time, SYS_clock_gettime, SYS_clock_getres, SYS_getcpu = 96, 201, 228, 229, 309
DENIED = -77

U32 = ctypes.POINTER(ctypes.c_uint32)


def kernels_result(number: int, *args: object) -> int:
    result: int = libc.syscall(number, *args)
    return -ctypes.get_errno() if result < 0 else result


@pytest.mark.parametrize("clock", FINE)
def test_a_clock_shows_what_the_hosts_shows(mapped: Mapped, calibrated: Calibration, clock: int) -> None:
    for _ in range(100):
        before = time.clock_gettime_ns(clock)
        result, ns = gettime(mapped, clock)
        after = time.clock_gettime_ns(clock)
        assert result == 0
        assert before - CLOSE_NS <= ns <= after + CLOSE_NS


@pytest.mark.parametrize(("coarse", "fine"), [(5, CLOCK_REALTIME), (6, CLOCK_MONOTONIC)])
def test_a_coarse_clock_is_at_most_a_tick_behind(
    mapped: Mapped, calibrated: Calibration, coarse: int, fine: int
) -> None:
    for _ in range(100):
        _, before = gettime(mapped, fine)
        result, ns = gettime(mapped, coarse)
        _, after = gettime(mapped, fine)
        assert result == 0
        assert before - COARSE_NS < ns <= after


def test_the_coarse_clocks_tick_together(mapped: Mapped, calibrated: Calibration) -> None:
    assert gettime(mapped, CLOCK_MONOTONIC_COARSE)[1] % COARSE_NS == 0
    assert (gettime(mapped, CLOCK_REALTIME_COARSE)[1] - mapped.params.real_ns) % COARSE_NS == 0


def test_the_rest_of_a_time_is_less_than_a_second(mapped: Mapped, calibrated: Calibration) -> None:
    shown = Times()
    read = mapped.function("clock_gettime", ctypes.c_int, TIMES)
    for clock in (*FINE, *COARSE):
        read(clock, shown)
        assert 0 <= shown.rest < NSEC


@pytest.mark.parametrize("usable", [True, False])
def test_every_number_of_a_clock_gives_the_kernels_result(mapped: Mapped, usable: bool) -> None:
    if usable:
        calibrate(Calibration(mapped.page, trusting=True))
    getres = mapped.function("clock_getres", ctypes.c_int, TIMES)
    for clock in NUMBERS:
        assert gettime(mapped, clock)[0] == kernels_result(SYS_clock_gettime, clock, ctypes.byref(Times())), clock
        assert getres(clock, Times()) == kernels_result(SYS_clock_getres, clock, ctypes.byref(Times())), clock
        assert getres(clock, None) == kernels_result(SYS_clock_getres, clock, None), clock


def test_resolutions(mapped: Mapped, calibrated: Calibration) -> None:
    getres = mapped.function("clock_getres", ctypes.c_int, TIMES)
    for clock in (*FINE, *COARSE):
        resolution = Times(-1, -1)
        assert getres(clock, resolution) == 0
        assert (resolution.sec, resolution.rest) == (0, COARSE_NS if clock in COARSE else 1)


@pytest.mark.parametrize("usable", [True, False])
def test_gettimeofday_and_time_show_the_wall_clock(mapped: Mapped, usable: bool) -> None:
    if usable:
        calibrate(Calibration(mapped.page, trusting=True))
    now, zone, seconds = Times(), (ctypes.c_int32 * 2)(-1, -1), ctypes.c_long(-1)
    before = time.time_ns()
    result = mapped.function("gettimeofday", TIMES, ctypes.c_void_p)(now, zone)
    returned = mapped.function("time", ctypes.POINTER(ctypes.c_long))(seconds)
    after = time.time_ns()
    assert result == 0
    assert before - CLOSE_NS - 1_000 <= now.sec * NSEC + now.rest * 1_000 <= after + CLOSE_NS
    assert 0 <= now.rest < 1_000_000
    assert list(zone) == [0, 0]
    assert returned == seconds.value
    assert (before - CLOSE_NS) // NSEC - 1 <= returned <= (after + CLOSE_NS) // NSEC  # the kernel's is a tick late


@pytest.mark.parametrize("usable", [True, False])
def test_null_pointers_that_the_kernel_allows(mapped: Mapped, usable: bool) -> None:
    if usable:
        calibrate(Calibration(mapped.page, trusting=True))
    gettimeofday = mapped.function("gettimeofday", TIMES, ctypes.c_void_p)
    assert gettimeofday(None, None) == gettimeofday(Times(), None) == gettimeofday(None, (ctypes.c_int32 * 2)()) == 0
    assert abs(mapped.function("time", ctypes.c_void_p)(None) - time.time()) < 2
    assert mapped.function("getcpu", U32, U32, ctypes.c_void_p)(None, None, None) == 0


def test_the_time_zone_is_the_pages(mapped: Mapped, calibrated: Calibration) -> None:
    mapped.params.minutes_west, mapped.params.dst_time = -60, 1
    zone = (ctypes.c_int32 * 2)()
    mapped.function("gettimeofday", TIMES, ctypes.c_void_p)(None, zone)
    assert list(zone) == [-60, 1]


def cpu_sources() -> list[int]:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    known = {"rdtscp": lib.VDSO_CPU_RDTSCP, "rdpid": lib.VDSO_CPU_RDPID}
    return [lib.VDSO_CPU_CALL, *(source for flag, source in known.items() if flag in flags)]


@pytest.fixture
def allowed_cpus() -> Iterator[set[int]]:
    """The processors that this thread may be bound to; it is let go again."""
    cpus = os.sched_getaffinity(0)
    yield cpus
    os.sched_setaffinity(0, cpus)


@pytest.mark.parametrize("source", cpu_sources())
def test_getcpu_knows_where_it_runs(mapped: Mapped, allowed_cpus: set[int], source: int) -> None:
    """Linux keeps TSC_AUX as its own vDSO needs it, which is how ours reads it."""
    mapped.params.cpu_source = source
    getcpu = mapped.function("getcpu", U32, U32, ctypes.c_void_p)
    for allowed in allowed_cpus:
        os.sched_setaffinity(0, {allowed})
        cpu, node, kernels_node = ctypes.c_uint32(~0), ctypes.c_uint32(~0), ctypes.c_uint32()
        assert getcpu(cpu, node, None) == 0
        kernels_result(SYS_getcpu, None, ctypes.byref(kernels_node), None)
        assert (cpu.value, node.value) == (allowed, kernels_node.value)


def results_without_calls(reader: Path, mapped: Mapped) -> dict[str, dict[int, int]]:
    """What each function returns, by clock, where the calls behind them fail with errno 77."""
    environment = {name: str(offset) for name, offset in mapped.offsets.items()}
    command: list[str | Path] = [reader, str(mapped.fd), FILE, "denied"]
    done = subprocess.run(
        command, env=environment, pass_fds=[mapped.fd], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    results: dict[str, dict[int, int]] = {}
    for line in done.stdout.splitlines():
        name, clock, result = line.split()
        results.setdefault(name, {})[int(clock)] = int(result)
    return results


def test_an_unusable_page_makes_every_function_ask_the_kernel(reader: Path, mapped: Mapped) -> None:
    results = results_without_calls(reader, mapped)
    assert len(results) == 5
    for name, by_clock in results.items():
        assert set(by_clock.values()) == {DENIED}, name


def test_a_usable_page_answers_without_a_call(reader: Path, mapped: Mapped, calibrated: Calibration) -> None:
    """All but the clocks that are not in the page, and getcpu if nobody keeps TSC_AUX."""
    results = results_without_calls(reader, mapped)
    provided = {*FINE, *COARSE}
    for name in ("clock_gettime", "clock_getres"):
        assert results[name] == {clock: 0 if clock in provided else DENIED for clock in range(16)}
    assert results["gettimeofday"] == {0: 0}
    assert abs(results["time"][0] - time.time()) < 60
    assert results["getcpu"] == {0: DENIED}


def test_coarse_clocks_can_be_left_to_the_kernel(reader: Path, mapped: Mapped) -> None:
    calibrate(Calibration(mapped.page, trusting=True, coarse_ns=0))
    results = results_without_calls(reader, mapped)
    for name in ("clock_gettime", "clock_getres"):
        assert results[name] == {clock: 0 if clock in FINE else DENIED for clock in range(16)}


def test_a_writer_that_stays_away_sends_readers_to_the_kernel(mapped: Mapped, calibrated: Calibration) -> None:
    mapped.params.seq |= 1
    before = time.monotonic_ns()
    result, ns = gettime(mapped, CLOCK_MONOTONIC)
    assert result == 0
    assert before <= ns <= time.monotonic_ns()
