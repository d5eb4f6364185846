"""Prints what pyproject.toml asks for (build, run time, dev), one requirement a line, for pip install -r."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
groups = (
    project["build-system"]["requires"],
    project["project"]["dependencies"],
    project["project"]["optional-dependencies"]["dev"],
)
print("\n".join(requirement for group in groups for requirement in group))
