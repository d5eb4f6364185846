"""Containers that the command `pysc` runs, and a look at what is left of them."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.integration import bundle as bundles
from tests.integration.bundle import Process, busybox_rootfs, write_bundle
from tests.integration.daemon import CGROUPS, own_cgroup, processes_in


class Host:
    """A state folder, a root file system, and a cgroup that shows which processes were left."""

    def __init__(self, folder: Path) -> None:
        self.platform = "auto"
        self.folder = folder
        self.state = folder / "state"
        self.rootfs = busybox_rootfs(folder / "rootfs")
        self.cgroup = own_cgroup()
        self.mounts = Path("/proc/mounts").read_text()
        self.names: list[str] = []

    def bundle(self, *args: str, **changes: Any) -> Path:
        """A bundle that runs these words; changes replace top-level members of its config."""
        made = write_bundle(self.folder / f"bundle-{uuid.uuid4().hex[:6]}", self.rootfs, Process(list(args)))
        config = json.loads((made / "config.json").read_text())
        (made / "config.json").write_text(json.dumps(config | changes))
        return made

    def name(self) -> str:
        self.names.append(f"cmd-{uuid.uuid4().hex[:8]}")
        return self.names[-1]

    def command(self, *words: object) -> list[str]:
        return [str(bundles.PYSC), "--root", str(self.state), "--platform", self.platform, *map(str, words)]

    def tracked(self, *words: object) -> list[str]:
        """The command in the cgroup that shows what is left of it."""
        return ["sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(self.cgroup), *self.command(*words)]

    def pysc(self, *words: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = self.tracked(*words)
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)

    def background(self, *words: object) -> None:
        """For commands whose container keeps the standard descriptors open after them."""
        log = self.folder / "background.log"
        with log.open("w") as out:
            done = subprocess.run(self.tracked(*words), stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
        assert done.returncode == 0, log.read_text()

    def status(self, name: str) -> str:
        done = self.pysc("state", name)
        return str(json.loads(done.stdout)["status"]) if done.returncode == 0 else ""

    def process(self, name: str, role: str) -> int:
        """The host pid of a container's "gofer" or "deputy", or of its "sentry", as it is remembered."""
        record = json.loads((self.state / name / "state.json").read_text())
        return int((record | record["container"])[role][0])

    def sentry(self, name: str) -> int:
        """Told by no command, which would leave the Sentry a connection to close; 0 while it is not known."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return self.process(name, "sentry")
        return 0

    def is_mine(self, cgroup: str) -> bool:
        return os.path.basename(cgroup).removeprefix("pysc-") in self.names

    def left_behind(self) -> list[str]:
        left = [f"process {pid}" for pid in processes_in(self.cgroup)]
        left += [str(path) for path in self.state.glob("*")]
        left += [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.folder) in line]
        # os.walk, unlike glob, bears with cgroups of others that go while it looks.
        left += [folder for folder, _, _ in os.walk(CGROUPS) if self.is_mine(folder)]
        return left


def assert_one_line(done: subprocess.CompletedProcess[str], status: int | None = None) -> str:
    """It failed, and said why in one line on stderr; the line."""
    assert done.returncode != 0 if status is None else done.returncode == status, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in lines[0]
    return lines[0]
