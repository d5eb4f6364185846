"""The vDSO, mapped; and a program that uses it from a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentry.vdso.calibration import Calibration
from tests.unit.vdso.mapped import Mapped, calibrate


@pytest.fixture
def mapped() -> Iterator[Mapped]:
    vdso = Mapped()
    yield vdso
    vdso.close()


@pytest.fixture
def calibrated(mapped: Mapped) -> Calibration:
    """Keeps mapped's page, which is usable; whatever the processor promises."""
    return calibrate(Calibration(mapped.page, trusting=True))


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("vdso") / "reader"
    source = Path(__file__).with_name("reader.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-pthread", "-o", built, source], check=True)
    return built
