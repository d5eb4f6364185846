"""containerd's own shim, for runc, with another command in runc's place: each of these is what Docker is built on."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.integration.bundle import PYSC
from tests.integration.daemon import IMAGE, Daemon, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("runc-shim")]


@pytest.fixture(params=["runc", "pysc"])
def flags(request: pytest.FixtureRequest, daemon: Daemon) -> list[str]:
    """Of `ctr run`: the shim, and the command that it is to use.  Its state is not in /run/pysc but the test's own."""
    command = PYSC if request.param == "pysc" else shutil.which("runc")
    return [
        "--runtime", "io.containerd.runc.v2", "--runc-binary", str(command),
        "--runc-root", str(daemon.folder / f"state-{request.param}"),
    ]  # fmt: skip


def test_run(daemon: Daemon, flags: list[str]) -> None:
    done = daemon.ctr("run", "--rm", *flags, IMAGE, "short", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err\n" in done.stderr


def test_life_of_a_task(daemon: Daemon, flags: list[str]) -> None:
    daemon.names.add("long")
    daemon.ctr("run", "-d", *flags, IMAGE, "long", "sleep", "1000")
    assert daemon.status("long") == "RUNNING"
    done = daemon.ctr("task", "exec", "--exec-id", "e1", "long", "sh", "-c", "echo inside; exit 5", check=False)
    assert (done.returncode, done.stdout) == (5, "inside\n")
    done = daemon.ctr("task", "exec", "--exec-id", "e2", "long", "nosuch", check=False)
    assert "executable file not found in $PATH" in done.stderr
    daemon.ctr("task", "kill", "-s", "9", "long")
    assert until(lambda: daemon.status("long") == "STOPPED")
    daemon.ctr("task", "rm", "long", check=False)
    daemon.ctr("container", "rm", "long")


def test_shim_that_is_killed_leaves_nothing(daemon: Daemon, flags: list[str]) -> None:
    daemon.names.add("orphan")
    daemon.ctr("run", "-d", *flags, IMAGE, "orphan", "sleep", "1000")
    pid = daemon.tasks()["orphan"][0]
    with open(f"/proc/{pid}/stat") as f:
        shim = int(f.read().rpartition(")")[2].split()[1])
    with open(f"/proc/{shim}/comm") as f:
        assert f.read().startswith("containerd-shim")
    os.kill(shim, signal.SIGKILL)
    assert until(lambda: daemon.status("orphan") == "")
    daemon.ctr("container", "rm", "orphan")
    Path(daemon.socket_of("orphan")).unlink()  # that, this shim does leave
