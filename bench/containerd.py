"""A private containerd, and how its ctr is told to use each of the runtimes."""

from __future__ import annotations

import os
import shlex
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

from bench.ground import finish
from bench.runtimes import Runtime
from tests.integration.daemon import IMAGE, Daemon, processes_in

RUNC_SHIM = "io.containerd.runc.v2"
RUNSC_SHIM = "io.containerd.runsc.v1"
PYSC_SHIM = "io.containerd.pysc.v1"
RUNSC_SHIM_PROGRAM = "containerd-shim-runsc-v1"
REMOVERS = 4
TRY_SECONDS = 30


class Containerd:
    """The daemon with the busybox image.  Its folder's name is short because socket paths are."""

    def __init__(self, image_root: Path, runtimes: list[Runtime]) -> None:
        self.folder = Path(mkdtemp(prefix="ctb-"))
        self.files = self.folder / "files"
        self.files.mkdir()
        self.shims = self.folder / "shims"
        self.shims.mkdir()
        self.with_shim = self.link_shims(runtimes)
        self.known: dict[str, list[str]] = {}
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{self.shims}:{path}"
        try:
            self.daemon = Daemon(self.folder)
        finally:
            os.environ["PATH"] = path
        try:
            self.daemon.import_image(root=image_root)
        except BaseException:
            self.close()
            raise

    def link_shims(self, runtimes: list[Runtime]) -> set[str]:
        """runsc's own shim, for the daemon's PATH; the runsc programs that have it beside them, or anywhere in PATH."""
        found = set()
        for program in {runtime.program for runtime in runtimes if runtime.name.startswith("runsc-")}:
            beside = Path(program).with_name(RUNSC_SHIM_PROGRAM)
            shim = str(beside) if beside.exists() else shutil.which(RUNSC_SHIM_PROGRAM)
            if shim:
                link = self.shims / RUNSC_SHIM_PROGRAM
                link.unlink(missing_ok=True)
                link.symlink_to(shim)
                found.add(program)
        return found

    def options(self, runtime: Runtime) -> list[str]:
        """Of `ctr run`: the first way that works, found out once."""
        if runtime.name not in self.known:
            ways = self.ways(runtime)
            self.known[runtime.name] = next((way for way in ways[:-1] if self.works(way)), ways[-1])
        return self.known[runtime.name]

    def ways(self, runtime: Runtime) -> list[list[str]]:
        """runsc's own shim does not work everywhere (it wants to set its OOM score); runc's drives runsc as well."""
        if runtime.is_ours:
            config = self.write(f"{runtime.name}.toml", f'platform = "{runtime.platform}"\n')
            return [["--runtime", PYSC_SHIM, "--runtime-config-path", str(config)]]
        with_runc_shim = ["--runtime", RUNC_SHIM, "--runc-binary", self.single_command(runtime)]
        if runtime.program not in self.with_shim:
            return [with_runc_shim]
        config = self.runsc_config(runtime)
        return [["--runtime", RUNSC_SHIM, "--runtime-config-path", str(config)], with_runc_shim]

    def works(self, options: list[str]) -> bool:
        name = f"w{uuid.uuid4().hex[:8]}"
        command = self.daemon.command("run", "--rm", *options, IMAGE, name, "true")
        worked = finish(command, TRY_SECONDS).status == 0
        if not worked:
            self.remove(name)
        return worked

    def single_command(self, runtime: Runtime) -> str:
        """The runtime with its flags as one program, for shims that take no flags."""
        if runtime.command == (runtime.program,):
            return runtime.program
        return str(self.write(f"{runtime.name}.sh", f'#!/bin/sh\nexec {shlex.join(runtime.command)} "$@"\n'))

    def runsc_config(self, runtime: Runtime) -> Path:
        """The flags as runsc's shim takes them."""
        flags = (flag.removeprefix("--").partition("=") for flag in runtime.command[1:])
        lines = [f'{name} = "{value or "true"}"' for name, _, value in flags]
        text = "\n".join([f'binary_name = "{runtime.program}"', "[runsc_config]", *lines, ""])
        return self.write(f"{runtime.name}.toml", text)

    def write(self, name: str, text: str) -> Path:
        path = self.files / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run_command(self, runtime: Runtime, name: str, args: list[str], *flags: str) -> list[str]:
        self.daemon.names.add(name)
        return self.daemon.command("run", *flags, *self.options(runtime), IMAGE, name, *args)

    def start(self, runtime: Runtime) -> str:
        """An idle pod; its name.  Raises AssertionError with what ctr and the daemon say."""
        name = f"p{uuid.uuid4().hex[:8]}"
        self.daemon.names.add(name)
        self.daemon.ctr("run", "-d", *self.options(runtime), IMAGE, name, "sleep", "100000")
        return name

    def remove(self, *names: str) -> None:
        def one(name: str) -> None:
            self.daemon.ctr("task", "rm", "-f", name, check=False)
            self.daemon.ctr("containers", "rm", name, check=False)

        with ThreadPoolExecutor(REMOVERS) as pool:
            list(pool.map(one, names))
        self.daemon.names.difference_update(names)

    def processes(self) -> set[int]:
        """All that came from this daemon: in its cgroup, or moved into one of a container."""
        cgroups = [self.daemon.cgroup, *self.daemon.cgroups()]
        return {pid for cgroup in cgroups for pid in processes_in(cgroup)} - {self.daemon.process.pid}

    def close(self) -> None:
        self.daemon.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def first_error(text: str) -> str:
    """The line of ctr that says why."""
    lines = [line for line in text.splitlines()[1:] if line.strip()]
    return lines[0][:200] if lines else text[:200]
