"""Generates docs/SYSCALLS.md from the Sentry's own table, with --check: fails when it is stale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "SYSCALLS.md"


def listing() -> str:
    command = [sys.executable, "-m", "sentry.syscalls", "--format", "markdown"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(argv: list[str]) -> int:
    text = listing()
    if OUT.exists() and OUT.read_text() == text:
        return 0
    if argv == ["--check"]:
        print(f"{OUT.relative_to(ROOT)} is stale: run make gen", file=sys.stderr)
        return 1
    OUT.write_text(text)
    print(f"wrote {OUT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
