"""A running sandbox as the host sees it: its Sentry, and the stubs that execute its containers."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration.daemon import CGROUPS, Daemon, own_cgroup, processes_in, until
from tests.integration.host import Host
from tests.integration.platforms import host_state

# None of them stands for anything that happens in the sandbox.
HOST_SIGNALS = (
    *(signal.SIGUSR1, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT, signal.SIGSEGV, signal.SIGTRAP, signal.SIGWINCH),
    signal.SIGRTMIN + 5,
)


def sentry_of(host: Host, name: str) -> int:
    return int(json.loads(host.pysc("state", name).stdout)["pid"])


def stubs_of(sentry: int) -> list[int]:
    """Every stub process is a child of the Sentry, which alone reaps it.  None, once that has ended."""
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/{sentry}/task/{sentry}/children").read_text().split()]
    return []


def platform_of(daemon: Daemon, name: str) -> str:
    """Of a container that sleeps: a stub in a call is stopped by its tracer, or asleep in a notification."""
    cgroups = [path for path in daemon.cgroups() if path.name == name]

    def states() -> set[str]:
        return {host_state(pid) for path in cgroups for pid in processes_in(path)}

    found: set[str] = set()

    def settled() -> bool:
        """Not while it is started, when traced stubs sleep for a moment, too.  The template is always stopped."""
        nonlocal found
        found = states()
        return found in ({"t"}, {"t", "S"}) and not until(lambda: states() != found, seconds=0.3)

    assert until(settled), states()
    return "systrap" if "S" in found else "ptrace"


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def signal_one(stubs: list[int]) -> None:
    """Any thread of any of them."""
    with suppress(OSError, IndexError):
        stub = random.choice(stubs)
        tid = int(random.choice(os.listdir(f"/proc/{stub}/task")))
        os.kill(random.choice((stub, tid)), random.choice(HOST_SIGNALS))


def freeze_all(freezer: Path, stubs: list[int]) -> None:
    """For a moment."""
    for stub in stubs:
        with suppress(OSError):
            (freezer / "cgroup.procs").write_text(str(stub))
    (freezer / "cgroup.freeze").write_text("1")
    (freezer / "cgroup.freeze").write_text("0")


@contextmanager
def interference(sentry: int) -> Iterator[None]:
    """Meanwhile the host's administrator sends signals to stubs, and freezes them where that moves no container."""
    done = threading.Event()
    freezer = own_cgroup() if (CGROUPS / "unified").is_dir() else None

    def interfere() -> None:
        turns = 0
        while not done.wait(0.001):
            turns += 1
            stubs = stubs_of(sentry)
            signal_one(stubs)
            if freezer is not None and turns % 20 == 0:
                freeze_all(freezer, stubs)

    thread = threading.Thread(target=interfere)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if freezer is not None:
            until(lambda: not (freezer / "cgroup.procs").read_text())
            freezer.rmdir()
