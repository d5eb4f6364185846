"""nerdctl on a containerd of our own.  pysc is driven through its own shim here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.daemon import Daemon
from tests.integration.engines.engine import Engine

BUILDER = Path(__file__).resolve().parents[3] / "packaging" / "engines.py"


def built(name: str) -> tuple[str, str]:
    """Where the program is, or why it is not there."""
    done = subprocess.run([sys.executable, BUILDER, "path", name], capture_output=True, text=True, check=False)
    return done.stdout.strip(), done.stderr.strip()


class Nerdctl(Engine):
    name = "nerdctl"
    needs = ("containerd", "runc")

    def __init__(self, folder: Path, runtime: str) -> None:
        super().__init__(folder, runtime)
        self.runtime = "io.containerd.pysc.v1" if self.is_pysc else "runc"
        self.program = built("nerdctl")[0]
        self.containerd = Daemon(folder)
        self.call("load", "-i", str(self.image_archive()))
        self.run("true")  # it makes what stays: the warm parent, folders
        self.settle()

    @classmethod
    def missing(cls) -> str:
        return super().missing() or built("nerdctl")[1]

    def client(self) -> list[str]:
        return [
            self.program, "--address", f"{self.folder}/containerd.sock", "--namespace", self.containerd.namespace,
            "--data-root", f"{self.folder}/nerdctl", "--cni-netconfpath", f"{self.folder}/cni",
            "--cgroup-manager", "cgroupfs",
        ]  # fmt: skip

    def left_behind(self) -> list[str]:
        return [*super().left_behind(), *self.containerd.left_behind()]

    def close(self) -> None:
        self.containerd.close()
        super().close()
