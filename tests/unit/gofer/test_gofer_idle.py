"""A gofer that nobody asks anything says so, and serves on."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import pytest

from gofer.server import limit_patience, serve
from proto.ninep.messages import NONUNAME
from tests.unit.gofer.goferclient import Client

WAIT_SECONDS = 20


def silent(idle: int, seconds: float) -> bool:
    """Whether the gofer has not called itself idle meanwhile."""
    if not select.select([idle], [], [], seconds)[0]:
        return True
    os.read(idle, 1)
    return False


@pytest.mark.parametrize("mounts", [1, 2])
def test_an_idle_gofer_says_so_once_until_it_is_asked_again(tmp_path: Path, mounts: int) -> None:
    pairs = [socket.socketpair() for _ in range(mounts)]
    idle, says_idle = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for ours, theirs in pairs:
                ours.close()
                limit_patience(theirs, 1)
            served = [(theirs, os.open(tmp_path, os.O_PATH), False) for _, theirs in pairs]
            serve(served, os.open("/proc", os.O_PATH), 1, lambda: os.write(says_idle, b"i"))
        finally:
            os._exit(0)
    os.close(says_idle)
    for _, theirs in pairs:
        theirs.close()
    assert not silent(idle, WAIT_SECONDS)
    assert silent(idle, 1.5)
    client = Client(pairs[-1][0], uid=NONUNAME)
    assert client.sock is pairs[-1][0]
    assert not silent(idle, WAIT_SECONDS)
    for ours, _ in pairs:
        ours.close()
    os.waitpid(pid, 0)
    os.close(idle)
