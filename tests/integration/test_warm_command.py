"""`pysc run` and `pysc do` with a warm parent: what it changes, which is the time, and what it must not."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemon import command_line, processes_in, until
from tests.integration.host import Host
from tests.shimtest.harness import wait_gone

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the warm parents' sockets, for all commands of the test; at its end they are ended.

    Its name is short because socket paths are.
    """
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        monkeypatch.setenv("PYSC_WARM_DIR", folder)
        yield Path(folder)
        for pid in warm_parents(Path(folder)):
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)


def warm_parents(folder: Path) -> list[int]:
    words = f"pysc sandbox.warm_nursery {folder}/"
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in pids if command_line(pid).startswith(words)]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def run(host: Host, script: str) -> subprocess.CompletedProcess[str]:
    return host.pysc("run", "--bundle", host.bundle("sh", "-c", script), host.name())


def ended(host: Host, folder: Path) -> bool:
    """Whether nothing but the warm parent is left."""
    return sorted(processes_in(host.cgroup)) == sorted(warm_parents(folder))


@pytest.fixture
def running(host: Host, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`pysc run` of a container that stays; its name is the host's last."""
    command = host.tracked("run", "--bundle", host.bundle("sleep", "1000"), host.name())
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: host.status(host.names[-1]) == "running")
        yield process
    finally:
        process.kill()
        process.wait()


def sentry_of(host: Host) -> int:
    [pid] = [pid for pid in processes_in(host.cgroup) if f"stage sentry {host.names[-1]}" in command_line(pid)]
    return pid


def test_the_first_run_starts_one_and_the_next_uses_it(host: Host, folder: Path) -> None:
    for _ in range(3):
        done = run(host, "echo out; exit 7")
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "")
        assert len(warm_parents(folder)) == 1
    assert until(lambda: ended(host, folder))


def test_do_uses_it(host: Host, folder: Path) -> None:
    for _ in range(2):
        done = host.pysc("do", "sh", "-c", "cat /proc/sys/kernel/ostype; touch /left-by-do; exit 4")
        assert (done.returncode, done.stdout) == (4, "Linux\n")
    assert not Path("/left-by-do").exists()
    assert len(warm_parents(folder)) == 1
    assert until(lambda: ended(host, folder))


def test_its_fork_is_the_sandboxes_parent(host: Host, folder: Path, running: subprocess.Popen[bytes]) -> None:
    nursery = parent_of(sentry_of(host))
    assert [parent_of(nursery)] == warm_parents(folder)


def test_a_killed_run_takes_its_sandbox_along(host: Host, folder: Path, running: subprocess.Popen[bytes]) -> None:
    running.kill()
    running.wait()
    assert until(lambda: ended(host, folder))


def test_a_killed_sandbox_ends_the_run(host: Host, folder: Path, running: subprocess.Popen[bytes]) -> None:
    os.kill(sentry_of(host), signal.SIGKILL)
    assert running.wait(60) != 0
    assert until(lambda: ended(host, folder))


def test_a_detached_sandbox_is_the_commands_own(host: Host, folder: Path) -> None:
    run(host, "true")
    host.background("run", "--detach", "--bundle", host.bundle("sleep", "1000"), host.name())
    assert not {parent_of(sentry_of(host)), parent_of(parent_of(sentry_of(host)))} & set(warm_parents(folder))


OTHERS = [["nice", "-n", "3"], ["sh", "-c", 'umask 027; exec "$@"', "-"], ["prlimit", "--nofile=900"]]


@pytest.mark.parametrize("prefix", OTHERS, ids=" ".join)
def test_a_command_in_other_surroundings_does_without(host: Host, folder: Path, prefix: list[str]) -> None:
    run(host, "true")
    name = host.name()
    command = host.tracked("run", "--bundle", host.bundle("sleep", "1000"), name)
    with subprocess.Popen([*prefix, *command], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert until(lambda: host.status(name) == "running")
        assert parent_of(sentry_of(host)) == process.pid
        process.kill()


def test_the_oom_score_is_the_commands(host: Host, folder: Path) -> None:
    run(host, "true")
    name = host.name()
    command = host.tracked("run", "--bundle", host.bundle("sleep", "1000"), name)
    raised = ["sh", "-c", 'echo 500 > /proc/self/oom_score_adj; exec "$@"', "-", *command]
    with subprocess.Popen(raised, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert until(lambda: host.status(name) == "running")
        assert Path(f"/proc/{sentry_of(host)}/oom_score_adj").read_text() == "500\n"
        assert parent_of(parent_of(sentry_of(host))) in warm_parents(folder)
        process.kill()


def test_one_that_is_stopped_is_not_waited_for_long(host: Host, folder: Path) -> None:
    run(host, "true")
    [warm] = warm_parents(folder)
    os.kill(warm, signal.SIGSTOP)
    try:
        assert run(host, "exit 5").returncode == 5
    finally:
        os.kill(warm, signal.SIGCONT)
    assert until(lambda: ended(host, folder))


def test_a_folder_that_cannot_be_is_no_harm(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSC_WARM_DIR", "/proc/nowhere")
    assert run(host, "exit 6").returncode == 6
