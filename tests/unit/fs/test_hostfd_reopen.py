"""Standard streams opened again through /dev/stdout and its like."""

import os

import pytest

from sentry.abi.errno import EACCES
from sentry.abi.fcntl import O_RDONLY, O_RDWR, O_WRONLY
from sentry.fs.anon import anon_path
from sentry.fs.hostfd import HostFile, HostFs
from sentry.vfs.iov import BytesSource
from sentry.wait import Loop
from tests.fakes import IdlePlatform
from tests.unit.fs.conformance import run


@pytest.fixture
def ends():
    """A host pipe whose write end is the application's standard output."""
    reader, writer = os.pipe()
    file = HostFile(Loop(IdlePlatform()), HostFs(), writer).hold()
    yield reader, file
    if file.refs:
        file.drop()
    os.close(reader)


def reopen(file, flags):
    return run(file.inode.open(anon_path(file.inode), flags)).hold()


def test_both_write_to_the_same_place(ends):
    reader, file = ends
    again = reopen(file, O_WRONLY)
    file.write(BytesSource(b"one "))
    again.write(BytesSource(b"two"))
    again.drop()

    assert os.read(reader, 100) == b"one two"


def test_one_outlives_the_other(ends):
    reader, file = ends
    again = reopen(file, O_WRONLY)
    file.drop()
    again.write(BytesSource(b"still here"))
    again.drop()

    assert os.read(reader, 100) == b"still here"
    assert os.read(reader, 100) == b""


def test_access_is_what_was_donated(ends):
    _, file = ends
    for flags in (O_RDONLY, O_RDWR):
        with pytest.raises(EACCES):
            reopen(file, flags)
