"""Where things are: the shim's socket, the bundle's address file, the folder of sandbox states."""

import os
import socket
import sys
from pathlib import Path

try:  # the interpreter's own: hashlib would load all of OpenSSL, for good, into the process that serves
    if sys.version_info >= (3, 12):
        from _sha2 import sha256
    else:
        from _sha256 import sha256  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha256

SOCKET_DIR = "/run/containerd/s"
STATE_DIR = "/run/pysc-shim"
PROBE_TIMEOUT_S = 0.1

_SCHEME = "unix://"


def socket_path(containerd_address: str, namespace: str, group: str, folder: str = "") -> str:
    """The path of a shim's socket; `ctr shim` computes the same from the same three names."""
    name = os.path.normpath("/".join((containerd_address, namespace, group)))
    return os.path.join(folder or SOCKET_DIR, sha256(name.encode()).hexdigest())


def to_address(path: str) -> str:
    """What containerd reads: on the output of start and in the bundle."""
    return _SCHEME + path


def write_address(bundle: Path, address: str) -> None:
    """Leave the address in the bundle, from where containerd takes it after a restart.  Atomic."""
    temporary = bundle / ".address"
    temporary.write_text(address)
    temporary.rename(bundle / "address")


def read_address(bundle: Path) -> str:
    """The path of the socket that serves this bundle; "" when none was ever started."""
    try:
        return (bundle / "address").read_text().strip().removeprefix(_SCHEME)
    except FileNotFoundError:
        return ""


def is_served(path: str) -> bool:
    """Whether a process listens on the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except (TimeoutError, BlockingIOError):
            return True  # a full backlog: slow, but there
        return True


def state_root(namespace: str) -> Path:
    """The folder in which the sandboxes of a namespace keep their state."""
    return Path(STATE_DIR, namespace)
