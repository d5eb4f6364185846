"""Writes the files that are made of others: whatever the programs in packaging/gen say.

generate.py            writes those that are not as they should be
generate.py --check    fails, and names them

Each program has a function `outputs` that returns the text of each of its files by path.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str]) -> int:
    sys.path.insert(0, str(ROOT))
    only_checks = argv == ["--check"]
    is_stale = False
    for program in sorted((ROOT / "packaging" / "gen").glob("*.py")):
        outputs: dict[Path, str] = runpy.run_path(str(program))["outputs"]()
        for path, text in outputs.items():
            if path.exists() and path.read_text() == text:
                continue
            is_stale = True
            if not only_checks:
                path.write_text(text)
            print(f"{path.relative_to(ROOT)}", "is stale: run make gen" if only_checks else "written", file=sys.stderr)
    return 1 if is_stale and only_checks else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
