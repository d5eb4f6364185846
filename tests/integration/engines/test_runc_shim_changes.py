"""containerd's own shim for runc, with `pysc` in runc's place: what changes a container that runs."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from proto.ttrpc.protobuf import bytes_field, text_field
from shim.service import RESOURCES_TYPE
from tests.integration.bundle import PYSC
from tests.integration.daemon import IMAGE, Daemon, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("containerd"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
    pytest.mark.skipif(shutil.which("containerd-shim-runc-v2") is None, reason="there is no shim for runc here"),
]

MOMENT_S = 0.3


def start(daemon: Daemon, *args: str, options: tuple[str, ...] = ()) -> str:
    name = f"runc-{time.monotonic_ns()}"
    daemon.names.add(name)
    runtime = ("--runtime", "io.containerd.runc.v2", "--runc-binary", str(PYSC))
    daemon.ctr("run", "-d", *runtime, *options, IMAGE, name, *args)
    return name


def end(daemon: Daemon, name: str) -> None:
    daemon.ctr("task", "kill", "-s", "9", name)
    assert until(lambda: daemon.status(name) == "STOPPED")
    daemon.ctr("task", "rm", name, check=False)
    daemon.ctr("container", "rm", name)


def test_pause_and_resume(daemon: Daemon, tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:rw"
    script = "i=0; while :; do i=$((i+1)); echo $i > /mnt/count; done"
    name = start(daemon, "sh", "-c", script, options=("--mount", mount))
    count = tmp_path / "count"
    assert until(lambda: count.exists() and count.read_text())
    daemon.ctr("task", "pause", name)
    assert daemon.status(name) == "PAUSED"
    before = count.read_text()
    time.sleep(MOMENT_S)
    assert count.read_text() == before
    daemon.ctr("task", "resume", name)
    assert daemon.status(name) == "RUNNING"
    assert until(lambda: count.read_text() not in ("", before))
    end(daemon, name)


def test_kill_of_a_paused_container(daemon: Daemon) -> None:
    name = start(daemon, "sh", "-c", "while :; do :; done")
    daemon.ctr("task", "pause", name)
    end(daemon, name)


def test_update(daemon: Daemon) -> None:
    name = start(daemon, "sleep", "1000")
    content = json.dumps({"memory": {"limit": 64 << 20}, "pids": {"limit": 30}}).encode()
    resources = text_field(1, RESOURCES_TYPE) + bytes_field(2, content)
    with grpc.insecure_channel(f"unix://{daemon.folder}/containerd.sock") as channel:
        call = channel.unary_unary("/containerd.services.tasks.v1.Tasks/Update")
        request = text_field(1, name) + bytes_field(2, resources)
        call(request, timeout=20, metadata=[("containerd-namespace", daemon.namespace)])
    total = daemon.ctr("task", "exec", "--exec-id", "e1", name, "head", "-1", "/proc/meminfo").stdout
    assert total.split()[1] == "65536"
    end(daemon, name)


def test_checkpoint_is_refused_and_the_container_runs_on(daemon: Daemon) -> None:
    name = start(daemon, "sleep", "1000")
    done = daemon.ctr("task", "checkpoint", name, check=False)
    assert done.returncode != 0
    assert daemon.status(name) == "RUNNING"
    end(daemon, name)
