"""What every read-write file system must do, whatever keeps its files.

A test class inherits Conformance and says with a fixture `root` where an empty, writable
directory is, as a Path; one whose operations need a running loop overrides run().  The
helpers below it are for all file system tests.
"""

from __future__ import annotations

import pytest

from sentry.abi.errno import (
    EEXIST,
    EISDIR,
    ENODATA,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
)
from sentry.abi.fcntl import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    O_APPEND,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    SEEK_DATA,
    SEEK_END,
    SEEK_HOLE,
)
from sentry.abi.stat import S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_ISGID
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import CACHE, Dentry, MountNamespace, Path
from sentry.vfs.inode import AttrChange
from sentry.vfs.iov import BytesSink, BytesSource

ME = Caller(fsuid=1000, fsgid=100)


def run(coro):
    """Drive a coroutine that never waits."""
    try:
        coro.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def mount(fs, flags=0):
    """The root of fs, mounted as the root of a namespace of its own."""
    ns = MountNamespace()
    top = ns.new_mount(fs, Dentry("", None, run(fs.root())), flags)
    ns.attach(top, None)
    return Path(top, top.root)


def put(file, data, offset=None):
    source = BytesSource(data)
    return file.write(source) if offset is None else file.write_at(source, offset)


def get(file, size=1 << 20, offset=None):
    sink = BytesSink(size)
    n = file.read(sink) if offset is None else file.read_at(sink, offset)
    assert n == len(sink.data)
    return bytes(sink.data)


class Conformance:
    """The suite.  `lacks`: what the file system has not got by nature; tests that need it are skipped."""

    lacks: frozenset[str] = frozenset()

    def run(self, coro):
        return run(coro)

    # -- vocabulary --

    def child(self, directory, name):
        """A Path to an existing entry, with a dentry as a walk would make it."""
        inode = self.run(directory.inode.lookup(name))
        dentry = directory.dentry.children.get(name)
        if dentry is None or dentry.inode is not inode:
            if dentry is not None:
                dentry.unhash()
            dentry = CACHE.add(Dentry(name, directory.dentry, inode))
        return Path(directory.mount, dentry)

    def open(self, path, flags=O_RDWR):
        return self.run(path.inode.open(path, flags)).hold()

    def make(self, directory, name, data=b"", mode=0o644):
        self.run(directory.inode.create(name, mode, ME))
        path = self.child(directory, name)
        if data:
            file = self.open(path)
            put(file, data)
            file.drop()
        return path

    def make_dir(self, directory, name, mode=0o755):
        self.run(directory.inode.mkdir(name, mode, ME))
        return self.child(directory, name)

    def contents(self, path):
        file = self.open(path, O_RDONLY)
        try:
            return get(file)
        finally:
            file.drop()

    def entries(self, path, offset=0):
        file = self.open(path, O_RDONLY)
        try:
            file.offset = offset
            self.run(file.load_entries())
            return list(file.entries(offset))
        finally:
            file.drop()

    def names(self, path):
        return sorted(e.name for e in self.entries(path) if e.name not in (".", ".."))

    def fresh(self, path):
        """The inode with up-to-date fields."""
        self.run(path.inode.refresh())
        return path.inode

    def remove(self, directory, name):
        path = self.child(directory, name)
        inode = path.inode
        if inode.mode & S_IFMT == S_IFDIR:
            self.run(directory.inode.rmdir(name, inode))
        else:
            self.run(directory.inode.unlink(name, inode))
        path.dentry.unhash()

    def rename(self, directory, name, new_directory, new_name, flags=0):
        self.run(directory.inode.rename(name, new_directory.inode, new_name, flags))

    def need(self, feature):
        if feature in self.lacks:
            pytest.skip(f"no {feature}")

    # -- creating and reading --

    def test_what_is_written_is_read(self, root):
        path = self.make(root, "a")
        file = self.open(path)

        assert put(file, b"hello ") == 6
        assert put(file, b"world") == 5
        assert file.offset == 11
        assert get(file) == b""
        assert get(file, 5, offset=6) == b"world"
        assert get(file, 100, offset=11) == b""
        assert self.fresh(path).size == 11
        file.drop()

    def test_a_large_file_keeps_every_byte(self, root):
        data = bytes(range(256)) * 1024
        path = self.make(root, "large", data)

        assert self.contents(path) == data
        assert self.fresh(path).size == len(data)
        assert path.inode.blocks() * 512 >= len(data)

    def test_overwriting_in_the_middle(self, root):
        path = self.make(root, "a", b"0123456789")
        file = self.open(path)

        assert put(file, b"abc", offset=3) == 3

        assert self.contents(path) == b"012abc6789"
        file.drop()

    def test_append_goes_to_the_end_from_any_position(self, root):
        path = self.make(root, "a", b"one")
        first, second = (self.open(path, O_WRONLY | O_APPEND) for _ in range(2))

        put(first, b"two")
        put(second, b"three")

        assert self.contents(path) == b"onetwothree"
        assert second.offset == 11
        first.drop()
        second.drop()

    def test_a_gap_reads_as_zeros(self, root):
        path = self.make(root, "a", b"x")
        file = self.open(path)

        put(file, b"y", offset=100_000)

        assert get(file, offset=0) == b"x" + bytes(99_999) + b"y"
        file.drop()

    def test_create_sets_owner_mode_and_type(self, root):
        inode = self.make(root, "a", mode=0o640).inode

        assert inode.mode == S_IFREG | 0o640
        assert (inode.uid, inode.gid, inode.nlink, inode.size) == (1000, 100, 1, 0)
        assert inode.ino
        assert inode.fs is root.inode.fs

    def test_creating_an_existing_name_fails(self, root):
        self.make(root, "a", b"data")

        with pytest.raises(EEXIST):
            self.run(root.inode.create("a", 0o644, ME))
        with pytest.raises(EEXIST):
            self.run(root.inode.mkdir("a", 0o755, ME))
        with pytest.raises(EEXIST):
            self.run(root.inode.symlink("a", "b", ME))
        assert self.contents(self.child(root, "a")) == b"data"

    def test_a_setgid_directory_hands_its_group_down(self, root):
        parent = self.make_dir(root, "d")
        self.run(parent.inode.setattr(AttrChange(gid=42)))
        self.run(parent.inode.setattr(AttrChange(mode=0o2755)))

        assert self.make(parent, "file").inode.gid == 42
        below = self.make_dir(parent, "dir").inode
        assert below.gid == 42
        assert below.mode & S_ISGID

    # -- attributes --

    def test_setattr_changes_what_it_is_told(self, root):
        inode = self.make(root, "a").inode

        self.run(inode.setattr(AttrChange(mode=0o4711)))
        self.run(inode.setattr(AttrChange(uid=7, gid=8)))
        self.run(inode.setattr(AttrChange(atime_ns=1_000_000_007, mtime_ns=2_000_000_009)))

        self.run(inode.refresh())
        assert inode.mode & 0o777 == 0o711
        assert (inode.uid, inode.gid) == (7, 8)
        assert (inode.atime_ns, inode.mtime_ns) == (1_000_000_007, 2_000_000_009)

    def test_truncation_cuts_and_extends_with_zeros(self, root):
        path = self.make(root, "a", b"0123456789")

        self.run(path.inode.setattr(AttrChange(size=4)))
        assert self.contents(path) == b"0123"
        file = self.open(path)
        self.run(file.truncate(8))
        assert self.contents(path) == b"0123\0\0\0\0"
        self.run(file.truncate(1 << 30))
        assert self.fresh(path).size == 1 << 30
        assert get(file, 10, offset=(1 << 30) - 2) == b"\0\0"
        self.run(file.truncate(0))
        assert self.contents(path) == b""
        file.drop()

    def test_writing_moves_mtime_and_ctime(self, root):
        path = self.make(root, "a", b"x")
        self.run(path.inode.setattr(AttrChange(atime_ns=1, mtime_ns=1)))
        before = self.fresh(path).ctime_ns
        file = self.open(path)

        put(file, b"y")

        self.run(path.inode.refresh())
        assert path.inode.mtime_ns > 1
        assert path.inode.ctime_ns >= before
        file.drop()

    def test_changing_a_directory_moves_its_mtime(self, root):
        directory = self.make_dir(root, "d")
        self.run(directory.inode.setattr(AttrChange(mtime_ns=1)))

        self.make(directory, "a")

        assert self.fresh(directory).mtime_ns > 1

    # -- directories --

    def test_mkdir_and_link_counts(self, root):
        base = self.fresh(root).nlink
        directory = self.make_dir(root, "d", 0o700)
        assert directory.inode.mode == S_IFDIR | 0o700
        self.need("directory link counts")
        assert self.fresh(root).nlink == base + 1
        assert directory.inode.nlink == 2

        self.make_dir(directory, "e")
        assert self.fresh(directory).nlink == 3
        self.remove(directory, "e")
        assert self.fresh(directory).nlink == 2

    def test_lookup_of_a_missing_name(self, root):
        with pytest.raises(ENOENT):
            self.run(root.inode.lookup("missing"))

    def test_lookup_in_a_file(self, root):
        with pytest.raises(ENOTDIR):
            self.run(self.make(root, "a").inode.lookup("x"))

    def test_names_of_any_bytes_survive(self, root):
        names = ["plain", "sp ace", "ü", b"\xff\xfe".decode("utf-8", "surrogateescape"), "n\nl", "x" * 255]
        for name in names:
            self.make(root, name, name.encode("utf-8", "surrogateescape"))

        assert self.names(root) == sorted(names)
        for name in names:
            assert self.contents(self.child(root, name)) == name.encode("utf-8", "surrogateescape")

    def test_rmdir_wants_an_empty_directory(self, root):
        directory = self.make_dir(root, "d")
        self.make(directory, "a")

        with pytest.raises(ENOTEMPTY):
            self.run(root.inode.rmdir("d", directory.inode))
        self.remove(directory, "a")
        self.remove(root, "d")

        assert self.names(root) == []
        assert directory.dentry.deleted

    def test_unlink_and_rmdir_of_the_wrong_kind(self, root):
        directory, path = self.make_dir(root, "d"), self.make(root, "a")

        with pytest.raises((EISDIR, EPERM)):
            self.run(root.inode.unlink("d", directory.inode))
        with pytest.raises(ENOTDIR):
            self.run(root.inode.rmdir("a", path.inode))

    def test_nothing_is_made_in_a_removed_directory(self, root):
        directory = self.make_dir(root, "d")
        inode = directory.inode
        self.remove(root, "d")

        with pytest.raises(ENOENT):
            self.run(inode.create("a", 0o644, ME))

    def test_a_listing_has_dots_types_and_inode_numbers(self, root):
        directory = self.make_dir(root, "d")
        file = self.make(directory, "file").inode
        self.run(directory.inode.symlink("link", "file", ME))

        entries = {entry.name: entry for entry in self.entries(directory)}

        assert set(entries) == {".", "..", "file", "link"}
        assert entries["."].ino == directory.inode.ino
        assert entries[".."].ino == root.inode.ino
        assert entries["file"][1:3] == (file.ino, S_IFREG >> 12)
        assert entries["link"].type == S_IFLNK >> 12

    def test_reading_a_directory_goes_on_from_any_offset(self, root):
        for n in range(20):
            self.make(root, f"f{n}")
        everything = self.entries(root)
        file = self.open(root, O_RDONLY)
        self.run(file.load_entries())

        for at, entry in enumerate(everything):
            rest = list(file.entries(entry.next_offset))
            assert rest == everything[at + 1 :]
        file.drop()

    def test_removal_while_reading_loses_no_other_entry(self, root):
        """rm -r: what was listed is removed before the next part is read."""
        names = {f"f{n}" for n in range(50)}
        for name in names:
            self.make(root, name)
        file = self.open(root, O_RDONLY)
        seen, offset = set(), 0
        while True:
            file.offset = offset
            self.run(file.load_entries())
            part = [entry for entry, _ in zip(file.entries(offset), range(7))]
            if not part:
                break
            offset = part[-1].next_offset
            for entry in part:
                if entry.name not in (".", ".."):
                    assert entry.name not in seen
                    seen.add(entry.name)
                    self.remove(root, entry.name)

        assert seen == names
        assert self.names(root) == []
        file.drop()

    # -- links --

    def test_symlinks(self, root):
        self.run(root.inode.symlink("link", "some/target", ME))

        inode = self.child(root, "link").inode
        assert inode.mode & S_IFMT == S_IFLNK
        assert self.run(inode.readlink()) == "some/target"
        assert inode.size == len("some/target")

    def test_hard_links_share_the_file(self, root):
        path = self.make(root, "a", b"shared")
        directory = self.make_dir(root, "d")

        self.run(directory.inode.link("b", path.inode))

        other = self.child(directory, "b")
        assert self.fresh(other).nlink == 2
        assert other.inode.ino == path.inode.ino
        self.remove(root, "a")
        assert self.fresh(other).nlink == 1
        assert self.contents(other) == b"shared"
        with pytest.raises(EEXIST):
            self.run(directory.inode.link("b", other.inode))
        with pytest.raises(EPERM):
            self.run(root.inode.link("dirlink", directory.inode))

    def test_an_open_file_outlives_its_name(self, root):
        path = self.make(root, "a", b"still here")
        file = self.open(path)
        self.remove(root, "a")

        assert get(file) == b"still here"
        put(file, b"!")
        assert get(file, offset=0) == b"still here!"
        assert path.inode.nlink == 0
        assert path.dentry.deleted
        file.drop()

    def test_fifos_and_sockets_are_only_names(self, root):
        self.run(root.inode.mknod("fifo", S_IFIFO | 0o600, 0, ME))
        assert self.child(root, "fifo").inode.mode == S_IFIFO | 0o600
        self.need("socket nodes")
        self.run(root.inode.mknod("socket", S_IFSOCK | 0o600, 0, ME))
        path = self.child(root, "socket")
        assert path.inode.mode == S_IFSOCK | 0o600
        with pytest.raises(ENXIO):
            self.run(path.inode.open(path, O_RDWR))

    def test_tmpfile(self, root):
        self.need("tmpfile")
        inode = self.run(root.inode.tmpfile(0o600, ME))
        assert inode.nlink == 0
        assert self.names(root) == []
        file = self.run(inode.open(root, O_RDWR)).hold()
        put(file, b"named later")

        self.run(root.inode.link("a", inode))

        file.drop()
        path = self.child(root, "a")
        assert path.inode.nlink == 1
        assert self.contents(path) == b"named later"

    # -- rename --

    def test_rename_moves_and_replaces(self, root):
        directory = self.make_dir(root, "d")
        moved = self.make(root, "a", b"new").inode
        old = self.make(directory, "b", b"old")
        file = self.open(old, O_RDONLY)

        self.rename(root, "a", directory, "b")

        assert self.names(root) == ["d"]
        path = self.child(directory, "b")
        assert path.inode is moved
        assert self.contents(path) == b"new"
        assert get(file) == b"old"
        assert self.fresh(old).nlink == 0 or old.inode is moved
        file.drop()

    def test_rename_onto_itself_changes_nothing(self, root):
        path = self.make(root, "a", b"x")
        self.run(root.inode.link("b", path.inode))

        self.rename(root, "a", root, "b")

        assert self.names(root) == ["a", "b"]

    def test_rename_checks_what_it_replaces(self, root):
        self.make(root, "file")
        self.make_dir(root, "empty")
        full = self.make_dir(root, "full")
        self.make(full, "a")
        self.make_dir(root, "dir")

        with pytest.raises(EISDIR):
            self.rename(root, "file", root, "empty")
        with pytest.raises(ENOTDIR):
            self.rename(root, "dir", root, "file")
        with pytest.raises((ENOTEMPTY, EEXIST)):
            self.rename(root, "dir", root, "full")
        with pytest.raises(ENOENT):
            self.rename(root, "missing", root, "x")
        self.rename(root, "dir", root, "empty")
        assert self.names(root) == ["empty", "file", "full"]

    def test_rename_of_directories_keeps_link_counts(self, root):
        one, two = self.make_dir(root, "one"), self.make_dir(root, "two")
        self.make_dir(one, "sub")
        self.need("directory link counts")

        self.rename(one, "sub", two, "sub")

        assert self.fresh(one).nlink == 2
        assert self.fresh(two).nlink == 3

    def test_rename_noreplace(self, root):
        self.make(root, "a", b"a")
        self.make(root, "b", b"b")

        with pytest.raises(EEXIST):
            self.rename(root, "a", root, "b", RENAME_NOREPLACE)
        self.rename(root, "a", root, "c", RENAME_NOREPLACE)

        assert self.names(root) == ["b", "c"]

    def test_rename_exchange(self, root):
        self.need("exchange")
        directory = self.make_dir(root, "d")
        file = self.make(root, "a", b"x").inode
        inner = self.make_dir(directory, "inner").inode

        self.rename(root, "a", directory, "inner", RENAME_EXCHANGE)

        assert self.child(directory, "inner").inode is file
        assert self.child(root, "a").inode is inner
        with pytest.raises(ENOENT):
            self.rename(root, "a", root, "missing", RENAME_EXCHANGE)
        self.need("directory link counts")
        assert self.fresh(directory).nlink == 2

    # -- holes and space --

    def test_holes_are_found(self, root):
        self.need("holes")
        path = self.make(root, "a")
        file = self.open(path)
        put(file, b"x" * 4096, offset=1 << 20)

        assert file.seek(0, SEEK_DATA) == 1 << 20
        assert file.seek(0, SEEK_HOLE) == 0
        assert file.seek(1 << 20, SEEK_HOLE) == (1 << 20) + 4096
        assert file.seek(0, SEEK_END) == (1 << 20) + 4096
        with pytest.raises(ENXIO):
            file.seek((1 << 20) + 4096, SEEK_DATA)
        assert self.fresh(path).blocks() < 2048
        file.drop()

    def test_data_is_seen_without_holes_too(self, root):
        self.need("holes")
        file = self.open(self.make(root, "a", b"x" * 10))

        assert file.seek(3, SEEK_DATA) == 3
        assert file.seek(3, SEEK_HOLE) == 10
        with pytest.raises(ENXIO):
            file.seek(10, SEEK_HOLE)
        file.drop()

    def test_fallocate(self, root):
        self.need("fallocate")
        path = self.make(root, "a", b"x" * 8192)
        file = self.open(path)

        self.run(file.fallocate(0, 0, 20000))
        assert self.fresh(path).size == 20000
        assert path.inode.blocks() >= 40
        self.run(file.fallocate(FALLOC_FL_KEEP_SIZE, 0, 40000))
        assert self.fresh(path).size == 20000
        self.run(file.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 8000))
        assert get(file, 8192, offset=0) == b"x" * 100 + bytes(8000) + b"x" * 92
        with pytest.raises(EOPNOTSUPP):
            self.run(file.fallocate(0x40, 0, 1))
        file.drop()

    def test_a_mapped_file_is_the_file(self, root):
        """What is written through one way is read through the other."""
        import os

        self.need("mmap")
        path = self.make(root, "a", b"before")
        file = self.open(path)
        fd = self.run(file.host_fd(True))

        assert os.pread(fd, 100, 0) == b"before"
        os.pwrite(fd, b"B", 0)
        assert get(file, offset=0) == b"Before"
        put(file, b"after", offset=6)
        assert os.pread(fd, 100, 0) == b"Beforeafter"
        file.drop()

    def test_fsync(self, root):
        file = self.open(self.make(root, "a", b"x"))
        self.run(file.fsync(True))
        self.run(file.fsync(False))
        file.drop()

    # -- extended attributes --

    def test_extended_attributes(self, root):
        self.need("xattrs")
        inode = self.make(root, "a").inode

        self.run(inode.setxattr("user.one", b"1", 0))
        self.run(inode.setxattr("user.two", b"", 0))
        self.run(inode.setxattr("user.one", b"again", 0))

        assert self.run(inode.getxattr("user.one")) == b"again"
        assert self.run(inode.getxattr("user.two")) == b""
        assert sorted(self.run(inode.listxattr())) == ["user.one", "user.two"]
        self.run(inode.removexattr("user.one"))
        with pytest.raises(ENODATA):
            self.run(inode.getxattr("user.one"))
        with pytest.raises(ENODATA):
            self.run(inode.removexattr("user.one"))

    def test_extended_attribute_flags(self, root):
        self.need("xattrs")
        inode = self.make(root, "a").inode
        create, replace = 1, 2

        with pytest.raises(ENODATA):
            self.run(inode.setxattr("user.x", b"1", replace))
        self.run(inode.setxattr("user.x", b"1", create))
        with pytest.raises(EEXIST):
            self.run(inode.setxattr("user.x", b"2", create))
        self.run(inode.setxattr("user.x", b"2", replace))

        assert self.run(inode.getxattr("user.x")) == b"2"
        with pytest.raises(EOPNOTSUPP):
            self.run(inode.setxattr("nonsense.x", b"", 0))

    # -- the file system --

    def test_statfs(self, root):
        info = self.run(root.inode.fs.statfs())

        assert info.bsize > 0
        assert info.namelen == 255
        assert info.bfree <= info.blocks
