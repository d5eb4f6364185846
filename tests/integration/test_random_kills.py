"""Ten containers whose processes, and whose containerd, are killed at any moment: all can be removed, nothing stays."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from shim.address import state_root
from tests.integration.daemon import Daemon, command_line, processes_in, until
from tests.integration.tasks import Client, Task

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containerd")]

CONTAINERS = 10
KILLED = 137
LOST = 255
"""What containerd says of an exit that it knows nothing about."""
PATIENCE = 60
ORPHAN_SECONDS = 90
"""A shim that containerd was killed while starting waits for its container for a minute."""
MEAN_PAUSE = 0.05
CONTAINERD_EVERY = 40
"""So many other processes die before it does once more."""


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(400)])])
def test_random_kills(daemon: Daemon, client: Client, busybox: Path, seconds: int) -> None:
    seed = os.getpid()
    done = threading.Event()
    with ThreadPoolExecutor(CONTAINERS) as pool:
        keepers = [Keeper(client, busybox, random.Random(seed + n), done) for n in range(CONTAINERS)]
        working = [pool.submit(keeper.run) for keeper in keepers]
        try:
            kills = kill_for(daemon, seconds, random.Random(seed))
        finally:
            done.set()
        for each in working:
            each.result()
    ended = sum(keeper.ended for keeper in keepers)
    turns = sum(keeper.turns for keeper in keepers)
    print(f"seed {seed}: {kills} kills, {turns} containers, of which {ended} ended by themselves")
    assert until(lambda: not daemon.left_behind(), ORPHAN_SECONDS), daemon.left_behind()


def kill_for(daemon: Daemon, seconds: float, dice: random.Random) -> int:
    """How many it has killed."""
    kills = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(dice.expovariate(1 / MEAN_PAUSE))
        if kills % CONTAINERD_EVERY == CONTAINERD_EVERY - 1:
            daemon.process.kill()
            daemon.process.wait()
            daemon.process = daemon.start()
            kills += 1
        else:
            kills += kill_one(daemon, dice)
    return kills


def kill_one(daemon: Daemon, dice: random.Random) -> int:
    """Any kind of process as often as any other; 0 if there is none."""
    kinds: dict[str, list[int]] = {}
    for pid in sorted(processes_in(daemon.cgroup)):
        kinds.setdefault(kind_of(daemon, pid), []).append(pid)
    kinds.pop("", None)
    if not kinds:
        return 0
    kind = dice.choice(sorted(kinds))
    pid = dice.choice(kinds[kind])
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid not in processes_in(daemon.cgroup) or kind_of(daemon, pid) != kind:
                return 0  # it has ended, and the number may be anybody's
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return 1
        finally:
            os.close(pidfd)
    return 0


def kind_of(daemon: Daemon, pid: int) -> str:
    """A stub, the warm parent, a nursery, gofer, Sentry or shim; "" for anything else.

    That is containerd, its commands to start and delete, which it never repeats when they are killed, and a shim that
    it does not know yet, of which it never takes anything away, either.
    """
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        leads = os.getsid(pid) == pid
    except OSError:
        return ""
    if name != "containerd-shim":
        return name if name.startswith(("memfd:", "pysc-")) else ""
    container = re.search(r" -id (\S+)", command_line(pid))
    is_known = container and Path(state_root(daemon.namespace), container[1]).exists()
    return "shim" if leads and is_known else ""


class Keeper:
    """Makes one container after the other, works with it, and removes it whatever has become of it."""

    def __init__(self, client: Client, rootfs: Path, dice: random.Random, done: threading.Event) -> None:
        self.client = client
        self.rootfs = rootfs
        self.dice = dice
        self.done = done
        self.turns = 0
        self.ended = 0

    def run(self) -> None:
        while not self.done.is_set():
            self.turns += 1
            code = self.dice.randrange(1, 100)
            task = self.make(["sh", "-c", f"sleep {self.dice.random():.2f}; exit {code}"])
            try:
                with suppress(grpc.RpcError):  # somebody was killed
                    self.use(task, code)
            finally:
                remove(task)

    def make(self, args: list[str]) -> Task:
        """Only containerd's being away stands in the way of a container without a task."""
        while True:
            with suppress(grpc.RpcError):
                return self.client.container(self.rootfs, args)

    def use(self, task: Task, code: int) -> None:
        """Whatever is answered has to be true."""
        task.create()
        task.start()
        if self.dice.random() < 0.5:
            task.exec("e", ["sh", "-c", f"exit {code + 1}"])
            task.start("e")
            assert task.wait("e") in (code + 1, KILLED, LOST)
        if self.dice.random() < 0.3:
            task.kill()
        status = task.wait()
        assert status in (code, KILLED, LOST)
        self.ended += status == code
        assert task.delete() in (status, KILLED)


def remove(task: Task) -> None:
    """As a client does who does not give up."""
    deadline = time.monotonic() + PATIENCE
    steps: list[Callable[[], object]] = [task.delete, task.remove]
    while steps:
        try:
            steps[0]()
        except grpc.RpcError as e:
            if e.code() != grpc.StatusCode.NOT_FOUND:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{task.name} ({task.status()}) cannot be removed: {e.details()}") from None
                with suppress(grpc.RpcError):
                    task.kill()
                time.sleep(0.1)
                continue
        del steps[0]
