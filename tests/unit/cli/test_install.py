"""pysc install and uninstall, in a root of their own."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cli.install_containerd import BEGIN, HANDLER
from cli.main import main

V2 = "io.containerd.grpc.v1.cri"
V3 = "io.containerd.cri.v1.runtime"
CONFIGURED = f"""# ours
version = 2
oom_score = -999  # keep
[plugins."{V2}"]
  sandbox_image = "registry.example/pause:1"
[plugins."{V2}".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."{V2}".containerd.runtimes.runc.options]
    SystemdCgroup = true
"""


class Root:
    """A folder with the files of a host in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def files(self) -> dict[str, str]:
        """Every file and link, by its name."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_symlink():
                found[str(path.relative_to(self.folder))] = str(path.readlink())
            elif path.is_file():
                found[str(path.relative_to(self.folder))] = path.read_text()
        return found

    def pysc(self, *words: str) -> int:
        return main([words[0], "--root", str(self.folder), *words[1:]])

    def containerd(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "etc/containerd/config.toml").read_text())

    def docker(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.folder / "etc/docker/daemon.json").read_text())
        return config


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


# containerd.


@pytest.mark.parametrize("text", ["", "version = 2\n", "version = 2\n[debug]\n  level = 'info'", CONFIGURED])
def test_version_2_gets_the_handler_and_keeps_the_rest(root: Root, text: str) -> None:
    before = tomllib.loads(text)
    root.write("etc/containerd/config.toml", text)
    assert root.pysc("install", "--engine", "containerd") == 0
    config = root.containerd()
    runtimes = config["plugins"][V2]["containerd"]["runtimes"]
    assert runtimes.pop("pysc") == HANDLER
    assert runtimes["runc"]["runtime_type"] == "io.containerd.runc.v2"
    assert config["version"] == 2
    assert root.files()["usr/local/bin/containerd-shim-pysc-v1"].endswith("/containerd-shim-pysc-v1")
    assert root.files()["etc/containerd/config.toml"].startswith(text)
    if text == CONFIGURED:
        assert config == before


@pytest.mark.parametrize("text", ["version = 2\n", CONFIGURED, f"version = 3\n[plugins.'{V3}']\n  x = 1\n"])
def test_uninstall_leaves_the_file_as_it_was(root: Root, text: str) -> None:
    root.write("etc/containerd/config.toml", text)
    before = root.files()
    assert root.pysc("install") == 0
    assert root.files() != before
    assert root.pysc("uninstall") == 0
    assert root.files() == before


def test_without_a_file_there_is_one_and_afterwards_none(root: Root) -> None:
    assert root.pysc("install", "--engine", "containerd") == 0
    assert root.containerd()["version"] == 2
    assert root.pysc("uninstall", "--engine", "containerd") == 0
    assert root.files() == {}


def test_version_3_gets_a_drop_in(root: Root) -> None:
    path = root.write("etc/containerd/config.toml", "version = 3\n[debug]\n  level = 'info'\n")
    assert root.pysc("install") == 0
    assert tomllib.loads(path.read_text()) == {
        "version": 3, "imports": ["/etc/containerd/conf.d/*.toml"], "debug": {"level": "info"},
    }  # fmt: skip
    drop_in = tomllib.loads(root.files()["etc/containerd/conf.d/pysc.toml"])
    assert drop_in["version"] == 3
    assert drop_in["plugins"][V3]["containerd"]["runtimes"]["pysc"] == HANDLER


def test_version_3_that_imports_the_folder_is_left_alone(root: Root) -> None:
    text = 'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
    path = root.write("etc/containerd/config.toml", text)
    assert root.pysc("install") == 0
    assert path.read_text() == text
    assert "etc/containerd/conf.d/pysc.toml" in root.files()


def test_version_3_that_imports_something_else_is_written_to(root: Root) -> None:
    text = 'version = 3\nimports = ["/srv/containerd/*.toml"]\n'
    root.write("etc/containerd/config.toml", text)
    assert root.pysc("install") == 0
    config = root.containerd()
    assert config["imports"] == ["/srv/containerd/*.toml"]
    assert config["plugins"][V3]["containerd"]["runtimes"]["pysc"] == HANDLER


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = [", "not valid TOML"),
        ("root = '/x'\n", "says no version"),
        ("version = 4\n", "has the format 4"),
        (f"version = 2\n[plugins.'{V2}'.containerd]\nruntimes = {{ runc = {{ runtime_type = 'a' }} }}\n", "written in"),
        (f"version = 2\n[plugins.'{V2}'.containerd.runtimes.pysc]\nruntime_type = 'mine'\n", "has a runtime pysc"),
    ],
)
def test_files_that_cannot_be_changed_are_refused(
    root: Root, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root.write("etc/containerd/config.toml", text)
    root.write("etc/docker/daemon.json", "{}")
    before = root.files()
    assert root.pysc("install") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and reason in lines[0] and "config.toml" in lines[0]
    assert root.files() == before


def test_a_disabled_plugin_is_told_of(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    root.write("etc/containerd/config.toml", 'version = 2\ndisabled_plugins = ["cri"]\n')
    assert root.pysc("install") == 0
    assert "disables the CRI plugin" in capsys.readouterr().out


# Docker.


def test_docker_gets_the_runtime_and_keeps_the_rest(root: Root) -> None:
    text = '{\n  "log-level": "warn",\n  "runtimes": {"other": {"path": "/o"}}\n}\n'
    path = root.write("etc/docker/daemon.json", text)
    assert root.pysc("install", "--engine", "docker") == 0
    config = root.docker()
    assert config["runtimes"].pop("pysc")["path"].endswith("/pysc")
    assert config == {"log-level": "warn", "runtimes": {"other": {"path": "/o"}}}
    assert '\n  "log-level"' in path.read_text()
    assert root.pysc("uninstall", "--engine", "docker") == 0
    assert root.docker() == {"log-level": "warn", "runtimes": {"other": {"path": "/o"}}}


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimes": 1}', '{"runtimes": {"pysc": 1}}'])
def test_docker_files_that_cannot_be_changed_are_refused(
    root: Root, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root.write("etc/docker/daemon.json", text)
    before = root.files()
    assert root.pysc("install") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert root.files() == before


def test_docker_default_runtime_is_not_taken_away(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    root.write("etc/docker/daemon.json", '{"default-runtime": "pysc", "runtimes": {"pysc": {"path": "/p"}}}')
    assert root.pysc("uninstall") == 1
    assert "default runtime" in capsys.readouterr().err


# Both.


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_a_second_time_there_is_nothing_to_change(root: Root, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    root.write("etc/containerd/config.toml", CONFIGURED)
    root.write("etc/docker/daemon.json", '{"debug": true}')
    assert root.pysc("install") == 0
    assert root.pysc(action) == 0
    after = root.files()
    capsys.readouterr()
    assert root.pysc(action) == 0
    assert root.files() == after
    assert capsys.readouterr().out.splitlines() == ["containerd: nothing to change", "docker: nothing to change"]


def test_dry_run_shows_everything_and_changes_nothing(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    root.write("etc/containerd/config.toml", CONFIGURED)
    root.write("etc/docker/daemon.json", "{}")
    before = root.files()
    assert root.pysc("install", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"+{BEGIN}" in shown and '+    "runtimes": {' in shown and "containerd-shim-pysc-v1 ->" in shown
    assert "nothing was changed" in shown
    assert root.files() == before


def test_mode_of_a_file_stays(root: Root) -> None:
    path = root.write("etc/docker/daemon.json", "{}")
    path.chmod(0o640)
    assert root.pysc("install") == 0
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_engine_must_be_there_or_named(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert root.pysc("install") == 1
    assert "neither containerd nor Docker" in capsys.readouterr().err
    assert root.pysc("install", "--engine", "rkt") == 2


def test_a_shim_that_is_there_already_needs_no_link(root: Root) -> None:
    root.write("usr/bin/containerd-shim-pysc-v1", "")
    assert root.pysc("install", "--engine", "containerd") == 0
    assert "usr/local/bin/containerd-shim-pysc-v1" not in root.files()


def test_another_program_is_not_replaced_by_the_link(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    (root.folder / "usr/local/bin/containerd-shim-pysc-v1").mkdir(parents=True)
    assert root.pysc("install", "--engine", "containerd") == 1
    assert "no link of ours" in capsys.readouterr().err
