"""Generates docs/SYSCALLS.md from the Sentry's own table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "SYSCALLS.md"


def outputs() -> dict[Path, str]:
    command = [sys.executable, "-m", "sentry.syscalls", "--format", "markdown"]
    return {OUT: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout}
