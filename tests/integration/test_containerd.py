"""Real containerd and ctr with our runtime, from `run` to the last trace of it."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.bundle import busybox_rootfs
from tests.integration.containerd import IMAGE, PATIENCE_S, RUNTIME, Containerd, write_image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("containerd"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd runs as root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="containerd is not installed"),
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Containerd]:
    folder = Path(tempfile.mkdtemp(prefix="pysc-cd-"))
    daemon = Containerd(folder)
    write_image(folder / "image.tar", busybox_rootfs(folder / "rootfs"))
    daemon.start()
    try:
        daemon.ctr("images", "import", str(folder / "image.tar"))
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def containerd(daemon: Containerd) -> Iterator[Containerd]:
    """The daemon; afterwards nothing of the test's containers may be left."""
    sockets = set(os.listdir("/run/containerd/s")) if os.path.isdir("/run/containerd/s") else set()
    yield daemon
    wait_until(lambda: not daemon.shim_pids(), "a shim is left")
    assert daemon.ctr("tasks", "ls", "-q").stdout == b""
    assert set(os.listdir("/run/containerd/s")) <= sockets
    state = Path("/run/pysc-shim", daemon.namespace)
    assert not state.exists() or list(state.iterdir()) == []
    with open("/proc/self/mountinfo") as mountinfo:
        assert [line for line in mountinfo if str(daemon.folder) in line] == []


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def sleeper(containerd: Containerd) -> Iterator[str]:
    """A detached container that does nothing."""
    containerd.run("sleeper", "sleep", "1000", flags=["-d"])
    yield "sleeper"
    remove(containerd, "sleeper")


def remove(containerd: Containerd, container_id: str) -> None:
    if containerd.status(container_id) not in ("", "STOPPED"):
        containerd.ctr("tasks", "kill", "-s", "KILL", container_id)
        containerd.wait_status(container_id, "STOPPED")
    if containerd.status(container_id):
        containerd.ctr("tasks", "rm", container_id, check=False)
    containerd.ctr("containers", "rm", container_id)


def test_run_prints_and_exits_with_the_status(containerd: Containerd) -> None:
    done = containerd.run("c1", "sh", "-c", "echo out; echo err >&2; exit 5", check=False)
    assert (done.returncode, done.stdout) == (5, b"out\n")
    assert done.stderr.startswith(b"err\n")


def test_large_output_arrives_whole(containerd: Containerd) -> None:
    done = containerd.run("c1", "seq", "1", "20000")
    assert done.stdout == b"".join(b"%d\n" % n for n in range(1, 20001))


def test_missing_program_is_named(containerd: Containerd) -> None:
    done = containerd.run("c1", "nosuch", check=False)
    assert b'exec: "nosuch": executable file not found in $PATH' in done.stderr


def test_detached_exec_and_kill(containerd: Containerd, sleeper: str) -> None:
    assert containerd.status(sleeper) == "RUNNING"
    done = containerd.ctr("tasks", "exec", "--exec-id", "e1", sleeper, "sh", "-c", "echo hi; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, b"hi\n")
    assert "memory.usage_in_bytes" in containerd.ctr("tasks", "metrics", sleeper).stdout.decode()
    containerd.ctr("tasks", "kill", "-s", "KILL", sleeper)
    containerd.wait_status(sleeper, "STOPPED")
    done = containerd.ctr("tasks", "kill", "-s", "TERM", sleeper, check=False)
    assert b"process already finished" in done.stderr


def test_terminal(containerd: Containerd, sleeper: str) -> None:
    master, slave = pty.openpty()
    ctr = subprocess.Popen(
        containerd.command("tasks", "exec", "-t", "--exec-id", "e1", sleeper, "sh"),
        stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    try:
        os.write(master, b"echo $((6*7)); tty; exit 9\n")
        assert b"42" in read_terminal(master)
        assert ctr.wait(PATIENCE_S) == 9
    finally:
        ctr.kill()
        ctr.wait()
        os.close(master)


def read_terminal(master: int) -> bytes:
    data = b""
    while select.select([master], [], [], PATIENCE_S)[0]:
        try:
            data += os.read(master, 4096)
        except OSError:  # EIO: ctr has ended
            break
    return data


def test_containers_survive_a_restart_of_containerd(containerd: Containerd, sleeper: str) -> None:
    containerd.stop(signal.SIGKILL)
    containerd.start()
    assert containerd.status(sleeper) == "RUNNING"
    assert containerd.ctr("tasks", "exec", "--exec-id", "e1", sleeper, "echo", "again").stdout == b"again\n"
    containerd.ctr("tasks", "kill", "-s", "KILL", sleeper)
    containerd.wait_status(sleeper, "STOPPED")


def test_killed_shim_leaves_nothing(containerd: Containerd) -> None:
    containerd.run("c1", "sleep", "1000", flags=["-d"])
    [pid] = containerd.shim_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: containerd.status("c1") in ("", "STOPPED"), "the task goes on")
    remove(containerd, "c1")


def test_several_containers_at_once(containerd: Containerd) -> None:
    commands = [
        containerd.command("run", "--rm", "--runtime", RUNTIME, IMAGE, f"c{n}", "echo", f"number {n}") for n in range(4)
    ]
    runs = [subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) for words in commands]
    outputs = [run.communicate(timeout=PATIENCE_S)[0] for run in runs]
    assert outputs == [b"number %d\n" % n for n in range(4)]


def test_events_are_in_order(containerd: Containerd) -> None:
    events = subprocess.Popen(containerd.command("events"), stdout=subprocess.PIPE, bufsize=0)
    try:
        containerd.run("c0", "true")  # the subscription may come after its first events
        containerd.run("c1", "true")
        topics = []
        assert events.stdout is not None
        for line in events.stdout:
            words = line.decode().split()
            topic = next(word for word in words if word.startswith("/"))
            if topic.startswith("/tasks/") and '"c1"' in line.decode():
                topics.append(topic)
            if topics and topic == "/tasks/delete":
                break
        assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    finally:
        events.kill()
        events.wait()
