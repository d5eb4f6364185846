"""The documents name real things: functions in ARCHITECTURE.md, files in links, targets of make, a table of folders."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


def named_functions() -> list[tuple[str, str]]:
    """Every `path:name` of ARCHITECTURE.md."""
    return re.findall(r"`([\w/.]+\.(?:py|c)):([\w.]+)`", (ROOT / "ARCHITECTURE.md").read_text())


def defined_names(source: Path) -> set[str]:
    """Functions and classes of a file, methods as Class.method."""
    if source.suffix == ".c":
        return set(re.findall(r"^\w[\w *]*?\**(\w+)\(", source.read_text(), re.MULTILINE))
    names: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
            names.update(f"{node.name}.{method.name}" for method in methods)
    return names


@pytest.mark.parametrize(("path", "name"), named_functions(), ids=lambda value: str(value))
def test_function_in_the_architecture_exists(path: str, name: str) -> None:
    assert name in defined_names(ROOT / path)


def test_the_life_of_a_read_is_long_enough_to_be_of_use() -> None:
    assert len(named_functions()) >= 12


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text()):
        file = (document.parent / target) if target else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document: Path) -> None:
    for path in re.findall(
        r"`((?:sentry|sandbox|tests|packaging|platform_ptrace)/[\w/.]+\.\w+)[`:]", document.read_text()
    ):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b(?=[`\s].{0,3}(?:#|`|$))", document.read_text())) <= targets
