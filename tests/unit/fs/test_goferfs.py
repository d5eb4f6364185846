import gc
import os
import resource
import select
import signal
import socket
import stat

import pytest

from sentry.abi.errno import EIO, ENFILE, ENOENT, EOPNOTSUPP, EROFS
from sentry.abi.fcntl import O_CREAT, O_DIRECTORY, O_PATH, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, RENAME_EXCHANGE
from sentry.fs import goferfs
from sentry.fs.goferfs import IDLE_FDS
from sentry.vfs import names
from sentry.vfs.cachedwalk import find_cached
from sentry.vfs.inode import AttrChange
from sentry.vfs.iov import BytesSink, BytesSource
from sentry.vfs.open import open_name
from sentry.wait import breathe
from tests.gofertree import GoferTree
from tests.unit.fs.conformance import Conformance


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tree"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def tree(folder):
    with GoferTree(folder) as tree:
        yield tree


@pytest.fixture
def shared(folder):
    with GoferTree(folder, shared=True) as tree:
        yield tree


class OnGofer(Conformance):
    def run(self, coro):
        return self.tree.run(coro)


class TestExclusive(OnGofer):
    @pytest.fixture
    def root(self, tree):
        self.tree = tree
        return tree.root


class TestShared(OnGofer):
    lacks = frozenset({"exchange"})

    @pytest.fixture
    def root(self, shared):
        self.tree = shared
        return shared.root


def read(file, size=1 << 20, offset=None):
    sink = BytesSink(size)
    if offset is None:
        file.read(sink)
    else:
        file.read_at(sink, offset)
    return bytes(sink.data)


def write(file, data):
    return file.write(BytesSource(data))


def count_calls(tree, monkeypatch):
    """A list that gets the name of every request sent from now on."""
    sent = []
    send = tree.client._connection.send

    def counting(request):
        sent.append(type(request).__name__)
        return send(request)

    monkeypatch.setattr(tree.client._connection, "send", counting)
    return sent


def wait_for_answers(tree):
    """Until all that was asked is answered, if only in the socket."""
    found = 0
    while found < len(tree.client._calls):
        select.select([tree.client._sock], [], [], 10)
        data = tree.client._sock.recv(1 << 16, socket.MSG_PEEK)
        found = at = 0
        while at < len(data):
            at += int.from_bytes(data[at : at + 4], "little")
            found += at <= len(data)


def glance(tree, name, follow=False):
    return find_cached(tree.root, tree.root, tree.caller, name, follow, glance=True)


def entries(tree, directory):
    tree.run(directory.load_entries())
    return [e.name for e in directory.entries(0)]


# ---- An exclusive tree is cached.


def test_a_second_stat_asks_nobody(tree, folder, monkeypatch):
    (folder / "a").write_text("x")
    tree.walk("/a")
    sent = count_calls(tree, monkeypatch)

    inode = tree.walk("/a").inode
    assert inode.fresh()

    assert inode.size == 1
    assert sent == []


def test_a_missing_name_is_remembered(tree, monkeypatch):
    with pytest.raises(ENOENT):
        tree.walk("/missing")
    sent = count_calls(tree, monkeypatch)

    with pytest.raises(ENOENT):
        tree.walk("/missing")

    assert sent == []


def test_who_looks_at_every_forgotten_entry_asks_for_all_at_once(tree, folder, monkeypatch):
    """find and du, for the second time: the names are known, the attributes were forgotten with the dentries."""
    for n in range(64):
        (folder / f"f{n}").write_text("x" * n)
    directory = tree.open("/", O_DIRECTORY)
    assert len(entries(tree, directory)) == 66
    for n in range(64):
        tree.walk(f"/f{n}")
    tree.root.dentry.children.clear()
    gc.collect()
    sent = count_calls(tree, monkeypatch)

    sizes = [tree.walk(f"/f{n}").inode.size for n in range(64)]

    assert sizes == list(range(64))
    assert len(sent) < 16
    directory.drop()


def test_looking_through_a_tree_fills_no_cache_and_asks_once(tree, folder, monkeypatch):
    for n in range(64):
        (folder / f"f{n}").write_text("x" * n)
    (folder / "link").symlink_to("f7")
    directory = tree.open("/", O_DIRECTORY)
    entries(tree, directory)
    sent = count_calls(tree, monkeypatch)

    for _ in range(2):
        found = [glance(tree, f"/f{n}") for n in range(64)]
        assert [path.inode.size for path in found] == list(range(64))
        assert all(path.inode.stat_now() for path in found)
    assert glance(tree, "/link").inode.size == 2
    assert glance(tree, "/link", follow=True) is None  # where it leads to has to be asked for

    assert not tree.root.dentry.children.keys() - {"link"}
    assert sent == []
    assert tree.walk("/f3").inode is glance(tree, "/f3").inode  # once it is in use, that is what counts
    directory.drop()


def test_listings_are_forgotten_when_they_are_many(tree, folder, monkeypatch):
    monkeypatch.setattr(goferfs, "LISTED_LIMIT", 50)
    for n in range(10):
        (folder / f"d{n}").mkdir()
        for name in "abcdefgh":
            (folder / f"d{n}" / name).touch()
    for n in range(10):
        directory = tree.open(f"/d{n}", O_DIRECTORY)
        assert sorted(entries(tree, directory)) == [".", "..", *"abcdefgh"]
        directory.drop()

    listed = [n for n in range(10) if tree.walk(f"/d{n}").inode.listing is not None]

    assert listed == [4, 5, 6, 7, 8, 9]
    assert tree.fs.listed == 48
    directory = tree.open("/d0", O_DIRECTORY)
    assert len(entries(tree, directory)) == 10
    directory.drop()
    del directory
    tree.fs._snapshots.clear()
    tree.root.dentry.children.clear()
    gc.collect()
    assert tree.fs.listed == 0


def test_a_single_forgotten_entry_is_asked_for_alone(tree, folder, monkeypatch):
    for n in range(64):
        (folder / f"f{n}").touch()
    directory = tree.open("/", O_DIRECTORY)
    entries(tree, directory)
    tree.walk("/f1")
    tree.root.dentry.children.clear()
    gc.collect()
    sent = count_calls(tree, monkeypatch)

    tree.walk("/f1")

    assert [request for request in sent if request != "Tclunkmany"] == ["Twalkgetattr"]
    directory.drop()


def test_what_is_written_while_the_directory_is_listed_is_not_remembered_as_it_was(tree, folder):
    """The answer describes the file as it was before, and the Inode that knows better may be gone by then."""
    (folder / "a").write_text("x")
    directory = tree.open("/", O_DIRECTORY)

    async def list_it():
        await directory.load_entries()

    async def both():
        file = (await open_name(tree.where, "/a", O_WRONLY, 0)).hold()
        tree.loop.spawn(list_it(), "list")
        await breathe(tree.loop)
        wait_for_answers(tree)  # what the gofer says of the directory, and nobody has looked at yet
        write(file, b"much more")
        file.drop()
        tree.fs.close_all_idle()
        tree.root.dentry.children.clear()
        del file
        gc.collect()

    tree.run(both())

    assert tree.walk("/a").inode.size == 9
    directory.drop()


def test_an_exchange_that_fails_halfway_has_changed_the_times(tree, folder):
    """The renames that were undone left their traces in the directory; here the host has removed the second name."""
    for name in ("a", "b"):
        (folder / name).touch()
        tree.walk(f"/{name}")
    root = tree.root.inode
    tree.run(root.refresh())
    (folder / "b").unlink()

    with pytest.raises(ENOENT):
        tree.run(root.rename("a", root, "b", RENAME_EXCHANGE))

    tree.run(root.refresh())
    assert root.mtime_ns == os.stat(folder).st_mtime_ns
    assert os.listdir(folder) == ["a"]


def test_opening_a_closed_file_again_asks_nobody(tree, folder, monkeypatch):
    (folder / "a").write_text("text")
    tree.open("/a", O_RDONLY).drop()
    sent = count_calls(tree, monkeypatch)

    file = tree.open("/a", O_RDONLY)

    assert read(file) == b"text"
    assert sent == []
    file.drop()


def test_readers_share_one_host_descriptor_and_keep_their_offsets(tree, folder):
    (folder / "a").write_text("0123456789")
    first, second = tree.open("/a", O_RDONLY), tree.open("/a", O_RDONLY)

    assert first.fd == second.fd
    assert read(first, 4) == b"0123"
    assert read(second, 2) == b"01"
    assert read(first, 4) == b"4567"
    first.drop()
    second.drop()


def test_a_listing_answers_for_every_name_in_it_and_out_of_it(tree, folder, monkeypatch):
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    (folder / "d").mkdir()
    directory = tree.open("/", O_RDONLY | O_DIRECTORY)
    assert set(entries(tree, directory)) == {".", "..", "a", "b", "c", "d"}
    sent = count_calls(tree, monkeypatch)

    assert [tree.walk("/" + name).inode.size for name in "abc"] == [1, 1, 1]
    assert stat.S_ISDIR(tree.walk("/d").inode.mode)
    with pytest.raises(ENOENT):
        tree.walk("/e")

    assert sent == []
    directory.drop()


def test_files_known_from_a_listing_can_be_used(tree, folder):
    (folder / "d").mkdir()
    (folder / "d" / "e").mkdir()
    (folder / "d" / "e" / "file").write_text("deep")
    os.symlink("e/file", folder / "d" / "link")
    for name in ("/", "/d", "/d/e"):
        directory = tree.open(name, O_RDONLY)
        entries(tree, directory)
        directory.drop()

    file = tree.open("/d/link", O_RDWR)

    assert read(file) == b"deep"
    file.drop()


def test_a_listing_stays_true_through_changes_of_ours(tree, folder):
    for name in ("gone", "moved", "kept"):
        (folder / name).write_text(name)
    (folder / "sub").mkdir()
    entries(tree, tree.open("/", O_RDONLY))
    entries(tree, tree.open("/sub", O_RDONLY))

    tree.run(names.unlink(tree.where, "/gone"))
    tree.run(names.rename(tree.where, "/moved", tree.where, "/sub/here", 0))
    tree.run(names.make_dir(tree.where, "/new", 0o755))
    tree.run(names.make_symlink(tree.where, "/sub/link", "target"))
    tree.open("/made", O_CREAT | O_WRONLY).drop()

    assert set(entries(tree, tree.open("/", O_RDONLY))) == {".", "..", "kept", "made", "new", "sub"}
    assert set(entries(tree, tree.open("/sub", O_RDONLY))) == {".", "..", "here", "link"}
    assert sorted(os.listdir(folder)) == ["kept", "made", "new", "sub"]
    with pytest.raises(ENOENT):
        tree.walk("/moved")
    assert read(tree.open("/sub/here", O_RDONLY)) == b"moved"


def test_moving_into_a_listed_directory_from_one_that_is_not(tree, folder):
    (folder / "from").mkdir()
    (folder / "from" / "x").write_text("x")
    (folder / "to").mkdir()
    entries(tree, tree.open("/to", O_RDONLY))

    tree.run(names.rename(tree.where, "/from/x", tree.where, "/to/y", 0))

    assert set(entries(tree, tree.open("/to", O_RDONLY))) == {".", "..", "y"}
    assert tree.walk("/to/y").inode.size == 1


def test_replacing_a_file_known_from_a_listing_only(tree, folder):
    (folder / "old").write_text("old")
    (folder / "new").write_text("newer")
    entries(tree, tree.open("/", O_RDONLY))

    tree.run(names.rename(tree.where, "/new", tree.where, "/old", 0))

    assert read(tree.open("/old", O_RDONLY)) == b"newer"
    assert tree.walk("/old").inode.size == 5


def test_an_open_directory_shows_no_name_that_was_removed(tree, folder):
    for name in ("a", "b"):
        (folder / name).touch()
    directory = tree.open("/", O_RDONLY)
    tree.run(directory.load_entries())

    tree.run(names.unlink(tree.where, "/a"))

    assert [e.name for e in directory.entries(2)] == ["b"]


# ---- Attributes.


def test_times_and_sizes_are_the_hosts(tree, folder):
    file = tree.open("/a", O_CREAT | O_WRONLY)
    write(file, b"x" * 5000)
    inode = file.inode
    tree.run(inode.refresh())

    host = (folder / "a").stat()
    assert (inode.size, inode.mtime_ns, inode.ctime_ns, inode.blocks()) == (
        5000,
        host.st_mtime_ns,
        host.st_ctime_ns,
        host.st_blocks,
    )
    file.drop()


def test_what_the_descriptor_knew_is_kept_when_it_is_closed(tree, folder):
    file = tree.open("/a", O_CREAT | O_WRONLY)
    write(file, b"x" * 5000)
    inode = file.inode
    file.drop()
    for n in range(IDLE_FDS + 1):
        tree.open(f"/other{n}", O_CREAT | O_WRONLY).drop()

    assert inode.fresh()
    assert inode.mtime_ns == (folder / "a").stat().st_mtime_ns


def test_hard_links_are_one_inode(tree, folder):
    (folder / "a").write_text("x")
    (folder / "d").mkdir()
    os.link(folder / "a", folder / "d" / "b")
    entries(tree, tree.open("/", O_RDONLY))
    entries(tree, tree.open("/d", O_RDONLY))

    a, b = tree.walk("/a").inode, tree.walk("/d/b").inode

    assert a is b
    tree.run(a.setattr(AttrChange(mode=0o600)))
    tree.run(names.unlink(tree.where, "/a"))
    tree.run(b.refresh())
    assert (b.nlink, b.mode & 0o777) == (1, 0o600)


def test_a_removed_file_lives_on_while_open(tree, folder):
    file = tree.open("/a", O_CREAT | O_RDWR)
    write(file, b"still here")

    tree.run(names.unlink(tree.where, "/a"))

    tree.run(file.inode.refresh())
    assert file.inode.nlink == 0
    assert read(file, offset=0) == b"still here"
    tree.run(file.truncate(5))
    assert file.inode.size == 5
    tree.run(file.inode.setattr(AttrChange(mode=0o600)))
    assert file.path.dentry.deleted
    file.drop()


def test_truncating_on_open(tree, folder):
    (folder / "a").write_text("text")

    file = tree.open("/a", O_WRONLY | O_TRUNC)

    assert file.inode.size == 0
    assert (folder / "a").read_text() == ""
    file.drop()


# ---- Shared trees.


def test_a_shared_tree_shows_what_others_do(shared, folder):
    with pytest.raises(ENOENT):
        shared.walk("/a")
    (folder / "a").write_text("one")
    file = shared.open("/a", O_RDONLY)
    assert read(file) == b"one"
    (folder / "a").write_text("longer")
    inode = shared.walk("/a").inode
    shared.run(inode.refresh())
    assert inode.size == 6
    assert read(file, offset=0) == b"longer"
    directory = shared.open("/", O_RDONLY)
    assert set(entries(shared, directory)) == {".", "..", "a"}
    (folder / "b").touch()
    assert set(entries(shared, directory)) == {".", "..", "a", "b"}

    (folder / "a").unlink()

    with pytest.raises(ENOENT):
        shared.walk("/a")
    assert read(file, offset=0) == b"longer"


def test_a_shared_file_that_was_replaced_is_another_file(shared, folder):
    (folder / "a").write_text("old")
    old = shared.walk("/a").inode
    (folder / "new").write_text("new one")
    os.rename(folder / "new", folder / "a")

    fresh = shared.walk("/a").inode

    assert fresh is not old
    assert fresh.size == 7


def test_appending_to_a_shared_file_starts_at_its_present_end(shared, folder):
    (folder / "a").write_text("one")
    file = shared.open("/a", O_WRONLY | os.O_APPEND)
    with (folder / "a").open("a") as other:
        other.write("two")

    write(file, b"three")

    assert (folder / "a").read_text() == "onetwothree"


# ---- Resources.


def test_fids_are_given_back(tree, folder):
    before = tree.gofer_fds()
    for n in range(200):
        tree.run(names.make_dir(tree.where, f"/d{n}", 0o755))
    assert tree.gofer_fds() >= before + 200

    for n in range(200):
        tree.run(names.remove_dir(tree.where, f"/d{n}"))
    tree.flush_clunks()

    assert tree.gofer_fds() == before


def test_clunks_are_sent_without_being_asked_for(tree, folder):
    tree.run(names.make_dir(tree.where, "/a", 0o755))
    with_directory = tree.gofer_fds()
    tree.run(names.remove_dir(tree.where, "/a"))

    async def until_given_back():
        while tree.gofer_fds() >= with_directory:
            await tree.fs.statfs()

    tree.run(until_given_back())


def test_a_new_file_has_no_fid_until_it_needs_one(tree, folder):
    tree.flush_clunks()
    before = tree.gofer_fds()
    tree.open("/a", O_CREAT | O_WRONLY).drop()
    tree.run(tree.fs.statfs())  # by whose answer the gofer has closed what it has sent
    assert tree.gofer_fds() == before
    tree.run(tree.walk("/a").inode.setattr(AttrChange(mode=0o640)))
    assert tree.gofer_fds() == before + 1
    assert os.stat(folder / "a").st_mode & 0o7777 == 0o640


def test_a_new_file_is_reached_by_the_name_that_it_was_given_since(tree, folder):
    file = tree.open("/a", O_CREAT | O_WRONLY).hold()
    tree.run(names.make_dir(tree.where, "/d", 0o755))
    tree.run(names.rename(tree.where, "/a", tree.where, "/b", 0))
    tree.run(names.rename(tree.where, "/b", tree.where, "/d/c", 0))
    tree.run(file.inode.setattr(AttrChange(mode=0o640)))
    file.drop()
    assert os.stat(folder / "d/c").st_mode & 0o7777 == 0o640


def test_a_new_file_that_is_open_can_be_changed_when_its_name_is_gone(tree, folder):
    file = tree.open("/a", O_CREAT | O_WRONLY).hold()
    tree.run(names.unlink(tree.where, "/a"))
    tree.run(file.inode.setattr(AttrChange(mode=0o640)))
    tree.run(file.fsync(False))
    assert os.fstat(file.fd).st_mode & 0o7777 == 0o640
    file.drop()


def test_a_new_file_that_is_open_can_be_changed_when_another_has_its_name(tree, folder):
    file = tree.open("/a", O_CREAT | O_WRONLY).hold()
    tree.open("/b", O_CREAT | O_WRONLY).drop()
    tree.run(names.rename(tree.where, "/b", tree.where, "/a", 0))
    tree.run(file.inode.setattr(AttrChange(mode=0o640)))
    assert os.fstat(file.fd).st_mode & 0o7777 == 0o640
    assert os.stat(folder / "a").st_mode & 0o7777 != 0o640
    file.drop()


def test_a_new_file_that_is_only_held_by_path_is_found_when_its_name_is_gone(tree, folder):
    tree.open("/a", O_CREAT | O_WRONLY).drop()
    file = tree.open("/a", O_PATH).hold()
    tree.run(names.unlink(tree.where, "/a"))
    tree.run(file.inode.refresh())
    assert file.inode.nlink == 0
    file.drop()


def test_no_fid_is_lost_by_renames(tree, folder):
    tree.flush_clunks()
    before = tree.gofer_fds()
    for n in range(20):
        tree.open("/a", O_CREAT | O_WRONLY).drop()
        tree.open("/b", O_CREAT | O_WRONLY).drop()
        tree.run(names.rename(tree.where, "/a", tree.where, "/b" if n % 2 else "/c", 0))
    tree.flush_clunks()
    assert tree.gofer_fds() <= before + 3


def open_fds(folder):
    """Descriptors of this process for what lies in the folder, or did."""
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(link) and os.readlink(link).startswith(f"{folder}/") for link in links)


def test_idle_host_descriptors_are_few(tree, folder):
    before = open_fds(folder)
    for n in range(IDLE_FDS * 2):
        tree.open(f"/f{n}", O_CREAT | O_WRONLY).drop()

    assert open_fds(folder) <= before + IDLE_FDS + 1


def test_a_removed_file_has_no_idle_descriptor(tree, folder):
    before = open_fds(folder)
    tree.open("/a", O_CREAT | O_WRONLY).drop()

    tree.run(names.unlink(tree.where, "/a"))

    assert open_fds(folder) == before


def test_two_opens_at_once_keep_one_descriptor(tree, folder):
    (folder / "a").write_text("x")
    inode = tree.walk("/a").inode
    before = open_fds(folder)
    path = tree.walk("/a")
    files = []

    async def open_one():
        files.append((await inode.open(path, O_RDONLY)).hold())

    async def both():
        tree.loop.spawn(open_one(), "first")
        await open_one()
        while len(files) < 2:
            await tree.fs.statfs()

    tree.run(both())

    assert open_fds(folder) == before + 1
    for file in files:
        file.drop()


def test_running_out_of_host_descriptors_fails_the_open_only(tree, folder):
    """The kernel drops a donated descriptor for which there is no room; the connection must survive that."""
    for n in range(3):
        (folder / f"f{n}").write_text("x")
    files = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # not later: what earlier tests left holds descriptors
    spare = os.open("/", os.O_PATH)
    os.close(spare)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))
        files.append(tree.open("/f0", O_RDONLY))
        with pytest.raises(ENFILE):
            tree.open("/f1", O_RDONLY)
        with pytest.raises(ENFILE):
            tree.open("/new", O_CREAT | O_WRONLY)
        files.pop().drop()
        files.append(tree.open("/f2", O_RDONLY))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert read(files[0]) == b"x"
    assert not tree.lost


# ---- Refusals and ends.


def test_a_read_only_tree_refuses_changes(folder):
    (folder / "a").write_text("x")
    with GoferTree(folder, readonly=True) as tree:
        assert read(tree.open("/a", O_RDONLY)) == b"x"
        with pytest.raises(EROFS):
            tree.open("/b", O_CREAT | O_WRONLY)
        with pytest.raises(EROFS):
            tree.open("/a", O_RDWR)
        with pytest.raises(EROFS):
            tree.run(names.unlink(tree.where, "/a"))
        assert tree.walk("/a").inode.nlink == 1


def test_xattrs_the_gofer_does_not_serve_cost_no_round_trip(tree, folder, monkeypatch):
    (folder / "a").touch()
    inode = tree.walk("/a").inode
    sent = count_calls(tree, monkeypatch)

    for name in ("system.posix_acl_access", "security.selinux", "trusted.x"):
        with pytest.raises(EOPNOTSUPP):
            tree.run(inode.getxattr(name))

    assert sent == []


def test_when_the_gofer_dies_every_call_fails_and_the_owner_hears_once(tree, folder):
    (folder / "a").write_text("x")
    inode = tree.walk("/a").inode
    os.kill(tree.gofer, signal.SIGKILL)

    with pytest.raises(EIO):
        tree.run(inode.setattr(AttrChange(mode=0o600)))
    with pytest.raises(EIO):
        tree.run(tree.fs.statfs())

    assert tree.lost


def test_a_served_file_is_a_root_too(folder):
    (folder / "file").write_text("mounted")
    with GoferTree(folder / "file", shared=True) as tree:
        file = tree.run(tree.root.inode.open(tree.root, O_RDONLY)).hold()
        assert read(file) == b"mounted"
        file.drop()


def test_sync_writes_what_was_written(tree, folder, monkeypatch):
    file = tree.open("/a", O_CREAT | O_WRONLY)
    write(file, b"data")
    sent = count_calls(tree, monkeypatch)

    tree.run(tree.fs.sync())
    tree.run(tree.fs.sync())

    assert sent == ["Twalkgetattr", "Tfsync"]  # its fid, in the same flight
    file.drop()
