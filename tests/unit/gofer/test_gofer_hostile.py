"""Clients that mean harm: the gofer may refuse them or hang up, but not crash, leak, swell or neglect the others."""

from __future__ import annotations

import errno
import os
import random
import resource
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gofer import fids
from gofer.session import Session
from proto.ninep import dialect as d
from proto.ninep import messages as m
from proto.ninep.codec import Decoder, encode
from proto.ninep.message import MESSAGES, Message
from proto.wire import INTEGER_CODES
from tests.unit.gofer.conftest import Start
from tests.unit.gofer.goferclient import ROOT, Client, Gofer, fails

HELLO = encode(m.NOTAG, m.Tversion(8192, d.VERSION_PYSC))


def frame(kind: int, body: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<IBH", 7 + len(body) if size is None else size, kind, 1) + body


DEADLY = {
    "no version agreed": encode(1, m.Tclunk(0)),
    "not even a request": encode(1, m.Rclunk()),
    "size zero": HELLO + struct.pack("<I", 0),
    "size smaller than a header": HELLO + frame(120, size=6),
    "size above msize": HELLO + frame(118, size=8193),
    "size of four gigabytes": HELLO + frame(118, size=0xFFFFFFFF),
    "size above any msize, before a version": frame(100, size=(1 << 20) + 1),
    "truncated fields": HELLO + frame(110, bytes(8)),
    "bytes to spare": HELLO + frame(120, bytes(5)),
    "a name longer than its frame": HELLO + frame(218, struct.pack("<IH", 0, 99) + b"short"),
    "more names than there are": HELLO + frame(110, struct.pack("<IIH", 0, 1, 0xFFFF)),
    "data longer than its frame": HELLO + frame(118, struct.pack("<IQI", 0, 0, 0xFFFFFFFF)),
}


@pytest.mark.parametrize("data", DEADLY.values(), ids=DEADLY)
def test_broken_frames_close_the_connection_and_harm_nobody_else(start: Start, tree: Path, data: bytes) -> None:
    gofer = start((tree, False), (tree, False))
    evil, good = gofer.socks[0], Client(gofer.socks[1])
    evil.settimeout(20)
    before = gofer.fds()
    evil.sendall(data)
    with suppress(ConnectionResetError):
        while evil.recv(65536):
            pass
    assert stat.S_ISDIR(good.attr(ROOT).mode)
    assert len(gofer.fds()) == len(before) - 2  # its socket and its root
    good.close()


SURVIVABLE: dict[str, tuple[Message, int]] = {
    "unknown fid": (m.Tgetattr(99, 0), errno.EBADF),
    "unknown fid, walking": (d.Twalkgetattr(99, 98, [b"f"]), errno.EBADF),
    "fid in use": (m.Twalk(0, 0xFFFFFFFF, []), errno.EBADF),
    "a reply as a request": (m.Rclunk(), errno.EOPNOTSUPP),
    "too many names": (m.Twalk(0, 1, [b"a"] * 0x100), errno.EINVAL),
    "an msize too small": (m.Tversion(4095, d.VERSION_PYSC), errno.EINVAL),
    "a huge readdir of no directory": (m.Treaddir(0, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF), errno.EBADF),
    "a directory entry of no room": (d.Tlistxattr(1), errno.EBADF),
    "an offset beyond any file": (m.Tread(0, 0xFFFFFFFFFFFFFFFF, 1), errno.EINVAL),
    "a NUL in an attribute's name": (d.Tgetxattr(0, b"user.\0"), errno.EINVAL),
}


@pytest.mark.parametrize(("request_", "code"), SURVIVABLE.values(), ids=SURVIVABLE)
def test_senseless_requests_are_refused(client: Client, request_: Message, code: int) -> None:
    with fails(code):
        client.call(request_)


def test_types_that_do_not_exist_are_refused(client: Client) -> None:
    for kind in set(range(256)) - set(MESSAGES):
        client.sock.sendall(frame(kind, b"anything"))
        [(_, reply)] = Decoder().feed(client.sock.recv(4096))
        assert reply == m.Rlerror(errno.EOPNOTSUPP)


def test_one_tag_used_twice_is_answered_twice(client: Client) -> None:
    client.sock.sendall(encode(5, m.Tgetattr(ROOT, 0)) * 2)
    got: list[tuple[int, Message]] = []
    decoder = Decoder()
    while len(got) < 2:
        got += decoder.feed(client.sock.recv(4096))
    assert [tag for tag, _ in got] == [5, 5]


def test_a_huge_listing_is_cut_to_msize(gofer: Gofer, tree: Path) -> None:
    for number in range(400):
        (tree / f"d/deep/{number}").touch()
    client = Client(gofer.socks[0], msize=4096)
    fid = client.open_dir("d/deep")
    assert 40 < len(client.entries(fid, 0, 0xFFFFFFFF)) <= (4096 - 11) // (86 + 1)
    assert len(client.listing(fid, 0xFFFFFFFF)) == 400
    client.close()


def test_a_reply_above_msize_is_refused_in_the_gofer(gofer: Gofer, tree: Path) -> None:
    os.setxattr(tree / "f", "user.big", bytes(3000))
    (tree / "long").symlink_to("x" * 4050)
    client = Client(gofer.socks[0], msize=4096)
    fid = client.walk("f")
    assert len(client.call(d.Tgetxattr(fid, b"user.big")).data) == 3000
    with fails(errno.EMSGSIZE):
        client.walk("long")
    client.close()


def test_descriptors_sent_to_the_gofer_are_dropped(client: Client, gofer: Gofer) -> None:
    before = gofer.fds()
    request = encode(1, m.Tgetattr(ROOT, 0))
    for _ in range(20):
        socket.send_fds(client.sock, [request], [client.sock.fileno()] * 50)
        assert client.sock.recv(4096)
    assert gofer.fds() == before


@contextmanager
def descriptor_limit(gofer: Gofer, spare: int) -> Iterator[None]:
    """The gofer can open only so many more."""
    old = resource.prlimit(gofer.pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{gofer.pid}/fd")}
    free = [number for number in range(old[0]) if number not in used]
    resource.prlimit(gofer.pid, resource.RLIMIT_NOFILE, (free[spare], old[1]))
    yield
    resource.prlimit(gofer.pid, resource.RLIMIT_NOFILE, old)


def test_out_of_descriptors_requests_fail_and_work_again_later(client: Client, gofer: Gofer, tree: Path) -> None:
    before = gofer.fds(), sorted(os.listdir(tree))
    me = os.geteuid(), os.getegid()
    held = []
    with descriptor_limit(gofer, 6):
        with fails(errno.EMFILE):
            for _ in range(50):
                held.append(client.walk("f"))
        for request in (
            d.Tlopenfd(held[0], os.O_RDONLY),
            d.Tlcreatefd(ROOT, 900, os.O_RDWR, 0o644, *me, b"new"),
            d.Tmake(ROOT, 900, stat.S_IFDIR | 0o755, *me, b"new"),
            d.Tmakesymlink(ROOT, 900, *me, b"new", b"x"),
            d.Twalkgetattr(held[0], 900, []),
            m.Twalk(ROOT, 900, [b"d", b".."]),
            m.Tfsync(held[0], 0),
        ):
            with fails(errno.EMFILE):
                client.call(request)
        # One left: enough to make the file, not to hold it.
        client.call(m.Tclunk(held.pop()))
        with fails(errno.EMFILE):
            client.call(d.Tlcreatefd(ROOT, 900, os.O_RDWR, 0o644, *me, b"new"))
        assert client.attr(held[0]).size == 6
    client.call(d.Tclunkmany(held))
    assert (gofer.fds(), sorted(os.listdir(tree))) == before
    assert client.read("f") == b"hello\n"


def test_the_number_of_fids_is_limited(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fids, "MAX_FIDS", 5)
    root = os.open(tree, os.O_PATH)
    session = Session(root, False)

    def ask(request: Message) -> Message:
        [(reply, _)] = session.receive(encode(1, request))
        [(_, message)] = Decoder().feed(reply)
        return message

    ask(m.Tversion(8192, m.VERSION_L))
    ask(m.Tattach(0, m.NOFID, b"", b"", 0))
    assert [ask(m.Twalk(0, number, [])) for number in range(1, 5)] == [m.Rwalk([])] * 4
    assert ask(m.Twalk(0, 5, [])) == m.Rlerror(errno.EMFILE)
    ask(m.Tclunk(3))
    assert ask(m.Twalk(0, 5, [])) == m.Rwalk([])
    session.close()
    os.close(root)


def test_a_client_that_does_not_read_is_not_served_on(start: Start, tree: Path) -> None:
    """It asks for gigabytes and reads nothing: the gofer holds one reply for it, and serves the other client."""
    (tree / "f").write_bytes(bytes(1 << 20))
    gofer = start((tree, False), (tree, False))
    greedy = Client(gofer.socks[0], m.VERSION_L, msize=1 << 20)
    greedy.call(m.Twalk(ROOT, 1, [b"f"]))
    greedy.call(m.Tlopen(1, os.O_RDONLY))
    resident = memory_of(gofer)
    requests = b"".join(encode(tag, m.Tread(1, 0, 1 << 20)) for tag in range(2000))
    greedy.sock.setblocking(False)
    with suppress(BlockingIOError):
        greedy.sock.sendall(requests)
    other = Client(gofer.socks[1])
    for _ in range(50):
        assert other.attr(other.walk("d")).nlink == 3
    assert memory_of(gofer) - resident < 16 << 20
    # Once it reads, it gets everything.
    greedy.sock.settimeout(20)
    got = 0
    decoder = Decoder()
    while got < 200:
        for _, reply in decoder.feed(greedy.sock.recv(1 << 20)):
            assert isinstance(reply, m.Rread)
            assert len(reply.data) == (1 << 20) - 11
            got += 1
    greedy.close()
    other.close()


def memory_of(gofer: Gofer) -> int:
    with open(f"/proc/{gofer.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_donations_that_nobody_takes_do_not_pile_up(start: Start, tree: Path) -> None:
    """Opens without reading the replies: the socket fills, the gofer waits, and hanging up closes everything."""
    gofer = start((tree, False), (tree, False))
    client, other = (Client(sock) for sock in gofer.socks)
    before = len(gofer.fds())
    fid = client.walk("f")
    client.sock.setblocking(False)
    with suppress(BlockingIOError):
        client.sock.sendall(encode(1, d.Tlopenfd(fid, os.O_RDONLY)) * 20000)
    settle(other)
    assert len(gofer.fds()) == before + 2  # the fid, and the one descriptor that could not be sent
    client.sock.close()
    settle(other)
    assert len(gofer.fds()) == before - 3  # its socket, its root, its attached root
    other.close()


def settle(other: Client) -> None:
    """Let the gofer's loop turn: it serves its ready connections in the order in which they became so."""
    for _ in range(8):
        other.attr(ROOT)


def test_hanging_up_closes_everything_of_that_connection(start: Start, tree: Path) -> None:
    gofer = start((tree, False), (tree, False))
    staying = Client(gofer.socks[1])
    before = gofer.fds()
    client = Client(gofer.socks[0])
    for name in ("f", "d", "link", "fifo"):
        client.walk(name)
    client.entries(client.open_dir("/"), 0, 200)
    client.sock.sendall(frame(110, bytes(3), size=40))  # and half a request
    assert len(gofer.fds()) > len(before)
    client.close()
    settle(staying)
    assert len(gofer.fds()) == len(before) - 2
    assert staying.read("f") == b"hello\n"
    staying.close()


NAMES = [b"f", b"d", b"inner", b"deep", b"link", b"fifo", b"null", b"new", b"user.a", b"..", b".", b"", b"/", b"\0"]
MODES = [0o644, 0o40755, 0o2755, 0o10644, 0o140644, 0o120777, 0o20666]


def random_value(rng: random.Random, name: str, kind: str) -> Any:
    """Values that are often meaningful, so that requests get past their first check."""
    if kind.startswith("list"):
        return [random_value(rng, name, kind[5:-1]) for _ in range(rng.choice([0, 1, 1, 2, 3, 17]))]
    if kind in ("Str", "Data"):
        return rng.choice(NAMES) if rng.random() < 0.95 else rng.randbytes(rng.randrange(300))
    if "fid" in name and rng.random() < 0.95:
        return rng.randrange(6)
    if name in ("mode", "uid", "gid") and rng.random() < 0.9:
        return rng.choice(MODES if name == "mode" else [0, 1000])
    bits = 8 * struct.calcsize("<" + INTEGER_CODES[kind])
    return rng.choice([0, 1, 2, 3, 0x200, 4096, rng.getrandbits(bits - 1)]) & ((1 << bits - (kind[0] == "i")) - 1)


def random_request(rng: random.Random) -> Message:
    requests = [cls for cls in MESSAGES.values() if cls.TYPE % 2 == 0 and cls.TYPE != m.Tversion.TYPE]
    cls = rng.choice(requests)
    return cls(*(random_value(rng, name, kind) for name, kind in cls.FIELDS.items()))


@pytest.mark.parametrize("seed", range(6))
def test_random_requests_are_all_answered_and_leak_nothing(start: Start, tree: Path, seed: int) -> None:
    rng = random.Random(seed)
    gofer = start((tree, False))
    version = m.VERSION_L if seed % 3 == 0 else d.VERSION_PYSC
    client = Client(gofer.socks[0], version)
    client.call(m.Tclunk(ROOT))
    before = gofer.fds()
    outside = sorted(os.listdir(tree.parent / "outside"))
    for _ in range(1000):
        request = random_request(rng)
        if isinstance(request, m.Tsetattr | d.Tsetgetattr) and request.valid & m.SETATTR_SIZE:
            continue  # it would try to make files of exabytes
        with suppress(OSError):
            client.call(request)
        if client.donated is not None:
            os.close(client.take_donated())
        with suppress(OSError):
            client.call(m.Tattach(rng.randrange(6), m.NOFID, b"", b"", m.NONUNAME))
    client.sock.sendall(encode(m.NOTAG, m.Tversion(8192, version)))
    assert client.sock.recv(4096)
    assert gofer.fds() == before
    assert sorted(os.listdir(tree.parent / "outside")) == outside
    client.close()


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_end_in_a_hang_up_or_in_silence(start: Start, tree: Path, seed: int) -> None:
    rng = random.Random(seed)
    gofer = start((tree, False), (tree, False))
    good = Client(gofer.socks[1])
    evil = gofer.socks[0]
    evil.settimeout(20)
    with suppress(OSError):
        evil.sendall(HELLO if seed % 2 else b"")
        for _ in range(20):
            body = rng.randbytes(rng.randrange(40))
            evil.sendall(frame(rng.choice([*MESSAGES, rng.randrange(256)]), body) if seed % 4 else rng.randbytes(99))
        evil.shutdown(socket.SHUT_WR)
        while evil.recv(65536):
            pass
    assert good.read("f") == b"hello\n"
    good.close()
