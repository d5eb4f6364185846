"""Where containers run: a temporary folder with root file systems, bundles and states, which leaves nothing behind.

Every command runs in a session of its own with a time limit.  Whatever way it ends, its container is deleted; at the
end of the benchmark, or when it is interrupted, so are those that were to run on, and then the folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType

from bench.runtimes import Runtime
from tests.integration.bundle import Process, busybox_rootfs, write_bundle
from tests.slowness import SLOWNESS

GUEST = Path(__file__).parent / "guest"
FLAGS = ("-static", "-O2", "-pthread", "-Wall", "-Wextra")
FOLDERS = ("proc", "dev", "sys", "tmp")
FILE_SYSTEM_SIZE = 512 << 20
CLEAN_UP_SECONDS = 20 * SLOWNESS
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
# Natively: the same root and a tmpfs on /tmp as in a container; a PID namespace, so that no process outlives the run.
NATIVE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c")
NATIVE_SCRIPT = 'mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/tmp" && exec chroot "$@"'


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended; status None: not within its time."""

    status: int | None
    output: str
    seconds: float

    def reason(self) -> str:
        """Why it is not a success, in one line."""
        if self.status is None:
            return "no end within its time"
        last = [line for line in self.output.splitlines() if line.strip() and not line.startswith("{")][-1:]
        return ": ".join([f"exit status {self.status}", *last])[:300]


def build(target: Path) -> Path:
    """Compiles the micro-benchmark."""
    sources = sorted(str(path) for path in GUEST.glob("*.c"))
    subprocess.run(["gcc", *FLAGS, "-o", str(target), *sources], check=True)
    return target


def fresh_file_system(folder: Path) -> Path:
    """A new folder that is a file system of its own, as mkfs makes it; a plain one where no loop device can be had.

    What a row makes and removes would else depend on what the host's has seen: an ext4 without a journal looks for
    minutes at files that are gone whenever it makes one, which takes ten times as long as making it.
    """
    folder.mkdir()
    image = folder.with_suffix(".ext4")
    with image.open("wb") as file:
        file.truncate(FILE_SYSTEM_SIZE)
    for command in (["mkfs.ext4", "-q", "-F", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"bench: no file system of its own: {done.stderr.strip()}", file=sys.stderr)
            break
    return folder


class Ground:
    """Use it with `with`.  `work`: the folder, in every root, where benchmarks make their files."""

    def __init__(self) -> None:
        self.unique = f"bench-{uuid.uuid4().hex[:8]}"
        self.work = f"/{self.unique}"
        self.folder = Path(tempfile.mkdtemp(prefix="pysc-bench-"))
        self.folder.chmod(0o755)
        self.roots: list[Path] = []
        self.running: dict[str, Runtime] = {}

    def __enter__(self) -> Ground:
        try:
            self.micro = build(self.folder / "micro")
            self.small = self.add_root(busybox_rootfs(fresh_file_system(self.folder / "small")))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add_root(self, root: Path) -> Path:
        """A root file system; the benchmark's own folder in it has the micro-benchmark and is removed at the end."""
        for name in FOLDERS:
            (root / name).mkdir(exist_ok=True)
        self.roots.append(root)
        (root / self.unique).mkdir()
        shutil.copy2(self.micro, root / self.unique / "micro")
        return root

    def state(self, runtime: Runtime) -> Path:
        return self.folder / "state" / runtime.name

    def run(
        self, runtime: Runtime, root: Path, args: list[str], seconds: float, variables: Mapping[str, str] = NO_VARIABLES
    ) -> Outcome:
        """The command in a container of this runtime, or on the host's kernel, and back."""
        if runtime.is_native:
            return finish([*NATIVE, NATIVE_SCRIPT, "native", str(root), *args], seconds)
        name = self.new_container(runtime)
        try:
            bundle = write_bundle(self.folder / "bundle" / name, root, Process(args))
            command = runtime.call(self.state(runtime), "run", "--bundle", str(bundle), name)
            outcome = finish(command, seconds, variables=variables)
        except BaseException:
            self.delete(name)
            raise
        if outcome.status is None:
            self.delete(name)
        else:
            self.forget(name)
        return outcome

    def start(self, runtime: Runtime, root: Path, args: list[str], seconds: float) -> tuple[str, Outcome]:
        """A container that runs on until it is deleted; its name."""
        name = self.new_container(runtime)
        bundle = write_bundle(self.folder / "bundle" / name, root, Process(args))
        command = runtime.call(self.state(runtime), "run", "--detach", "--bundle", str(bundle), name)
        return name, finish(command, seconds, capture=False)

    def new_container(self, runtime: Runtime) -> str:
        name = f"{self.unique}-{uuid.uuid4().hex[:8]}"
        self.state(runtime).mkdir(parents=True, exist_ok=True)
        self.running[name] = runtime
        return name

    def delete(self, name: str) -> None:
        runtime = self.running[name]
        finish(runtime.call(self.state(runtime), "delete", "--force", name), CLEAN_UP_SECONDS)
        self.forget(name)

    def forget(self, name: str) -> None:
        del self.running[name]
        shutil.rmtree(self.folder / "bundle" / name, ignore_errors=True)

    def close(self) -> None:
        for name in list(self.running):
            self.delete(name)
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        for root in self.roots:
            shutil.rmtree(root / self.unique, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def finish(
    command: list[str], seconds: float, capture: bool = True, variables: Mapping[str, str] = NO_VARIABLES
) -> Outcome:
    """Runs it to its end, or kills its whole session when the time is up.

    What is printed goes through a pipe: runsc writes to a regular file at an offset of its own.  Without `capture` it
    goes to the benchmark's standard error, for commands whose children stay and would hold the pipe open.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else sys.stderr,
        stderr=subprocess.STDOUT if capture else sys.stderr,
        env=os.environ | variables,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return Outcome(process.returncode, (output or b"").decode(errors="replace"), time.monotonic() - start)
    except subprocess.TimeoutExpired as e:
        kill_session(process)
        return Outcome(None, (e.stdout or b"").decode(errors="replace"), time.monotonic() - start)
    except BaseException:
        kill_session(process)
        raise


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """The command and what it left in its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
