"""A containerd of our own: configuration, root, state and address under one folder, every process in one cgroup.

The cgroup finds what is left of a container when it should be gone: whatever containerd started, directly or not, is
in it or in the container's own, however it has detached itself.
"""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from shim.address import socket_path
from tests.integration.bundle import IMAGE_MAKER, busybox_rootfs
from tests.slowness import SLOWNESS

# runc's name here shows whether a test is right: it must pass with both.
RUNTIME = os.environ.get("PYSC_TEST_RUNTIME", "io.containerd.pysc.v1")
IMAGE = "test/busybox:latest"
START_SECONDS = 60
CGROUPS = Path("/sys/fs/cgroup")

CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{folder}/containerd.sock"

[ttrpc]
  address = "{folder}/containerd.sock.ttrpc"

[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""


def own_cgroup() -> Path:
    """A new cgroup, in a hierarchy that container runtimes leave alone where there is one (cgroup v1)."""
    base = next((path for path in (CGROUPS / "unified", CGROUPS / "systemd") if path.is_dir()), CGROUPS)
    cgroup = base / f"pysc-test-{uuid.uuid4().hex[:8]}"
    cgroup.mkdir()
    return cgroup


def processes_in(cgroup: Path) -> set[int]:
    """Also those in its descendants, of which any may go while we look."""
    pids: set[int] = set()
    for folder, _, _ in os.walk(cgroup):
        with suppress(OSError):
            pids.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
    return pids


def parent_of(pid: int) -> int:
    """0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def found(root: Path, pattern: str) -> list[Path]:
    """Path.glob, but it bears with folders that go while it looks."""
    return [Path(name) for name in glob.glob(f"{glob.escape(str(root))}/{pattern}")]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "(gone)"


def runs(listing: str, command: str) -> bool:
    """Whether it is the whole command of a process in what ps or top printed.

    A shell's `sleep 1 & wait` has it in its own command, and so has the shell's child until it has called execve.
    """
    return any(line.endswith(f" {command}") for line in map(str.rstrip, listing.splitlines()))


def until(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    """Polls; whether it became true in time.  That is long: it only has to end before the test's own time does."""
    deadline = time.monotonic() + seconds * SLOWNESS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Daemon:
    """A running containerd with the busybox image in it, and ctr to talk to it."""

    config = CONFIG

    def __init__(self, folder: Path, binaries: Path | None = None) -> None:
        """binaries: a folder with another containerd and ctr than those that are installed."""
        self.folder = folder
        self.binaries = binaries
        self.namespace = f"t{uuid.uuid4().hex[:8]}"
        self.cgroup = own_cgroup()
        self.names: set[str] = set()
        self.warm = folder / "warm"
        """Of the warm parent that this daemon's shims are forked from: nobody else's."""
        self.log = folder / "containerd.log"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        config = self.folder / "config.toml"
        config.write_text(self.config.format(folder=self.folder))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        enter = f"echo 0 > {self.cgroup}/cgroup.procs && exec {self.program('containerd')} -c {config}"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", enter], env=os.environ | {"PATH": path, "PYSC_WARM_DIR": str(self.warm)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        if not until(lambda: self.ctr("version", check=False).returncode == 0, START_SECONDS):
            process.kill()
            raise RuntimeError(f"containerd does not come up:\n{self.tail()}")
        return process

    def program(self, name: str) -> str:
        return str(self.binaries / name) if self.binaries else name

    def restart(self) -> None:
        """Ends the daemon, not its containers, and starts it again."""
        self.process.terminate()
        self.process.wait(60)
        self.process = self.start()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def command(self, *args: str) -> list[str]:
        address = f"{self.folder}/containerd.sock"
        return [self.program("ctr"), "--address", address, "--namespace", self.namespace, *args]

    def ctr(self, *args: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*args), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode != 0:
            raise AssertionError(f"ctr {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.tail()}")
        return done

    def run_command(self, *args: str, options: tuple[str, ...] = (), name: str = "") -> list[str]:
        """`ctr run --rm` of a new container with these arguments."""
        name = name or f"c{uuid.uuid4().hex[:10]}"
        self.names.add(name)
        return self.command("run", "--rm", "--runtime", RUNTIME, *options, IMAGE, name, *args)

    def run(
        self, *args: str, options: tuple[str, ...] = (), timeout: float = 60, name: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command = self.run_command(*args, options=options, name=name)
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)

    def start_detached(self, *args: str, options: tuple[str, ...] = (), name: str = "") -> str:
        """A container that runs on; its name."""
        name = name or f"d{uuid.uuid4().hex[:10]}"
        self.names.add(name)
        self.ctr("run", "-d", "--runtime", RUNTIME, *options, IMAGE, name, *args)
        return name

    def tasks(self) -> dict[str, tuple[int, str]]:
        """Process id and status (RUNNING, STOPPED, ...) of each task."""
        rows = [line.split() for line in self.ctr("task", "ls").stdout.splitlines()[1:]]
        return {row[0]: (int(row[1]), row[2]) for row in rows}

    def status(self, name: str) -> str:
        """Empty when there is no such task."""
        return self.tasks().get(name, (0, ""))[1]

    def import_image(self, name: str = IMAGE, root: Path | None = None) -> None:
        archive = self.folder / "image.tar"
        root = root or busybox_rootfs(self.folder / "image-root")
        subprocess.run([sys.executable, IMAGE_MAKER, "image", name, root, archive], check=True)
        self.ctr("images", "import", str(archive))
        archive.unlink()

    def processes(self) -> set[int]:
        """Everything that came from this containerd and still lives, itself and warm parents not counted."""
        return processes_in(self.cgroup) - {self.process.pid} - set(self.warm_parents())

    def warm_parents(self) -> list[int]:
        """There is one, once the first container has run; it may stay when all are gone, until the daemon ends.

        There is another if somebody has moved the daemon to another cgroup meanwhile.  Forks have their name at first.
        """
        named = {pid for pid in processes_in(self.cgroup) if f" {self.warm}/" in command_line(pid)}
        return [pid for pid in named if parent_of(pid) not in named]

    def cgroups(self) -> list[Path]:
        """The cgroups of this daemon's containers."""
        return [*found(CGROUPS, f"{self.namespace}/*/"), *found(CGROUPS, f"*/{self.namespace}/*/")]

    def left_behind(self) -> list[str]:
        """Processes, mounts, sockets, folders and cgroups of containers: what one that ended must not leave."""
        left = [f"process {pid}: {command_line(pid)}" for pid in self.processes()]
        left += [line for line in Path("/proc/mounts").read_text().splitlines() if self.is_containers(line.split()[1])]
        left += [socket for socket in map(self.socket_of, self.names) if Path(socket).exists()]
        left += [str(path) for path in found(Path("/run/pysc-shim"), f"{self.namespace}*")]
        left += [str(path) for path in found(self.folder / "state", "io.containerd.runtime.v2.task/*/*")]
        return left + [str(path) for path in self.cgroups()]

    def socket_of(self, name: str) -> str:
        """Where the shim of a container listens; any shim does so by the same rule."""
        return socket_path(f"{self.folder}/containerd.sock", self.namespace, name)

    def is_containers(self, mount: str) -> bool:
        return mount.startswith(f"{self.folder}/state/") and "rootfs" in mount

    def remove_containers(self) -> None:
        """Those that a failed test has left, so that it does not fail the next one too."""
        for name in self.ctr("containers", "ls", "-q").stdout.split():
            self.ctr("task", "kill", "-s", "9", name, check=False)
            self.ctr("task", "rm", "-f", name, check=False)
            self.ctr("containers", "rm", name, check=False)

    def close(self) -> None:
        """Ends the daemon and whatever a failed test left; then removes its folders."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        until(self.killed_all)
        self.cgroup.rmdir()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        for cgroup in [*self.cgroups(), *found(CGROUPS, f"*/{self.namespace}"), CGROUPS / self.namespace]:
            remove_cgroup(cgroup)
        shutil.rmtree(Path("/run/pysc-shim", self.namespace), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def killed_all(self) -> bool:
        for pid in processes_in(self.cgroup):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not processes_in(self.cgroup)


def remove_cgroup(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # already gone, or something still lives in it, which a test has reported
