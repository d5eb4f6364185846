"""Minimal Debian root file systems, made once with mmdebstrap and kept in .cache/."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "debian"
SUITE = "bookworm"
PACKAGES = "python3"  # perl-base, bash, coreutils, dpkg and tar are essential anyway
TRIES = 3


def root(packages: str = PACKAGES) -> Path:
    """The folder; tests must leave it as it is. The first caller makes it, others wait for that.

    packages: what it has beyond the minimum, with commas between.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    done = CACHE / f"{SUITE}-{packages}".replace(",", "+")  # a comma separates options of mount(8)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(CACHE / "making", packages)
            (CACHE / "making").rename(done)
    return done


def make(folder: Path, packages: str) -> None:
    """Mirrors fail now and then: a few tries, further and further apart."""
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={packages}", SUITE, str(folder)]
    for attempt in range(1, TRIES + 1):
        shutil.rmtree(folder, ignore_errors=True)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            return
        if attempt < TRIES:
            time.sleep(5 * attempt)
    raise RuntimeError(f"mmdebstrap failed {TRIES} times:\n{os.fsdecode(done.stdout)[-3000:]}")
