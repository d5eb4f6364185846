"""What a container finds mounted, when the tree below gives no help."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.integration import bundle as bundles
from tests.integration.bundle import Process, busybox_rootfs, write_bundle

pytestmark = [pytest.mark.slow]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with one file, to be mounted."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "file").write_text("given\n")
    return folder


def run(tmp_path: Path, script: str, mounts: list[dict[str, Any]], readonly: bool) -> subprocess.CompletedProcess[str]:
    bundle = write_bundle(tmp_path / "bundle", busybox_rootfs(tmp_path / "rootfs"), Process(["sh", "-c", script]))
    config = json.loads((bundle / "config.json").read_text())
    config["root"]["readonly"] = readonly
    config["mounts"] += mounts
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"mounts-{uuid.uuid4().hex[:8]}"
    command = [str(bundles.PYSC), "--root", str(tmp_path / "state"), "run", "--bundle", str(bundle), name]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


@pytest.mark.parametrize("readonly", [False, True])
def test_mount_points_that_the_root_lacks(tmp_path: Path, given: Path, readonly: bool) -> None:
    """A pause image has no /etc/resolv.conf to bind the node's over, and its root is read-only."""
    mounts = [bind(given, "/new/folder", "ro"), bind(given / "file", "/etc/added/resolv.conf", "ro")]
    script = "cat /new/folder/file /etc/added/resolv.conf; touch /created 2>/dev/null && echo writable"
    done = run(tmp_path, script, mounts, readonly)
    assert done.stderr == ""
    assert done.stdout == "given\ngiven\n" + ("" if readonly else "writable\n")
    assert (tmp_path / "rootfs" / "new").exists() is not readonly


def test_read_only_mounts_refuse_changes_and_others_keep_them(tmp_path: Path, given: Path) -> None:
    mounts = [bind(given, "/kept"), bind(given, "/fixed", "ro")]
    done = run(tmp_path, "echo more >> /kept/file; echo less > /fixed/file; cat /fixed/file", mounts, False)
    assert done.stdout == "given\nmore\n"
    assert "Read-only file system" in done.stderr
    assert (given / "file").read_text() == "given\nmore\n"


def test_nothing_runs_from_a_noexec_mount(tmp_path: Path, given: Path) -> None:
    (given / "tool").write_text("#!/bin/sh\necho ran\n")
    (given / "tool").chmod(0o755)
    mounts = [bind(given, "/plain"), bind(given, "/noexec", "noexec")]
    done = run(tmp_path, "/plain/tool; /noexec/tool", mounts, False)
    assert (done.stdout, done.returncode) == ("ran\n", 126)


def test_the_hosts_paths_stay_hidden(tmp_path: Path, given: Path) -> None:
    done = run(tmp_path, "cat /proc/mounts /proc/self/mountinfo", [bind(given, "/given")], False)
    assert " /given 9p " in done.stdout
    assert str(tmp_path) not in done.stdout
