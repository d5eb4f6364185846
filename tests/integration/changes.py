"""What changes a container that runs, whoever runs it: pausing, limits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import grpc  # type: ignore[import-untyped]

from proto.ttrpc.protobuf import bytes_field, text_field
from shim.service import RESOURCES_TYPE
from tests.integration.daemon import Daemon, until

MOMENT_S = 0.3


def update(daemon: Daemon, name: str, **resources: object) -> None:
    """Tasks.Update, for which ctr has no command: UpdateTaskRequest { container_id 1; resources 2 Any }."""
    content = text_field(1, RESOURCES_TYPE) + bytes_field(2, json.dumps(resources).encode())
    with grpc.insecure_channel(f"unix://{daemon.folder}/containerd.sock") as channel:
        call = channel.unary_unary("/containerd.services.tasks.v1.Tasks/Update")
        request = text_field(1, name) + bytes_field(2, content)
        call(request, timeout=60, metadata=[("containerd-namespace", daemon.namespace)])


def pause_and_resume(daemon: Daemon, start: Callable[..., str], folder: Path) -> str:
    """A container that counts stands still while it is paused, and goes on; its name.

    `start` takes a program and its arguments, and `options` of `ctr run`.
    """
    mount = f"type=bind,src={folder},dst=/mnt,options=rbind:rw"
    script = "i=0; while :; do i=$((i+1)); echo $i > /mnt/count; done"
    name = start("sh", "-c", script, options=("--mount", mount))
    count = folder / "count"
    assert until(lambda: count.exists() and count.read_text())
    daemon.ctr("task", "pause", name)
    assert daemon.status(name) == "PAUSED"
    before = count.read_text()
    time.sleep(MOMENT_S)
    assert count.read_text() == before
    daemon.ctr("task", "resume", name)
    assert daemon.status(name) == "RUNNING"
    assert until(lambda: count.read_text() not in ("", before))
    return name
