"""Trees that several containers have: what belongs to a file is one for all of its inodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentry.abi.errno import EAGAIN
from sentry.abi.fcntl import LOCK_EX, LOCK_UN, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY
from sentry.fs.volumes import Volumes
from sentry.vfs.iov import BytesSink, BytesSource
from sentry.wait import Loop
from tests.gofertree import GoferTree, IdlePlatform


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("content")
    (tmp_path / "other").write_text("content")
    os.mkfifo(tmp_path / "sub" / "fifo")
    return tmp_path


class Trees:
    """Served to two containers: one sees the whole folder, one a part of it."""

    def __init__(self, whole: Path, part: Path) -> None:
        loop, volumes = Loop(IdlePlatform()), Volumes()
        self.whole = GoferTree(whole, shared=True, loop=loop, volumes=volumes)
        self.part = GoferTree(part, shared=True, loop=loop, volumes=volumes)


@pytest.fixture
def trees(folder: Path) -> Iterator[Trees]:
    trees = Trees(folder, folder / "sub")
    with trees.whole, trees.part:
        yield trees


def test_one_file_has_one_identity(trees: Trees, folder: Path) -> None:
    os.link(folder / "sub" / "file", folder / "sub" / "link")
    one, two = trees.whole.walk("/sub/file").inode, trees.part.walk("/link").inode
    assert one is not two
    assert one.identity() == two.identity()
    assert trees.whole.walk("/other").inode.identity() != two.identity()


def test_one_file_has_one_device_and_number(trees: Trees) -> None:
    one, two = trees.whole.walk("/sub/file").inode, trees.part.walk("/file").inode
    assert one.packed_stat()[:16] == two.packed_stat()[:16]


def test_a_tree_of_its_own_shares_nothing(folder: Path) -> None:
    with GoferTree(folder) as one, GoferTree(folder) as two:
        files = [tree.walk("/other").inode for tree in (one, two)]
        assert files[0].identity() != files[1].identity()
        assert files[0].fs.dev != files[1].fs.dev


def test_locks_are_the_files(trees: Trees) -> None:
    one, two = trees.whole.open("/sub/file", O_RDWR), trees.part.open("/file", O_RDWR)
    one.inode.locks().flock(one, LOCK_EX)
    with pytest.raises(EAGAIN):
        two.inode.locks().flock(two, LOCK_EX)
    one.inode.locks().flock(one, LOCK_UN)
    two.inode.locks().flock(two, LOCK_EX)
    two.drop()
    one.inode.locks().flock(one, LOCK_EX)
    one.drop()


def test_a_fifos_pipe_is_the_files(trees: Trees) -> None:
    reader = trees.whole.open("/sub/fifo", O_RDONLY | O_NONBLOCK)
    writer = trees.part.open("/fifo", O_WRONLY | O_NONBLOCK)
    writer.write(BytesSource(b"through"))
    sink = BytesSink(100)
    reader.read(sink)
    assert bytes(sink.data) == b"through"
    writer.write(BytesSource(b"lost"))
    writer.drop()
    reader.drop()
    # What nobody has read when the last one closes it is gone, and the pipe is another one.
    again = trees.part.open("/fifo", O_RDONLY | O_NONBLOCK)
    assert again.read(BytesSink(100)) == 0
    again.drop()
    assert trees.whole.fs.volume is not None
    assert trees.whole.fs.volume.all.fifos == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_a_file_of_another_device_inside_a_tree_is_recognised(folder: Path) -> None:
    inside = folder / "sub"
    subprocess.run(["mount", "-t", "tmpfs", "none", inside], check=True)
    try:
        (inside / "file").write_text("on the tmpfs")
        (folder / "file").write_text("not")
        trees = Trees(folder, inside)
        with trees.whole, trees.part:
            one, two = trees.whole.walk("/sub/file").inode, trees.part.walk("/file").inode
            assert one.identity() == two.identity()
            assert two.ino == (inside / "file").stat().st_ino
            assert one.identity() != trees.whole.walk("/file").inode.identity()
    finally:
        subprocess.run(["umount", "-l", inside], check=True)
