"""Sockets as files: what all address families have in common (struct socket and struct sock).

A family overrides what it can do; the defaults answer as Linux's sock_no_*() do.  Nothing
here waits: what would have to raises EAGAIN, and sentry/syscalls waits on `queue`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from sentry.abi.errno import EINVAL, ENOTTY, ENXIO, EOPNOTSUPP, LinuxError
from sentry.abi.fcntl import O_RDWR
from sentry.abi.poll import POLLIN
from sentry.abi.socket import FIONREAD, INT, SIOCOUTQ
from sentry.abi.stat import S_IFSOCK
from sentry.fs.simple import apply_attrs
from sentry.net.message import PLAIN, Outgoing, Received
from sentry.vfs.dentry import Path
from sentry.vfs.file import File
from sentry.vfs.inode import AttrChange, FileSystem, Inode
from sentry.vfs.iov import Sink, Source

if TYPE_CHECKING:
    from sentry.kernel.task import Task
    from sentry.net.identity import Identity

DEFAULT_BUFFER: Final = 212992  # /proc/sys/net/core/wmem_default and rmem_default


class SockFs(FileSystem):
    """Where sockets live; never mounted."""

    NAME: ClassVar[str] = "sockfs"
    MAGIC: ClassVar[int] = 0x534F434B


FILESYSTEM: Final = SockFs()


class SockInode(Inode):
    """A socket's inode; it can't be opened again."""

    __slots__ = ()

    async def open(self, path: Path, flags: int) -> File:
        """sock_no_open()."""
        raise ENXIO

    async def setattr(self, change: AttrChange) -> None:
        apply_attrs(self, change)


class Socket(File):
    """A socket.  Fields, by who changes them:

    type protocol                     fixed
    error                             pending (SO_ERROR), an errno class; whoever reports it clears it
    shut                              RCV_SHUTDOWN, SEND_SHUTDOWN: by shutdown(2) of either side, and the end
    sndbuf rcvbuf rcvlowat linger     setsockopt(2), as rcvtimeo_ns and sndtimeo_ns (None: for ever)
    passcred passpidfd timestamp      setsockopt(2): what receivers want to know; timestamp is SO_TIMESTAMP(NS) or 0
    peer_identity                     SO_PEERCRED: when the connection is made
    options                           other options that are only kept
    """

    __slots__ = (
        "error",
        "linger",
        "options",
        "passcred",
        "passpidfd",
        "peer_identity",
        "protocol",
        "rcvbuf",
        "rcvlowat",
        "rcvtimeo_ns",
        "shut",
        "sndbuf",
        "sndtimeo_ns",
        "timestamp",
        "type",
    )

    FAMILY: ClassVar[int]

    def __init__(self, t: Task, kind: int, protocol: int, flags: int) -> None:
        """flags: O_NONBLOCK or 0."""
        creds = t.creds
        super().__init__(SockInode(FILESYSTEM, S_IFSOCK | 0o777, creds.fsuid, creds.fsgid), None, O_RDWR | flags)
        self.type = kind
        self.protocol = protocol
        self.error: type[LinuxError] | None = None
        self.shut = 0
        self.sndbuf = self.rcvbuf = DEFAULT_BUFFER
        self.rcvlowat = 1
        self.rcvtimeo_ns: int | None = None
        self.sndtimeo_ns: int | None = None
        self.linger = (0, 0)
        self.passcred = self.passpidfd = False
        self.timestamp = 0
        self.peer_identity: Identity | None = None
        self.options: dict[int, int] = {}

    # -- making and ending connections --

    async def bind(self, t: Task, address: bytes) -> None:
        """bind(2)."""
        raise EOPNOTSUPP

    async def connect(self, t: Task, address: bytes) -> None:
        """connect(2); the only one here that waits."""
        raise EOPNOTSUPP

    def listen(self, t: Task, backlog: int) -> None:
        """listen(2)."""
        raise EOPNOTSUPP

    def accept(self, t: Task, flags: int) -> Socket:
        """accept(2): the next connection's socket.  EAGAIN."""
        raise EOPNOTSUPP

    def shut_down(self, how: int) -> None:
        """shutdown(2); how: RCV_SHUTDOWN, SEND_SHUTDOWN or both."""
        raise EOPNOTSUPP

    @property
    def listening(self) -> bool:
        return False

    # -- names --

    def local_name(self) -> bytes:
        """getsockname(2)."""
        raise EOPNOTSUPP

    def peer_name(self) -> bytes:
        """getpeername(2).  ENOTCONN."""
        raise EOPNOTSUPP

    # -- options of other levels than SOL_SOCKET --

    def get_option(self, t: Task, level: int, name: int) -> bytes:
        """getsockopt(2).  EOPNOTSUPP: no such level.  ENOPROTOOPT."""
        raise EOPNOTSUPP

    def set_option(self, t: Task, level: int, name: int, value: bytes) -> None:
        """setsockopt(2)."""
        raise EOPNOTSUPP

    # -- messages --

    async def resolve(self, t: Task, address: bytes, size: int, nonblock: bool) -> Any:
        """Outgoing.target for an address given to sendto(2) with a message of that size."""
        raise EOPNOTSUPP

    def attach(self, t: Task, out: Outgoing, control: bytes) -> None:
        """Put what ancillary data asks for into out.  EINVAL."""
        raise EOPNOTSUPP

    def send(self, src: Source, out: Outgoing, flags: int) -> int:
        """As much as fits now; the rest of src is for later.  EAGAIN: nothing does."""
        raise EOPNOTSUPP

    def receive(self, dst: Sink, flags: int, got: Received) -> None:
        """Add what is there to got.  EAGAIN: nothing is; at the end of all data, got stays as it is."""
        raise EOPNOTSUPP

    # -- as a file --

    def write(self, src: Source) -> int:
        return self.send(src, PLAIN, 0)

    def read(self, dst: Sink) -> int:
        if not dst.remaining:
            return 0
        got = Received()
        try:
            self.receive(dst, 0, got)
        finally:
            got.close()
        return got.count

    def patience_ns(self, events: int) -> int | None:
        return self.rcvtimeo_ns if events & POLLIN else self.sndtimeo_ns

    def take_error(self) -> type[LinuxError] | None:
        """sock_error(): the pending error, which is pending no more."""
        error, self.error = self.error, None
        return error

    def incoming_bytes(self) -> int:
        """SIOCINQ."""
        raise EINVAL

    def outgoing_bytes(self) -> int:
        """SIOCOUTQ."""
        raise EINVAL

    def ioctl(self, t: Any, request: int, arg: int) -> int:
        if request == FIONREAD:
            count = self.incoming_bytes()
        elif request == SIOCOUTQ:
            count = self.outgoing_bytes()
        else:
            raise ENOTTY
        t.mem.write(arg, INT.pack(count))
        return 0

    def describe(self) -> str | None:
        return f"socket:[{self.inode.ino}]"
