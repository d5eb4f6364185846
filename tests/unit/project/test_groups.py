"""Tests of one group stay on one worker: they share what is expensive, as a batch of guest programs."""

import pytest


@pytest.mark.xdist_group("of-one")
def test_the_group_of_a_test_is_known_to_who_distributes_them(request):
    """pytest-xdist tells it by the test's name; with a pytest that it did not know yet it was silent about it."""
    by_groups = request.config.getoption("loadgroup", False)
    assert request.node.nodeid.endswith("@of-one") == by_groups
