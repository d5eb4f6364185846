"""What integration tests share: a private containerd for the session, and a check that nothing is left of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.bare import Bare
from tests.integration.bundle import busybox_rootfs
from tests.integration.cri import CriDaemon, cri_daemon
from tests.integration.daemon import Daemon, until
from tests.integration.events import Events
from tests.integration.host import Host
from tests.integration.platforms import SUBJECTS, Subject, signals_restored, skip_without
from tests.integration.shims import RealShims
from tests.integration.tasks import Client


@pytest.fixture(scope="session")
def daemon_session() -> Iterator[Daemon]:
    """One daemon for all tests of the worker; the folder's name is short because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="ctd-", ignore_cleanup_errors=True) as folder:
        daemon = Daemon(Path(folder))
        try:
            daemon.import_image()
            yield daemon
        finally:
            daemon.close()


@pytest.fixture
def daemon(daemon_session: Daemon) -> Iterator[Daemon]:
    """The daemon, with a check after the test that its containers left nothing on the host."""
    daemon_session.names.clear()
    yield daemon_session
    if daemon_session.process.poll() is not None:
        daemon_session.process = daemon_session.start()
    daemon_session.remove_containers()
    until(lambda: not daemon_session.left_behind())
    assert daemon_session.left_behind() == []


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    made = Client(daemon)
    yield made
    made.close()


@pytest.fixture(scope="session")
def cri_session() -> Iterator[CriDaemon]:
    """A daemon with the CRI service, for all tests of the worker that want no more than that."""
    with cri_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that no container may write to, with /mnt for what it shares with the test."""
    root = busybox_rootfs(tmp_path_factory.mktemp("busybox") / "rootfs")
    (root / "mnt").mkdir(exist_ok=True)
    return root


@pytest.fixture
def events(daemon: Daemon, tmp_path: Path) -> Iterator[Events]:
    """The daemon's events from now on."""
    stream = Events(daemon, tmp_path / "events")
    try:
        assert until(stream.is_live)
        yield stream
    finally:
        stream.close()


@pytest.fixture(scope="module")
def module_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("host"))
    yield made
    made.cgroup.rmdir()


@pytest.fixture
def host(module_host: Host) -> Iterator[Host]:
    """With a check that nothing of the test's containers is left."""
    module_host.names = []
    yield module_host
    for name in module_host.names:
        module_host.pysc("delete", "--force", name)
    until(lambda: not module_host.left_behind())
    assert module_host.left_behind() == []


@pytest.fixture(params=("systrap", "ptrace", "kvm"))
def platform(request: pytest.FixtureRequest, host: Host) -> Iterator[str]:
    """Each platform in turn, for the commands of `host`."""
    if request.param == "kvm":  # which not every host has
        skip_without("kvm")
    host.platform = str(request.param)
    yield host.platform
    host.platform = "auto"


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with busybox in it."""
    return busybox_rootfs(tmp_path_factory.mktemp("busybox"))


@pytest.fixture
async def shims(rootfs: Path) -> AsyncIterator[RealShims]:
    """Shims with the real sandbox; afterwards nothing of them may be left."""
    shims = RealShims(rootfs)
    yield shims
    await shims.close()


@pytest.fixture(params=SUBJECTS, ids=lambda subject: str(subject.name))
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A platform that works here."""
    chosen: Subject = request.param
    with signals_restored():
        reason = chosen.probe()
        if reason:
            pytest.skip(f"{chosen.name}: {reason}")
        yield chosen


@pytest.fixture
def bare(subject: Subject) -> Iterator[Bare]:
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    bare = Bare(subject.make(proc))
    try:
        yield bare
    finally:
        bare.close()
        os.close(proc)
