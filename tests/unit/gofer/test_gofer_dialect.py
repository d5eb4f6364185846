"""The dialect's requests, each against a real tree: walking, opening, creating, changing."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from gofer.session import Session
from proto.ninep.codec import encode
from proto.ninep.dialect import (
    VERSION_PYSC,
    Attr,
    Rwalkgetattr,
    Tclunkmany,
    Tlcreatefd,
    Tlopenfd,
    Tmake,
    Tmakelink,
    Tmakesymlink,
    Tplace,
    Tsetgetattr,
    Twalkgetattr,
)
from proto.ninep.messages import (
    NOFID,
    SETATTR_ATIME,
    SETATTR_ATIME_SET,
    SETATTR_GID,
    SETATTR_MODE,
    SETATTR_MTIME,
    SETATTR_MTIME_SET,
    SETATTR_SIZE,
    SETATTR_UID,
    Tattach,
    Tclunk,
    Tfsync,
    Tgetattr,
    Trenameat,
    Tunlinkat,
    Tversion,
)
from tests.unit.gofer.conftest import Start
from tests.unit.gofer.goferclient import CAP_CHOWN, ROOT, Client, Gofer, fails, host_attr, needs_root, tick


def inode_numbers(reply: Rwalkgetattr) -> list[int]:
    """For symbolic links, whose access time the walk itself changes."""
    return [attr.ino for attr in reply.attrs]


class TestWalking:
    def test_each_component_comes_with_its_attributes(self, client: Client, tree: Path) -> None:
        reply = client.call(Twalkgetattr(ROOT, client.new_fid(), [b"d", b"inner"]))
        assert reply.attrs == [host_attr(tree / "d"), host_attr(tree / "d/inner")]
        assert reply.target == b""

    def test_a_walk_that_ends_early_makes_no_fid(self, client: Client, tree: Path) -> None:
        fid = client.new_fid()
        reply = client.call(Twalkgetattr(ROOT, fid, [b"d", b"nope", b"x"]))
        assert reply.attrs == [host_attr(tree / "d")]
        with fails(errno.EBADF):
            client.call(Tgetattr(fid, 0))

    def test_a_walk_whose_first_name_is_missing_fails(self, client: Client) -> None:
        with fails(errno.ENOENT):
            client.walk("nope")

    def test_no_names_clone_the_fid(self, client: Client, tree: Path) -> None:
        first = client.walk("f")
        second = client.new_fid()
        assert client.call(Twalkgetattr(first, second, [])).attrs == [host_attr(tree / "f")]
        client.call(Tclunk(first))
        assert client.attr(second) == host_attr(tree / "f")

    def test_without_a_new_fid_nothing_stays_open(self, client: Client, gofer: Gofer, tree: Path) -> None:
        before = gofer.fds()
        for names in ([b"f"], [b"d", b"inner"], [b"d", b"nope"], [b"link"], [b"d", b"nope", b"x"], []):
            client.call(Twalkgetattr(ROOT, NOFID, names))
        assert gofer.fds() == before

    @pytest.mark.parametrize("fid", [NOFID, 77])
    def test_a_symbolic_link_comes_with_its_target(self, client: Client, tree: Path, fid: int) -> None:
        reply = client.call(Twalkgetattr(ROOT, fid, [b"link"]))
        assert (reply.target, inode_numbers(reply)) == (b"f", [(tree / "link").lstat().st_ino])

    def test_a_walk_stops_at_a_symbolic_link_and_says_where_it_leads(self, client: Client, tree: Path) -> None:
        reply = client.call(Twalkgetattr(ROOT, client.new_fid(), [b"etc", b"passwd"]))
        assert (reply.target, inode_numbers(reply)) == (b"/etc", [(tree / "etc").lstat().st_ino])

    def test_a_walk_stops_at_a_file(self, client: Client, tree: Path) -> None:
        reply = client.call(Twalkgetattr(ROOT, client.new_fid(), [b"f", b"x"]))
        assert reply.attrs == [host_attr(tree / "f")]
        with fails(errno.ENOTDIR):
            client.walk("x", start=client.walk("f"))

    def test_a_clone_of_a_symbolic_link_has_its_target_too(self, client: Client) -> None:
        assert client.call(Twalkgetattr(client.walk("link"), NOFID, [])).target == b"f"

    def test_newfid_may_be_the_fid_itself(self, client: Client, gofer: Gofer, tree: Path) -> None:
        fid = client.walk("d")
        before = len(gofer.fds())
        client.call(Twalkgetattr(fid, fid, [b"inner"]))
        assert client.attr(fid) == host_attr(tree / "d/inner")
        assert len(gofer.fds()) == before

    def test_a_new_fid_in_use_is_refused(self, client: Client) -> None:
        with fails(errno.EBADF):
            client.call(Twalkgetattr(ROOT, client.walk("f"), [b"d"]))

    @pytest.mark.parametrize("fid", [NOFID, 77])
    def test_more_than_sixteen_names_are_refused(self, client: Client, fid: int) -> None:
        with fails(errno.EINVAL):
            client.call(Twalkgetattr(ROOT, fid, [b"d"] * 17))

    def test_hard_links_have_one_inode_number_and_other_files_another(self, client: Client) -> None:
        numbers = [client.attr(client.walk(name)).ino for name in ("f", "f2", "d/inner")]
        assert numbers[0] == numbers[1] != numbers[2]

    def test_a_fid_stays_the_same_file_when_it_is_renamed(self, client: Client) -> None:
        fid = client.walk("f")
        client.call(Trenameat(ROOT, b"f", client.walk("d"), b"moved"))
        assert client.attr(fid).ino == client.attr(client.walk("d/moved")).ino
        with open(client.open(fid), "rb") as file:
            assert file.read() == b"hello\n"

    def test_a_fid_outlives_the_last_name_of_its_file(self, client: Client) -> None:
        fid = client.walk("d/inner")
        client.call(Tunlinkat(client.walk("d"), b"inner", 0))
        assert client.attr(fid).nlink == 0
        with open(client.open(fid, os.O_RDWR), "r+b") as file:
            assert file.read() == b"inside\n"
            file.write(b"more")
        assert client.call(Tsetgetattr(fid, SETATTR_SIZE, 0, 0, 0, 2, 0, 0)).attr.size == 2

    def test_clunked_fids_are_closed(self, client: Client, gofer: Gofer) -> None:
        before = gofer.fds()
        fids = [client.walk(name) for name in ("f", "d", "d/inner")]
        client.open_dir("d/deep")
        assert len(gofer.fds()) == len(before) + 5
        client.call(Tclunk(fids[0]))
        client.call(Tclunkmany([*fids, 4000, fids[1], fids[-1] + 1]))
        assert gofer.fds() == before


class TestSending:
    def test_replies_to_requests_that_came_together_go_back_together(self, client: Client) -> None:
        requests = [Twalkgetattr(ROOT, client.new_fid(), [b"f"]), Twalkgetattr(ROOT, NOFID, [b"nosuch"])]
        sent = [client.connection.send(request) for request in requests]
        client.sock.sendall(b"".join(frame for _, frame in sent))
        assert [tag for tag, _, _ in client.receive()] == [tag for tag, _ in sent]

    def test_a_descriptor_may_come_with_earlier_replies(self, client: Client) -> None:
        fid = client.new_fid()
        requests = [Twalkgetattr(ROOT, fid, [b"f"]), Tlopenfd(fid, os.O_RDONLY), Tlopenfd(fid, os.O_RDWR)]
        client.sock.sendall(b"".join(client.connection.send(request)[1] for request in requests))
        fds = [fd for _ in range(2) for _, _, fd in client.receive() if fd is not None]
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in fds] == [os.O_RDONLY, os.O_RDWR]
        for fd in fds:
            os.close(fd)

    def test_what_waits_for_the_disk_keeps_no_reply_back(self, tree: Path) -> None:
        root = os.open(tree, os.O_PATH)
        session = Session(root, False)
        requests = [Tversion(8192, VERSION_PYSC), Tattach(ROOT, NOFID, b"", b"", 0), Tfsync(ROOT, 0), Tclunk(ROOT)]
        frames = [frame for frame, _ in session.receive(b"".join(encode(1, request) for request in requests))]
        assert [bool(frame) for frame in frames] == [True, True, False, True, True]
        session.close()
        os.close(root)

    def test_the_gofer_runs_where_its_client_says(self, client: Client, gofer: Gofer) -> None:
        cpu = max(os.sched_getaffinity(0))
        client.call(Tplace(cpu))
        assert os.sched_getaffinity(gofer.pid) == {cpu}
        with fails(errno.EINVAL):
            client.call(Tplace(1 << 20))


class TestOpening:
    @pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
    def test_the_donated_descriptor_has_the_access_mode_asked_for(self, client: Client, tree: Path, mode: int) -> None:
        fd = client.open(client.walk("f"), mode | os.O_APPEND | os.O_NONBLOCK)
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            assert flags & os.O_ACCMODE == mode
            assert not flags & (os.O_APPEND | os.O_NONBLOCK)
            assert os.path.samestat(os.fstat(fd), (tree / "f").stat())
        finally:
            os.close(fd)

    def test_truncating_shows_in_the_attributes(self, client: Client, tree: Path) -> None:
        reply = client.call(Tlopenfd(client.walk("f"), os.O_WRONLY | os.O_TRUNC))
        os.close(client.take_donated())
        assert reply.attr.size == 0
        assert (tree / "f").read_bytes() == b""

    def test_a_fid_can_be_opened_again_in_another_mode(self, client: Client, gofer: Gofer, tree: Path) -> None:
        fid = client.walk("f")
        before = gofer.fds()
        reader, writer = client.open(fid), client.open(fid, os.O_WRONLY)
        client.attr(ROOT)  # answered only after the gofer has closed what it donated before
        assert gofer.fds() == before
        os.write(writer, b"HE")
        assert os.read(reader, 9) == b"HEllo\n"
        os.close(reader)
        os.close(writer)

    def test_several_descriptors_under_way_go_to_their_own_replies(self, client: Client, tree: Path) -> None:
        """One burst of opens, with one that donates nothing and one that fails among them."""
        for number in range(6):
            (tree / f"n{number}").write_text(str(number))
        fids = [client.walk(f"n{number}") for number in range(6)]
        fids[2:2] = [client.walk("d"), 4000]
        frames = [client.connection.send(Tlopenfd(fid, os.O_RDONLY)) for fid in fids]
        client.sock.sendall(b"".join(frame for _, frame in frames))
        replies: dict[int, int | None] = {}
        while len(replies) < len(fids):
            replies.update({tag: fd for tag, _, fd in client.receive()})
        got = [replies[tag] for tag, _ in frames]
        assert [got.pop(2), got.pop(2)] == [None, None]
        contents = []
        for fd in got:
            assert fd is not None
            contents.append(os.read(fd, 9))
            os.close(fd)
        assert contents == [b"0", b"1", b"2", b"3", b"4", b"5"]

    @pytest.mark.parametrize(
        ("name", "code"), [("fifo", errno.ENXIO), ("sock", errno.ENXIO), ("link", errno.ELOOP), ("etc", errno.ELOOP)]
    )
    def test_what_is_no_file_or_directory_is_never_opened(self, client: Client, name: str, code: int) -> None:
        fid = client.walk(name)
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with fails(code):
                client.call(Tlopenfd(fid, flags))
        assert client.donated is None

    @needs_root
    def test_a_device_is_seen_and_removed_but_never_opened(self, client: Client, tree: Path) -> None:
        fid = client.walk("null")
        assert client.attr(fid).rdev == os.makedev(1, 3)
        with fails(errno.ENXIO):
            client.call(Tlopenfd(fid, os.O_RDWR))
        client.call(Trenameat(ROOT, b"null", ROOT, b"zero"))
        client.call(Tunlinkat(ROOT, b"zero", 0))
        assert not (tree / "zero").exists()

    def test_sockets_and_fifos_can_be_changed_renamed_and_removed(self, client: Client, tree: Path) -> None:
        for name in ("fifo", "sock"):
            attr = client.call(Tsetgetattr(client.walk(name), SETATTR_MODE, 0o600, 0, 0, 0, 0, 0)).attr
            assert attr == host_attr(tree / name)
            assert stat.S_IMODE(attr.mode) == 0o600
            client.call(Trenameat(ROOT, name.encode(), ROOT, b"other"))
            client.call(Tunlinkat(ROOT, b"other", 0))

    def test_a_directory_is_not_opened_for_writing(self, client: Client) -> None:
        for flags in (os.O_RDWR, os.O_TRUNC):
            with fails(errno.EISDIR):
                client.call(Tlopenfd(client.walk("d"), flags))

    def test_fsync_answers_for_files_and_directories_only(self, client: Client) -> None:
        for name in ("f", "d"):
            for datasync in (0, 1):
                client.call(Tfsync(client.walk(name), datasync))
        with fails(errno.EINVAL):
            client.call(Tfsync(client.walk("fifo"), 0))


class TestCreating:
    @needs_root
    def test_a_new_file_has_owner_and_mode_as_given_whatever_the_umask(self, client: Client, tree: Path) -> None:
        reply = client.call(Tlcreatefd(ROOT, client.new_fid(), os.O_RDWR, 0o666, 1000, 1001, b"new"))
        os.close(client.take_donated())
        assert reply.attr == host_attr(tree / "new")
        assert (reply.attr.mode, reply.attr.uid, reply.attr.gid) == (stat.S_IFREG | 0o666, 1000, 1001)

    def test_a_new_file_is_open_and_its_fid_usable(self, client: Client, gofer: Gofer, tree: Path) -> None:
        before = len(gofer.fds())
        fid = client.new_fid()
        # Mode 0: the descriptor may nevertheless write, as open(2) has it.
        assert client.call(Tlcreatefd(ROOT, fid, os.O_WRONLY, 0, os.geteuid(), os.getegid(), b"new")).has_fd == 1
        fd = client.take_donated()
        os.write(fd, b"abc")
        os.close(fd)
        assert client.attr(fid).size == 3
        assert len(gofer.fds()) == before + 1

    def test_creating_without_a_fid_keeps_nothing_open(self, client: Client, gofer: Gofer, tree: Path) -> None:
        before = gofer.fds()
        me = os.geteuid(), os.getegid()
        client.call(Tlcreatefd(ROOT, NOFID, os.O_RDWR, 0o600, *me, b"a"))
        os.close(client.take_donated())
        client.call(Tmake(ROOT, NOFID, stat.S_IFDIR | 0o700, *me, b"b"))
        client.call(Tmakesymlink(ROOT, NOFID, *me, b"c", b"target"))
        assert gofer.fds() == before
        assert {"a", "b", "c"} <= set(os.listdir(tree))

    @pytest.mark.parametrize("name", [b"f", b"d", b"link", b"etc", b"fifo"])
    def test_what_exists_is_not_created_again(self, client: Client, tree: Path, name: bytes) -> None:
        before = sorted(os.listdir(tree))
        for request in (
            Tlcreatefd(ROOT, NOFID, os.O_RDWR | os.O_TRUNC, 0o644, 0, 0, name),
            Tmake(ROOT, NOFID, stat.S_IFDIR | 0o755, 0, 0, name),
            Tmakesymlink(ROOT, NOFID, 0, 0, name, b"x"),
            Tmakelink(ROOT, client.walk("f"), name),
        ):
            with fails(errno.EEXIST):
                client.call(request)
        assert sorted(os.listdir(tree)) == before
        assert (tree / "f").read_bytes() == b"hello\n"

    @needs_root
    @pytest.mark.parametrize("bits", [0o4755, 0o2755, 0o6711, 0o1777])
    def test_set_id_and_sticky_bits_survive_the_change_of_owner(self, client: Client, tree: Path, bits: int) -> None:
        client.call(Tlcreatefd(ROOT, NOFID, os.O_RDWR, bits, 1000, 1001, b"file"))
        os.close(client.take_donated())
        client.call(Tmake(ROOT, NOFID, stat.S_IFDIR | bits, 1000, 1001, b"dir"))
        for name in ("file", "dir"):
            s = (tree / name).stat()
            assert (stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid) == (bits, 1000, 1001)

    @needs_root
    def test_in_a_set_group_id_directory_its_group_wins(self, client: Client, tree: Path) -> None:
        os.chown(tree / "d", 5, 55)
        os.chmod(tree / "d", 0o2775)
        d = client.walk("d")
        file = client.call(Tlcreatefd(d, NOFID, os.O_RDWR, 0o644, 1000, 1001, b"file")).attr
        os.close(client.take_donated())
        directory = client.call(Tmake(d, NOFID, stat.S_IFDIR | 0o755, 1000, 1001, b"dir")).attr
        link = client.call(Tmakesymlink(d, NOFID, 1000, 1001, b"link", b"x")).attr
        assert [(a.uid, a.gid) for a in (file, directory, link)] == [(1000, 55)] * 3
        assert file.mode & stat.S_ISGID == 0
        assert directory.mode & stat.S_ISGID

    @needs_root
    def test_only_in_a_sticky_directory_does_stickiness_not_spread(self, client: Client, tree: Path) -> None:
        os.chmod(tree / "d", 0o1777)
        attr = client.call(Tmake(client.walk("d"), NOFID, stat.S_IFDIR | 0o755, 7, 7, b"sub")).attr
        assert stat.S_IMODE(attr.mode) == 0o755

    def test_a_file_without_a_name_is_nowhere_until_it_is_linked(
        self, client: Client, gofer: Gofer, tree: Path
    ) -> None:
        before = sorted(os.listdir(tree)), len(gofer.fds())
        fid = client.new_fid()
        me = os.geteuid(), os.getegid()
        attr = client.call(Tlcreatefd(ROOT, fid, os.O_RDWR | os.O_TMPFILE, 0o4640, *me, b"")).attr
        assert (attr.nlink, attr.mode) == (0, stat.S_IFREG | 0o4640)
        with open(client.take_donated(), "r+b") as file:
            file.write(b"new")
        assert client.attr(fid).size == 3
        assert (sorted(os.listdir(tree)), len(gofer.fds()) - 1) == before
        assert client.call(Tmakelink(ROOT, fid, b"named")).attr.nlink == 1
        assert (tree / "named").read_bytes() == b"new"
        for flags in (os.O_TMPFILE | os.O_RDONLY, os.O_DIRECTORY | os.O_RDWR):
            with fails(errno.EINVAL):
                client.call(Tlcreatefd(ROOT, NOFID, flags, 0o644, *me, b""))

    @pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, 0])
    def test_nodes_are_made_as_their_type_says(self, client: Client, tree: Path, kind: int) -> None:
        fid = client.new_fid()
        attr = client.call(Tmake(ROOT, fid, kind | 0o622, os.geteuid(), os.getegid(), b"node")).attr
        assert attr == host_attr(tree / "node") == client.attr(fid)
        assert attr.mode == (kind or stat.S_IFREG) | 0o622

    @pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFLNK, 0o150000])
    def test_devices_are_not_made(self, client: Client, tree: Path, kind: int) -> None:
        with fails(errno.EPERM):
            client.call(Tmake(ROOT, NOFID, kind | 0o666, 0, 0, b"node"))
        assert not (tree / "node").exists()

    @needs_root
    def test_a_symbolic_link_gets_its_owner_and_its_target_none_of_it(self, client: Client, tree: Path) -> None:
        fid = client.new_fid()
        attr = client.call(Tmakesymlink(ROOT, fid, 1000, 1001, b"new", b"f")).attr
        assert attr == host_attr(tree / "new")
        assert (attr.uid, attr.gid) == (1000, 1001)
        assert (tree / "f").stat().st_uid == 0
        assert client.call(Twalkgetattr(fid, NOFID, [])).target == b"f"

    @pytest.mark.parametrize(("target", "code"), [(b"", errno.ENOENT), (b"a\0b", errno.EINVAL)])
    def test_impossible_targets_are_refused(self, client: Client, target: bytes, code: int) -> None:
        with fails(code):
            client.call(Tmakesymlink(ROOT, NOFID, 0, 0, b"new", target))

    @needs_root
    def test_what_cannot_be_given_away_is_not_left_behind(self, start: Start, tree: Path) -> None:
        """As in a user namespace that lacks the id: chown(2) fails once the file has been made."""
        gofer = start((tree, False), without=frozenset({CAP_CHOWN}))
        client = Client(gofer.socks[0])
        before = sorted(os.listdir(tree)), gofer.fds()
        for request in (
            Tlcreatefd(ROOT, 50, os.O_RDWR, 0o644, 1000, 0, b"new"),
            Tmake(ROOT, 50, stat.S_IFDIR | 0o755, 1000, 0, b"new"),
            Tmake(ROOT, 50, stat.S_IFIFO | 0o755, 1000, 0, b"new"),
            Tmakesymlink(ROOT, 50, 1000, 0, b"new", b"x"),
        ):
            with fails(errno.EPERM):
                client.call(request)
        assert (sorted(os.listdir(tree)), gofer.fds()) == before
        client.close()

    def test_a_fid_in_use_is_found_before_anything_is_made(self, client: Client, tree: Path) -> None:
        used = client.walk("f")
        for request in (
            Tlcreatefd(ROOT, used, os.O_RDWR, 0o644, 0, 0, b"new"),
            Tmake(ROOT, used, stat.S_IFDIR | 0o755, 0, 0, b"new"),
            Tmakesymlink(ROOT, used, 0, 0, b"new", b"x"),
        ):
            with fails(errno.EBADF):
                client.call(request)
        assert not os.path.lexists(tree / "new")

    def test_nothing_is_made_in_what_is_no_directory(self, client: Client) -> None:
        fid = client.walk("f")
        for request in (
            Tlcreatefd(fid, NOFID, os.O_RDWR, 0o644, 0, 0, b"new"),
            Tmake(fid, NOFID, 0o644, 0, 0, b"new"),
            Tmakesymlink(fid, NOFID, 0, 0, b"new", b"x"),
            Tmakelink(fid, fid, b"new"),
        ):
            with fails(errno.ENOTDIR):
                client.call(request)

    def test_a_hard_link_is_another_name_of_the_very_file(self, client: Client, tree: Path) -> None:
        fid = client.walk("d/inner")
        (tree / "d/inner").rename(tree / "elsewhere")
        attr = client.call(Tmakelink(ROOT, fid, b"third")).attr
        assert attr == host_attr(tree / "third")
        assert attr.nlink == 2

    def test_a_hard_link_to_a_symbolic_link_is_to_the_link_itself(self, client: Client, tree: Path) -> None:
        client.call(Tmakelink(ROOT, client.walk("etc"), b"again"))
        assert os.readlink(tree / "again") == "/etc"
        assert (tree / "again").lstat().st_ino == (tree / "etc").lstat().st_ino

    def test_directories_and_nameless_files_get_no_hard_links(self, client: Client) -> None:
        with fails(errno.EPERM):
            client.call(Tmakelink(ROOT, client.walk("d"), b"new"))
        nameless = client.walk("d/inner")
        client.call(Tunlinkat(client.walk("d"), b"inner", 0))
        with fails(errno.ENOENT):
            client.call(Tmakelink(ROOT, nameless, b"new"))


def set_attributes(client: Client, name: str, valid: int, **values: int) -> Attr:
    fields = dict.fromkeys(("mode", "uid", "gid", "size", "atime_ns", "mtime_ns"), 0) | values
    attr: Attr = client.call(Tsetgetattr(client.walk(name), valid, *fields.values())).attr
    return attr


class TestChangingAttributes:
    @needs_root
    def test_owner_group_and_mode_change_together_and_set_id_bits_stay(self, client: Client, tree: Path) -> None:
        attr = set_attributes(client, "f", SETATTR_UID | SETATTR_GID | SETATTR_MODE, uid=7, gid=8, mode=0o6755)
        assert (attr.uid, attr.gid, attr.mode) == (7, 8, stat.S_IFREG | 0o6755)
        assert attr == host_attr(tree / "f")

    @needs_root
    def test_a_change_of_owner_alone_clears_set_id_bits_and_leaves_the_group(self, client: Client, tree: Path) -> None:
        os.chown(tree / "f", 1, 2)
        os.chmod(tree / "f", 0o6755)
        attr = set_attributes(client, "f", SETATTR_UID, uid=7)
        assert (attr.uid, attr.gid, stat.S_IMODE(attr.mode)) == (7, 2, 0o755)

    def test_size_grows_and_shrinks(self, client: Client, tree: Path) -> None:
        assert set_attributes(client, "f", SETATTR_SIZE, size=2).size == 2
        assert set_attributes(client, "f", SETATTR_SIZE, size=4).size == 4
        assert (tree / "f").read_bytes() == b"he\0\0"

    @pytest.mark.parametrize(
        ("name", "size", "code"),
        [("d", 0, errno.EISDIR), ("fifo", 0, errno.EINVAL), ("link", 0, errno.EINVAL), ("f", 1 << 63, errno.EFBIG),
         ("f", (1 << 63) - 1, errno.EFBIG)],
    )  # fmt: skip
    def test_impossible_sizes_are_refused(self, client: Client, name: str, size: int, code: int) -> None:
        with fails(code):
            set_attributes(client, name, SETATTR_SIZE, size=size)

    def test_times_are_set_to_the_nanosecond(self, client: Client, tree: Path) -> None:
        valid = SETATTR_ATIME | SETATTR_ATIME_SET | SETATTR_MTIME | SETATTR_MTIME_SET
        attr = set_attributes(client, "f", valid, atime_ns=1_000_000_001, mtime_ns=-999_999_999)
        assert (attr.atime_ns, attr.mtime_ns) == (1_000_000_001, -999_999_999)
        assert attr == host_attr(tree / "f")

    def test_one_time_is_set_and_the_other_left(self, client: Client, tree: Path) -> None:
        os.utime(tree / "f", ns=(5, 6))
        assert set_attributes(client, "f", SETATTR_ATIME | SETATTR_ATIME_SET, atime_ns=9).mtime_ns == 6
        assert set_attributes(client, "f", SETATTR_MTIME | SETATTR_MTIME_SET, mtime_ns=8).atime_ns == 9

    @pytest.mark.parametrize("valid", [SETATTR_MTIME, SETATTR_ATIME, SETATTR_ATIME | SETATTR_MTIME])
    def test_now_is_the_file_systems_now(self, client: Client, tree: Path, valid: int) -> None:
        """Never ahead of what a write right after it would leave."""
        os.utime(tree / "f", ns=(5, 6))
        attr = set_attributes(client, "f", valid)
        (tree / "later").touch()
        later = (tree / "later").stat().st_mtime_ns
        for bit, value, old in ((SETATTR_ATIME, attr.atime_ns, 5), (SETATTR_MTIME, attr.mtime_ns, 6)):
            assert (old < value <= later) if valid & bit else value == old

    def test_the_attributes_returned_have_the_new_ctime(self, client: Client, tree: Path) -> None:
        before = (tree / "f").stat().st_ctime_ns
        tick()
        assert set_attributes(client, "f", SETATTR_MODE, mode=0o600).ctime_ns > before

    def test_a_symbolic_link_is_changed_and_not_its_target(self, client: Client, tree: Path) -> None:
        before = (tree / "f").stat()
        valid = SETATTR_MTIME | SETATTR_MTIME_SET | SETATTR_UID
        attr = set_attributes(client, "link", valid, mtime_ns=7, uid=os.geteuid())
        assert attr.mtime_ns == 7
        with fails(errno.ENOTSUP):
            set_attributes(client, "link", SETATTR_MODE, mode=0o600)
        assert (tree / "f").stat() == before

    def test_times_beyond_64_bits_of_nanoseconds_are_shown_cut(self, client: Client, tree: Path) -> None:
        try:
            os.utime(tree / "f", ns=(10**19, 10**19))
        except OverflowError:
            pytest.skip("the host cannot say such a time")
        if (tree / "f").stat().st_mtime_ns < 1 << 63:
            pytest.skip("this file system has no such time")
        assert client.attr(client.walk("f")).mtime_ns == (1 << 63) - 1
