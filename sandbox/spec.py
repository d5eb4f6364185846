"""OCI runtime configuration: config.json read, checked once, and typed for what runs on the host.

Only what the host side acts on is typed here (root, mounts, namespaces, resources, hooks ...); the rest reaches the
Sentry as it was, in `Spec.raw`.  https://github.com/opencontainers/runtime-spec/blob/main/config.md
"""

from __future__ import annotations

import os

from proto.jsontext import loads
from proto.record import Record, field
from sandbox.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeVar

    from _typeshed import StrPath

    T = TypeVar("T")

HOOK_POINTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")


class Reader:
    """An object of the configuration, read field by field; its errors say where.

    An absent field and null are the same: Go's encoder writes either.
    """

    def __init__(self, obj: object, where: str) -> None:
        if not isinstance(obj, dict):
            raise InvalidSpec(f"{where or 'config.json'}: object expected")
        self.obj = obj
        self.where = where

    def name_of(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def get(self, key: str, kind: type[T], default: T) -> T:
        value = self.obj.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidSpec(f"{self.name_of(key)}: {kind.__name__} expected")
        return value

    def optional_int(self, key: str) -> int | None:
        return self.get(key, int, 0) if self.obj.get(key) is not None else None

    def strings(self, key: str) -> list[str]:
        values = self.get(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise InvalidSpec(f"{self.name_of(key)}: list of strings expected")
        return values

    def string_map(self, key: str) -> dict[str, str]:
        values = self.get(key, dict, {})
        if not all(isinstance(value, str) for value in values.values()):
            raise InvalidSpec(f"{self.name_of(key)}: values must be strings")
        return values

    def section(self, key: str) -> Reader:
        """A nested object; an empty one if it is absent."""
        return Reader(self.get(key, dict, {}), self.name_of(key))

    def sections(self, key: str) -> Iterator[Reader]:
        for i, item in enumerate(self.get(key, list, [])):
            yield Reader(item, f"{self.name_of(key)}[{i}]")


class SpecMount(Record):
    """One of `mounts`."""

    destination: str
    type: str
    source: str
    options: list[str]

    @property
    def is_bind(self) -> bool:
        return self.type == "bind" or "bind" in self.options or "rbind" in self.options

    @property
    def is_recursive(self) -> bool:
        return "rbind" in self.options

    @property
    def is_readonly(self) -> bool:
        """The last word on it counts, as with mount(8)."""
        words = [word for word in self.options if word in ("ro", "rro", "rw")]
        return bool(words) and words[-1] != "rw"


class Hook(Record):
    path: str
    args: list[str]
    env: list[str]
    timeout: int | None
    """Seconds."""


class Resources(Record):
    """linux.resources as far as cgroups enforce it; None: not asked for.  Sizes in bytes, times in microseconds."""

    memory_limit: int | None = None
    memory_swap: int | None = None
    """Memory and swap together, as in cgroup v1."""
    memory_reservation: int | None = None
    memory_check: bool = False
    """Refuse a memory limit below what is in use; cgroup v1 always does, v2 kills."""
    oom_kill_disable: bool = False
    cpu_shares: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_burst: int | None = None
    cpu_idle: int | None = None
    """1: runs only when nobody else wants to."""
    cpus: str = ""
    mems: str = ""
    pids_limit: int | None = None
    unified: dict[str, str] = field(default_factory=dict)
    """cgroup v2 files by name."""

    @classmethod
    def from_json(cls, obj: object, where: str = "linux.resources") -> Resources:
        reader = Reader(obj, where)
        memory, cpu, pids = reader.section("memory"), reader.section("cpu"), reader.section("pids")
        unified = reader.string_map("unified")
        if any("/" in name or name in ("", ".", "..") for name in unified):
            raise InvalidSpec(f"{where}.unified: a file name expected")
        return cls(
            memory_limit=memory.optional_int("limit"),
            memory_swap=memory.optional_int("swap"),
            memory_reservation=memory.optional_int("reservation"),
            memory_check=memory.get("checkBeforeUpdate", bool, False),
            oom_kill_disable=memory.get("disableOOMKiller", bool, False),
            cpu_shares=cpu.optional_int("shares"),
            cpu_quota=cpu.optional_int("quota"),
            cpu_period=cpu.optional_int("period"),
            cpu_burst=cpu.optional_int("burst"),
            cpu_idle=cpu.optional_int("idle"),
            cpus=cpu.get("cpus", str, ""),
            mems=cpu.get("mems", str, ""),
            pids_limit=pids.optional_int("limit"),
            unified=unified,
        )


class Spec(Record):
    """A container's configuration and the bundle it came from."""

    raw: dict[str, Any]
    bundle: str
    version: str
    root: str
    root_readonly: bool
    args: list[str]
    terminal: bool
    console_size: tuple[int, int] | None
    """Rows and columns."""
    oom_score_adj: int | None
    hostname: str
    mounts: list[SpecMount]
    namespaces: dict[str, str]
    """Type to path; "" for a new one.  A type that is absent is the host's."""
    cgroups_path: str
    resources: Resources
    sysctl: dict[str, str]
    hooks: dict[str, list[Hook]]
    annotations: dict[str, str]

    @classmethod
    def from_json(cls, obj: object, bundle: str) -> Spec:
        """Raises InvalidSpec, naming the field."""
        reader = Reader(obj, "")
        linux, process, root = reader.section("linux"), reader.section("process"), reader.section("root")
        return cls(
            raw=reader.obj,
            bundle=bundle,
            version=_version(reader),
            root=os.path.join(bundle, _required(root, "path")),
            root_readonly=root.get("readonly", bool, False),
            args=check_process(process),
            terminal=process.get("terminal", bool, False),
            console_size=_console_size(process),
            oom_score_adj=process.optional_int("oomScoreAdj"),
            hostname=reader.get("hostname", str, ""),
            mounts=[_mount(item, bundle) for item in reader.sections("mounts")],
            namespaces=_namespaces(linux),
            cgroups_path=linux.get("cgroupsPath", str, ""),
            resources=Resources.from_json(linux.get("resources", dict, {})),
            sysctl=linux.string_map("sysctl"),
            hooks=_hooks(reader.section("hooks")),
            annotations=reader.string_map("annotations"),
        )


def load_spec(bundle: StrPath) -> Spec:
    """Read `<bundle>/config.json`.  Raises InvalidSpec."""
    folder = os.path.abspath(bundle)
    path = f"{folder}/config.json"
    try:
        with open(path, "rb") as f:
            obj = loads(f.read())
    except OSError as e:
        raise InvalidSpec(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise InvalidSpec(f"{path} is not valid JSON: {e}") from None
    return Spec.from_json(obj, folder)


def check_process(process: Reader) -> list[str]:
    """Check what any process object must have; returns its arguments."""
    args = process.strings("args")
    if not args:
        raise InvalidSpec(f"{process.name_of('args')}: must not be empty")
    if not process.get("cwd", str, "").startswith("/"):
        raise InvalidSpec(f"{process.name_of('cwd')}: absolute path expected")
    process.strings("env")
    return args


def _required(reader: Reader, key: str) -> str:
    value = reader.get(key, str, "")
    if not value:
        raise InvalidSpec(f"{reader.name_of(key)}: missing")
    return value


def _version(reader: Reader) -> str:
    version = _required(reader, "ociVersion")
    if not version.startswith("1."):
        raise InvalidSpec(f"ociVersion: {version!r} is not supported, only 1.x")
    return version


def _console_size(process: Reader) -> tuple[int, int] | None:
    size = process.section("consoleSize")
    rows, columns = size.get("height", int, 0), size.get("width", int, 0)
    return (rows, columns) if rows > 0 and columns > 0 else None


def _mount(item: Reader, bundle: str) -> SpecMount:
    mount = SpecMount(
        destination=_required(item, "destination"),
        type=item.get("type", str, ""),
        source=item.get("source", str, ""),
        options=item.strings("options"),
    )
    if not mount.destination.startswith("/"):
        # "Destination of mount point: path inside container. For Linux, this value SHOULD be an absolute path."
        mount.destination = "/" + mount.destination
    if mount.is_bind:
        mount.source = os.path.join(bundle, _required(item, "source"))
        if "shared" in mount.options or "rshared" in mount.options:
            where = f"{item.name_of('options')}: {mount.destination}"
            raise InvalidSpec(f"{where} cannot be shared: what a sandbox mounts is never seen on the host")
    elif not mount.type:
        raise InvalidSpec(f"{item.name_of('type')}: missing")
    return mount


def _namespaces(linux: Reader) -> dict[str, str]:
    namespaces: dict[str, str] = {}
    for item in linux.sections("namespaces"):
        kind, path = _required(item, "type"), item.get("path", str, "")
        if kind not in NAMESPACES:
            raise InvalidSpec(f"{item.name_of('type')}: unknown type {kind!r}")
        if kind in namespaces:
            raise InvalidSpec(f"{item.where}: a second namespace of type {kind!r}")
        if path and not path.startswith("/"):
            raise InvalidSpec(f"{item.name_of('path')}: absolute path expected")
        namespaces[kind] = path
    return namespaces


def _hooks(reader: Reader) -> dict[str, list[Hook]]:
    return {point: [_hook(item) for item in reader.sections(point)] for point in HOOK_POINTS}


def _hook(item: Reader) -> Hook:
    hook = Hook(_required(item, "path"), item.strings("args"), item.strings("env"), item.optional_int("timeout"))
    if not hook.path.startswith("/"):
        raise InvalidSpec(f"{item.name_of('path')}: absolute path expected")
    if hook.timeout is not None and hook.timeout <= 0:
        raise InvalidSpec(f"{item.name_of('timeout')}: must be greater than zero")
    return hook
