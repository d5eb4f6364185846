"""Shims with the real sandbox: the real command line, containers with a busybox root."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.integration.bundle import MOUNTS, Process
from tests.integration.daemon import command_line, remove_cgroup
from tests.shimtest.harness import REAL_ENTRY, Bundle, Shims, Task


def mounts_below(folder: Path) -> list[str]:
    with open("/proc/self/mountinfo") as mountinfo:
        return [line.split()[4] for line in mountinfo if f"{folder}/" in line.split()[4]]


def cgroups_of(namespace: str) -> list[str]:
    """What is left of the cgroups of a namespace's containers, in any hierarchy."""
    return [str(path) for root in cgroup_roots() for path in root.glob(f"{namespace}/*/")]


def cgroup_roots() -> list[Path]:
    return [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]


class RealShims(Shims):
    """Shims with the real sandbox, and containers with a busybox root."""

    def __init__(self, rootfs: Path, warm: bool = False, **environment: str) -> None:
        super().__init__(REAL_ENTRY)
        if warm:
            self.environment["PYSC_WARM_DIR"] = str(self.folder / "warm")
        self.environment |= environment
        self.rootfs = [{"type": "bind", "source": str(rootfs), "options": ["rbind", "ro"]}]

    def container(
        self,
        container_id: str,
        args: list[str],
        terminal: bool = False,
        pod: str = "",
        mounts: Sequence[Mapping[str, object]] = (),
    ) -> Bundle:
        return self.bundle(
            container_id,
            args,
            {"io.kubernetes.cri.sandbox-id": pod} if pod else {},
            process=Process(args, terminal=terminal).to_spec(),
            mounts=[*MOUNTS, *mounts],
            hostname="guest",
            linux={
                "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
                "cgroupsPath": f"/{self.namespace}/{container_id}",
            },
        )

    async def make(self, args: list[str], **fields: object) -> Task:
        """A created container c1."""
        task = await self.start(self.container("c1", args, bool(fields.get("terminal"))))
        await task.create(rootfs=self.rootfs, **fields)
        return task

    def warm_parents(self) -> list[int]:
        """Those that this object's shims have started and that are ready."""
        words = f"pysc shim.warm {self.folder}/"
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        return [pid for pid in pids if command_line(pid).startswith(words)]

    async def close(self) -> None:
        await super().close()
        for pid in self.warm_parents():
            os.kill(pid, signal.SIGKILL)
        assert mounts_below(self.folder) == []
        assert cgroups_of(self.namespace) == []
        for root in cgroup_roots():
            remove_cgroup(root / self.namespace)  # of which each of two containers thinks that it is the other's
