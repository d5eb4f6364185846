"""Generates docs/SYSCALLS.md from the system call table.

Run it without arguments to write the file, with --check to fail when it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "SYSCALLS.md"

sys.path.insert(0, str(ROOT))

from sentry.syscalls.listing import as_markdown, rows  # noqa: E402


def main(arguments: list[str]) -> int:
    text = as_markdown(rows())
    if arguments == ["--check"]:
        if not TARGET.exists() or TARGET.read_text() != text:
            print(f"{TARGET.relative_to(ROOT)} is stale: run packaging/gen/syscalls_md.py", file=sys.stderr)
            return 1
        return 0
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
