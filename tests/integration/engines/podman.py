"""podman, which has no daemon: conmon starts a container, stays for it, and keeps its log and its exit status."""

from __future__ import annotations

from pathlib import Path

from tests.integration.daemon import CGROUPS, found, remove_cgroup
from tests.integration.engines.engine import Engine, program

CONFIG = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[engine.runtimes]
"""
"""podman asks for as much as it can imagine, which runc must have a capability for that not every root has."""


class Podman(Engine):
    name = "podman"
    needs = ("podman", "conmon", "runc")
    image = "localhost/busybox"

    def __init__(self, folder: Path, runtime: str) -> None:
        super().__init__(folder, runtime)
        (folder / "containers.conf").write_text(CONFIG)
        self.runtime = str(self._with_own_state())
        self.call("import", "-c", 'CMD ["sh"]', str(self.archive()), self.image)
        self.settle()
        self.run("true")
        self.settle()

    def _with_own_state(self) -> Path:
        """The runtime with a state folder of the test's.  podman has --runtime-flag for that, but forgets it when
        conmon has it clean up."""
        script = self.folder / Path(self.runtime).name
        script.write_text(f'#!/bin/sh\nexec {self.runtime} --root {self.folder}/state "$@"\n')
        script.chmod(0o755)
        return script

    def client(self) -> list[str]:
        folder = self.folder
        return [
            "env", f"CONTAINERS_CONF={folder}/containers.conf", program("podman"), "--runtime", self.runtime,
            "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp",
            "--storage-driver", "overlay",
        ]  # fmt: skip

    def run_words(self, *options: str) -> list[str]:
        return ["run", "--network", "none", "--cgroup-parent", f"/{self.parent}", *options, self.image]

    def remove_containers(self) -> None:
        while self.names:
            self.call("rm", "-f", "-t", "0", self.names.pop(), check=False)

    def container_cgroups(self) -> list[Path]:
        return [path for path in super().container_cgroups() if path.name != "conmon"]

    def left_behind(self) -> list[str]:
        """podman mounts the folder of its layers on itself, and at times takes that away."""
        return [line for line in super().left_behind() if f" {self.folder}/root/overlay " not in line]

    def state_folders(self) -> list[Path]:
        return found(self.folder, "state/*")

    def close(self) -> None:
        self.call("rm", "-fa", "-t", "0", check=False)
        super().close()
        for path in [*CGROUPS.glob(f"*/{self.parent}/conmon"), *CGROUPS.glob(f"*/{self.parent}")]:
            remove_cgroup(path)
        for path in [*CGROUPS.glob("*/libpod_parent/conmon"), *CGROUPS.glob("*/libpod_parent")]:
            remove_cgroup(path)  # where podman puts conmon, of all users of the host; it stays if it is in use
