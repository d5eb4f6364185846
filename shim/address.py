"""Where things are: the shim's socket, the bundle's address file, the folder of sandbox states.

Used by the actions that containerd waits for, so only what the interpreter has at hand anyway is imported: plain
strings for paths, and _socket, which is all of socket but its conveniences.
"""

import os
from _socket import AF_UNIX, socket

from sandbox.hashing import hashed

SOCKET_DIR = "/run/containerd/s"
STATE_DIR = "/run/pysc-shim"
PROBE_TIMEOUT_S = 0.1

_SCHEME = "unix://"


def socket_path(containerd_address: str, namespace: str, group: str, folder: str = "") -> str:
    """The path of a shim's socket; `ctr shim` computes the same from the same three names."""
    name = os.path.normpath("/".join((containerd_address, namespace, group)))
    return os.path.join(folder or SOCKET_DIR, hashed(name))


def to_address(path: str) -> str:
    """What containerd reads: on the output of start and in the bundle."""
    return _SCHEME + path


def write_address(bundle: str, address: str) -> None:
    """Leave the address in the bundle, from where containerd takes it after a restart.  Atomic."""
    temporary = f"{bundle}/.address"
    with open(temporary, "w") as file:
        file.write(address)
    os.rename(temporary, f"{bundle}/address")


def read_address(bundle: str) -> str:
    """The path of the socket that serves this bundle; "" when none was ever started."""
    try:
        with open(f"{bundle}/address") as file:
            return file.read().strip().removeprefix(_SCHEME)
    except FileNotFoundError:
        return ""


def remove(path: str) -> None:
    """Unlink a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def leave_state_root(namespace: str) -> None:
    """Remove the folder if no container of the namespace is left; whoever makes the next one makes it again."""
    try:
        os.rmdir(state_root(namespace))
    except OSError:  # ENOTEMPTY, or somebody else was quicker
        pass


def is_served(path: str) -> bool:
    """Whether a process listens on the socket."""
    probe = socket(AF_UNIX)
    probe.settimeout(PROBE_TIMEOUT_S)
    try:
        probe.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except (TimeoutError, BlockingIOError):
        return True  # a full backlog: slow, but there
    finally:
        probe.close()
    return True


def state_root(namespace: str) -> str:
    """The folder in which the sandboxes of a namespace keep their state."""
    return f"{STATE_DIR}/{namespace}"
