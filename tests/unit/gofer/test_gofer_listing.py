"""Listing directories and extended attributes, in the dialect."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from proto.ninep.dialect import Tgetxattr, Tlistxattr, Tlopenfd, Tremovexattr, Tsetxattr, Twalkgetattr
from proto.ninep.messages import NOFID, Tunlinkat
from tests.unit.gofer.goferclient import Client, Gofer, fails, host_attr, needs_root


class TestListing:
    def test_entries_come_with_their_attributes_and_without_dots(self, client: Client, tree: Path) -> None:
        entries = client.listing(client.open_dir("/"))
        assert {os.fsdecode(name): attr for name, _, attr in entries} == {
            path.name: host_attr(path) for path in tree.iterdir()
        }

    @pytest.mark.parametrize("count", [200, 4000, 1 << 20])
    def test_a_large_directory_comes_in_whole_entries_each_once(self, client: Client, tree: Path, count: int) -> None:
        names = {b"entry-%d" % number + b"x" * (number % 90) for number in range(1200)}
        for name in names:
            os.close(os.open(os.fsencode(tree / "d/deep") + b"/" + name, os.O_CREAT))
        entries = client.listing(client.open_dir("d/deep"), count)
        assert len(entries) == 1200
        assert {name for name, _, _ in entries} == names

    def test_reading_resumes_after_any_entry(self, client: Client, tree: Path) -> None:
        for number in range(50):
            (tree / f"d/deep/{number}").touch()
        fid = client.open_dir("d/deep")
        everything = client.listing(fid)
        for place in (0, 49, 10, 11, 48, 3):
            assert client.entries(fid, everything[place][1]) == everything[place + 1 :]
            assert client.entries(fid, everything[place][1], 200) == everything[place + 1 : place + 3]
        assert client.entries(fid, 9999) == []
        assert client.listing(fid) == everything

    def test_an_entry_that_does_not_fit_is_not_lost(self, client: Client, tree: Path) -> None:
        (tree / "d/deep" / ("n" * 250)).touch()
        fid = client.open_dir("d/deep")
        for _ in range(2):
            with fails(errno.EINVAL):
                client.entries(fid, 0, 100)
        assert len(client.entries(fid)) == 1

    def test_reading_goes_on_while_entries_are_removed(self, client: Client, tree: Path) -> None:
        """rm -r: list a part, remove it, list on."""
        for number in range(300):
            (tree / f"d/deep/{number}").touch()
        fid = client.open_dir("d/deep")
        seen = []
        offset = 0
        while batch := client.entries(fid, offset, 1000):
            offset = batch[-1][1]
            for name, _, _ in batch:
                client.call(Tunlinkat(fid, name, 0))
                seen.append(name)
        assert len(set(seen)) == len(seen) == 300

    def test_offset_zero_reads_anew(self, client: Client, tree: Path) -> None:
        fid = client.open_dir("d/deep")
        assert client.entries(fid) == []
        assert client.entries(fid) == []
        (tree / "d/deep/new").touch()
        assert [name for name, _, _ in client.entries(fid)] == [b"new"]

    def test_opening_again_reads_anew(self, client: Client, gofer: Gofer, tree: Path) -> None:
        fid = client.open_dir("d")
        before = gofer.fds()
        assert len(client.entries(fid, 0, 100)) == 1
        client.call(Tlopenfd(fid, os.O_RDONLY))
        assert len(client.listing(fid)) == 2
        assert len(gofer.fds()) <= len(before)

    def test_names_that_are_not_utf8_are_passed_as_they_are(self, client: Client, tree: Path) -> None:
        os.mkdir(os.fsencode(tree / "d/deep") + b"/\xff\xfe")
        assert [name for name, _, _ in client.entries(client.open_dir("d/deep"))] == [b"\xff\xfe"]
        reply = client.call(Twalkgetattr(client.walk("d/deep"), NOFID, [b"\xff\xfe"]))
        assert stat.S_ISDIR(reply.attrs[0].mode)

    def test_a_directory_that_is_not_open_cannot_be_read(self, client: Client) -> None:
        for fid in (client.walk("d"), client.walk("f")):
            with fails(errno.EBADF):
                client.entries(fid)

    def test_a_removed_directory_reads_as_empty(self, client: Client, tree: Path) -> None:
        fid = client.open_dir("d/deep")
        (tree / "d/deep").rmdir()
        assert client.entries(fid) == []


class TestExtendedAttributes:
    @pytest.mark.parametrize("name", ["f", "d"])
    def test_they_are_set_read_listed_and_removed(self, client: Client, tree: Path, name: str) -> None:
        fid = client.walk(name)
        client.call(Tsetxattr(fid, 0, b"user.a", b"one"))
        client.call(Tsetxattr(fid, 0, b"user.b", b""))
        assert os.getxattr(tree / name, "user.a") == b"one"
        assert client.call(Tgetxattr(fid, b"user.a")).data == b"one"
        assert client.call(Tgetxattr(fid, b"user.b")).data == b""
        assert sorted(client.call(Tlistxattr(fid)).data.split(b"\0")) == [b"", b"user.a", b"user.b"]
        client.call(Tremovexattr(fid, b"user.a"))
        assert client.call(Tlistxattr(fid)).data == b"user.b\0"

    def test_create_and_replace_are_told_apart(self, client: Client) -> None:
        fid = client.walk("f")
        with fails(errno.ENODATA):
            client.call(Tsetxattr(fid, os.XATTR_REPLACE, b"user.a", b""))
        client.call(Tsetxattr(fid, os.XATTR_CREATE, b"user.a", b""))
        with fails(errno.EEXIST):
            client.call(Tsetxattr(fid, os.XATTR_CREATE, b"user.a", b""))

    def test_what_is_missing_is_enodata(self, client: Client) -> None:
        fid = client.walk("f")
        with fails(errno.ENODATA):
            client.call(Tgetxattr(fid, b"user.none"))
        with fails(errno.ENODATA):
            client.call(Tremovexattr(fid, b"user.none"))

    @pytest.mark.parametrize(
        "name", [b"trusted.x", b"security.selinux", b"system.posix_acl_access", b"nonsense", b"", b"USER.a"]
    )
    def test_other_name_spaces_are_neither_read_nor_written(self, client: Client, name: bytes) -> None:
        fid = client.walk("f")
        for request in (Tgetxattr(fid, name), Tsetxattr(fid, 0, name, b"x"), Tremovexattr(fid, name)):
            with fails(errno.ENOTSUP):
                client.call(request)

    @needs_root
    def test_other_name_spaces_are_not_listed(self, client: Client, tree: Path) -> None:
        os.setxattr(tree / "f", "trusted.host", b"x")
        os.setxattr(tree / "f", "user.mine", b"x")
        assert client.call(Tlistxattr(client.walk("f"))).data == b"user.mine\0"

    def test_those_of_a_symbolic_link_are_not_its_targets(self, client: Client, tree: Path) -> None:
        os.setxattr(tree / "f", "user.a", b"x")
        fid = client.walk("link")
        assert client.call(Tlistxattr(fid)).data == b""
        with fails(errno.EPERM):
            client.call(Tsetxattr(fid, 0, b"user.a", b"y"))
        assert os.getxattr(tree / "f", "user.a") == b"x"
