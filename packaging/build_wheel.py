#!/usr/bin/env python3
"""Builds dist/pysc-*.whl, and fills dist/wheels with what it needs at run time, so that both install without an index.

build_wheel.py [OUT]      OUT instead of dist

The tree is copied first, without what was built in it: setuptools puts whatever lies in build/ into a wheel, also what
is no longer part of the source.  Needs the virtual environment of `make setup`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "packaging/bin")
PIP = (sys.executable, "-m", "pip", "--quiet")
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "_*.c", "deputy")


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def packages() -> list[str]:
    """The folders that are installed."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    return [pattern.rstrip("*") for pattern in found["include"]]


def pip(*words: str | Path) -> None:
    subprocess.run([*PIP, *words], check=True)


def copy_sources(folder: Path) -> None:
    for name in (*SOURCES, *packages()):
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=BUILT)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def build_wheel(out: Path) -> Path:
    """Build it into OUT, in the place of older ones; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pysc-wheel-") as folder:
        copy_sources(Path(folder) / "source")
        made = Path(folder) / "made"
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", made, Path(folder) / "source")
        (wheel,) = made.glob("*.whl")
        for old in out.glob("pysc-*.whl"):
            old.unlink()
        return Path(shutil.move(wheel, out / wheel.name))


def collect_dependencies(wheels: Path) -> None:
    """Wheels of what pysc needs at run time; the index is asked only for those that are not there."""
    command = ["wheel", "--wheel-dir", wheels, "--find-links", wheels, *project()["dependencies"]]
    if not wheels.is_dir() or subprocess.run([*PIP, *command, "--no-index"], stderr=subprocess.DEVNULL).returncode:
        pip(*command)


def main(arguments: list[str]) -> None:
    out = Path(arguments[0]) if arguments else ROOT / "dist"
    collect_dependencies(out / "wheels")
    print(f"wheel: {build_wheel(out)}; what it needs: {out / 'wheels'}")


if __name__ == "__main__":
    main(sys.argv[1:])
