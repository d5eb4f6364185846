"""The watcher of memory's end: once for each time that the kernel's counter has grown."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.cgroups import Cgroup, host_hierarchies
from sandbox.spec import Resources
from shim.oom import OomWatcher


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


@pytest.fixture
def told(tmp_path: Path) -> Iterator[tuple[Path, Cgroup]]:
    """A folder that looks like a v1 cgroup, as far as it is looked at."""
    counter = tmp_path / "memory.oom_control"
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (tmp_path / "cgroup.event_control").touch()
    yield counter, Cgroup(1, {str(tmp_path): ["memory"]}, [])


async def test_only_what_is_new_counts(told: tuple[Path, Cgroup]) -> None:
    counter, cgroup = told
    happened = Counter()
    watcher = OomWatcher(cgroup, happened)
    watcher.check()
    assert happened.calls == 0
    counter.write_text("oom_kill 4\n")
    watcher.check()
    watcher.check()
    assert happened.calls == 1
    watcher.close()
    watcher.close()


async def test_kernel_tells_before_it_counts(told: tuple[Path, Cgroup]) -> None:
    counter, cgroup = told
    happened = Counter()
    watcher = OomWatcher(cgroup, happened)
    event_fd = int(told[0].with_name("cgroup.event_control").read_text().split()[0])
    os.eventfd_write(event_fd, 1)
    await asyncio.sleep(0.02)
    assert happened.calls == 0
    counter.write_text("oom_kill 3\n")
    while not happened.calls:
        await asyncio.sleep(0.01)
    assert happened.calls == 1
    watcher.close()


async def test_without_a_cgroup_there_is_nothing_to_watch(tmp_path: Path) -> None:
    for cgroup in (None, Cgroup(0, {}, []), Cgroup(2, {str(tmp_path): ["cpu", "memory"]}, [])):
        watcher = OomWatcher(cgroup, Counter())
        watcher.check()
        watcher.close()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or host_hierarchies()[0] == 0, reason="needs root and cgroups")
async def test_a_real_kill_is_told_of() -> None:
    cgroup = Cgroup.create(f"pysc-test-{uuid.uuid4().hex[:8]}", Resources(memory_limit=16 << 20, memory_swap=16 << 20))
    happened = Counter()
    watcher = OomWatcher(cgroup, happened)
    fds = cgroup.open_procs()
    try:
        program = f"import os; [os.write(fd, b'0') for fd in {fds}]; x = bytearray(64 << 20)"
        child = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], pass_fds=fds)
        assert child.returncode == -9
        while not happened.calls:
            await asyncio.sleep(0.01)
        assert happened.calls == 1
    finally:
        watcher.close()
        for fd in fds:
            os.close(fd)
        cgroup.remove()
