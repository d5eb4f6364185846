"""Shims whose sandbox is a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.shimtest.harness import FAKE_ENTRY, Shims


@pytest.fixture
async def shims() -> AsyncIterator[Shims]:
    shims = Shims(FAKE_ENTRY)
    yield shims
    await shims.close()
