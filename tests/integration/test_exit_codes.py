"""No exit status is ever lost: of short containers, of execs, and of what ends while containerd is away."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.bundle import MOUNTS
from tests.integration.daemon import Daemon, until
from tests.integration.tasks import Client, Task

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containerd")]

AT_ONCE = 8
COUNTS = [100, pytest.param(2000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
SHORT_COUNTS = [20, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]

EXEC = "until [ -e /mnt/go-{name}e ]; do sleep 0.05; done; echo $$ > /mnt/gone-{name}e; exit {code}"
# It would take the exec with it, and that one's status.
CONTAINER = """
until [ -e /mnt/go-{name} ]; do sleep 0.05; done
until [ -s /mnt/gone-{name}e ]; do sleep 0.05; done
while [ -e /proc/$(cat /mnt/gone-{name}e) ]; do sleep 0.05; done
: > /mnt/gone-{name}
exit {code}
"""


def random_codes(count: int) -> list[int]:
    """Also those of processes that a signal has killed look like: up to 255."""
    seed = os.getpid()
    print(f"seed {seed}")
    generator = random.Random(seed)
    return [generator.randrange(256) for _ in range(count)]


def at_once(work: Callable[[int], object], codes: list[int]) -> list[object]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, codes))


@pytest.mark.parametrize("count", COUNTS)
def test_short_containers(client: Client, busybox: Path, count: int) -> None:
    """From Wait, which is asked before the start, as clients do, and from Delete."""

    def one(code: int) -> tuple[int, int]:
        with client.container(busybox, ["sh", "-c", f"exit {code}"]) as task, ThreadPoolExecutor(1) as waiter:
            task.create()
            waited = waiter.submit(task.wait)
            task.start()
            return waited.result(), task.delete()

    codes = random_codes(count)
    assert at_once(one, codes) == [(code, code) for code in codes]


@pytest.mark.parametrize("count", COUNTS)
def test_execs(client: Client, busybox: Path, count: int) -> None:
    with client.container(busybox, ["sleep", "100000"]) as task:
        task.create()
        task.start()
        numbers = iter(range(count))

        def one(code: int) -> tuple[int, int]:
            name = f"e{next(numbers)}"
            task.exec(name, ["sh", "-c", f"exit {code}"])
            task.start(name)
            return task.wait(name), task.delete(name)

        codes = random_codes(count)
        assert at_once(one, codes) == [(code, code) for code in codes]


@pytest.mark.parametrize("count", SHORT_COUNTS)
def test_containers_and_execs_that_end_around_a_restart_of_containerd(
    daemon: Daemon, client: Client, busybox: Path, tmp_path: Path, count: int
) -> None:
    """Some before, some while it is away, some after: each waits for a file of its own."""
    codes = random_codes(count)
    batch = 20
    for first in range(0, count, batch):
        folder = tmp_path / str(first)
        folder.mkdir()
        go_around_a_restart(daemon, client, busybox, folder, codes[first : first + batch])


def go_around_a_restart(daemon: Daemon, client: Client, busybox: Path, folder: Path, codes: list[int]) -> None:
    mount = {"destination": "/mnt", "type": "bind", "source": str(folder), "options": ["rbind", "rw"]}

    def begin(index: int) -> Task:
        script = CONTAINER.format(name=index, code=codes[index])
        task = client.container(busybox, ["sh", "-c", script], mounts=[*MOUNTS, mount])
        task.create()
        task.start()
        task.exec("e", ["sh", "-c", EXEC.format(name=index, code=255 - codes[index])])
        task.start("e")
        return task

    names = range(len(codes))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tasks = list(pool.map(begin, names))
    try:
        thirds = [names[part::3] for part in range(3)]
        let_go(folder, thirds[0])
        daemon.process.kill()
        daemon.process.wait()
        let_go(folder, thirds[1])
        assert until(lambda: all_gone(folder, thirds[0], thirds[1]))
        daemon.process = daemon.start()
        let_go(folder, thirds[2])
        found = [(task.wait("e"), task.delete("e"), task.wait(), task.delete()) for task in tasks]
        assert found == [(255 - code, 255 - code, code, code) for code in codes]
    finally:
        for task in tasks:
            task.__exit__()


def let_go(folder: Path, names: range) -> None:
    for name in names:
        (folder / f"go-{name}e").touch()
        (folder / f"go-{name}").touch()


def all_gone(folder: Path, *groups: range) -> bool:
    return all((folder / f"gone-{name}").exists() for names in groups for name in names)
