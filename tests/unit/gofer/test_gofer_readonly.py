"""A read-only mount answers every change with EROFS, in both versions, and changes nothing."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from gofer import dialect, plain
from proto.ninep import dialect as d
from proto.ninep import messages as m
from proto.ninep.message import Message
from tests.unit.gofer.conftest import Start
from tests.unit.gofer.goferclient import ROOT, Client, fails

F, D = 1, 2  # fids of tree/f and tree/d

CHANGES: list[Message] = [
    m.Tlcreate(D, b"new", os.O_RDWR, 0o644, 0),
    m.Tlopen(F, os.O_WRONLY),
    m.Tlopen(F, os.O_RDWR),
    m.Tlopen(F, os.O_RDONLY | os.O_TRUNC),
    m.Tsymlink(ROOT, b"new", b"x", 0),
    m.Tmknod(ROOT, b"new", stat.S_IFIFO | 0o644, 0, 0, 0),
    m.Trename(F, D, b"new"),
    m.Tsetattr(F, m.SETATTR_SIZE, 0, 0, 0, 0, 0, 0, 0, 0),
    m.Txattrcreate(F, b"user.a", 1, 0),
    m.Tlink(ROOT, F, b"new"),
    m.Tmkdir(ROOT, b"new", 0o755, 0),
    m.Trenameat(ROOT, b"f", D, b"new"),
    m.Tunlinkat(ROOT, b"f", 0),
    m.Twrite(F, 0, b"x"),
    m.Tremove(F),
]
DIALECT_CHANGES: list[Message] = [
    d.Tlcreatefd(ROOT, m.NOFID, os.O_RDWR, 0o644, 0, 0, b"new"),
    d.Tlopenfd(F, os.O_RDWR),
    d.Tlopenfd(F, os.O_WRONLY),
    d.Tlopenfd(F, os.O_TRUNC),
    d.Tmake(ROOT, m.NOFID, stat.S_IFDIR | 0o755, 0, 0, b"new"),
    d.Tmakesymlink(ROOT, m.NOFID, 0, 0, b"new", b"x"),
    d.Tmakelink(ROOT, F, b"new"),
    d.Tsetgetattr(F, m.SETATTR_MODE, 0o600, 0, 0, 0, 0, 0),
    d.Tsetxattr(F, 0, b"user.a", b"x"),
    d.Tremovexattr(F, b"user.a"),
]


@pytest.mark.parametrize("change", CHANGES + DIALECT_CHANGES, ids=lambda change: type(change).__name__)
def test_changes_are_refused(start: Start, tree: Path, change: Message) -> None:
    version = d.VERSION_PYSC if change in DIALECT_CHANGES else m.VERSION_L
    client = Client(start((tree, True)).socks[0], version)
    client.call(m.Twalk(ROOT, F, [b"f"]))
    client.call(m.Twalk(ROOT, D, [b"d"]))
    before = sorted(os.listdir(tree)), sorted(os.listdir(tree / "d")), (tree / "f").stat(), os.listxattr(tree / "f")
    with fails(errno.EROFS):
        client.call(change)
    assert before == (
        sorted(os.listdir(tree)), sorted(os.listdir(tree / "d")), (tree / "f").stat(), os.listxattr(tree / "f")
    )  # fmt: skip
    client.close()


def test_every_changing_request_is_in_this_test() -> None:
    tested = {type(change) for change in CHANGES + DIALECT_CHANGES}
    assert tested == {*plain.CHANGING, *dialect.CHANGING, m.Tlopen, m.Tremove, d.Tlopenfd}


def test_reading_works(start: Start, tree: Path) -> None:
    client = Client(start((tree, True)).socks[0])
    assert client.read("f") == b"hello\n"
    assert len(client.listing(client.open_dir("d"))) == 2
    client.close()


def test_one_mount_is_read_only_and_the_other_not(start: Start, tree: Path) -> None:
    gofer = start((tree, True), (tree, False))
    looking, changing = (Client(sock) for sock in gofer.socks)
    request = d.Tmake(ROOT, m.NOFID, stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), b"new")
    with fails(errno.EROFS):
        looking.call(request)
    changing.call(request)
    assert stat.S_ISDIR(looking.attr(looking.walk("new")).mode)
    looking.close()
    changing.close()
