"""Standard streams: real FIFOs, files, a terminal and a logging program; the test plays client and sandbox."""

import asyncio
import os
import select
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from fcntl import ioctl
from pathlib import Path

import pytest

from proto.control import CONSOLE, STDERR, STDIN, STDOUT
from proto.ttrpc.status import FAILED_PRECONDITION, INVALID_ARGUMENT, UNKNOWN, RpcError
from shim import logger, stdio
from shim.reaper import Reaper
from shim.stdio import Owner, StdioNames, Streams
from shim.tasks import Background

Opener = Callable[..., Awaitable[Streams]]


@pytest.fixture
async def owner() -> AsyncIterator[Owner]:
    background = Background()
    yield Owner("c1", "ns1", Reaper(), background)
    await background.settle(20)


@pytest.fixture
async def open_streams(owner: Owner) -> AsyncIterator[Opener]:
    """stdio.open_streams for that owner; closes what it opened."""
    opened: list[Streams] = []

    async def open_them(
        stdin: str = "", stdout: str = "", stderr: str = "", terminal: bool = False, closed: bool = False
    ) -> Streams:
        streams = await stdio.open_streams(StdioNames(stdin, stdout, stderr, terminal), owner, closed, (24, 80))
        opened.append(streams)
        return streams

    yield open_them
    for streams in opened:
        streams.close(owner.background)


@pytest.fixture
def fifo(tmp_path: Path) -> Callable[[str], str]:
    def make(name: str) -> str:
        os.mkfifo(tmp_path / name)
        return str(tmp_path / name)

    return make


def open_for_reading(path: str) -> int:
    """A client's end, without waiting for a writer."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


async def test_nothing_wanted_is_nothing_donated(open_streams: Opener) -> None:
    assert (await open_streams()).donations == {}


async def test_output_goes_straight_through_the_fifo_and_ends(open_streams: Opener, fifo: Callable[[str], str]) -> None:
    out, err = fifo("out"), fifo("err")
    readers = [open_for_reading(path) for path in (out, err)]
    streams = await open_streams(stdout=out, stderr=err)
    os.write(streams.donations[STDOUT], b"out")
    os.write(streams.donations[STDERR], b"err")
    streams.donated()
    assert [os.read(reader, 10) for reader in readers] == [b"out", b"err"]
    assert [os.read(reader, 10) for reader in readers] == [b"", b""]
    for reader in readers:
        os.close(reader)


async def test_open_waits_for_the_reader(open_streams: Opener, fifo: Callable[[str], str]) -> None:
    out = fifo("out")
    opening = asyncio.ensure_future(open_streams(stdout=out))
    await asyncio.sleep(0.03)
    assert not opening.done()
    reader = await asyncio.to_thread(os.open, out, os.O_RDONLY)
    assert list((await opening).donations) == [STDOUT]
    os.close(reader)


async def test_open_is_given_up_when_the_container_ends(
    open_streams: Opener, fifo: Callable[[str], str], owner: Owner
) -> None:
    owner.given_up = lambda: True
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RpcError) as e:
        await open_streams(stdout=fifo("out"))
    assert e.value.code == FAILED_PRECONDITION
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_dying_client_means_a_full_pipe_and_no_epipe(open_streams: Opener, fifo: Callable[[str], str]) -> None:
    out = fifo("out")
    reader = open_for_reading(out)
    streams = await open_streams(stdout=out)
    os.close(reader)
    writer = streams.donations[STDOUT]
    assert os.write(writer, b"kept") == 4
    reader = open_for_reading(out)
    assert os.read(reader, 10) == b"kept"
    os.close(reader)


async def test_finish_waits_until_the_client_has_read(open_streams: Opener, fifo: Callable[[str], str]) -> None:
    out = fifo("out")
    reader = open_for_reading(out)
    streams = await open_streams(stdout=out)
    os.write(streams.donations[STDOUT], b"late")
    streams.donated()
    finishing = asyncio.create_task(streams.finish())
    await asyncio.sleep(0.03)
    assert not finishing.done()
    assert os.read(reader, 10) == b"late"
    await asyncio.wait_for(finishing, 20)
    os.close(reader)


async def test_finish_does_not_wait_for_ever(
    open_streams: Opener, fifo: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "DRAIN_TIMEOUT_S", 0.02)
    out = fifo("out")
    reader = open_for_reading(out)
    streams = await open_streams(stdout=out)
    os.write(streams.donations[STDOUT], b"never read")
    await asyncio.wait_for(streams.finish(), 20)
    os.close(reader)


def is_readable(fd: int) -> bool:
    """As the Sentry sees it: poll first."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


async def test_stdin_ends_with_close_io_and_not_before(open_streams: Opener, fifo: Callable[[str], str]) -> None:
    path = fifo("in")
    streams = await open_streams(stdin=path)
    source = streams.donations[STDIN]
    client = os.open(path, os.O_WRONLY)
    os.write(client, b"input")
    os.close(client)
    assert os.read(source, 10) == b"input"
    assert not is_readable(source)
    streams.close_stdin()
    streams.close_stdin()
    assert is_readable(source)
    assert os.read(source, 10) == b""


async def test_close_io_before_start_is_remembered(open_streams: Opener, fifo: Callable[[str], str]) -> None:
    source = (await open_streams(stdin=fifo("in"), closed=True)).donations[STDIN]
    assert is_readable(source)
    assert os.read(source, 10) == b""


async def test_regular_files_are_appended_to(open_streams: Opener, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before ")
    (tmp_path / "in").write_text("input")
    streams = await open_streams(stdin=str(tmp_path / "in"), stdout=str(tmp_path / "out"))
    os.write(streams.donations[STDOUT], b"after")
    assert os.read(streams.donations[STDIN], 10) == b"input"
    assert (tmp_path / "out").read_text() == "before after"


async def test_file_scheme_makes_the_file_and_takes_both_streams(open_streams: Opener, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "log"
    streams = await open_streams(stdout=f"file://{tmp_path}/new%20folder/log", stderr="file:///elsewhere")
    os.write(streams.donations[STDOUT], b"out ")
    os.write(streams.donations[STDERR], b"err")
    assert path.read_text() == "out err"
    assert path.stat().st_mode & 0o777 == 0o644


async def test_unknown_scheme_is_an_error(open_streams: Opener) -> None:
    with pytest.raises(RpcError) as e:
        await open_streams(stdout="ttrpc+unix:///run/x?streaming_id=1")
    assert e.value.code == INVALID_ARGUMENT


async def test_missing_fifo_is_an_error(open_streams: Opener, tmp_path: Path) -> None:
    with pytest.raises(RpcError) as e:
        await open_streams(stdin=str(tmp_path / "none"))
    assert e.value.code == UNKNOWN


# Terminals.


async def read_some(fd: int) -> bytes:
    """Read when there is something, without blocking the loop."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), 20)
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 1 << 20)


async def test_terminal_carries_bytes_both_ways_unchanged(open_streams: Opener, fifo: Callable[[str], str]) -> None:
    stdin, stdout = fifo("in"), fifo("out")
    reader = open_for_reading(stdout)
    streams = await open_streams(stdin, stdout, terminal=True)
    assert list(streams.donations) == [CONSOLE]
    slave = os.dup(streams.donations[CONSOLE])
    os.set_blocking(slave, False)
    streams.donated()
    client = os.open(stdin, os.O_WRONLY)
    os.write(client, b"in\r\x03\x04")
    assert await read_some(slave) == b"in\r\x03\x04"
    os.write(slave, b"out\n")
    assert await read_some(reader) == b"out\n"
    os.close(slave)
    await asyncio.wait_for(streams.finish(), 20)
    assert await read_some(reader) == b""
    for fd in (client, reader):
        os.close(fd)


async def test_terminal_output_waits_for_a_slow_client(open_streams: Opener, fifo: Callable[[str], str]) -> None:
    stdout = fifo("out")
    reader = open_for_reading(stdout)
    streams = await open_streams(stdout=stdout, terminal=True)
    slave = os.dup(streams.donations[CONSOLE])
    streams.donated()
    sent = b"".join(b"%06d\n" % n for n in range(40_000))

    def write_all() -> None:
        rest = memoryview(sent)
        while rest:
            rest = rest[os.write(slave, rest) :]
        os.close(slave)

    writing = asyncio.create_task(asyncio.to_thread(write_all))
    received = bytearray()
    while piece := await read_some(reader):
        received += piece
        if writing.done():
            await streams.finish()
    assert received == sent
    os.close(reader)


async def test_terminal_size(open_streams: Opener) -> None:
    streams = await open_streams(terminal=True)
    slave = streams.donations[CONSOLE]
    assert termios.tcgetwinsize(slave) == (24, 80)
    assert streams.console is not None
    streams.console.resize(50, 132)
    assert termios.tcgetwinsize(slave) == (50, 132)
    streams.console.resize(0, 0)
    assert termios.tcgetwinsize(slave) == (50, 132)
    assert ioctl(slave, termios.FIONREAD, b"\0" * 4) == b"\0" * 4


async def test_everything_is_closed_at_the_end(owner: Owner, fifo: Callable[[str], str]) -> None:
    stdin, stdout, stderr = fifo("in"), fifo("out"), fifo("err")
    readers = [open_for_reading(path) for path in (stdout, stderr)]
    before = sorted(os.listdir("/proc/self/fd"))
    for terminal in (False, True):
        streams = await stdio.open_streams(StdioNames(stdin, stdout, stderr, terminal), owner)
        streams.close(owner.background)
        streams.close(owner.background)
        assert sorted(os.listdir("/proc/self/fd")) == before
    for reader in readers:
        os.close(reader)


# Logging programs.

LOGGER = """#!{python} -IS
import os, sys
with open({log!r}, "w") as log:
    print(sorted(os.environ.items()), sys.argv[1:], file=log, flush=True)
    os.write(5, b"1")
    os.close(5)
    for fd in (3, 4):
        print(fd, os.fdopen(fd).read(), file=log, flush=True)
"""


async def test_logging_program_gets_both_streams(owner: Owner, tmp_path: Path) -> None:
    program, log = tmp_path / "logger", tmp_path / "log"
    program.write_text(LOGGER.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    uri = f"binary://{program}?size=10&name=a%20b"
    streams = await stdio.open_streams(StdioNames("", uri, uri, False), owner)
    os.write(streams.donations[STDOUT], b"out")
    os.write(streams.donations[STDERR], b"err")
    streams.donated()
    streams.close(owner.background)
    await owner.background.settle(20)
    said = log.read_text()
    assert "[('CONTAINER_ID', 'c1'), ('CONTAINER_NAMESPACE', 'ns1')" in said
    assert "['size', '10', 'name', 'a b']\n3 out\n4 err\n" in said


def test_command_line_of_a_logging_program() -> None:
    assert logger.command_line("binary:///usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=/var/lib/x&empty=") == [
        "/usr/bin/nerdctl", "_NERDCTL_INTERNAL_LOGGING", "/var/lib/x", "empty", "",
    ]  # fmt: skip
    with pytest.raises(RpcError):
        logger.command_line("binary://relative/path")


async def test_logging_program_that_ends_at_once(owner: Owner) -> None:
    """The old protocol takes that for ready, the second version for a failure."""
    streams = await stdio.open_streams(StdioNames("", "binary:///bin/true", "", False), owner)
    streams.close(owner.background)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(RpcError, match="before it was ready"):
        await stdio.open_streams(StdioNames("", "binary-v2:///bin/true", "", False), owner)
    with pytest.raises(RpcError, match="No such file"):
        await stdio.open_streams(StdioNames("", "binary:///no/such/program", "", False), owner)
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_stubborn_logging_program_is_ended(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "DRAIN_TIMEOUT_S", 0.02)
    program = tmp_path / "logger"
    program.write_text("#!/bin/sh\nexec 5>&-\nexec /bin/sleep 1000\n")
    program.chmod(0o755)
    streams = await stdio.open_streams(StdioNames("", f"binary://{program}", "", False), owner)
    assert streams.logger is not None
    pid = streams.logger._pid
    streams.close(owner.background)
    await owner.background.settle(20)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
