"""Names of AF_UNIX sockets, unix(7), "Address format".

An address is kept as the bytes of its struct sockaddr_un, family included; a path's has its
NUL, an abstract name's has none.  b"" stands for no name.

Who is bound to a path is found through the file's identity, whatever its name is by now.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from sentry.abi import stat as st
from sentry.abi.errno import EADDRINUSE, ECONNREFUSED, EEXIST, EINVAL, ENOSPC, EPROTOTYPE
from sentry.abi.fcntl import AT_FDCWD
from sentry.abi.socket import AF_UNIX, SOCKADDR_UN_SIZE, SUN_PATH, UNIX_FAMILY, family_of
from sentry.net.flight import Flights
from sentry.vfs.cachedwalk import walk_cached
from sentry.vfs.caller import MAY_WRITE
from sentry.vfs.names import make_node, unlink
from sentry.vfs.walk import walk

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sentry.kernel.kernel import Kernel
    from sentry.kernel.task import Task
    from sentry.net.unix import UnixSocket

AUTOBIND_NAMES: Final = 1 << 20  # five hexadecimal digits


def check_address(address: bytes) -> None:
    """unix_validate_addr().  EINVAL."""
    if not SUN_PATH < len(address) <= SOCKADDR_UN_SIZE or family_of(address) != AF_UNIX:
        raise EINVAL("address")


def is_abstract(address: bytes) -> bool:
    return address[SUN_PATH] == 0


def path_of(address: bytes) -> bytes:
    """sun_path, which needs no NUL if it is that long."""
    return address[SUN_PATH:].split(b"\0", 1)[0]


class UnixNames:
    """The AF_UNIX sockets of a network namespace: names that are taken, and descriptors in flight."""

    def __init__(self, carrier: type[UnixSocket]) -> None:
        # Abstract names of one type of socket don't get in the way of those of another.
        self._abstract: dict[tuple[int, bytes], UnixSocket] = {}
        self._files: dict[Hashable, UnixSocket] = {}
        self._next_autobind = 0
        self.sockets: weakref.WeakSet[UnixSocket] = weakref.WeakSet()
        self.flights = Flights(carrier)

    # -- binding --

    def bind_abstract(self, socket: UnixSocket, address: bytes) -> None:
        """EINVAL: it is bound.  EADDRINUSE."""
        if socket.address:
            raise EINVAL("bound already")
        key = (socket.type, address)
        if key in self._abstract:
            raise EADDRINUSE
        self._abstract[key] = socket
        socket.address = address

    def autobind(self, socket: UnixSocket) -> None:
        """ "The address consists of a null byte followed by 5 bytes in the character set [0-9a-f]" - unix(7).

        Nothing, if it is bound.  ENOSPC.
        """
        if socket.address:
            return
        for _ in range(AUTOBIND_NAMES):
            address = UNIX_FAMILY + b"\0%05x" % self._next_autobind
            self._next_autobind = (self._next_autobind + 1) % AUTOBIND_NAMES
            if (socket.type, address) not in self._abstract:
                self.bind_abstract(socket, address)
                return
        raise ENOSPC

    async def bind_path(self, t: Task, socket: UnixSocket, address: bytes) -> None:
        """Make the file, with the mode that the socket has, by fchmod(2) or as it was made, and the umask.

        EADDRINUSE: there is one.  EINVAL: the socket is bound.  Those of mknod(2).
        """
        name = path_of(address).decode("utf-8", "surrogateescape")
        where = t.where(AT_FDCWD)
        try:
            path = await make_node(where, name, socket.inode.mode, 0)
        except EEXIST:
            raise EADDRINUSE from None
        if socket.address:
            await unlink(where, name)
            raise EINVAL("bound already")
        key = path.inode.identity()
        socket.bound_to = (key, path)
        socket.address = UNIX_FAMILY + path_of(address) + b"\0"
        self._files[key] = socket

    def unbind(self, socket: UnixSocket) -> None:
        """The socket is gone; its file stays until somebody removes it."""
        if self._abstract.get((socket.type, socket.address)) is socket:
            del self._abstract[(socket.type, socket.address)]
        if socket.bound_to is not None:
            key, _ = socket.bound_to
            if self._files.get(key) is socket:
                del self._files[key]
            socket.bound_to = None

    # -- finding --

    async def find(self, t: Task, address: bytes, kind: int) -> UnixSocket:
        """unix_find_other(): the socket of that type that is bound to a valid address.

        ECONNREFUSED: nobody is.  EPROTOTYPE: one of another type.  EACCES: no permission to write.  Those of the walk.
        """
        if is_abstract(address):
            return self.find_abstract(address, kind)
        name = path_of(address).decode("utf-8", "surrogateescape")
        where = t.where(AT_FDCWD)
        path = walk_cached(where, name, True) or await walk(where, name)
        inode = path.inode
        if not inode.fresh():
            await inode.refresh()
        where.caller.check(inode, MAY_WRITE)
        socket = self._files.get(inode.identity())
        if inode.mode & st.S_IFMT != st.S_IFSOCK or socket is None:
            raise ECONNREFUSED
        if socket.type != kind:
            raise EPROTOTYPE
        return socket

    def find_abstract(self, address: bytes, kind: int) -> UnixSocket:
        """ECONNREFUSED."""
        socket = self._abstract.get((kind, address))
        if socket is None:
            raise ECONNREFUSED
        return socket


def names_of(kernel: Kernel, carrier: type[UnixSocket]) -> UnixNames:
    """Those of the one network namespace that the containers of a kernel share."""
    names = kernel.unix_names
    if names is None:
        names = kernel.unix_names = UnixNames(carrier)
    assert isinstance(names, UnixNames)
    return names
