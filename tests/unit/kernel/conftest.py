from collections.abc import Iterator

import pytest

from tests.fakeguest import Guest
from tests.unit.kernel.world import World


@pytest.fixture
def guest():
    return Guest()


@pytest.fixture
def t(guest):
    """pid 1 is somebody else: its signals have rules of their own."""
    guest.process()
    return guest.process()


@pytest.fixture
def empty_world() -> Iterator[World]:
    """A kernel without processes."""
    world = World()
    yield world
    world.close()


@pytest.fixture
def world(empty_world: World) -> World:
    """With a pid 1 that does nothing."""
    empty_world.process()
    return empty_world
