"""Pods through containerd's CRI service, with runc and with pysc: what one does the other must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.integration.cri import CriDaemon
from tests.integration.daemon import until
from tests.integration.kubelet.pods import Kubelet, Pod


@pytest.fixture(params=["runc", "pysc"])
def kubelet(request: pytest.FixtureRequest, cri_session: CriDaemon) -> Iterator[Kubelet]:
    """The session's daemon, used with one handler; afterwards nothing of a test's pods may be left."""
    made = Kubelet(cri_session, request.param)
    yield made
    made.close()
    assert until(lambda: not cri_session.left_behind()), cri_session.left_behind()


@pytest.fixture
def new_pod(kubelet: Kubelet) -> Iterator[Callable[[str], Pod]]:
    """Makes pods that are still to be run, and takes them away after the test."""
    made: list[Pod] = []

    def make(name: str) -> Pod:
        made.append(Pod(kubelet, name))
        return made[-1]

    yield make
    for pod in made:
        pod.close()


@pytest.fixture
def pod(new_pod: Callable[[str], Pod]) -> Pod:
    """A running one."""
    return new_pod("pod").run()
