"""A pod's containers: which sandbox one belongs to, and whose namespaces it shares there.

The engine says the first with annotations: CRI-O's and podman's names, or containerd's CRI plugin's.  It says the
second with paths such as /proc/PID/ns/pid, where PID is what we gave it for another container of the pod.  Such a path
is never opened: it leads to a namespace of the host's in which our process is, and means the one that the Sentry keeps.
"""

from __future__ import annotations

from os.path import dirname

from sandbox import state
from sandbox.errors import FailedPrecondition, InvalidSpec, NotFound, SandboxError
from sandbox.sandbox import Sandbox
from sandbox.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from _typeshed import StrPath

_ANNOTATIONS: Final = {
    "io.kubernetes.cri.container-type": "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri-o.ContainerType": "io.kubernetes.cri-o.SandboxID",
}
"""What says whether it is a "sandbox" or a "container", and what names the sandbox."""
_SHARED: Final = ("pid", "ipc", "uts")
"""Kinds that the Sentry keeps for each container, or for several.  The network is always the whole sandbox's."""


def sandbox_of(annotations: Mapping[str, str]) -> str:
    """The id of the sandbox that a container is to be added to; "" if it is to have one of its own.

    Raises InvalidSpec for a container of a pod that does not say which.
    """
    for kind, name in _ANNOTATIONS.items():
        if annotations.get(kind) == "container":
            if not annotations.get(name):
                raise InvalidSpec(f"annotation {name}: missing, though {kind} is 'container'")
            return annotations[name]
    return ""


def is_root(annotations: Mapping[str, str]) -> bool:
    """Whether other containers are to be added to the sandbox of this one."""
    return any(annotations.get(kind) == "sandbox" for kind in _ANNOTATIONS)


def shared_namespaces(sandbox: Sandbox, spec: Spec) -> dict[str, str]:
    """Kind to the container of the sandbox whose namespace is shared; those that are absent are new.

    A PID namespace that is not configured is the node's with other runtimes.  As with gVisor it is the sandbox's: the
    root container's.  IPC and UTS namespaces that are not configured are new ones here.  A path to a namespace that
    is not of this sandbox cannot be joined; for IPC and UTS, of which nothing of the host's can be seen inside anyway,
    a new one takes its place.  Raises InvalidSpec.
    """
    shared: dict[str, str] = {}
    for kind in _SHARED:
        path = spec.namespaces.get(kind)
        if path:
            container = _owner(sandbox, kind, path)
            if container:
                shared[kind] = container
            elif kind == "pid":
                raise InvalidSpec(f"cannot join the pid namespace {path}: it is of no container of {sandbox.id}")
        elif path is None and kind == "pid":
            shared[kind] = sandbox.id
    return shared


def check_root_namespaces(spec: Spec) -> None:
    """A root container has a PID namespace of its own, or it would see processes of the host's.  Raises InvalidSpec."""
    if path := spec.namespaces.get("pid"):
        raise InvalidSpec(f"cannot join the pid namespace {path}: it is of no container of the same sandbox")


def _owner(sandbox: Sandbox, kind: str, path: str) -> str:
    """The container of the sandbox whose namespace this is; "" if it is not of this sandbox."""
    digits = path.removeprefix("/proc/").removesuffix(f"/ns/{kind}")
    if path != f"/proc/{digits}/ns/{kind}" or not (digits.isascii() and digits.isdigit()):
        return ""
    pid = int(digits)
    if pid == sandbox.pid:
        return sandbox.id
    return next((each.id for each in members(sandbox) if each.pid == pid), "")


def members(sandbox: Sandbox) -> list[Sandbox]:
    """The containers of a sandbox but its root."""
    found = []
    root = dirname(sandbox.directory)
    for container_id in state.list_ids(root):
        try:
            each = Sandbox.load(root, container_id)
        except (NotFound, SandboxError):  # it is being removed, or not ours to understand
            continue
        if each.record.sandbox == sandbox.id and not each.is_root and each.record.sentry == sandbox.record.sentry:
            found.append(each)
    return found


def find(root: StrPath, sandbox_id: str) -> Sandbox:
    """A sandbox that containers can be added to.  Raises NotFound; SandboxError if it has ended."""
    try:
        sandbox = Sandbox.load(root, sandbox_id)
    except NotFound:
        raise NotFound(f"the pod's sandbox {sandbox_id} does not exist") from None
    if not sandbox.is_root:
        raise InvalidSpec(f"{sandbox_id} is a container of sandbox {sandbox.record.sandbox}, not a sandbox")
    if not sandbox.is_alive():
        raise NotFound(f"the pod's sandbox {sandbox_id} has ended")
    if not sandbox.container.created_ns:
        raise FailedPrecondition(f"the pod's sandbox {sandbox_id} is being created")
    return sandbox
