"""Variants of a platform, named behind a colon: which there are."""

from __future__ import annotations

import pytest

from sentry.boot import PLATFORMS, VARIANTS, BootError, Host, choose_platform


@pytest.mark.parametrize("name", ["systrap:abacus", "ptrace:eager", "kvm:plain", "auto:plain"])
def test_an_unknown_variant_is_refused(name: str) -> None:
    platform, _, variant = name.partition(":")
    with pytest.raises(BootError, match=f"platform '{platform}' has no variant '{variant}'"):
        choose_platform(name, Host())


def test_every_variant_is_of_a_platform_that_there_is() -> None:
    assert set(VARIANTS) <= set(PLATFORMS)
