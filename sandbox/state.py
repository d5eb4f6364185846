"""What is remembered of containers on disk: `<root>/<id>/`, one folder each.

    state.json     this record, replaced whole
    lock           held while the container is being created, started or removed
    control.sock   the Sentry's control socket
    sandbox.log    what Sentry and gofers log, unless told otherwise

The last two are a root container's, whose folder is the sandbox's.

The record is written as soon as there is something to clean up, so that a `delete --force` finds it even when the
creator was killed half-way.

A further container of a pod has a folder of its own, whose record names the sandbox that it is in.  Nothing on the
sandbox's side names the container: so no two records ever have to change together, containers are made and removed
without waiting for each other, and what is left of one can be taken away when the sandbox is long gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from proto.jsontext import dumps, loads
from proto.record import Record as _Record
from proto.record import field
from sandbox.cgroups import Cgroup
from sandbox.errors import AlreadyExists, InvalidSpec, NotFound, SandboxError
from sandbox.process import ProcessId
from sandbox.spec import Hook, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from _typeshed import StrPath

_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")
_MAX_ID = 1024
_DIRECTORY_MODE = 0o700

LOCK_PATIENCE_S = 1.0
_LOCK_PAUSE_S = 0.01


class ContainerRecord(_Record):
    """A container: what is to be known of it, and taken away with it."""

    id: str
    bundle: str
    version: str
    """ociVersion of its configuration."""
    terminal: bool = False
    annotations: dict[str, str] = field(default_factory=dict)
    gofer: ProcessId | None = None
    deputy: ProcessId | None = None
    """Stands for the container on the host, if its creator wanted that."""
    cgroup: Cgroup | None = None
    created_ns: int = 0
    """Unix time; 0 while it is being created."""
    hooks: dict[str, list[Hook]] = field(default_factory=dict)
    """Those that are yet to run, by point."""
    resources: Resources = field(default_factory=Resources)
    """Its limits, as they are by now."""

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "bundle": self.bundle,
            "version": self.version,
            "terminal": self.terminal,
            "annotations": self.annotations,
            "gofer": self.gofer and self.gofer.to_json(),
            "deputy": self.deputy and self.deputy.to_json(),
            "cgroup": self.cgroup and self.cgroup.to_json(),
            "created_ns": self.created_ns,
            "hooks": {point: [vars(hook) for hook in hooks] for point, hooks in self.hooks.items()},
            "resources": vars(self.resources),
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> ContainerRecord:
        return cls(
            **{
                **obj,
                "gofer": ProcessId.from_json(obj["gofer"]) if obj["gofer"] else None,
                "deputy": ProcessId.from_json(obj["deputy"]) if obj.get("deputy") else None,
                "cgroup": Cgroup.from_json(obj["cgroup"]) if obj["cgroup"] else None,
                "hooks": {point: [Hook(**hook) for hook in hooks] for point, hooks in obj["hooks"].items()},
                "resources": Resources(**obj.get("resources", {})),
            }
        )


class Record(_Record):
    """A container and the sandbox that it is in."""

    id: str
    """The container's."""
    sandbox: str
    """The sandbox's, which is that of its root container."""
    sentry: ProcessId | None = None
    exit_with_init: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    """What the sandbox was created with."""
    container: ContainerRecord | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sandbox": self.sandbox,
            "sentry": self.sentry and self.sentry.to_json(),
            "exit_with_init": self.exit_with_init,
            "options": self.options,
            "container": self.container and self.container.to_json(),
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Record:
        return cls(
            id=obj["id"],
            sandbox=obj["sandbox"],
            sentry=ProcessId.from_json(obj["sentry"]) if obj["sentry"] else None,
            exit_with_init=obj["exit_with_init"],
            options=obj["options"],
            container=ContainerRecord.from_json(obj["container"]) if obj["container"] else None,
        )


def check_id(text: str) -> None:
    """Ids become names of folders and cgroups."""
    if not _is_id(text) or text in (".", ".."):
        raise InvalidSpec(f"invalid container id {text!r}: letters, digits and _ + . - only")


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _MAX_ID and _ID_CHARACTERS.issuperset(text)


def make_directory(root: StrPath, container_id: str) -> str:
    """The container's folder, which must not exist yet."""
    check_id(container_id)
    directory = os.path.join(root, container_id)
    while not _was_made(root, directory):
        pass
    try:
        os.close(os.open(f"{directory}/lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        os.rmdir(directory)
        raise
    return directory


def _was_made(root: StrPath, directory: str) -> bool:
    """Make both folders; False if the outer one has just been removed, with the last container in it."""
    try:
        os.makedirs(root, _DIRECTORY_MODE, exist_ok=True)
    except FileExistsError:  # also if it went between makedirs' two looks at it
        if os.path.lexists(root):
            raise
        return False
    try:
        st = os.stat(root)
        if st.st_uid != os.geteuid() or st.st_mode & stat.S_IWOTH:
            raise SandboxError(f"{root} is somebody else's, or everybody's: not safe to keep state in")
        os.mkdir(directory, _DIRECTORY_MODE)
    except FileNotFoundError:
        return False
    except FileExistsError:
        raise AlreadyExists(f"container {os.path.basename(directory)} already exists") from None
    return True


def remove_directory(directory: str) -> None:
    """Idempotent."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                os.unlink(entry.path)
        os.rmdir(directory)
    except OSError:
        _remove_tree(directory)


def _remove_tree(directory: str) -> None:
    """It holds what is not ours, or somebody else removes it at the same time."""
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
    if os.path.lexists(directory):
        raise SandboxError(f"cannot remove {directory}")


def save(directory: str, record: Record) -> None:
    """Replace state.json; a reader sees the old record or the new one."""
    temporary = f"{directory}/state.json.{os.getpid()}"
    with open(temporary, "w") as f:
        f.write(dumps(record.to_json()))
    os.replace(temporary, f"{directory}/state.json")


def load(root: StrPath, container_id: str) -> tuple[str, Record]:
    """Raises NotFound."""
    check_id(container_id)
    directory = os.path.join(root, container_id)
    try:
        with open(f"{directory}/state.json", "rb") as f:
            return directory, Record.from_json(loads(f.read()))
    except FileNotFoundError:
        if os.path.isdir(directory):  # its creator died before it had anything to write down, or is about to
            return directory, Record(container_id, container_id)
        raise NotFound(f"container {container_id} does not exist") from None
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise SandboxError(f"cannot read the state of {container_id}: {e}") from None


def list_ids(root: StrPath) -> list[str]:
    """The ids of all containers, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and _is_id(entry.name))
    except FileNotFoundError:
        return []


class locked:
    """Hold the container's lock.  Raises NotFound if the folder is gone, also if it went while we waited."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        self._fd = _open_lock(self._directory)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if not _same_file(self._fd, f"{self._directory}/lock"):
                raise _gone(self._directory)
        except BaseException:
            os.close(self._fd)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _open_lock(directory: str) -> int:
    """The lock file, which was made with the folder and goes before it.

    Made anew it would let us into a folder that is being removed.  Only one whose creator died that early lacks it
    for longer.
    """
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        is_late = time.monotonic() > deadline
        try:
            return os.open(f"{directory}/lock", os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if is_late else 0), 0o600)
        except FileNotFoundError:
            if not os.path.isdir(directory):
                raise _gone(directory) from None
        time.sleep(_LOCK_PAUSE_S)


def _gone(directory: str) -> NotFound:
    return NotFound(f"container {os.path.basename(directory)} does not exist")


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError as e:
        if e.errno != errno.ENOENT:
            raise
        return False
