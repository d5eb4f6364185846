"""When a shim goes back to the pages that it has in common with others."""

import asyncio
import threading
import time

import pytest

from sandbox import common_heap
from shim.rest import RestingSelector, Workers

PATIENCE_S = 0.1


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When it went back."""
    times: list[float] = []
    monkeypatch.setattr(common_heap, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(common_heap, "go_back", lambda: times.append(time.monotonic()))
    return times


def run(main, workers: Workers) -> None:
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(RestingSelector(workers))) as runner:
        runner.get_loop().set_default_executor(workers)
        runner.run(main())


def test_it_goes_back_once_in_a_long_wait_and_wakes_in_time(rests: list[float]) -> None:
    began = time.monotonic()
    run(lambda: asyncio.sleep(4 * PATIENCE_S), Workers(1))
    assert len(rests) == 1
    assert rests[0] - began >= PATIENCE_S
    assert time.monotonic() - began >= 4 * PATIENCE_S


def test_short_waits_are_no_rest(rests: list[float]) -> None:
    async def busy() -> None:
        for _ in range(20):
            await asyncio.sleep(PATIENCE_S / 10)

    run(busy, Workers(1))
    assert rests == []


def test_it_does_not_go_back_while_a_thread_works(rests: list[float]) -> None:
    release = threading.Event()
    workers = Workers(1)

    async def with_a_thread() -> None:
        work = asyncio.get_running_loop().run_in_executor(None, release.wait)
        await asyncio.sleep(2 * PATIENCE_S)
        assert rests == []
        assert not workers.are_idle
        release.set()
        await work
        await asyncio.sleep(2 * PATIENCE_S)
        assert workers.are_idle
        assert len(rests) == 1

    run(with_a_thread, workers)
