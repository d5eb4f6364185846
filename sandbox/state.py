"""What is remembered of a sandbox on disk: `<root>/<id>/`, one folder each.

    state.json     this record, replaced whole
    lock           held while the sandbox is being created, started or removed
    control.sock   the Sentry's control socket
    sandbox.log    what Sentry and gofers log, unless told otherwise

The record is written as soon as there is something to clean up, so that a `delete --force` finds it even when the
creator was killed half-way.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sandbox.cgroups import Cgroup
from sandbox.errors import AlreadyExists, InvalidSpec, NotFound, SandboxError
from sandbox.process import ProcessId
from sandbox.spec import Hook, Resources

_ID = re.compile(r"[A-Za-z0-9_+.-]{1,1024}")
_DIRECTORY_MODE = 0o700


@dataclass(slots=True)
class ContainerRecord:
    """One container of the sandbox."""

    id: str
    bundle: str
    version: str
    """ociVersion of its configuration."""
    terminal: bool = False
    annotations: dict[str, str] = field(default_factory=dict)
    gofer: ProcessId | None = None
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
            "cgroup": self.cgroup and self.cgroup.to_json(),
            "created_ns": self.created_ns,
            "hooks": {point: [asdict(hook) for hook in hooks] for point, hooks in self.hooks.items()},
            "resources": asdict(self.resources),
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "ContainerRecord":
        return cls(
            **{
                **obj,
                "gofer": ProcessId.from_json(obj["gofer"]) if obj["gofer"] else None,
                "cgroup": Cgroup.from_json(obj["cgroup"]) if obj["cgroup"] else None,
                "hooks": {point: [Hook(**hook) for hook in hooks] for point, hooks in obj["hooks"].items()},
                "resources": Resources(**obj.get("resources", {})),
            }
        )


@dataclass(slots=True)
class Record:
    """A sandbox and its containers; the root container has the sandbox's id and comes first."""

    id: str
    sentry: ProcessId | None = None
    exit_with_init: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    """What it was created with, for whoever looks at the file."""
    containers: dict[str, ContainerRecord] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sentry": self.sentry and self.sentry.to_json(),
            "exit_with_init": self.exit_with_init,
            "options": self.options,
            "containers": {name: container.to_json() for name, container in self.containers.items()},
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "Record":
        return cls(
            id=obj["id"],
            sentry=ProcessId.from_json(obj["sentry"]) if obj["sentry"] else None,
            exit_with_init=obj["exit_with_init"],
            options=obj["options"],
            containers={name: ContainerRecord.from_json(item) for name, item in obj["containers"].items()},
        )


def check_id(text: str) -> None:
    """Ids become names of folders and cgroups."""
    if not _ID.fullmatch(text) or text in (".", ".."):
        raise InvalidSpec(f"invalid container id {text!r}: letters, digits and _ + . - only")


def make_directory(root: Path, sandbox_id: str) -> Path:
    """The sandbox's folder, which must not exist yet."""
    check_id(sandbox_id)
    root.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    st = root.stat()
    if st.st_uid != os.geteuid() or st.st_mode & stat.S_IWOTH:
        raise SandboxError(f"{root} is somebody else's, or everybody's: not safe to keep state in")
    directory = root / sandbox_id
    try:
        directory.mkdir(mode=_DIRECTORY_MODE)
    except FileExistsError:
        raise AlreadyExists(f"container {sandbox_id} already exists") from None
    return directory


def remove_directory(directory: Path) -> None:
    """Idempotent."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        raise SandboxError(f"cannot remove {directory}")


def save(directory: Path, record: Record) -> None:
    """Replace state.json; a reader sees the old record or the new one."""
    temporary = directory / f"state.json.{os.getpid()}"
    temporary.write_text(json.dumps(record.to_json()))
    temporary.replace(directory / "state.json")


def load(root: Path, sandbox_id: str) -> tuple[Path, Record]:
    """Raises NotFound."""
    check_id(sandbox_id)
    directory = root / sandbox_id
    try:
        return directory, Record.from_json(json.loads((directory / "state.json").read_bytes()))
    except FileNotFoundError:
        if directory.is_dir():  # its creator died before it had anything to write down, or is about to
            return directory, Record(sandbox_id)
        raise NotFound(f"container {sandbox_id} does not exist") from None
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise SandboxError(f"cannot read the state of {sandbox_id}: {e}") from None


def list_ids(root: Path) -> list[str]:
    """The ids of all sandboxes, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and _ID.fullmatch(entry.name))
    except FileNotFoundError:
        return []


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the sandbox's lock.  Raises NotFound if the folder is gone, also if it went while we waited."""
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise NotFound(f"container {directory.name} does not exist") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not _same_file(fd, directory / "lock"):
            raise NotFound(f"container {directory.name} does not exist")
        yield
    finally:
        os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError as e:
        if e.errno != errno.ENOENT:
            raise
        return False
