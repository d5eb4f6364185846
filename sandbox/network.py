"""A container's own network namespace, made ready by the stage while it still may: loopback, sysctls.

Addresses, routes and the interfaces themselves come from CNI or an OCI hook.
"""

import fcntl
import os
import struct
from _socket import AF_INET, SOCK_DGRAM, socket
from collections.abc import Mapping

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_IFREQ_FLAGS = struct.Struct("16sH14x")

OPEN_TO_ALL = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""The Sentry has no capabilities on the host.  Who may bind a low port or send pings is its own decision; in a
namespace that only it uses, the host need not ask again."""


def namespace_inode() -> int:
    """Identifies the calling thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def bring_up_loopback() -> None:
    s = socket(AF_INET, SOCK_DGRAM)
    try:
        request = _IFREQ_FLAGS.pack(b"lo", 0)
        name, flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(s, _SIOCGIFFLAGS, request))
        if not flags & _IFF_UP:
            fcntl.ioctl(s, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name, flags | _IFF_UP))
    finally:
        s.close()


def set_sysctls(values: Mapping[str, str]) -> None:
    """Set those of `values` that belong to the network namespace; the others are the Sentry's affair.

    Raises OSError for one that the host refuses.
    """
    for name, value in values.items():
        if name.startswith("net."):
            _write_sysctl(name, value)


def open_to_unprivileged() -> None:
    """Set OPEN_TO_ALL as far as the host lets us: without it only low ports and pings fail, with EACCES."""
    for name, value in OPEN_TO_ALL.items():
        try:
            _write_sysctl(name, value)
        except OSError:
            pass


def _write_sysctl(name: str, value: str) -> None:
    parts = name.replace(".", "/").split("/")
    if "" in parts:
        raise FileNotFoundError(2, "no such sysctl", name)
    with open("/proc/sys/" + "/".join(parts), "w") as f:
        f.write(value)
