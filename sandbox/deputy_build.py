"""Builds the deputy with the system's C compiler:  python deputy_build.py TARGET

Run by setup.py, and before anything of ours can be imported: it uses the standard library alone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).resolve().with_name("deputy.c")

COMPILE = [
    *("-std=gnu11", "-Os", "-Wall", "-Wextra", "-ffreestanding", "-fno-lto", "-U_FORTIFY_SOURCE", "-fno-pie"),
    *("-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
]
LINK = [
    *("-nostdlib", "-static", "-no-pie", "-Wl,-s", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096"),
    *("-Wl,-z,noexecstack", "-Wl,-z,norelro"),
]


def build(target: Path) -> None:
    """Compile and link it."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*compiler, *COMPILE, *LINK, str(SOURCE), "-o", str(target)], check=True)
    target.chmod(0o755)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
