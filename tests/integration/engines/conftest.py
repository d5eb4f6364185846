"""The engines, each with runc and with pysc."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemon import until
from tests.integration.engines.docker import Docker
from tests.integration.engines.engine import Engine
from tests.integration.engines.nerdctl import Nerdctl
from tests.integration.engines.podman import Podman

KINDS: tuple[type[Engine], ...] = (Docker, Podman, Nerdctl)
QUICK = {(Docker, "pysc"), (Podman, "pysc")}
"""Those that are tried with every change; the others show that the tests are right, or need what has to be built."""
BOTH = [
    pytest.param(
        (kind, runtime),
        id=f"{kind.name}-{runtime}",
        marks=[
            pytest.mark.xdist_group(f"{kind.name}-{runtime}"),
            *([] if (kind, runtime) in QUICK else [pytest.mark.engines]),
        ],
    )
    for kind in KINDS
    for runtime in ("runc", "pysc")
]


@pytest.fixture(scope="module", params=BOTH)
def running(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine for all tests of the module; its folder's name is short because socket paths are."""
    kind, runtime = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="eng-", ignore_cleanup_errors=True) as folder:
        made = kind(Path(folder), runtime)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def engine(running: Engine) -> Iterator[Engine]:
    """The engine, with a check after the test that its containers left nothing on the host."""
    yield running
    running.remove_containers()
    until(lambda: not running.left_behind())
    assert running.left_behind() == []
