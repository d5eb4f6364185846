"""A tree with one of everything, a gofer that serves it, and clients."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proto.ninep.messages import VERSION_L
from tests.unit.gofer.goferclient import Client, Gofer

Start = Callable[..., Gofer]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What is served.  Beside it, not served: tmp_path/outside/secret."""
    root = tmp_path / "tree"
    (root / "d" / "deep").mkdir(parents=True)
    (root / "f").write_bytes(b"hello\n")
    (root / "d" / "inner").write_bytes(b"inside\n")
    os.link(root / "f", root / "f2")
    (root / "link").symlink_to("f")
    (root / "etc").symlink_to("/etc")
    (root / "up").symlink_to("../outside")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(root, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/sock")  # a long tmp_path would not fit sun_path
        os.close(here)
    if os.geteuid() == 0:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret\n")
    return root


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts gofers: start((path, read-only), ...).  All must have met no bug of theirs and end with their test."""
    empty = tmp_path / "empty"
    empty.mkdir()
    gofers: list[Gofer] = []

    def start_gofer(*mounts: tuple[Path, bool], without: frozenset[int] = frozenset()) -> Gofer:
        gofers.append(Gofer(*mounts, empty_root=empty, without=without))
        return gofers[-1]

    yield start_gofer
    statuses = [gofer.wait() for gofer in gofers if gofer.pid]
    logs = "".join(gofer.log() for gofer in gofers)
    for gofer in gofers:
        gofer.close()
    assert not any(statuses), logs
    assert "Traceback" not in logs, logs


@pytest.fixture
def gofer(start: Start, tree: Path) -> Gofer:
    return start((tree, False))


@pytest.fixture
def client(gofer: Gofer) -> Iterator[Client]:
    """Of the pysc dialect."""
    made = Client(gofer.socks[0])
    yield made
    made.close()


@pytest.fixture
def plain(gofer: Gofer) -> Iterator[Client]:
    """Of plain 9P2000.L."""
    made = Client(gofer.socks[0], VERSION_L)
    yield made
    made.close()
