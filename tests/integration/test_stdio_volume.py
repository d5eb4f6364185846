"""Much data through a container's standard streams, and clients that stop, go away and come back: every byte counts."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import struct
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.integration.bundle import busybox_rootfs
from tests.integration.daemon import RUNTIME, Daemon, until
from tests.integration.tasks import Client, Stdio, Task, make_fifos

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containerd")]

MIB = 1 << 20
BLOCK_MIB = 16
PIECE = 32768  # as containerd's clients read
RUNC = "io.containerd.runc.v2"

VOLUMES = [64, pytest.param(1024, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
SECONDS = [3, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]

LINES = "i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); [ $((i %% 100)) -ne 0 ] || sleep 0.09; done"


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a file of random bytes to send."""
    root = busybox_rootfs(tmp_path_factory.mktemp("stdio") / "rootfs")
    (root / "block").write_bytes(os.urandom(BLOCK_MIB * MIB))
    return root


def open_reader(path: str) -> int:
    """The client's end, at once; reading waits."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(fd, True)
    return fd


def pieces(fd: int) -> Iterator[bytes]:
    """Until the end of file."""
    while piece := os.read(fd, PIECE):
        yield piece


def digest(blocks: Iterable[bytes]) -> str:
    found = hashlib.md5(usedforsecurity=False)
    for block in blocks:
        found.update(block)
    return found.hexdigest()


def digest_of_blocks(rootfs: Path, mib: int) -> str:
    return digest(itertools.repeat((rootfs / "block").read_bytes(), mib // BLOCK_MIB))


def print_rate(what: str, runtime: str, mib: int, since: float) -> None:
    print(f"{mib} MiB through {what} with {runtime}: {mib / (time.monotonic() - since):.0f} MiB/s")


def sends(mib: int) -> list[str]:
    count = mib // BLOCK_MIB
    return ["sh", "-c", f"i=0; while [ $i -lt {count} ]; do dd if=/block bs=64k 2>/dev/null; i=$((i+1)); done"]


def sent_through_stdout(task: Task, folder: Path) -> Iterator[bytes]:
    """Starts the task; all that it writes."""
    stdio = make_fifos(folder, "stdout")
    reader = open_reader(stdio.stdout)
    try:
        task.create(stdio._replace(stderr="/dev/null"))
        task.start()
        yield from pieces(reader)
    finally:
        os.close(reader)


@pytest.mark.parametrize("mib", VOLUMES)
def test_volume_through_stdout(client: Client, rootfs: Path, tmp_path: Path, mib: int) -> None:
    for runtime in (RUNC, RUNTIME):
        with client.container(rootfs, sends(mib), runtime) as task:
            stream = sent_through_stdout(task, tmp_path / task.name)
            first = next(stream)
            start = time.monotonic()
            found = digest(itertools.chain([first], stream))
            print_rate("stdout", runtime, mib, start)
            assert task.wait() == 0
        assert found == digest_of_blocks(rootfs, mib)


def feed(path: str, data: bytes, times: int) -> None:
    """The client's part of standard input, from the first byte to the end of file."""
    with open(path, "wb", buffering=0) as writer:
        for _ in range(times):
            rest = memoryview(data)
            while rest:
                rest = rest[writer.write(rest[:PIECE]) :]


@pytest.mark.parametrize("mib", VOLUMES)
def test_volume_through_stdin(client: Client, rootfs: Path, tmp_path: Path, mib: int) -> None:
    block = (rootfs / "block").read_bytes()
    for runtime in (RUNC, RUNTIME):
        with client.container(rootfs, ["md5sum"], runtime) as task:
            stdio = make_fifos(tmp_path / task.name, "stdin", "stdout")
            reader = open_reader(stdio.stdout)
            keep = os.open(stdio.stdin, os.O_RDWR | os.O_CLOEXEC)  # until the shim has opened it
            task.create(stdio._replace(stderr="/dev/null"))
            task.start()
            start = time.monotonic()
            feed(stdio.stdin, block, mib // BLOCK_MIB)
            os.close(keep)
            task.close_stdin()
            assert task.wait(seconds=400) == 0
            print_rate("stdin, where md5sum reads it,", runtime, mib, start)
            assert b"".join(pieces(reader)).split()[0].decode() == digest_of_blocks(rootfs, mib)
            os.close(reader)


def is_full(fd: int) -> bool:
    """Whether a FIFO has stopped filling; its writer then waits."""

    def unread() -> int:
        count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
        return count

    before = unread()
    time.sleep(0.2)
    return 0 < before == unread()


def test_reader_that_stops_and_goes_on(client: Client, rootfs: Path, tmp_path: Path) -> None:
    """Meanwhile the writer waits, and nobody else does."""
    with client.container(rootfs, sends(BLOCK_MIB)) as task:
        stdio = make_fifos(tmp_path / "main", "stdout")
        reader = open_reader(stdio.stdout)
        task.create(stdio._replace(stderr=stdio.stderr or "/dev/null"))
        task.start()
        stream = pieces(reader)
        found = [next(stream)]
        for number in range(3):
            assert until(lambda: is_full(reader))
            assert task.status() == "RUNNING"
            task.exec(f"e{number}", ["sh", "-c", f"exit {number}"])
            task.start(f"e{number}")
            assert (task.wait(f"e{number}"), task.delete(f"e{number}")) == (number, number)
            found += [next(stream) for _ in range(50)]
        found += stream
        assert (task.wait(), digest(found)) == (0, digest_of_blocks(rootfs, BLOCK_MIB))
        os.close(reader)


def test_client_that_goes_away_and_comes_back(client: Client, rootfs: Path, tmp_path: Path) -> None:
    """containerd's restart, as a FIFO sees it: the container goes on, and nothing is lost."""
    with client.container(rootfs, sends(BLOCK_MIB)) as task:
        stdio = make_fifos(tmp_path / "main", "stdout")
        reader = open_reader(stdio.stdout)
        task.create(stdio._replace(stderr=stdio.stderr or "/dev/null"))
        task.start()
        found = [os.read(reader, PIECE)]
        for _ in range(3):
            os.close(reader)
            time.sleep(0.1)  # in which a writer without a reader would get SIGPIPE
            assert task.status() == "RUNNING"
            reader = open_reader(stdio.stdout)
            found += [os.read(reader, PIECE) for _ in range(20)]
        found += pieces(reader)
        assert (task.wait(), digest(found)) == (0, digest_of_blocks(rootfs, BLOCK_MIB))
        os.close(reader)


def test_container_outlives_its_client(client: Client, rootfs: Path, tmp_path: Path) -> None:
    """Nobody ever reads what it writes, nor holds its input: it ends as it would have."""
    script = "read gone; echo out; echo err >&2; exit 17"
    with client.container(rootfs, ["sh", "-c", script]) as task:
        stdio = make_fifos(tmp_path / "main", "stdin", "stdout", "stderr")
        fds = [open_reader(stdio.stdout), open_reader(stdio.stderr), os.open(stdio.stdin, os.O_RDWR | os.O_CLOEXEC)]
        task.create(stdio._replace(stderr=stdio.stderr or "/dev/null"))
        task.start()
        for fd in fds:
            os.close(fd)
        assert task.status() == "RUNNING"
        task.close_stdin()
        assert task.wait() == 17


def assert_all_lines(text: str, count: int) -> None:
    assert [int(number) for number in re.findall(r"line (\d+)$", text, re.MULTILINE)] == list(range(count))


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_thousand_lines_a_second_through_ctr(daemon: Daemon, seconds: int) -> None:
    count = seconds * 1000
    done = daemon.run("sh", "-c", LINES % count, timeout=seconds * 4 + 60)
    assert done.returncode == 0
    assert_all_lines(done.stdout, count)


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_thousand_lines_a_second_into_a_file(client: Client, rootfs: Path, tmp_path: Path, seconds: int) -> None:
    count = seconds * 1000
    log = tmp_path / "log"
    with client.container(rootfs, ["sh", "-c", LINES % count]) as task:
        task.create(Stdio(stdout=log.as_uri(), stderr=log.as_uri()))
        task.start()
        assert task.wait(seconds=seconds * 4 + 60) == 0
    assert_all_lines(log.read_text(), count)
