"""containerd's own shim for runc, with `pysc` in runc's place: what changes a container that runs."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from tests.integration.bundle import PYSC
from tests.integration.changes import pause_and_resume, update
from tests.integration.daemon import IMAGE, Daemon, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("containerd"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
    pytest.mark.skipif(shutil.which("containerd-shim-runc-v2") is None, reason="there is no shim for runc here"),
]


def start(daemon: Daemon, *args: str, options: tuple[str, ...] = ()) -> str:
    name = f"runc-{time.monotonic_ns()}"
    daemon.names.add(name)
    runtime = ("--runtime", "io.containerd.runc.v2", "--runc-binary", str(PYSC))
    daemon.ctr("run", "-d", *runtime, *options, IMAGE, name, *args)
    return name


def end(daemon: Daemon, name: str) -> None:
    daemon.ctr("task", "kill", "-s", "9", name)
    assert until(lambda: daemon.status(name) == "STOPPED")
    daemon.ctr("task", "rm", name, check=False)
    daemon.ctr("container", "rm", name)


def test_pause_and_resume(daemon: Daemon, tmp_path: Path) -> None:
    end(daemon, pause_and_resume(daemon, partial(start, daemon), tmp_path))


def test_kill_of_a_paused_container(daemon: Daemon) -> None:
    name = start(daemon, "sh", "-c", "while :; do :; done")
    daemon.ctr("task", "pause", name)
    end(daemon, name)


def test_update(daemon: Daemon) -> None:
    name = start(daemon, "sleep", "1000")
    update(daemon, name, memory={"limit": 64 << 20}, pids={"limit": 30})
    total = daemon.ctr("task", "exec", "--exec-id", "e1", name, "head", "-1", "/proc/meminfo").stdout
    assert total.split()[1] == "65536"
    end(daemon, name)


def test_checkpoint_is_refused_and_the_container_runs_on(daemon: Daemon) -> None:
    name = start(daemon, "sleep", "1000")
    done = daemon.ctr("task", "checkpoint", name, check=False)
    assert done.returncode != 0
    assert daemon.status(name) == "RUNNING"
    end(daemon, name)
