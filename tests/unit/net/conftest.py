import pytest

from tests.fakeguest import Guest
from tests.unit.syscalls.socketcalls import SocketCalls


@pytest.fixture
def guest():
    return Guest()


@pytest.fixture
def t(guest):
    """pid 1 is somebody else: its signals have rules of their own."""
    guest.process()
    return guest.process()


@pytest.fixture
def calls(guest, t):
    return SocketCalls(guest, t)
