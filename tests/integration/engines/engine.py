"""What Docker, podman and nerdctl have in common: a command line, and everything else in a folder of their own.

Each runs its containers with runc or with pysc.  runc's behaviour is the specification: a test that passes with both
says what an engine may expect.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

from tests.integration.bundle import PYSC, busybox_rootfs
from tests.integration.daemon import CGROUPS, command_line, found, own_cgroup, processes_in, remove_cgroup, until

SECONDS = 120
IMAGE_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program(*names: str) -> str:
    """The first of these that is there.  Debian's own before what else may be in PATH under its name."""
    for name in names:
        found = shutil.which(name, path="/usr/bin:/usr/sbin") or shutil.which(name)
        if found:
            return found
    return ""


class Engine:
    """An engine that runs containers with one runtime, and what is left of them."""

    name = ""
    image = "test/busybox"
    needs: tuple[str, ...] = ()
    """Programs without which there is no such engine."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.folder = folder
        self.is_pysc = runtime == "pysc"
        self.runtime = str(PYSC) if self.is_pysc else program("runc")
        self.parent = f"pysc-test-{uuid.uuid4().hex[:8]}"
        """The cgroup that those of containers are in."""
        self.cgroup = own_cgroup()
        self.root = busybox_rootfs(folder / "busybox")
        self.names: list[str] = []

    @classmethod
    def missing(cls) -> str:
        """Why there is no such engine here; empty if there is."""
        return ", ".join(f"there is no {name} here" for name in cls.needs if not program(name))

    def settle(self) -> None:
        """To be called when it is up: what there is from now on comes from containers."""
        self.settled = processes_in(self.cgroup)
        self.mounts = self._mounts()

    def client(self) -> list[str]:
        """The client with the flags that lead it to its folder."""
        raise NotImplementedError

    def command(self, *words: str) -> list[str]:
        """A client's command line, in the cgroup that shows what is left of it.

        It runs in the folder: where podman is run, its conmon leaves a file when a container lacked memory.
        """
        enter = f'cd {self.folder} && echo 0 > "$0/cgroup.procs" && exec "$@"'
        return ["sh", "-c", enter, str(self.cgroup), *self.client(), *words]

    def call(self, *words: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """One command; with standard input if `text` is given."""
        done = subprocess.run(
            self.command(*words), input=text, stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"{self.name} {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def run_words(self, *options: str) -> list[str]:
        """`run` up to the image, on no network."""
        return ["run", "--runtime", self.runtime, "--network", "none", *options, self.image]

    def run(
        self, *words: str, options: tuple[str, ...] = (), text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A container that is waited for and removed."""
        return self.call(*self.run_words("--rm", *options), *words, check=False, text=text)

    def start(self, *words: str, options: tuple[str, ...] = ()) -> str:
        """A container that runs on; its name."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.names.append(name)
        self.call(*self.run_words("-d", "--name", name, *options), *words)
        return name

    def inspect(self, name: str, what: str) -> str:
        """One value, by a Go template's path."""
        return self.call("inspect", "--format", "{{" + what + "}}", name).stdout.strip()

    def remove_containers(self) -> None:
        while self.names:
            self.call("rm", "-f", self.names.pop(), check=False)

    def left_behind(self) -> list[str]:
        left = [f"process {pid}: {command_line(pid)}" for pid in processes_in(self.cgroup) - self.settled]
        left += sorted(self._mounts() - self.mounts)
        left += [str(path) for path in self.state_folders()]
        return left + [str(path) for path in self.container_cgroups()]

    def container_cgroups(self) -> list[Path]:
        return [*found(CGROUPS, f"{self.parent}/*/"), *found(CGROUPS, f"*/{self.parent}/*/")]

    def state_folders(self) -> list[Path]:
        """What the runtime remembers of containers."""
        return []

    def _mounts(self) -> set[str]:
        return {line for line in Path("/proc/mounts").read_text().splitlines() if f" {self.folder}/" in line}

    def close(self) -> None:
        """Ends the engine; then removes what a failed test may have left."""
        for pid in processes_in(self.cgroup):
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        until(lambda: not processes_in(self.cgroup))
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        for path in [*self.container_cgroups(), *found(CGROUPS, f"*/{self.parent}"), CGROUPS / self.parent]:
            remove_cgroup(path)
        remove_cgroup(self.cgroup)

    def archive(self) -> Path:
        """The root file system as a plain tar."""
        path = self.folder / "root.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(self.root, arcname=".")
        return path

    def image_archive(self) -> Path:
        """The image as `ctr`, nerdctl and podman load it."""
        maker = Path(__file__).resolve().parents[3] / "packaging" / "image.py"
        path = self.folder / "image.tar"
        subprocess.run([sys.executable, maker, "image", f"docker.io/{self.image}:latest", self.root, path], check=True)
        return path
