"""The C programs of tests/guest: each natively first (a failure there means that the test is wrong), then sandboxed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration import guest
from tests.integration.platforms import SUBJECTS, skip_without

PLATFORMS = {subject.name: subject for subject in SUBJECTS}
DIRECTORIES = {"gofer": "/work", "tmpfs": "/tmp"}
NATIVE_DIRECTORIES = {"gofer": Path("/var/tmp"), "tmpfs": Path("/dev/shm")}


class Case(NamedTuple):
    """One program in one place; those with the same first three fields run in one sandbox."""

    platform: str
    directory: str
    half: int
    name: str


def cases() -> Iterator[Case]:
    for directory in DIRECTORIES:
        for index, name in enumerate(guest.PROGRAMS):
            if directory == "gofer" or name in guest.ABOUT_FILES:
                for platform in PLATFORMS:
                    yield Case(platform, directory, index % 2, name)


class Batch(NamedTuple):
    native: dict[str, guest.Result]
    sandboxed: dict[str, guest.Result]


class Batches:
    """Runs the batch that a case belongs to when its first case asks, with only the cases that were selected."""

    def __init__(self, selected: list[Case], scratch: Path) -> None:
        self.selected = selected
        self.scratch = scratch
        self.done: dict[tuple[str, str, int], Batch] = {}

    def of(self, case: Case) -> Batch:
        if case[:3] not in self.done:
            self.done[case[:3]] = self.run(case)
        return self.done[case[:3]]

    def run(self, case: Case) -> Batch:
        names = [other.name for other in self.selected if other[:3] == case[:3]]
        scratch = self.scratch / f"{case.platform}-{case.directory}-{case.half}"
        guest.install(scratch / "native", names)
        work = Path(tempfile.mkdtemp(prefix="guest-", dir=NATIVE_DIRECTORIES[case.directory]))
        work.chmod(0o755)
        try:
            native = guest.run_native(names, scratch / "native", work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        sandboxed = guest.run_in_sandbox(names, case.platform, DIRECTORIES[case.directory], scratch)
        return Batch(native, sandboxed)


@pytest.fixture(scope="session")
def batches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Batches:
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    selected = [item.callspec.params["case"] for item in items if item.originalname == "test_program"]
    return Batches([case for case in selected if isinstance(case, Case)], tmp_path_factory.mktemp("guest"))


@pytest.mark.slow
@pytest.mark.timeout(3 * guest.BATCH_SECONDS)  # the first of a batch runs them all
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id="-".join(map(str, case)), marks=pytest.mark.xdist_group("guest-{}-{}-{}".format(*case)))
        for case in cases()
    ],
)
def test_program(batches: Batches, case: Case) -> None:
    skip_without(case.platform)
    batch = batches.of(case)
    native, sandboxed = batch.native[case.name], batch.sandboxed[case.name]
    assert native.passed, f"natively (so the test is wrong), {native.report()}"
    assert sandboxed.passed, f"in the sandbox, {sandboxed.report()}"
