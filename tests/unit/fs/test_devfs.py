"""Devices, and what a container's /dev holds."""

import os

import pytest

from sentry.abi import signal as sig
from sentry.abi import tty as abi
from sentry.abi.errno import EAGAIN, EINVAL, EIO, ENODEV, ENOENT, ENOSPC, ENOTTY, ENXIO
from sentry.abi.fcntl import O_CLOEXEC, O_NOCTTY, O_RDONLY, O_RDWR
from sentry.abi.stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT
from sentry.fs.devfs import DeviceNode, populate_dev
from sentry.fs.devpts import DevPts
from sentry.fs.tmpfs import TmpFs
from sentry.syscalls.ioctl import ioctl
from sentry.vfs.dentry import Dentry, Path
from sentry.vfs.iov import BytesSink, BytesSource
from tests.fakeguest import Guest
from tests.unit.fs.conformance import ME, Conformance, get, mount, put, run


class Tools(Conformance):
    """The suite's vocabulary without its tests."""

    __test__ = False


do = Tools()


@pytest.fixture
def dev():
    root = mount(TmpFs())
    run(populate_dev(root.inode))
    return root


def device(dev, name, flags=O_RDWR):
    return do.open(do.child(dev, name), flags)


DEFAULTS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
}


def test_the_default_devices_are_there(dev):
    for name, (major, minor) in DEFAULTS.items():
        inode = do.child(dev, name).inode
        assert inode.mode == S_IFCHR | 0o666
        assert (os.major(inode.rdev), os.minor(inode.rdev)) == (major, minor)
    for name, target in LINKS.items():
        inode = do.child(dev, name).inode
        assert inode.mode & S_IFMT == S_IFLNK
        assert run(inode.readlink()) == target
    for name in ("pts", "shm"):
        assert do.child(dev, name).inode.mode == S_IFDIR | 0o755
    with pytest.raises(ENOENT):
        run(dev.inode.lookup("console"))


def test_devices_of_the_spec_are_added_and_nothing_is_replaced(dev):
    do.remove(dev, "null")
    do.make(dev, "null", b"the image's own")
    nodes = [DeviceNode("net/tun", S_IFCHR | 0o600, 10, 200, 5, 6), DeviceNode("sda", S_IFBLK | 0o660, 8, 0)]

    run(populate_dev(dev.inode, nodes, console=True))

    assert do.contents(do.child(dev, "null")) == b"the image's own"
    tun = do.child(do.child(dev, "net"), "tun").inode
    assert (tun.mode, tun.uid, tun.gid, os.major(tun.rdev), os.minor(tun.rdev)) == (S_IFCHR | 0o600, 5, 6, 10, 200)
    assert do.child(dev, "console").inode.mode == S_IFCHR | 0o600
    for path in (do.child(dev, "sda"), do.child(do.child(dev, "net"), "tun")):
        with pytest.raises(ENXIO):
            run(path.inode.open(path, O_RDWR))


def test_null(dev):
    null = device(dev, "null")
    source = BytesSource(b"x" * 100)
    assert null.write(source) == 100
    assert source.remaining == 0
    assert get(null) == b""
    assert null.seek(500, 0) == 0
    assert put(null, b"abc", offset=10) == 3


def test_zero_and_full(dev):
    zero, full = device(dev, "zero"), device(dev, "full")
    assert get(zero, 200_000) == bytes(200_000)
    assert put(zero, b"x") == 1
    assert get(full, 10, offset=3) == bytes(10)
    with pytest.raises(ENOSPC):
        put(full, b"x")


def test_every_mapping_of_zero_has_memory_of_its_own(dev):
    zero = device(dev, "zero")
    first, second = run(zero.host_fd(True)), run(zero.host_fd(True))
    os.pwrite(first, b"x", 1 << 40)

    assert os.pread(second, 1, 1 << 40) == b"\0"
    zero.drop()
    with pytest.raises(OSError):
        os.fstat(first)


def test_random(dev):
    for name in ("random", "urandom"):
        file = device(dev, name)
        first, second = get(file, 100_000), get(file, 100_000)
        assert len(first) == 100_000
        assert first != second
        assert put(file, b"seed" * 50_000) == 200_000


def test_random_says_how_much_entropy_it_has(dev):
    guest = Guest()
    t = guest.process()
    t.files.install(device(dev, "random"))
    addr = t.mem.alloc(4)
    guest.call(t, ioctl, 0, 0x80045200, addr)
    assert t.mem.read(addr, 4) == (256).to_bytes(4, "little")
    with pytest.raises(ENOTTY):
        guest.call(t, ioctl, 0, 0x5401, addr)


def test_a_device_node_on_another_file_system_is_the_same_device(dev):
    run(dev.inode.mknod("other", S_IFCHR | 0o600, (1 << 8) | 5, ME))
    assert get(device(dev, "other"), 5) == bytes(5)


# -- devpts --


@pytest.fixture
def pts(dev):
    """/dev/pts, mounted."""
    fs = DevPts({"mode": "620", "gid": "5", "ptmxmode": "666"})
    where = do.child(dev, "pts")
    top = dev.mount.ns.new_mount(fs, Dentry("", None, run(fs.root())))
    dev.mount.ns.attach(top, where)
    return Path(top, top.root)


def open_ptmx(pts):
    return do.open(do.child(pts, "ptmx"))


def test_a_pair_has_a_name_as_long_as_its_master_is_open(pts):
    first, second = open_ptmx(pts), open_ptmx(pts)
    assert do.names(pts) == ["0", "1", "ptmx"]
    slave = do.child(pts, "0")
    assert slave.inode.mode == S_IFCHR | 0o620
    assert slave.inode.gid == 5
    assert os.major(slave.inode.rdev) == 136
    assert do.child(pts, "1").inode.rdev == slave.inode.rdev + 1

    first.drop()

    assert do.names(pts) == ["1", "ptmx"]
    assert slave.dentry.inode.nlink == 0
    third = open_ptmx(pts)
    assert do.names(pts) == ["0", "1", "ptmx"]
    assert do.child(pts, "0").inode is not slave.inode
    second.drop()
    third.drop()


def test_a_slave_opens_once_it_is_unlocked(pts):
    master = open_ptmx(pts)
    guest = Guest()
    t = guest.process()
    t.files.install(master)
    slave = do.child(pts, "0")
    with pytest.raises(EIO):
        run(slave.inode.open(slave, O_RDWR))

    addr = t.mem.alloc(4)
    guest.call(t, ioctl, 0, abi.TIOCSPTLCK, addr)
    guest.call(t, ioctl, 0, abi.TIOCGPTLCK, addr)
    assert t.mem.read(addr, 4) == bytes(4)
    file = run(slave.inode.open(slave, O_RDWR | O_NOCTTY)).hold()
    master.write(BytesSource(b"x\n"))
    assert get(file) == b"x\n"
    guest.call(t, ioctl, 0, abi.TIOCGPTN, addr)
    assert t.mem.read(addr, 4) == bytes(4)
    file.drop()


def test_tiocgptpeer_opens_the_slave_without_its_name(pts):
    guest = Guest()
    guest.process()
    t = guest.process()
    t.files.install(open_ptmx(pts))
    t.files.get(0).tty.locked = False

    fd = guest.call(t, ioctl, 0, abi.TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)

    file = t.files.get(fd)
    assert file.flags == O_RDWR
    assert t.files.cloexec(fd)
    assert file.path.inode is do.child(pts, "0").inode
    assert file.path.dentry.name == "0"


def test_the_master_can_send_signals(pts):
    guest = Guest()
    guest.process()
    t = guest.process()
    master = open_ptmx(pts)
    t.files.install(master)
    master.tty.make_controlling(t.tg)

    guest.call(t, ioctl, 0, abi.TIOCSIG, sig.SIGQUIT)

    assert t.tg.pending.mask & sig.bit(sig.SIGQUIT)
    with pytest.raises(EINVAL):
        guest.call(t, ioctl, 0, abi.TIOCSIG, sig.SIGKILL)


def test_flushing_at_the_master_means_the_other_directions(pts):
    guest = Guest()
    t = guest.process()
    master = open_ptmx(pts)
    t.files.install(master)
    master.tty.show(b"shown")
    guest.call(t, ioctl, 0, abi.TCFLSH, abi.TCOFLUSH)
    assert get(master, 3) == b"sho"

    guest.call(t, ioctl, 0, abi.TCFLSH, abi.TCIFLUSH)

    with pytest.raises(EAGAIN):
        master.read(BytesSink(10))


def test_dev_ptmx_as_a_node_uses_the_instance_beside_it(dev, pts):
    do.remove(dev, "ptmx")
    run(dev.inode.mknod("ptmx", S_IFCHR | 0o666, (5 << 8) | 2, ME))

    master = device(dev, "ptmx")

    assert do.names(pts) == ["0", "ptmx"]
    master.drop()
    elsewhere = mount(TmpFs())
    run(elsewhere.inode.mknod("ptmx", S_IFCHR | 0o666, (5 << 8) | 2, ME))
    with pytest.raises(ENODEV):
        device(elsewhere, "ptmx")


def test_numbers_are_limited():
    root = mount(DevPts({"max": "2"}))
    masters = [open_ptmx(root) for _ in range(2)]
    with pytest.raises(ENOSPC):
        open_ptmx(root)
    for master in masters:
        master.drop()


def test_instances_are_separate():
    first, second = mount(DevPts()), mount(DevPts())
    master = open_ptmx(first)
    assert do.names(second) == ["ptmx"]
    master.drop()


def test_options():
    assert DevPts({"mode": "620", "gid": "5", "ptmxmode": "666"}).show_options() == ",gid=5,mode=620,ptmxmode=666"
    assert DevPts().show_options() == ",mode=600,ptmxmode=000"
    for bad in ({"mode": "x"}, {"nonsense": "1"}):
        with pytest.raises(EINVAL):
            DevPts(bad)


def test_names_that_are_no_numbers_do_not_exist(pts):
    master = open_ptmx(pts)
    for name in ("00", "-0", "1", "x", "²"):
        with pytest.raises(ENOENT):
            run(pts.inode.lookup(name))
    master.drop()


def test_ptmx_opens_for_reading_only_too(pts):
    master = do.open(do.child(pts, "ptmx"), O_RDONLY)
    assert not master.writable
    master.drop()
