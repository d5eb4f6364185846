"""Instants in the life of a task that are hard to hit, reached for sure and held: a call is under way and cannot end.

What holds it: an OCI hook that waits for a file, a process that is stopped while somebody has written to it, the lock
of the sandbox's state.  Each is seen from outside before the instant counts as reached.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

from sandbox import state
from shim.address import state_root
from tests.integration.daemon import Daemon, command_line, until
from tests.integration.tasks import Client, Task, make_fifos

DELETE_STATUS = 7
PATIENCE = 60


class Scene:
    """A container of its own, its processes by their roles, and the call that an instant is in the middle of."""

    def __init__(self, daemon: Daemon, client: Client, rootfs: Path, folder: Path) -> None:
        self.daemon = daemon
        self.client = client
        self.rootfs = rootfs
        self.folder = folder
        self.call: Future[int] | None = None
        self.resources = ExitStack()
        self._pool = self.resources.enter_context(ThreadPoolExecutor(1))

    def container(self, *args: str, **changes: Any) -> Task:
        self.task = self.client.container(self.rootfs, args, **changes)
        return self.task

    def begin(self, call: Callable[[], Any]) -> None:
        self.call = self._pool.submit(call)

    def outcome(self) -> int | grpc.RpcError | None:
        """What became of the call; None if there was none, or it has no result."""
        if self.call is None:
            return None
        error = self.call.exception(PATIENCE)
        if error is None:
            return self.call.result()
        assert isinstance(error, grpc.RpcError), error
        return error

    def pid_of(self, role: str) -> int:
        if role == "containerd":
            return self.daemon.process.pid
        words = f" -id {self.task.name}" if role == "shim" else f" sandbox.stage {role} "
        found = [pid for pid in self.daemon.processes() if words in f"{command_line(pid)} "]
        assert len(found) == 1, [command_line(pid) for pid in self.daemon.processes()]
        return found[0]

    def kill(self, role: str) -> None:
        """SIGKILL; returns when it is gone.  containerd is there again then."""
        pidfd = os.pidfd_open(self.pid_of(role))
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if role == "containerd":
            self.daemon.process.wait(PATIENCE)
            self.daemon.process = self.daemon.start()
        else:
            assert until(lambda: has_ended(pidfd), PATIENCE)
        os.close(pidfd)

    def close(self) -> None:
        self.resources.close()


def has_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


# -- what holds --


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP; whoever kills it meanwhile may."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)


def has_unread(pid: int) -> bool:
    """Whether somebody has written to one of its sockets what it has not read."""
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    own = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    shown = subprocess.run(["ss", "--unix", "--numeric", "--no-header"], check=True, capture_output=True, text=True)
    rows = [line.split() for line in shown.stdout.splitlines()]
    return any(row[2] != "0" and row[5] in own for row in rows)


def hook(folder: Path, point: str) -> dict[str, Any]:
    """Hooks of a spec: one that says that it was reached, and waits until it may go on."""
    script = f": > {folder}/reached; until [ -e {folder}/go ]; do sleep 0.02; done"
    return {point: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}


@contextmanager
def held_by_hook(scene: Scene) -> Iterator[None]:
    assert until((scene.folder / "reached").exists, PATIENCE)
    try:
        yield
    finally:
        (scene.folder / "go").touch()


def is_waiting_for_lock(inode: int) -> bool:
    """proc_locks(5): a waiter has an arrow."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("-> FLOCK" in line and line.split()[6].endswith(f":{inode}") for line in lines)


# -- the instants --


@contextmanager
def early_in_create(scene: Scene) -> Iterator[None]:
    """The root is mounted; neither Sentry nor gofer are wanted before somebody reads standard output."""
    stdio = make_fifos(scene.folder / "fifos", "stdout")
    scene.container("sleep", "1000")
    scene.begin(lambda: scene.task.create(stdio))
    assert until(lambda: f"/{scene.task.name}/rootfs " in Path("/proc/mounts").read_text(), PATIENCE)
    try:
        yield
    finally:
        scene.resources.callback(os.close, os.open(stdio.stdout, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


@contextmanager
def during_create(scene: Scene) -> Iterator[None]:
    """Sentry and gofer are there, the container is not."""
    scene.container("sleep", "1000", hooks=hook(scene.folder, "createRuntime"))
    scene.begin(scene.task.create)
    with held_by_hook(scene):
        yield


@contextmanager
def late_in_create(scene: Scene) -> Iterator[None]:
    """The Sentry is making the container and asks the gofer, which does not answer."""
    scene.container("sleep", "1000", hooks=hook(scene.folder, "createRuntime"))
    scene.begin(scene.task.create)
    with ExitStack() as holding:
        with held_by_hook(scene):
            gofer = scene.pid_of("gofer")
            holding.enter_context(stopped(gofer))
        assert until(lambda: has_unread(gofer), PATIENCE)
        yield


@contextmanager
def created(scene: Scene) -> Iterator[None]:
    """Between Create and Start."""
    scene.container("sleep", "1000").create()
    yield


@contextmanager
def running(scene: Scene) -> Iterator[None]:
    """Nothing is under way."""
    scene.container("sleep", "1000").create()
    scene.task.start()
    yield


@contextmanager
def _under_way(scene: Scene, call: Callable[[], Any]) -> Iterator[None]:
    """The Sentry has been asked, and does not answer."""
    sentry = scene.pid_of("sentry")
    with stopped(sentry):
        scene.begin(call)
        assert until(lambda: has_unread(sentry), PATIENCE)
        yield


@contextmanager
def during_exec(scene: Scene) -> Iterator[None]:
    """In the Start of an exec."""
    with running(scene):
        scene.task.exec("e", ["sleep", "1000"])
        with _under_way(scene, lambda: scene.task.start("e")):
            yield


@contextmanager
def during_kill(scene: Scene) -> Iterator[None]:
    with running(scene), _under_way(scene, scene.task.kill):
        yield


@contextmanager
def during_delete(scene: Scene) -> Iterator[None]:
    """The container has ended; its Sentry and gofer are yet to be ended."""
    task = scene.container("sh", "-c", f"exit {DELETE_STATUS}")
    task.create()
    task.start()
    assert task.wait() == DELETE_STATUS
    directory = Path(state_root(scene.daemon.namespace), task.name)
    with state.locked(str(directory)):
        inode = (directory / "lock").stat().st_ino
        scene.begin(task.delete)
        assert until(lambda: is_waiting_for_lock(inode), PATIENCE)
        yield


@contextmanager
def late_in_delete(scene: Scene) -> Iterator[None]:
    """Sentry and gofer have ended, the state folder and the mounts are still there."""
    task = scene.container("sh", "-c", f"exit {DELETE_STATUS}", hooks=hook(scene.folder, "poststop"))
    task.create()
    task.start()
    assert task.wait() == DELETE_STATUS
    scene.begin(task.delete)
    with held_by_hook(scene):
        yield


Instant = Callable[[Scene], AbstractContextManager[None]]
