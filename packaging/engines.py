#!/usr/bin/env python3
"""Builds the container engines that Debian does not have, for tests with the real ones: nerdctl and crictl.

engines.py build          both, as Go modules; nothing is done for those that are there
engines.py path NAME      where the program is, or else in one line on stderr why it is not there

They go into a folder outside of the source: $PYSC_ENGINES, or pysc/engines in the user's cache folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


class Program(NamedTuple):
    """A program in a Go module.  `version` is one that still speaks to containerd 1.6."""

    module: str
    package: str
    version: str


PROGRAMS = {
    "nerdctl": Program("github.com/containerd/nerdctl", "cmd/nerdctl", "v1.7.7"),
    "crictl": Program("sigs.k8s.io/cri-tools", "cmd/crictl", "v1.34.0"),
}


def folder() -> Path:
    """Where built programs are kept."""
    if given := os.environ.get("PYSC_ENGINES"):
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "pysc" / "engines"


def path_of(name: str) -> Path:
    """With the version in its name, so that another one is built anew."""
    return folder() / f"{name}-{PROGRAMS[name].version}"


def build(name: str) -> None:
    """Raises SystemExit with the last words of Go."""
    program, target = PROGRAMS[name], path_of(name)
    if target.exists():
        return
    if shutil.which("go") is None:
        raise SystemExit(f"engines: {name} needs a Go toolchain to be built, and there is none here")
    print(f"engines: building {name} {program.version}; that takes some minutes", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pysc-engines-") as work:
        # A module of our own that requires theirs: `go install` would ask the proxy for all its versions first.
        requirement = f"module engines\n\ngo 1.21\n\nrequire {program.module} {program.version}\n"
        (Path(work) / "go.mod").write_text(requirement)
        command = ["go", "build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", f"{work}/{name}"]
        done = subprocess.run(
            [*command, f"{program.module}/{program.package}"], cwd=work, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, env=os.environ | {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0"},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"engines: cannot build {name}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        built = target.with_suffix(f".{os.getpid()}")
        shutil.copy2(f"{work}/{name}", built)
        built.replace(target)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="engines.py", description="Builds nerdctl and crictl for the tests.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("build", help="build what is missing")
    where = actions.add_parser("path", help="print where a program is")
    where.add_argument("name", choices=sorted(PROGRAMS))
    args = parser.parse_args(argv)
    if args.action == "build":
        for name in PROGRAMS:
            build(name)
        return 0
    if not path_of(args.name).exists():
        print(f"{args.name} is not built: make engines", file=sys.stderr)
        return 1
    print(path_of(args.name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
