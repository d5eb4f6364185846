"""Writes to donated pipes: all that there is room for, nothing twice, nothing lost, and never a wait."""

import fcntl
import os

import pytest

from sentry.abi.errno import EAGAIN, EFAULT, EPIPE
from sentry.fs.hostfd import PIPE_BUF, HostFile, HostFs
from sentry.vfs.iov import BytesSource
from sentry.wait import Loop
from tests.fakes import IdlePlatform

PIPE_SIZE = 16 * PIPE_BUF
TEXT = bytes(range(256)) * (3 * PIPE_SIZE // 256)


@pytest.fixture(params=["blocking", "non-blocking"])
def ends(request):
    """A host pipe whose write end is the application's standard output."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    os.set_blocking(writer, request.param == "blocking")
    file = HostFile(Loop(IdlePlatform()), HostFs(), writer).hold()
    yield [reader], file
    file.drop()


@pytest.fixture
def reader(ends):
    """The other end, which the test may close by taking it away."""
    yield ends[0]
    for fd in ends[0]:
        os.close(fd)


@pytest.fixture
def file(ends, reader):
    return ends[1]


class Torn(BytesSource):
    """Memory of which only a part can be read."""

    def __init__(self, data, readable):
        super().__init__(data)
        self.end = len(data) - readable

    def take(self, limit):
        if self.remaining <= self.end:
            raise EFAULT
        return super().take(min(limit, self.remaining - self.end))


def test_a_write_fills_the_pipe_and_goes_on_where_it_stopped(file, reader):
    source = BytesSource(TEXT)
    received = b""
    while source.remaining:
        before = source.remaining
        assert file.write(source) == before - source.remaining > 0
        received += os.read(reader[0], PIPE_BUF + 5)
    received += os.read(reader[0], len(TEXT))

    assert received == TEXT


def test_a_full_pipe_takes_nothing_from_the_source(file, reader):
    file.write(BytesSource(TEXT[:PIPE_SIZE]))
    source = BytesSource(TEXT)
    with pytest.raises(EAGAIN):
        file.write(source)

    assert source.remaining == len(TEXT)


def test_a_small_write_is_never_split(file, reader):
    file.write(BytesSource(TEXT[: PIPE_SIZE - 1]))
    source = BytesSource(b"ab")
    with pytest.raises(EAGAIN):
        file.write(source)

    assert source.remaining == 2


def test_without_a_reader(file, reader):
    os.close(reader.pop())
    source = BytesSource(b"lost")
    with pytest.raises(EPIPE):
        file.write(source)

    assert source.remaining == 4


def test_memory_that_ends_ends_the_write(file, reader):
    source = Torn(TEXT, 100)

    assert file.write(source) == 100
    with pytest.raises(EFAULT):
        file.write(source)
    assert os.read(reader[0], PIPE_SIZE) == TEXT[:100]
