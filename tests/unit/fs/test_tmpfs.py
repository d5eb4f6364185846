"""tmpfs: the conformance suite, then what is its own."""

import os

import pytest

from sentry.abi.errno import EINVAL, ENOSPC, EOPNOTSUPP, EPERM
from sentry.abi.fcntl import F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, O_NOATIME, O_PATH, O_RDWR, RENAME_WHITEOUT
from sentry.abi.stat import S_IFCHR
from sentry.fs.memdata import SMALL
from sentry.fs.tmpfs import TmpFs
from sentry.vfs.dentry import MS_NOATIME, MS_STRICTATIME
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange
from tests.unit.fs.conformance import ME, Conformance, get, mount, put, run


@pytest.fixture
def root():
    return mount(TmpFs())


class TestTmpFs(Conformance):
    """The suite."""


class Tools(Conformance):
    """The suite's vocabulary without its tests."""

    __test__ = False


do = Tools()


def test_small_files_need_no_host_descriptor(root):
    paths = [do.make(root, f"f{n}", b"x" * 1000) for n in range(300)]

    assert all(path.inode.data._fd < 0 for path in paths)


def test_a_file_that_grows_moves_to_a_memfd_and_gives_it_back(root):
    path = do.make(root, "a", b"x" * SMALL)
    data = path.inode.data
    assert data._fd < 0

    file = do.open(path)
    put(file, b"y", offset=SMALL)
    fd = data._fd
    assert os.fstat(fd).st_size == SMALL + 1
    assert get(file, offset=SMALL - 1) == b"xy"
    file.drop()
    do.remove(root, "a")

    assert data._fd < 0
    with pytest.raises(OSError):
        os.fstat(fd)


def test_memory_goes_with_the_last_name_and_the_last_open_file(root):
    """A cached dentry may keep the inode object; it must not keep the memory."""
    fs = root.inode.fs
    path = do.make(root, "a", b"x" * 200_000)
    inode = path.inode
    file = do.open(path)
    do.remove(root, "a")
    assert fs.pool.used > 0

    file.drop()

    assert fs.pool.used == 0
    assert inode.data.pages == 0


def test_an_o_path_descriptor_keeps_the_file_too(root):
    """What it leads to can be opened again through /proc/self/fd, name or no name."""
    path = do.make(root, "a", b"x" * 200_000)
    handle = File(path.inode, path, O_PATH).hold()
    do.remove(root, "a")

    file = do.open(path)
    assert len(get(file)) == 200_000
    file.drop()
    assert path.inode.data.size
    handle.drop()
    assert not path.inode.data.size


def test_space_is_limited(root):
    root = mount(TmpFs({"size": "16k"}))
    file = do.open(do.make(root, "a"))

    assert put(file, b"x" * 10_000) == 10_000
    assert put(file, b"x" * 10_000) == 16384 - 10_000
    with pytest.raises(ENOSPC):
        put(file, b"x")
    with pytest.raises(ENOSPC):
        put(do.open(do.make(root, "b")), b"x")
    assert put(file, b"y" * 10_000, offset=0) == 10_000
    info = run(root.inode.fs.statfs())
    assert (info.blocks, info.bfree) == (4, 0)

    run(file.truncate(0))
    assert put(do.open(do.make(root, "c")), b"x" * 16384) == 16384


def test_a_full_file_system_still_takes_overwrites_of_large_files():
    root = mount(TmpFs({"size": "128k"}))
    file = do.open(do.make(root, "a"))
    assert put(file, b"x" * 200_000) == 128 << 10

    assert put(file, b"y" * 5000, offset=70_000) == 5000
    assert put(file, b"y" * 5000, offset=(128 << 10) - 100) == 100
    with pytest.raises(ENOSPC):
        put(file, b"y", offset=128 << 10)
    assert get(file, 3, offset=70_000) == b"yyy"


def test_fallocate_beyond_the_limit_allocates_nothing():
    root = mount(TmpFs({"size": "64k"}))
    file = do.open(do.make(root, "a", b"x" * 5000))

    with pytest.raises(ENOSPC):
        run(file.fallocate(0, 0, 1 << 40))
    with pytest.raises(ENOSPC):
        run(file.fallocate(0, 0, (64 << 10) + 1))
    run(file.fallocate(0, 0, 64 << 10))
    assert root.inode.fs.pool.free == 0


def test_punching_gives_space_back():
    root = mount(TmpFs({"size": "1m"}))
    file = do.open(do.make(root, "a", b"x" * (1 << 20)))
    assert root.inode.fs.pool.free == 0

    run(file.fallocate(3, 0, 1 << 19))

    assert root.inode.fs.pool.free == 128


def test_zero_range_is_not_supported_as_on_linux(root):
    file = do.open(do.make(root, "a", b"x"))
    with pytest.raises(EOPNOTSUPP):
        run(file.fallocate(16, 0, 1))


def test_inodes_are_limited_and_come_back():
    root = mount(TmpFs({"nr_inodes": "4"}))  # the root is one
    for n in range(3):
        do.make(root, f"f{n}")
    with pytest.raises(ENOSPC):
        do.make(root, "more")
    with pytest.raises(ENOSPC):
        run(root.inode.link("more", do.child(root, "f0").inode))

    do.remove(root, "f0")
    run(root.inode.link("more", do.child(root, "f1").inode))
    do.remove(root, "more")
    do.make_dir(root, "d")
    do.remove(root, "d")
    do.make(root, "last")
    assert run(root.inode.fs.statfs()).ffree == 0


def test_mount_options():
    fs = TmpFs({"size": "64k", "mode": "755", "uid": "5", "gid": "6", "nr_inodes": "1k", "huge": "never"})
    inode = run(fs.root())

    assert (inode.mode & 0o7777, inode.uid, inode.gid) == (0o755, 5, 6)
    assert fs.show_options() == ",size=64k,nr_inodes=1024,mode=755,uid=5,gid=6"
    assert TmpFs().show_options() == ""
    assert run(TmpFs({"size": "0"}).statfs()).blocks == 0


@pytest.mark.parametrize(
    "options", [{"size": "much"}, {"mode": "9"}, {"nonsense": ""}, {"uid": "root"}, {"size": "-1"}, {"size": ""}]
)
def test_bad_mount_options(options):
    with pytest.raises(EINVAL):
        TmpFs(options)


def test_remount_changes_limits_but_not_below_what_is_used():
    fs = TmpFs({"size": "64k"})
    root = mount(fs)
    do.make(root, "a", b"x" * 20_000)

    with pytest.raises(EINVAL):
        fs.reconfigure({"size": "16k"})
    fs.reconfigure({"size": "20k"})

    assert fs.pool.free == 0


def test_sealed_files_refuse():
    root = mount(TmpFs())
    path = do.make(root, "a", b"12345")
    file = do.open(path)

    path.inode.seals = F_SEAL_GROW | F_SEAL_SHRINK
    put(file, b"abc")
    with pytest.raises(EPERM):
        put(file, b"xyz")
    for size in (3, 8):
        with pytest.raises(EPERM):
            run(file.truncate(size))
    path.inode.seals = F_SEAL_WRITE
    with pytest.raises(EPERM):
        put(file, b"", offset=0)
    with pytest.raises(EPERM):
        run(file.host_fd(True))
    with pytest.raises(EPERM):
        run(file.fallocate(3, 0, 1))
    run(file.host_fd(False))


def test_whiteout_rename(root):
    do.make(root, "a", b"x")

    do.rename(root, "a", root, "b", RENAME_WHITEOUT)

    assert do.names(root) == ["a", "b"]
    assert (do.child(root, "a").inode.mode, do.child(root, "a").inode.rdev) == (S_IFCHR, 0)


def test_posix_acls_are_not_supported(root):
    inode = do.make(root, "a").inode
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        with pytest.raises(EOPNOTSUPP):
            run(inode.setxattr(name, b"", 0))
        with pytest.raises(EOPNOTSUPP):
            run(inode.getxattr(name))


def test_attributes_of_one_inode_are_bounded(root):
    inode = do.make(root, "a").inode
    run(inode.setxattr("user.a", bytes(60_000), 0))
    with pytest.raises(ENOSPC):
        run(inode.setxattr("user.b", bytes(60_000), 0))
    run(inode.setxattr("user.a", bytes(65_000), 0))


def test_entries_added_while_a_directory_is_read_come_last(root):
    do.make(root, "a")
    do.make(root, "b")
    middle = do.entries(root)[2]
    assert middle.name == "a"
    do.make(root, "c")
    do.remove(root, "b")

    assert [entry.name for entry in do.entries(root, middle.next_offset)] == ["c"]


ATIME = [
    # mount flags, open flags, atime, does a read move it
    (0, 0, "old", True),
    (0, 0, "newer than mtime", False),
    (MS_STRICTATIME, 0, "newer than mtime", True),
    (MS_NOATIME, 0, "old", False),
    (0, O_NOATIME, "old", False),
]


@pytest.mark.parametrize(("mount_flags", "flags", "atime", "moves"), ATIME)
def test_reading_moves_atime_as_the_mount_says(mount_flags, flags, atime, moves):
    root = mount(TmpFs(), mount_flags)
    path = do.make(root, "a", b"x")
    inode = path.inode
    if atime == "old":
        run(inode.setattr(AttrChange(atime_ns=1)))
    else:
        inode.atime_ns = inode.ctime_ns + 1
    before = inode.atime_ns

    get(do.open(path, O_RDWR | flags))

    assert (inode.atime_ns != before) == moves


def test_many_entries_list_in_linear_time(root):
    """Positions are found by bisection, and gaps left by removed names are closed."""
    for n in range(3000):
        run(root.inode.create(f"f{n}", 0o644, ME))
    for n in range(2900):
        run(root.inode.unlink(f"f{n}", root.inode))

    entries = do.entries(root)

    assert len(entries) == 102
    assert [e.name for e in do.entries(root, entries[50].next_offset)] == [e.name for e in entries[51:]]
