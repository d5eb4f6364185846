"""/proc/net/unix, proc_net(5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi.socket import SUN_PATH
from sentry.fs.proc_net import FILES
from sentry.net.unix import ESTABLISHED, LISTEN, UnixSocket
from sentry.net.unixnames import UnixNames, is_abstract

if TYPE_CHECKING:
    from sentry.kernel.kernel import Kernel

HEADER: Final = "Num       RefCount Protocol Flags    Type St Inode Path\n"
ACCEPTS_CONNECTIONS: Final = 1 << 16  # __SO_ACCEPTCON
# enum socket_state
UNCONNECTED: Final = 1
CONNECTING: Final = 2
CONNECTED: Final = 3


def table(kernel: Kernel) -> str:
    names = kernel.unix_names
    if not isinstance(names, UnixNames):
        return HEADER
    return HEADER + "".join(_line(socket) for socket in sorted(names.sockets, key=lambda socket: socket.inode.ino))


def _line(socket: UnixSocket) -> str:
    """Addresses of the kernel are not shown, as to anybody without privileges."""
    flags = ACCEPTS_CONNECTIONS if socket.state == LISTEN else 0
    if socket.state != ESTABLISHED:
        state = UNCONNECTED
    else:
        state = CONNECTED if socket.accepted else CONNECTING
    name = " " + _shown(socket.address) if socket.address else ""
    ino = socket.inode.ino if socket.accepted else 0
    return f"{0:016x}: {socket.refs + 1:08X} {0:08X} {flags:08X} {socket.type:04X} {state:02X} {ino:5d}{name}\n"


def _shown(address: bytes) -> str:
    """An abstract name with "@" for each NUL; a path without the one at its end."""
    name = address[SUN_PATH:]
    name = name.replace(b"\0", b"@") if is_abstract(address) else name.rstrip(b"\0")
    return name.decode("utf-8", "surrogateescape")


def register() -> None:
    """Let procfs show it."""
    FILES["unix"] = table
