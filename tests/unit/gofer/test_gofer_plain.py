"""Plain 9P2000.L, as any client of that version speaks it."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from proto.ninep.codec import MAX_MSIZE, Decoder, dirents, encode
from proto.ninep.dialect import Tlopenfd
from proto.ninep.message import Message
from proto.ninep.messages import (
    GETATTR_BASIC,
    LOCK_BLOCKED,
    LOCK_SUCCESS,
    LOCK_TYPE_UNLCK,
    LOCK_TYPE_WRLCK,
    NOFID,
    NONUNAME,
    NOTAG,
    QT_DIR,
    QT_SYMLINK,
    SETATTR_ATIME,
    SETATTR_ATIME_SET,
    SETATTR_MODE,
    SETATTR_MTIME,
    SETATTR_MTIME_SET,
    VERSION_L,
    Qid,
    Rflush,
    Rversion,
    Tattach,
    Tauth,
    Tclunk,
    Tflush,
    Tgetattr,
    Tgetlock,
    Tlcreate,
    Tlink,
    Tlock,
    Tlopen,
    Tmkdir,
    Tmknod,
    Tread,
    Treaddir,
    Treadlink,
    Tremove,
    Trename,
    Trenameat,
    Tsetattr,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Tversion,
    Twalk,
    Twrite,
    Txattrcreate,
    Txattrwalk,
)
from tests.unit.gofer.conftest import Start
from tests.unit.gofer.goferclient import ROOT, Client, Gofer, fails, needs_root


def walk(client: Client, path: str, start: int = ROOT) -> int:
    fid = client.new_fid()
    names = [name.encode() for name in path.split("/") if name]
    if len(client.call(Twalk(start, fid, names)).qids) < len(names):
        raise FileNotFoundError(path)
    return fid


def opened(client: Client, path: str, flags: int = os.O_RDONLY) -> int:
    fid = walk(client, path)
    client.call(Tlopen(fid, flags))
    return fid


def listing(client: Client, fid: int, count: int = 8192) -> list[tuple[Qid, int, int, bytes]]:
    found: list[tuple[Qid, int, int, bytes]] = []
    while batch := dirents(client.call(Treaddir(fid, found[-1][1] if found else 0, count)).data):
        found += batch
    return found


class TestSession:
    def ask(self, gofer: Gofer, request: Message) -> Message:
        gofer.socks[0].sendall(encode(NOTAG, request))
        [(tag, reply)] = Decoder().feed(gofer.socks[0].recv(4096))
        assert tag == NOTAG
        return reply

    @pytest.mark.parametrize(
        ("asked", "answered"),
        [(b"9P2000.L", b"9P2000.L"), (b"9P2000.L.pysc", b"9P2000.L.pysc"), (b"9P2000.L.Google.13", b"9P2000.L"),
         (b"9P2000", b"unknown"), (b"9P2000.u", b"unknown"), (b"", b"unknown"), (b"9P2000.Larger", b"unknown")],
    )  # fmt: skip
    def test_the_version_is_what_both_know(self, gofer: Gofer, asked: bytes, answered: bytes) -> None:
        assert self.ask(gofer, Tversion(8192, asked)) == Rversion(8192, answered)

    def test_msize_has_a_cap(self, gofer: Gofer) -> None:
        assert self.ask(gofer, Tversion(0xFFFFFFFF, VERSION_L)) == Rversion(MAX_MSIZE, VERSION_L)

    def test_a_second_version_ends_the_first_session(self, plain: Client, gofer: Gofer) -> None:
        before = gofer.fds()
        walk(plain, "d")
        opened(plain, "f")
        plain.sock.sendall(plain.connection.hello())
        plain.receive()
        assert len(gofer.fds()) == len(before) - 1
        with fails(errno.EBADF):
            plain.call(Tgetattr(ROOT, 0))

    def test_the_dialects_requests_are_unknown(self, plain: Client) -> None:
        with fails(errno.EOPNOTSUPP):
            plain.call(Tlopenfd(ROOT, 0))

    def test_authentication_and_other_trees_are_refused(self, plain: Client) -> None:
        with fails(errno.ENOENT):
            plain.call(Tauth(9, b"", b"", 0))
        with fails(errno.EBADF):
            plain.call(Tattach(9, 8, b"", b"", 0))
        with fails(errno.ENOENT):
            plain.call(Tattach(9, NOFID, b"", b"/etc", 0))
        with fails(errno.EBADF):
            plain.call(Tattach(ROOT, NOFID, b"", b"", 0))

    def test_flush_is_answered(self, plain: Client) -> None:
        assert plain.call(Tflush(5)) == Rflush()


class TestReading:
    def test_walk_gives_qids(self, plain: Client, tree: Path) -> None:
        qids = plain.call(Twalk(ROOT, plain.new_fid(), [b"d", b"inner"])).qids
        assert qids == [Qid(QT_DIR, 0, (tree / "d").stat().st_ino), Qid(0, 0, (tree / "d/inner").stat().st_ino)]
        assert plain.call(Twalk(ROOT, plain.new_fid(), [b"link"])).qids[0].type == QT_SYMLINK

    def test_a_partial_walk_makes_no_fid(self, plain: Client) -> None:
        fid = plain.new_fid()
        assert len(plain.call(Twalk(ROOT, fid, [b"d", b"nope"])).qids) == 1
        with fails(errno.EBADF):
            plain.call(Tgetattr(fid, 0))

    def test_dot_dot_leads_up_but_never_out(self, plain: Client, tree: Path) -> None:
        root = (tree.stat()).st_ino
        qids = plain.call(Twalk(walk(plain, "d/deep"), plain.new_fid(), [b".."] * 4)).qids
        assert [qid.path for qid in qids] == [(tree / "d").stat().st_ino, root, root, root]
        assert plain.call(Twalk(walk(plain, "d"), plain.new_fid(), [b".", b".", b".."])).qids[1:] == [qids[0], qids[1]]
        for name in (".", ".."):
            with fails(errno.ENOTDIR):
                walk(plain, name, start=walk(plain, "f"))

    def test_getattr_gives_what_stat_gives(self, plain: Client, tree: Path) -> None:
        s = (tree / "f").stat()
        os.utime(tree / "f", ns=(-1, 5_000_000_007))
        reply = plain.call(Tgetattr(walk(plain, "f"), GETATTR_BASIC))
        assert reply.valid == GETATTR_BASIC
        assert (reply.mode, reply.uid, reply.gid, reply.nlink) == (s.st_mode, s.st_uid, s.st_gid, s.st_nlink)
        assert (reply.size, reply.blksize, reply.blocks) == (s.st_size, s.st_blksize, s.st_blocks)
        assert (reply.atime_sec, reply.atime_nsec) == ((1 << 64) - 1, 999_999_999)
        assert (reply.mtime_sec, reply.mtime_nsec) == (5, 7)
        assert reply.qid.path == s.st_ino

    def test_files_are_read_and_written(self, plain: Client, tree: Path) -> None:
        fid = opened(plain, "f", os.O_RDWR)
        assert plain.call(Tread(fid, 1, 3)).data == b"ell"
        assert plain.call(Tread(fid, 100, 3)).data == b""
        assert plain.call(Twrite(fid, 4, b"P!")).count == 2
        assert (tree / "f").read_bytes() == b"hellP!"
        with fails(errno.EBADF):
            plain.call(Tlopen(fid, os.O_RDONLY))

    def test_a_read_is_cut_to_msize(self, plain: Client, tree: Path) -> None:
        (tree / "f").write_bytes(bytes(1 << 20))
        assert len(plain.call(Tread(opened(plain, "f"), 0, 0xFFFFFFFF)).data) == plain.connection.msize - 11

    def test_access_modes_hold(self, plain: Client) -> None:
        with fails(errno.EBADF):
            plain.call(Twrite(opened(plain, "f"), 0, b"x"))
        with fails(errno.EBADF):
            plain.call(Tread(opened(plain, "f", os.O_WRONLY), 0, 1))
        for request in (Tread(walk(plain, "f"), 0, 1), Twrite(walk(plain, "f"), 0, b"x")):
            with fails(errno.EBADF):
                plain.call(request)
        with fails(errno.EISDIR):
            plain.call(Tread(opened(plain, "d"), 0, 1))
        with fails(errno.EINVAL):
            plain.call(Tread(opened(plain, "f"), 1 << 63, 1))

    def test_directories_list_dots_types_and_inodes(self, plain: Client, tree: Path) -> None:
        entries = {name: (qid, kind) for qid, _, kind, name in listing(plain, opened(plain, "/"))}
        assert set(entries) == {b".", b"..", *(os.fsencode(name) for name in os.listdir(tree))}
        root = Qid(QT_DIR, 0, tree.stat().st_ino)
        assert entries[b"."] == entries[b".."] == (root, 4)
        assert entries[b"f"] == (Qid(0, 0, (tree / "f").stat().st_ino), 8)
        assert entries[b"link"] == (Qid(QT_SYMLINK, 0, (tree / "link").lstat().st_ino), 10)
        up = {name: qid for qid, _, _, name in listing(plain, opened(plain, "d"))}
        assert up[b".."] == root

    @pytest.mark.parametrize("count", [30, 60, 8192])
    def test_every_entry_comes_once_however_small_the_pieces(self, plain: Client, tree: Path, count: int) -> None:
        for number in range(100):
            (tree / f"d/deep/{number}").touch()
        entries = listing(plain, opened(plain, "d/deep"), count)
        assert [name for *_, name in entries[:2]] == [b".", b".."]
        assert len(entries) == len({name for *_, name in entries}) == 102
        assert [offset for _, offset, _, _ in entries] == list(range(1, 103))

    @pytest.mark.parametrize(("offset", "count"), [(0, 10), (1, 10), (2, 10)])
    def test_no_room_for_one_entry_is_an_error(self, plain: Client, offset: int, count: int) -> None:
        with fails(errno.EINVAL):
            plain.call(Treaddir(opened(plain, "/"), offset, count))

    def test_readlink_statfs_and_what_they_do_not_fit(self, plain: Client, tree: Path) -> None:
        assert plain.call(Treadlink(walk(plain, "etc"))).target == b"/etc"
        with fails(errno.ENOENT):  # readlinkat(2) of a file, by descriptor
            plain.call(Treadlink(walk(plain, "f")))
        reply = plain.call(Tstatfs(walk(plain, "f")))
        assert (reply.bsize, reply.namelen) == (os.statvfs(tree).f_bsize, 255)


class TestChanging:
    def test_lcreate_makes_the_fid_the_new_open_file(self, plain: Client, tree: Path) -> None:
        fid = walk(plain, "d")
        qid = plain.call(Tlcreate(fid, b"new", os.O_RDWR | os.O_CREAT, 0o666, os.getegid())).qid
        plain.call(Twrite(fid, 0, b"abc"))
        assert plain.call(Tread(fid, 0, 9)).data == b"abc"
        s = (tree / "d/new").stat()
        assert (qid.path, stat.S_IMODE(s.st_mode)) == (s.st_ino, 0o666)

    def test_lcreate_opens_what_exists_unless_exclusive(self, plain: Client) -> None:
        fid = walk(plain, "/")
        with fails(errno.EEXIST):
            plain.call(Tlcreate(fid, b"f", os.O_RDWR | os.O_EXCL, 0o666, 0))
        plain.call(Tlcreate(fid, b"f", os.O_RDWR, 0o666, 0))
        assert plain.call(Tread(fid, 0, 9)).data == b"hello\n"

    @pytest.mark.parametrize(
        ("name", "code"), [(b"link", errno.ELOOP), (b"etc", errno.ELOOP), (b"d", errno.EISDIR), (b"fifo", errno.ENXIO)]
    )
    def test_lcreate_follows_and_opens_nothing_else(self, plain: Client, gofer: Gofer, name: bytes, code: int) -> None:
        fid = walk(plain, "/")
        before = gofer.fds()
        with fails(code):
            plain.call(Tlcreate(fid, name, os.O_RDWR, 0o666, 0))
        assert gofer.fds() == before

    @needs_root
    def test_new_files_belong_to_the_attached_user_and_the_given_group(self, gofer: Gofer, tree: Path) -> None:
        client = Client(gofer.socks[0], VERSION_L, uid=1000)
        client.call(Tlcreate(walk(client, "d"), b"file", os.O_RDWR, 0o644, 1001))
        client.call(Tmkdir(ROOT, b"dir", 0o755, 1001))
        client.call(Tsymlink(ROOT, b"new-link", b"x", 1001))
        client.call(Tmknod(ROOT, b"node", stat.S_IFIFO | 0o644, 0, 0, 1001))
        for name in ("d/file", "dir", "new-link", "node"):
            s = (tree / name).lstat()
            assert (s.st_uid, s.st_gid) == (1000, 1001)
        client.close()

    def test_nodes_directories_and_links_are_made(self, plain: Client, tree: Path) -> None:
        plain.call(Tmkdir(ROOT, b"dir", 0o700, NONUNAME))
        plain.call(Tmknod(ROOT, b"pipe", stat.S_IFIFO | 0o600, 0, 0, NONUNAME))
        plain.call(Tlink(ROOT, walk(plain, "f"), b"f3"))
        assert (tree / "dir").is_dir()
        assert (tree / "pipe").is_fifo()
        assert (tree / "f3").samefile(tree / "f")
        with fails(errno.EPERM):
            plain.call(Tmknod(ROOT, b"dev", stat.S_IFCHR | 0o600, 1, 3, 0))
        with fails(errno.EINVAL):
            plain.call(Tmknod(ROOT, b"dev", stat.S_IFDIR | 0o600, 0, 0, 0))

    def test_setattr_sets_mode_and_times(self, plain: Client, tree: Path) -> None:
        valid = SETATTR_MODE | SETATTR_ATIME | SETATTR_ATIME_SET | SETATTR_MTIME | SETATTR_MTIME_SET
        plain.call(Tsetattr(walk(plain, "f"), valid, 0o640, 0, 0, 0, 5, 6, (1 << 64) - 1, 7))
        s = (tree / "f").stat()
        assert (stat.S_IMODE(s.st_mode), s.st_atime_ns, s.st_mtime_ns) == (0o640, 5_000_000_006, -999_999_993)

    def test_renames_and_removals(self, plain: Client, tree: Path) -> None:
        plain.call(Trenameat(ROOT, b"f", walk(plain, "d"), b"g"))
        fid = walk(plain, "d/g")
        plain.call(Trename(fid, ROOT, b"h"))
        assert (tree / "h").read_bytes() == b"hello\n"
        plain.call(Tremove(fid))
        assert not (tree / "h").exists()
        with fails(errno.EBADF):
            plain.call(Tclunk(fid))
        with fails(errno.ENOTEMPTY):
            plain.call(Tunlinkat(ROOT, b"d", 0x200))
        with fails(errno.EISDIR):
            plain.call(Tunlinkat(ROOT, b"d", 0))
        with fails(errno.EINVAL):
            plain.call(Tunlinkat(ROOT, b"d", 1))

    def test_a_failed_remove_clunks_the_fid_nevertheless(self, plain: Client, gofer: Gofer) -> None:
        before = gofer.fds()
        fid = walk(plain, "d")
        with fails(errno.ENOTEMPTY):
            plain.call(Tremove(fid))
        with fails(errno.EBADF):
            plain.call(Tclunk(fid))
        assert gofer.fds() == before

    def test_a_fid_whose_name_now_is_another_file_removes_nothing(self, plain: Client, tree: Path) -> None:
        fid = walk(plain, "f")
        (tree / "d/inner").rename(tree / "f")
        for request in (Trename(fid, ROOT, b"x"), Tremove(fid)):
            with fails(errno.ENOENT):
                plain.call(request)
        assert (tree / "f").read_bytes() == b"inside\n"
        with fails(errno.EBUSY):
            plain.call(Tremove(walk(plain, "/")))


class TestExtendedAttributes:
    def test_values_and_lists_are_read_through_a_fid(self, plain: Client, gofer: Gofer, tree: Path) -> None:
        os.setxattr(tree / "f", "user.a", b"value")
        file, value, names = walk(plain, "f"), plain.new_fid(), plain.new_fid()
        assert plain.call(Txattrwalk(file, value, b"user.a")).size == 5
        assert plain.call(Tread(value, 1, 3)).data == b"alu"
        assert plain.call(Txattrwalk(file, names, b"")).size == 7
        assert plain.call(Tread(names, 0, 99)).data == b"user.a\0"
        for request in (Tgetattr(value, 0), Tlopen(value, 0), Twalk(value, 99, []), Twrite(value, 0, b"")):
            with pytest.raises(OSError):
                plain.call(request)
        plain.call(Tclunk(value))
        with fails(errno.ENODATA):
            plain.call(Txattrwalk(file, value, b"user.none"))

    def test_a_value_is_set_by_the_clunk(self, plain: Client, tree: Path) -> None:
        fid = walk(plain, "f")
        plain.call(Txattrcreate(fid, b"user.a", 4, 0))
        plain.call(Twrite(fid, 0, b"ab"))
        for wrong in (Twrite(fid, 0, b"x"), Twrite(fid, 2, b"xyz")):
            with fails(errno.EINVAL):
                plain.call(wrong)
        plain.call(Twrite(fid, 2, b"cd"))
        plain.call(Tclunk(fid))
        assert os.getxattr(tree / "f", "user.a") == b"abcd"

    def test_no_bytes_and_no_flags_remove_it(self, plain: Client, tree: Path) -> None:
        os.setxattr(tree / "f", "user.a", b"value")
        fid = walk(plain, "f")
        plain.call(Txattrcreate(fid, b"user.a", 0, 0))
        plain.call(Tclunk(fid))
        assert os.listxattr(tree / "f") == []

    def test_what_cannot_be_set_fails_the_clunk_and_frees_the_fid(self, plain: Client, gofer: Gofer) -> None:
        before = gofer.fds()
        fid = walk(plain, "f")
        plain.call(Txattrcreate(fid, b"user.a", 4, 0))
        with fails(errno.ENODATA):
            plain.call(Tclunk(fid))
        assert gofer.fds() == before
        with fails(errno.E2BIG):
            plain.call(Txattrcreate(walk(plain, "f"), b"user.a", 65537, 0))


def test_locks_of_two_fids_exclude_each_other(plain: Client) -> None:
    first, second = opened(plain, "f", os.O_RDWR), opened(plain, "f", os.O_RDWR)
    write_lock = (LOCK_TYPE_WRLCK, 0, 2, 3, 77, b"host")
    assert plain.call(Tlock(first, *write_lock)).status == LOCK_SUCCESS
    assert plain.call(Tlock(second, *write_lock)).status == LOCK_BLOCKED
    held = plain.call(Tgetlock(second, LOCK_TYPE_WRLCK, 0, 0, 77, b"host"))
    assert (held.type, held.start, held.length) == (LOCK_TYPE_WRLCK, 2, 3)
    plain.call(Tlock(first, LOCK_TYPE_UNLCK, 0, 0, 0, 77, b"host"))
    assert plain.call(Tgetlock(second, LOCK_TYPE_WRLCK, 0, 0, 77, b"host")).type == LOCK_TYPE_UNLCK
    with fails(errno.EINVAL):
        plain.call(Tlock(first, 3, 0, 0, 0, 0, b""))
    with fails(errno.EBADF):
        plain.call(Tlock(walk(plain, "f"), *write_lock))


class TestMounts:
    def test_each_connection_has_its_own_root_and_fids(self, start: Start, tree: Path) -> None:
        gofer = start((tree, False), (tree / "d", False))
        first, second = (Client(sock) for sock in gofer.socks)
        assert first.read("f") == b"hello\n"
        assert second.read("inner") == b"inside\n"
        with fails(errno.ENOENT):
            second.walk("f")
        fid = first.walk("f")
        with fails(errno.EBADF):
            second.call(Tgetattr(fid + 1000, 0))
        first.close()
        assert second.read("inner") == b"inside\n"
        second.close()

    def test_a_file_may_be_a_root(self, start: Start, tree: Path) -> None:
        gofer = start((tree / "f", False))
        client = Client(gofer.socks[0])
        with open(client.open(ROOT), "rb") as file:
            assert file.read() == b"hello\n"
        assert client.attr(ROOT).ino == (tree / "f").stat().st_ino
        with fails(errno.ENOTDIR):
            client.walk("x")
        with fails(errno.EINVAL):
            client.walk("..")
        client.close()

    @pytest.mark.parametrize("name", ["fifo", "sock", "link"])
    def test_anything_else_may_be_a_root_but_not_be_opened(self, start: Start, tree: Path, name: str) -> None:
        client = Client(start((tree / name, False)).socks[0])
        assert client.attr(ROOT).ino == (tree / name).lstat().st_ino
        with pytest.raises(OSError):
            client.open(ROOT)
        client.close()

    def test_the_gofer_ends_when_its_last_connection_has(self, start: Start, tree: Path) -> None:
        gofer = start((tree, False), (tree, False))
        gofer.socks[0].shutdown(socket.SHUT_WR)
        assert gofer.socks[0].recv(1) == b""
        client = Client(gofer.socks[1])
        client.close()
        assert gofer.wait() == 0
