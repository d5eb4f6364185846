"""What integration tests share: a private containerd for the session, and a check that nothing is left of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.containerd import Containerd, until

SOCKETS = Path("/run/containerd/s")


def sockets() -> set[Path]:
    return set(SOCKETS.glob("*"))


@pytest.fixture(scope="session")
def containerd_session() -> Iterator[Containerd]:
    """One daemon for all tests of the worker; the folder's name is short because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="ctd-", ignore_cleanup_errors=True) as folder:
        daemon = Containerd(Path(folder))
        try:
            daemon.import_image()
            yield daemon
        finally:
            daemon.close()


@pytest.fixture
def containerd(containerd_session: Containerd) -> Iterator[Containerd]:
    """The daemon, with a check after the test that its containers left nothing on the host."""
    before = sockets()
    yield containerd_session
    containerd_session.remove_containers()
    until(lambda: not containerd_session.left_behind() and sockets() <= before, seconds=10)
    assert containerd_session.left_behind() == []
    assert sockets() <= before
