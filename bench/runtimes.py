"""The runtimes that are on this machine: how each is called, and whether it works here.

"Works" is tried, not guessed: each runs `true` under a time limit first.  One that fails is left out of the benchmark
and named in the report with its reason.  runsc's kvm platform, for one, hangs on hosts without hardware support.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platform_kvm.platform as kvm
from bench.table import NATIVE, OURS
from tests.slowness import SLOWNESS

PROJECT = Path(__file__).resolve().parents[1]
PYSC = Path(sys.executable).parent / "pysc"
RUNSC_PLATFORMS = ("systrap", "ptrace", "kvm")
# What Go notes in a program that was built from a module; `--version` of such a runsc says nothing.
GO_MODULE = re.compile(rb"mod\tgvisor\.dev/gvisor\t(v[\w.-]+)")
RUNSC_FLAGS = ("--network=none", "--ignore-cgroups")
UNIFIED = Path("/sys/fs/cgroup/unified")
# crun refuses a host that has version 2 mounted beside version 1: it gets a view without.
WITHOUT_UNIFIED = ("unshare", "--mount", "sh", "-c", f'umount -l {UNIFIED} && exec "$@"', "crun")


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI command with its global flags; native has none.

    `platform` is how the runtime intercepts system calls, empty for those that do not.
    """

    name: str
    command: tuple[str, ...] = ()
    program: str = ""
    platform: str = ""
    note: str = ""

    @property
    def is_native(self) -> bool:
        return not self.command

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(OURS)

    def call(self, state: Path, *args: str) -> list[str]:
        """`COMMAND --root STATE ARGS`: all of them agree on that much."""
        return [*self.command, "--root", str(state), *args]

    def version(self) -> str:
        if self.is_native:
            return os.uname().release
        if module := GO_MODULE.search(Path(shutil.which(self.program) or self.program).read_bytes()):
            return module[1].decode()
        done = subprocess.run([self.program, "--version"], capture_output=True, text=True, timeout=20 * SLOWNESS)
        return done.stdout.partition("\n")[0].split()[-1] if done.stdout else "unknown"


def candidates(runsc: list[str]) -> Iterator[Runtime]:
    """Everything that is installed; `runsc`: other programs of that name, which come before the one in PATH."""
    yield Runtime(NATIVE)
    if shutil.which("runc"):
        yield Runtime("runc", ("runc",), "runc")
    if shutil.which("crun"):
        hybrid = UNIFIED.is_dir()
        note = "without the host's mount of cgroup version 2, which it refuses beside version 1" if hybrid else ""
        yield Runtime("crun", (*(WITHOUT_UNIFIED if hybrid else ()), "crun"), "crun", note=note)
    for program in [*(str(Path(each).resolve()) for each in runsc), *filter(None, [shutil.which("runsc")])]:
        for platform in RUNSC_PLATFORMS:
            command = (program, f"--platform={platform}", *RUNSC_FLAGS)
            yield Runtime(f"runsc-{platform}", command, program, platform, " ".join(RUNSC_FLAGS))
    for platform, reason in our_platforms().items():
        if not reason:
            yield Runtime(f"{OURS}{platform}", (str(PYSC), "--platform", platform), str(PYSC), platform)


def too_slow(name: str) -> str:
    """Why the runtime is not worth its time unless it is asked for; "": it is."""
    if name != f"{OURS}kvm":
        return ""
    with open("/dev/kvm", "r+b", buffering=0) as device:
        kvm.probe(device.fileno())
    return "its ring 0 is emulated here; make bench-kvm" if kvm.is_emulated() else ""


def our_platforms() -> dict[str, str]:
    """The platforms of this pysc, each with the reason why it does not work here, or none."""
    command = [sys.executable, "-m", "sentry.boot", "--probe"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60 * SLOWNESS)
    reasons: dict[str, str] = json.loads(done.stdout)
    return reasons
