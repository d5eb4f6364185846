"""Builds the programs of tests/guest and runs batches of them: natively, or in a sandbox.

A batch is one start of runner.c as the first process of a PID namespace, because starting costs more than most
programs take. Each program still gets a result of its own; when a batch dies half-way the rest is started again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.integration.bundle import PYSC, Process, write_bundle
from tests.integration.platforms import kvm_slowness
from tests.slowness import SLOWNESS, VARIABLE

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "guest"
CACHE = ROOT / ".cache" / "guest"
QUIET = ("stringop-overflow", "stringop-overread", "nonnull", "unused-result", "format-truncation")
FLAGS = ["-static", "-O1", "-fno-toplevel-reorder", "-Wall", "-Wextra", *(f"-Wno-{name}" for name in QUIET)]

NOT_PROGRAMS = {"runner", "allcalls", "flood", "volume"}
PROGRAMS = sorted(path.stem for path in SOURCES.glob("*.c") if path.stem not in NOT_PROGRAMS)

# What to do with files is tried on the gofer's file system and on the Sentry's own.
ABOUT_FILES = {"creds", "exec", "fd", "futex", "lock", "meta", "mmap", "names", "open", "pipe", "rw", "unix"}

BATCH_SECONDS = 300 * SLOWNESS


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended, as the runner tells it, and what it printed."""

    end: str
    output: str

    @property
    def passed(self) -> bool:
        return self.end == "exit 0"

    def report(self) -> str:
        failed = [line for line in self.output.splitlines() if not line.startswith("ok ")]
        return "\n".join([f"ended with: {self.end}", *failed])


def build(name: str) -> Path:
    """The compiled program, from the cache if neither it nor a header changed."""
    source = SOURCES / f"{name}.c"
    headers = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.h")))
    key = hashlib.sha256(source.read_bytes() + headers + " ".join(FLAGS).encode())
    program = CACHE / f"{name}-{key.hexdigest()[:16]}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            built = Path(folder) / name
            subprocess.run(["gcc", *FLAGS, "-o", built, source], check=True)
            built.rename(program)
    return program


def install(folder: Path, names: list[str]) -> None:
    """Puts the runner and the programs into the folder under their plain names."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = ["runner", *names]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, program in zip(wanted, pool.map(build, wanted)):
            shutil.copy2(program, folder / name)


def parse(output: str) -> dict[str, Result]:
    """The result of every program that the runner saw to its end."""
    ended = re.finditer(r"^# begin (\S+)\n(.*?)^# end \1 (.*?)$", output, re.MULTILINE | re.DOTALL)
    return {Path(match[1]).name: Result(match[3], match[2]) for match in ended}


def run_batch(names: list[str], start: Callable[[list[str]], str]) -> dict[str, Result]:
    """Runs them all; `start` runs the runner with the given names once and returns what it printed."""
    results: dict[str, Result] = {}
    remaining = list(names)
    while remaining:
        output = start(remaining)
        results |= parse(output)
        remaining = [name for name in remaining if name not in results]
        if remaining:
            results[remaining[0]] = Result("the sandbox ended in it", output[-3000:])
            remaining = remaining[1:]
    return results


def run_native(names: list[str], folder: Path, work: Path) -> dict[str, Result]:
    """On the host's kernel, in namespaces of their own so that nothing is left behind."""

    def start(remaining: list[str]) -> str:
        namespaces = ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--mount-proc", "--kill-child"]
        programs = [str(folder / name) for name in remaining]
        return output_of([*namespaces, str(folder / "runner"), *programs], {"GUEST_DIR": str(work)})

    return run_batch(names, start)


def run_in_sandbox(names: list[str], platform: str, guest_dir: str, scratch: Path) -> dict[str, Result]:
    """In a container whose root holds the programs; guest_dir is where they make their files."""
    rootfs = scratch / "rootfs"
    install(rootfs / "guest", names)
    for folder in ("proc", "dev", "sys", "tmp", "work"):
        (rootfs / folder).mkdir(exist_ok=True)

    slowness = SLOWNESS * (kvm_slowness() if platform == "kvm" else 1)
    environment = {"GUEST_DIR": guest_dir, VARIABLE: str(slowness)}

    def start(remaining: list[str]) -> str:
        args = ["/guest/runner", *(f"/guest/{name}" for name in remaining)]
        bundle = write_bundle(scratch / "bundle", rootfs, Process(args, env=environment))
        command = [str(PYSC), "--root", str(scratch / "state"), "--platform", platform, "run", "--bundle", str(bundle)]
        return output_of([*command, f"guest-{uuid.uuid4().hex[:8]}"], {})

    return run_batch(names, start)


def output_of(command: list[str], environment: dict[str, str]) -> str:
    """Standard output and error of a command that may fail or hang; never raises."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BATCH_SECONDS,
            env=os.environ | environment,
        )
    except subprocess.TimeoutExpired as e:
        return (e.stdout or b"").decode(errors="replace") + f"\nno end within {BATCH_SECONDS} s\n"
    return done.stdout.decode(errors="replace")
