"""Modules are found faster, and are the same ones."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INSTALLATION = Path(__file__).resolve().parents[3]

SCRIPT = """
import importlib, json, sys
sys.path[:0] = sys.argv[1:3]
from sandbox import quick_import
quick_import.install(sys.argv[1])
facts = {}
for name in sys.argv[3:]:
    try:
        module = importlib.import_module(name)
    except ImportError as e:
        facts[name] = str(e)
        continue
    spec = module.__spec__
    facts[name] = {
        "quick": type(spec.loader).__module__ == "sandbox.quick_import", "file": getattr(module, "__file__", None),
        "cached": getattr(module, "__cached__", None), "path": list(getattr(module, "__path__", [])),
        "package": module.__package__, "value": getattr(module, "VALUE", None),
    }
print(json.dumps(facts))
"""


def facts(installation: Path, *names: str, flags: str = "-IS") -> dict[str, Any]:
    command = [sys.executable, flags, "-c", SCRIPT, str(installation), str(INSTALLATION), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Somebody's packages, compiled."""
    (tmp_path / "ours").mkdir()
    for name, value in (("__init__", 1), ("inner", 2)):
        source = tmp_path / "ours" / f"{name}.py"
        source.write_text(f"VALUE = {value}\n")
        py_compile.compile(str(source))
    return tmp_path


def test_modules_are_what_they_would_be_otherwise(folder: Path) -> None:
    found = facts(folder, "ours", "ours.inner")
    cached = folder / "ours" / "__pycache__"
    tag = sys.implementation.cache_tag
    assert found["ours"] == {
        "quick": True, "file": str(folder / "ours" / "__init__.py"), "cached": str(cached / f"__init__.{tag}.pyc"),
        "path": [str(folder / "ours")], "package": "ours", "value": 1,
    }  # fmt: skip
    assert found["ours.inner"] == {
        "quick": True, "file": str(folder / "ours" / "inner.py"), "cached": str(cached / f"inner.{tag}.pyc"),
        "path": [], "package": "ours", "value": 2,
    }  # fmt: skip


def test_a_changed_source_counts(folder: Path) -> None:
    source = folder / "ours" / "inner.py"
    source.write_text("VALUE = 33\n")
    found = facts(folder, "ours.inner")["ours.inner"]
    assert (found["quick"], found["value"]) == (False, 33)


def test_a_source_of_the_same_size_counts_if_its_time_is_another(folder: Path) -> None:
    source = folder / "ours" / "inner.py"
    time = source.stat().st_mtime
    source.write_text("VALUE = 3\n")
    os.utime(source, (time + 1, time + 1))
    assert facts(folder, "ours.inner")["ours.inner"]["value"] == 3


def test_bytecode_without_a_source_is_none(folder: Path) -> None:
    (folder / "ours" / "inner.py").unlink()
    assert "No module named 'ours.inner'" in facts(folder, "ours.inner")["ours.inner"]


def test_damaged_bytecode_is_none(folder: Path) -> None:
    (cached,) = (folder / "ours" / "__pycache__").glob("inner.*")
    cached.write_bytes(cached.read_bytes()[:10])
    found = facts(folder, "ours.inner")["ours.inner"]
    assert (found["quick"], found["value"]) == (False, 2)


def test_optimized_bytecode_is_left_to_python(folder: Path) -> None:
    found = facts(folder, "ours.inner", flags="-ISO")["ours.inner"]
    assert (found["quick"], found["value"]) == (False, 2)


def test_the_standard_library_and_extension_modules_are_found() -> None:
    found = facts(INSTALLATION, "json.decoder", "sandbox._hostcalls", "_json", "nobody.has.it")
    assert found["json.decoder"]["file"] == json.decoder.__file__
    assert found["_json"]["quick"] is False
    assert "No module named 'nobody'" in found["nobody.has.it"]
