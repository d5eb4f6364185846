"""A bundle, and sandboxes whose Sentry is the stand-in."""

import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest

from sandbox import spawn
from sandbox.sandbox import Options, Sandbox, Stdio
from sandbox.spec import load_spec
from tests.unit.sandbox import standin


def write_bundle(folder, *args, **changes):
    (folder / "rootfs").mkdir(parents=True, exist_ok=True)
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": list(args), "cwd": "/", "terminal": False},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}]},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture
def root():
    """A state folder with a short name."""
    path = Path(tempfile.mkdtemp(prefix="pysc-test-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def new_id():
    return f"pysc-test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def create(monkeypatch, tmp_path, root, new_id):
    """create(*args, stdio=..., options=..., **spec changes) -> Sandbox; all are destroyed at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    monkeypatch.setattr(spawn, "_BOOTSTRAP", standin.BOOTSTRAP)
    made: list[Sandbox] = []

    def make(*args, stdio=None, sandbox_id=new_id, lifeline=False, exit_with_init=False, **changes):
        bundle = write_bundle(tmp_path / (f"bundle-{len(made)}" if made else "bundle"), *args, **changes)
        options = Options(lifeline=lifeline, exit_with_init=exit_with_init, log=tmp_path / "log")
        made.append(Sandbox.create(root, sandbox_id, bundle, load_spec(bundle), options, stdio or Stdio()))
        return made[-1]

    yield make
    for sandbox in reversed(made):
        sandbox.destroy()
