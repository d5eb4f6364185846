"""A Docker daemon of our own, with a containerd of its own: no bridge, no packet filter, all else in one folder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.daemon import found, until
from tests.integration.engines.engine import IMAGE_PATH, Engine, program

START_SECONDS = 60


class Docker(Engine):
    name = "docker"
    needs = ("dockerd", "docker", "containerd", "runc")

    def __init__(self, folder: Path, runtime: str, config: dict[str, Any] | None = None) -> None:
        super().__init__(folder, runtime)
        self.config = folder / "daemon.json"
        runtimes = {"pysc": {"path": self.runtime}} if self.is_pysc else {}
        self.config.write_text(json.dumps({"runtimes": runtimes} if config is None else config))
        self.runtime = "pysc" if self.is_pysc else "runc"
        self.process = self._start()
        image = ("import", "-c", 'CMD ["sh"]', "-c", f"ENV {IMAGE_PATH}", str(self.archive()), self.image)
        self.call(*image)
        self.settle()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            "dockerd", "--config-file", str(self.config), "--data-root", f"{self.folder}/root",
            "--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/docker.pid",
            "--host", f"unix://{self.folder}/docker.sock", "--cgroup-parent", f"/{self.parent}",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--bridge", "none", "--iptables=false", "--ip6tables=false",
            "--ip-forward=false", "--ip-masq=false",
        ]  # fmt: skip
        enter = ["sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(self.cgroup), *command]
        with (self.folder / "dockerd.log").open("ab") as log:
            process = subprocess.Popen(enter, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: process.poll() is not None or self._answers(), START_SECONDS)
        if process.poll() is not None or not self._answers():
            self.close()
            raise RuntimeError(f"dockerd does not come up:\n{(self.folder / 'dockerd.log').read_text()[-3000:]}")
        return process

    def _answers(self) -> bool:
        return self.call("version", check=False).returncode == 0

    def client(self) -> list[str]:
        return [program("docker"), "--config", f"{self.folder}/client", "--host", f"unix://{self.folder}/docker.sock"]

    def state_folders(self) -> list[Path]:
        return found(self.folder, "exec/runtime-*/moby/*")

    def close(self) -> None:
        if hasattr(self, "process"):
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.kill(self.process.pid, 9)
                self.process.wait()
        super().close()
