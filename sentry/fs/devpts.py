"""devpts: pseudo-terminals, pty(7).

Each mount is an instance of its own, with its own numbering.  Opening its ptmx makes a pair:
the opened file is the master, N in the directory is the slave, until the master is closed.
A container's console is a slave here too, whose master is the Sentry (console.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from sentry.abi import signal as sig
from sentry.abi import stat as st
from sentry.abi import tty as abi
from sentry.abi.errno import EAGAIN, EINVAL, EIO, ENODEV, ENOENT, ENOSPC
from sentry.abi.fcntl import CREATION_FLAGS, O_CLOEXEC, O_NOCTTY
from sentry.abi.poll import POLLHUP, POLLPRI, READABLE, WRITABLE
from sentry.fs.simple import ListedDir, apply_attrs
from sentry.fs.tty import QUEUE_LIMIT, Tty, check_change
from sentry.fs.ttyfile import open_tty
from sentry.fs.ttyioctl import get_int, put_int, shared_ioctl
from sentry.kernel.task import current
from sentry.vfs.dentry import CACHE, Dentry, Path
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange, FileSystem, Inode, device_number
from sentry.vfs.iov import Sink, Source

PTMX_INO: Final = 2
FIRST_SLAVE_INO: Final = 3
MAX_PTYS: Final = 4096  # /proc/sys/kernel/pty/max
SIGNALS_FROM_MASTER: Final = (sig.SIGINT, sig.SIGQUIT, sig.SIGTSTP)


class DevPts(FileSystem):
    """One instance.  Options as in Documentation/filesystems/devpts.rst."""

    NAME: ClassVar[str] = "devpts"
    MAGIC: ClassVar[int] = 0x1CD1

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.mode = 0o600
        self.ptmx_mode = 0
        self.uid: int | None = None
        self.gid: int | None = None
        self.max = MAX_PTYS
        for key, value in (options or {}).items():
            try:
                self._set(key, value)
            except ValueError:
                raise EINVAL(f"devpts: bad value for {key}") from None
        self.slaves: dict[int, Slave] = {}
        self.ptmx = Ptmx(self)
        self._root = PtsDir(self)

    def _set(self, key: str, value: str) -> None:
        match key:
            case "mode":
                self.mode = int(value, 8) & st.S_IALLUGO
            case "ptmxmode":
                self.ptmx_mode = int(value, 8) & st.S_IALLUGO
            case "uid":
                self.uid = int(value)
            case "gid":
                self.gid = int(value)
            case "max":
                self.max = int(value)
            case "newinstance":
                pass
            case _:
                raise EINVAL(f"devpts: unknown option {key}")

    async def root(self) -> PtsDir:
        return self._root

    def show_options(self) -> str:
        shown = f",uid={self.uid}" if self.uid is not None else ""
        if self.gid is not None:
            shown += f",gid={self.gid}"
        return shown + f",mode={self.mode:03o},ptmxmode={self.ptmx_mode:03o}"

    def new_slave(self, uid: int, gid: int) -> Slave:
        """The slave of a new pair, under the lowest free number.  ENOSPC."""
        number = next((n for n in range(self.max) if n not in self.slaves), None)
        if number is None:
            raise ENOSPC
        slave = Slave(self, number, uid if self.uid is None else self.uid, gid if self.gid is None else self.gid)
        self.slaves[number] = slave
        return slave

    def forget(self, slave: Slave) -> None:
        """Its master is closed."""
        if self.slaves.get(slave.number) is slave:
            del self.slaves[slave.number]
            slave.nlink = 0


class PtsDir(ListedDir):
    """The root: ptmx and the slaves.  Slaves come and go by themselves, so names are looked up anew each time."""

    __slots__ = ()

    volatile: ClassVar[bool] = True
    fs: DevPts

    def __init__(self, fs: DevPts) -> None:
        super().__init__(fs, st.S_IFDIR | 0o755, ino=1)

    async def lookup(self, name: str) -> Inode:
        if name == "ptmx":
            return self.fs.ptmx
        slave = self.fs.slaves.get(int(name)) if name.isascii() and name.isdigit() else None
        if slave is None or name != str(slave.number):
            raise ENOENT
        return slave

    def listing(self) -> Iterable[tuple[str, int, int]]:
        yield "ptmx", PTMX_INO, self.fs.ptmx.mode
        for number, slave in sorted(self.fs.slaves.items()):
            yield str(number), slave.ino, slave.mode

    async def setattr(self, change: AttrChange) -> None:
        apply_attrs(self, change)


class Ptmx(Inode):
    """The multiplexer: opening it makes a pair."""

    __slots__ = ()

    fs: DevPts

    def __init__(self, fs: DevPts) -> None:
        super().__init__(fs, st.S_IFCHR | fs.ptmx_mode, ino=PTMX_INO, rdev=device_number(abi.TTYAUX_MAJOR, 2))

    async def setattr(self, change: AttrChange) -> None:
        apply_attrs(self, change)

    async def open(self, path: Path, flags: int) -> File:
        parent = path.dentry.parent
        assert parent is not None
        return open_master(self, path, Path(path.mount, parent), flags)


class Slave(Inode):
    """A terminal's name.  `tty` is what lies behind it."""

    __slots__ = ("number", "tty")

    fs: DevPts

    def __init__(self, fs: DevPts, number: int, uid: int, gid: int) -> None:
        rdev = device_number(abi.UNIX98_PTY_SLAVE_MAJOR + (number >> 8), number & 0xFF)
        super().__init__(fs, st.S_IFCHR | fs.mode, uid, gid, FIRST_SLAVE_INO + number, rdev)
        self.number = number
        self.tty = Tty(rdev, f"pts/{number}")

    async def setattr(self, change: AttrChange) -> None:
        apply_attrs(self, change)

    async def open(self, path: Path, flags: int) -> File:
        return open_tty(self.tty, self, path, flags)


def open_master(inode: Inode, path: Path, pts: Path, flags: int) -> PtyMaster:
    """open(2) of a ptmx.  inode, path: what was opened; pts: the devpts instance's root."""
    fs = pts.inode.fs
    assert isinstance(fs, DevPts)
    t = current()
    caller = t.caller if t is not None else None
    slave = fs.new_slave(caller.fsuid if caller else 0, caller.fsgid if caller else 0)
    slave.tty.locked = True
    return PtyMaster(slave, pts, inode, path, flags & ~CREATION_FLAGS)


async def open_ptmx_node(inode: Inode, path: Path, flags: int) -> File:
    """A device node 5:2 outside of any devpts: uses the instance mounted at `pts` beside it (devpts_mntget).

    ENODEV: there is none.
    """
    from sentry.vfs.walk import lookup_child

    parent = path.dentry.parent
    if parent is None:
        raise ENODEV
    pts = Path(path.mount, await lookup_child(Path(path.mount, parent), "pts"))
    pts = path.mount.ns.enter(pts)
    if pts.dentry.inode is None or not isinstance(pts.inode.fs, DevPts):
        raise ENODEV
    return open_master(inode, path, Path(pts.mount, pts.mount.root), flags)


def slave_path(pts: Path, slave: Slave) -> Path:
    """The slave's name below pts, the root of a mount of its file system."""
    name = str(slave.number)
    dentry = pts.dentry.children.get(name)
    if dentry is None or dentry.inode is not slave:
        if dentry is not None:
            dentry.unhash()
        dentry = CACHE.add(Dentry(name, pts.dentry, slave))
    return Path(pts.mount, dentry)


class PtyMaster(File):
    """The side of a terminal emulator."""

    __slots__ = ("pts", "slave", "tty")

    writes_all: ClassVar[bool] = True
    is_master: ClassVar[bool] = True

    def __init__(self, slave: Slave, pts: Path, inode: Inode, path: Path, flags: int) -> None:
        super().__init__(inode, path, flags)
        self.slave = slave
        self.pts = pts
        self.tty = slave.tty
        self.queue = slave.tty.master_queue

    def release(self) -> None:
        self.slave.fs.forget(self.slave)
        self.tty.close_master()

    @property
    def dead(self) -> bool:
        return False

    @property
    def _slave_gone(self) -> bool:
        """Every slave that was ever opened is closed."""
        return self.tty.opened and not self.tty.slaves

    def read(self, dst: Sink) -> int:
        """What the terminal shows.  EIO: no program has it open any more."""
        tty = self.tty
        if not dst.remaining:
            return 0
        if tty.packet and tty.packet_status:
            status, tty.packet_status = tty.packet_status, 0
            return dst.put(bytes([status]))
        if not tty.output:
            if self._slave_gone:
                raise EIO
            raise EAGAIN
        if not tty.packet:
            return dst.put(tty.take_output(dst.remaining))
        return dst.put(bytes([abi.TIOCPKT_DATA]) + tty.take_output(dst.remaining - 1))

    def write(self, src: Source) -> int:
        """What is typed.  Taken while there is room, whether or not a program has the terminal open."""
        done = 0
        while src.remaining:
            room = QUEUE_LIMIT - len(self.tty.typed)
            if not room and not done:
                raise EAGAIN
            data = src.take(room) if room else b""
            if not data:
                break
            done += self.tty.type(data)
        return done

    def poll(self) -> int:
        tty = self.tty
        events = 0
        if tty.output:
            events = READABLE
        if tty.packet and tty.packet_status:
            events |= POLLPRI | READABLE
        if len(tty.typed) < QUEUE_LIMIT:
            events |= WRITABLE
        return events | POLLHUP if self._slave_gone else events

    def ioctl(self, t: Any, request: int, arg: int) -> int:
        tty = self.tty
        match request:
            case abi.TIOCGPTN:
                return put_int(t, arg, self.slave.number)
            case abi.TIOCSPTLCK:
                tty.locked = get_int(t, arg) != 0
            case abi.TIOCGPTLCK:
                return put_int(t, arg, int(tty.locked))
            case abi.TIOCPKT:
                self._set_packet(get_int(t, arg) != 0)
            case abi.TIOCGPKT:
                return put_int(t, arg, int(tty.packet))
            case abi.TIOCGPTPEER:
                return self._open_peer(t, arg)
            case abi.TIOCSIG:
                if arg not in SIGNALS_FROM_MASTER:
                    raise EINVAL
                tty.signal_foreground(arg)
            case abi.FIONREAD:
                return put_int(t, arg, len(tty.output))
            case abi.TIOCGDEV:
                return put_int(t, arg, self.inode.rdev)
            case abi.TCFLSH:
                self._flush(t, arg)
            case _:
                return shared_ioctl(self, t, request, arg)
        return 0

    def _set_packet(self, on: bool) -> None:
        if on and not self.tty.packet:
            self.tty.packet_status = 0
        self.tty.packet = on

    def _flush(self, t: Any, what: int) -> None:
        """TCFLSH here: the input is what programs wrote, the output what was typed and not yet received."""
        tty = self.tty
        check_change(tty, t, sig.SIGTTOU)
        if what not in (abi.TCIFLUSH, abi.TCOFLUSH, abi.TCIOFLUSH):
            raise EINVAL
        if what != abi.TCOFLUSH:
            tty.output.clear()
            tty.queue.wake(WRITABLE)
        if what != abi.TCIFLUSH:
            tty.typed.clear()
            self.queue.wake(WRITABLE)

    def _open_peer(self, t: Any, flags: int) -> int:
        """TIOCGPTPEER: a descriptor of the slave, without going through its name."""
        path = slave_path(self.pts, self.slave)
        file = open_tty(self.tty, self.slave, path, flags & ~(CREATION_FLAGS & ~O_NOCTTY))
        try:
            fd: int = t.files.install(file, bool(flags & O_CLOEXEC))
        except BaseException:
            file.hold().drop()
            raise
        return fd
