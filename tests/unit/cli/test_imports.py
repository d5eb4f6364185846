"""What commands that engines wait for must not load: each of these costs more than the command's own work."""

import subprocess
import sys

import pytest

from sandbox.interpreter import INSTALLATION

HEAVY = {
    "asyncio", "contextlib", "dataclasses", "enum", "inspect", "json", "logging", "pathlib", "re", "shutil", "signal",
    "socket", "subprocess", "threading", "typing",
}  # fmt: skip


@pytest.mark.parametrize("module", ["cli.exec, cli.foreground", "cli.lifecycle", "cli.query", "cli.version"])
def test_a_quick_command_loads_no_heavy_modules(module):
    code = f"import sys; sys.path.append({INSTALLATION!r}); import cli.main, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY
