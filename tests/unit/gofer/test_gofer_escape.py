"""Nothing outside the served root can be reached, by names, links, moves or races."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proto.ninep import dialect as d
from proto.ninep import messages as m
from proto.ninep.message import Message
from tests.unit.gofer.goferclient import ROOT, Client, fails

BAD_NAMES = [b"", b".", b"..", b"/", b"/etc", b"a/b", b"../outside", b"d/..", b"d/inner", b"f\0", b"\0", b"x/"]

NAMED_REQUESTS: list[Callable[[bytes], Message]] = [
    lambda name: d.Twalkgetattr(ROOT, m.NOFID, [name]),
    lambda name: d.Twalkgetattr(ROOT, 90, [name]),
    lambda name: d.Twalkgetattr(ROOT, m.NOFID, [name, b"x"]),
    lambda name: d.Tlcreatefd(ROOT, m.NOFID, os.O_RDWR, 0o644, 0, 0, name),
    lambda name: d.Tmake(ROOT, m.NOFID, stat.S_IFDIR | 0o755, 0, 0, name),
    lambda name: d.Tmake(ROOT, m.NOFID, stat.S_IFIFO | 0o644, 0, 0, name),
    lambda name: d.Tmakesymlink(ROOT, m.NOFID, 0, 0, name, b"x"),
    lambda name: d.Tmakelink(ROOT, 1, name),
    lambda name: m.Tlcreate(2, name, os.O_RDWR, 0o644, 0),
    lambda name: m.Tsymlink(ROOT, name, b"x", 0),
    lambda name: m.Tmknod(ROOT, name, 0o644, 0, 0, 0),
    lambda name: m.Tmkdir(ROOT, name, 0o755, 0),
    lambda name: m.Tlink(ROOT, 1, name),
    lambda name: m.Trename(1, ROOT, name),
    lambda name: m.Trenameat(ROOT, name, ROOT, b"new"),
    lambda name: m.Trenameat(ROOT, b"f", ROOT, name),
    lambda name: m.Tunlinkat(ROOT, name, 0),
    lambda name: m.Tunlinkat(ROOT, name, 0x200),
]


def snapshot(top: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_ino, path.lstat().st_size) for path in top.rglob("*")}


@pytest.mark.parametrize("make", NAMED_REQUESTS, ids=lambda make: type(make(b"x")).__name__)
def test_only_the_name_of_an_entry_is_a_name(client: Client, tmp_path: Path, make: Callable[[bytes], Message]) -> None:
    assert client.walk("f") == 1
    assert client.walk("d") == 2
    before = snapshot(tmp_path)
    for name in BAD_NAMES:
        with fails(errno.EINVAL):
            client.call(make(name))
    with fails(errno.ENAMETOOLONG):
        client.call(make(b"n" * 256))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name not in (b".", b"..")])
def test_plain_walks_know_the_dots_and_nothing_more(plain: Client, name: bytes) -> None:
    with fails(errno.EINVAL):
        plain.call(m.Twalk(ROOT, 5, [name]))


@pytest.mark.parametrize("path", ["etc/passwd", "up/secret", "link/x"])
def test_symbolic_links_are_never_followed(client: Client, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        client.walk(path)
    link = client.walk(path.split("/")[0])
    assert stat.S_ISLNK(client.attr(link).mode)
    with fails(errno.ENOTDIR):
        client.walk(path.split("/")[1], start=link)


def test_through_a_symbolic_link_nothing_is_changed(client: Client, tmp_path: Path) -> None:
    up = client.walk("up")
    before = snapshot(tmp_path / "outside")
    for request in (
        d.Tlcreatefd(up, m.NOFID, os.O_RDWR, 0o644, 0, 0, b"new"),
        d.Tmake(up, m.NOFID, stat.S_IFDIR | 0o755, 0, 0, b"new"),
        d.Tmakesymlink(up, m.NOFID, 0, 0, b"new", b"x"),
        d.Tmakelink(up, client.walk("f"), b"new"),
        m.Tunlinkat(up, b"secret", 0),
        m.Trenameat(up, b"secret", ROOT, b"mine"),
        m.Trenameat(ROOT, b"f", up, b"new"),
        d.Treaddirattr(up, 0, 9999),
    ):
        with pytest.raises(OSError):
            client.call(request)
    assert snapshot(tmp_path / "outside") == before


def test_a_directory_moved_out_of_the_tree_leads_no_further_up(client: Client, tree: Path, tmp_path: Path) -> None:
    """The host moves a directory away while the client holds a fid below it."""
    deep = client.walk("d/deep")
    (tree / "d/deep").rename(tmp_path / "outside/deep")
    with fails(errno.EINVAL):
        client.walk("..", start=deep)


def test_the_plain_parent_is_looked_for_from_the_root(plain: Client, tree: Path, tmp_path: Path) -> None:
    plain.call(m.Twalk(ROOT, 5, [b"d", b"deep"]))
    (tree / "d/deep").rename(tmp_path / "outside/deep")
    qids = plain.call(m.Twalk(5, 6, [b".."])).qids
    assert [qid.path for qid in qids] == [(tree / "d").stat().st_ino]
    (tree / "d").rename(tmp_path / "outside/d")
    with fails(errno.ENOENT):
        plain.call(m.Twalk(5, 7, [b".."]))


@contextmanager
def exchanging(first: Path, second: Path) -> Iterator[None]:
    """Swap two names again and again, as fast as can be, with renameat2(RENAME_EXCHANGE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if libc.renameat2(-100, names[0], -100, names[1], 2) != 0:
        pytest.skip("the file system cannot exchange names")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            libc.renameat2(-100, names[0], -100, names[1], 2)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_directory_that_becomes_a_link_in_a_race_is_not_followed(client: Client, tree: Path, tmp_path: Path) -> None:
    """`d` is a directory at one moment and a symbolic link out of the tree at the next."""
    (tree / "d/secret").write_bytes(b"decoy\n")
    secret = (tmp_path / "outside/secret").stat().st_ino
    reached: set[int] = set()
    with exchanging(tree / "d", tree / "up"):
        for _ in range(1500):
            reply = client.call(d.Twalkgetattr(ROOT, m.NOFID, [b"d", b"secret"]))
            reached.update(attr.ino for attr in reply.attrs)
    assert secret not in reached
    assert (tmp_path / "outside").stat().st_ino not in reached
    assert (tree / "d/secret").exists() or (tree / "up/secret").exists()


def test_a_file_that_becomes_a_link_in_a_race_is_opened_as_what_it_was(
    client: Client, tree: Path, tmp_path: Path
) -> None:
    (tree / "bait").symlink_to(tmp_path / "outside/secret")
    with exchanging(tree / "f", tree / "bait"):
        for _ in range(700):
            fid = client.walk("f")
            with suppress(OSError):
                fd = client.open(fid, os.O_RDWR)
                assert os.read(fd, 99) == b"hello\n"
                os.close(fd)
            client.call(m.Tclunk(fid))
            client.connection.fids.give_back(fid)
    assert (tmp_path / "outside/secret").read_bytes() == b"secret\n"


def test_creating_in_a_race_with_links_makes_nothing_outside(client: Client, tree: Path, tmp_path: Path) -> None:
    (tree / "bait").symlink_to(tmp_path / "outside/created")
    (tree / "name").symlink_to("nowhere")
    rng = random.Random(1)
    with exchanging(tree / "name", tree / "bait"):
        for _ in range(300):
            name = rng.choice([b"name", b"bait"])
            with fails(errno.EEXIST):
                client.call(d.Tlcreatefd(ROOT, m.NOFID, os.O_RDWR, 0o644, 0, 0, name))
    assert os.listdir(tmp_path / "outside") == ["secret"]


def test_the_root_itself_cannot_be_renamed_or_removed(client: Client, tree: Path) -> None:
    for request in (m.Tremove(client.walk("")), m.Trename(ROOT, client.walk("d"), b"x")):
        with fails(errno.EBUSY):
            client.call(request)
    assert tree.is_dir()
