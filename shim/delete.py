"""The delete action: remove what is left of one container, from the outside.

containerd runs it after a shim has died, but also after every clean end, while the shim may still serve other
containers of the pod.  So it finds only what the container's own records name, and doing it again does nothing.
"""

import os
import sys
import time

from proto.ttrpc.protobuf import bytes_field, int_field
from shim import rootfs
from shim.address import is_served, leave_state_root, read_address, remove, socket_path, state_root
from shim.flags import Flags

KILLED = 128 + 9
DYING_TIMEOUT_S = 1.0
_PAUSE_S = 0.02


def run(flags: Flags) -> int:
    """Kill, unmount, clean up; print a DeleteResponse."""
    bundle = flags.bundle or os.path.join(os.path.dirname(os.getcwd()), flags.id)
    destroy_sandbox(flags.namespace, flags.id)
    leave_state_root(flags.namespace)
    rootfs.unmount(f"{bundle}/rootfs")
    remove_stale_socket(read_address(bundle), socket_path(flags.address, flags.namespace, flags.id))
    sys.stdout.buffer.write(response(time.time_ns()))
    return 0


def destroy_sandbox(namespace: str, container_id: str) -> None:
    """Kill the container's processes and undo what was set up for them, if there are any."""
    root = state_root(namespace)
    if not os.path.exists(f"{root}/{container_id}"):
        return  # the usual case, for which nothing needs to be imported

    from sandbox.errors import NotFound
    from sandbox.sandbox import Sandbox

    try:
        Sandbox.load(root, container_id).destroy()
    except NotFound:
        pass


def remove_stale_socket(path: str, own: str) -> None:
    """Remove the socket of a shim that was killed; one that still serves others keeps it.

    `path` is what the bundle says, "" if containerd has removed that before us.  `own` is the socket's path if the
    container is the first of its pod, or alone: then its shim is on its way out, and a dying process's connections may
    end some time before its listener does.
    """
    path = path or own
    patience_s = DYING_TIMEOUT_S if os.path.basename(path) == os.path.basename(own) else 0.0
    deadline = time.monotonic() + patience_s
    while is_served(path):
        if time.monotonic() >= deadline:
            return
        time.sleep(_PAUSE_S)
    remove(path)


def response(now_ns: int) -> bytes:
    """DeleteResponse: exit_status 2 uint32; exited_at 3 Timestamp { seconds 1; nanos 2 }"""
    seconds, nanos = divmod(now_ns, 1_000_000_000)
    return int_field(2, KILLED) + bytes_field(3, int_field(1, seconds) + int_field(2, nanos))
