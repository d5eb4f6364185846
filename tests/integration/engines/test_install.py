"""What pysc install writes, read by the engines that it is for."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.integration.bundle import PYSC
from tests.integration.engines.docker import Docker

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("install")]

CRI = "io.containerd.grpc.v1.cri"
DEBIAN = f"""version = 2

[plugins]
  [plugins."{CRI}"]
    [plugins."{CRI}".cni]
      bin_dir = "/usr/lib/cni"
"""
"""As the Debian package has it."""


def pysc(*words: object) -> None:
    subprocess.run([PYSC, *map(str, words)], check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


@pytest.mark.parametrize("text", ["", DEBIAN])
def test_containerd_reads_the_handlers(tmp_path: Path, text: str) -> None:
    config = tmp_path / "etc/containerd/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(text)
    pysc("install", "--root", tmp_path, "--engine", "containerd")
    done = subprocess.run(
        ["containerd", "--config", config, "config", "dump"], check=True, capture_output=True, text=True, timeout=60
    )
    shown = tomllib.loads(done.stdout)["plugins"][CRI]
    assert shown["containerd"]["default_runtime_name"] in shown["containerd"]["runtimes"]
    assert shown["containerd"]["runtimes"]["pysc"]["runtime_type"] == "io.containerd.pysc.v1"
    assert shown["containerd"]["runtimes"]["pysc"]["pod_annotations"] == ["dev.pysc.*"]
    if text:
        assert shown["cni"]["bin_dir"] == "/usr/lib/cni"
    shim = tmp_path / "usr/local/bin/containerd-shim-pysc-v1"
    subprocess.run([shim, "-v"], check=True, capture_output=True, timeout=60)


def test_docker_runs_the_runtime(tmp_path_factory: pytest.TempPathFactory) -> None:
    if reason := Docker.missing():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("root")
    config = root / "etc/docker/daemon.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"log-level": "warn"}')
    pysc("install", "--root", root, "--engine", "docker")
    written = json.loads(config.read_text())
    docker = Docker(tmp_path_factory.mktemp("d"), "pysc", written)
    try:
        assert docker.run("echo", "hello").stdout == "hello\n"
        assert "pysc" in docker.call("info", "--format", "{{json .Runtimes}}").stdout
    finally:
        docker.close()
