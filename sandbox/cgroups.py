"""A container's cgroup: where it lies, its limits, who enters it.  cgroup v1 (also the hybrid layout) and v2.

Only the stubs, the host processes that execute the application, are in it: the Sentry donates the `cgroup.procs`
descriptors to a container's first stub, which writes itself in; all others descend from that one.  So limits, OOM
kills and figures are per container and exact.

v1 has one hierarchy for each controller (some are mounted together), v2 has one for all.  `Hierarchy` is either.
Paths never pass through systemd: `slice:prefix:name` is translated into the path that systemd would use.
"""

from __future__ import annotations

import errno
import os
import time
from _signal import SIGKILL  # type: ignore[import-not-found]

from proto.record import Record
from sandbox.errors import FailedPrecondition, InvalidSpec, SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from sandbox.spec import Resources

CONTROLLERS = ("blkio", "cpu", "cpuacct", "cpuset", "io", "memory", "pids")
"""Of v1 and of v2: blkio and cpuacct are v1's alone, io is v2's."""

OWN_TASKS = 7
"""Added to a pids limit: the container's template stub, one stub that waits for the next execve, the deputy, and
threads that have ended and are kept for the next (platform_ptrace.platform.MAX_REUSED)."""

REMOVE_TIMEOUT = 5.0


class Hierarchy(Record):
    """One mounted cgroup file system and the controllers of ours that it has."""

    mount_point: str
    controllers: frozenset[str]


def _mounted(mountinfo: str) -> tuple[list[Hierarchy], str]:
    """The v1 hierarchies with a controller of ours, and the mount point of v2 ("" if there is none).

    A hierarchy that is mounted twice (bind-mounted into a chroot, say) counts once, where it came first.
    """
    v1: list[Hierarchy] = []
    v2 = ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mount_point = left.split()[4].encode().decode("unicode_escape")
        fstype, _, options = right.split(" ", 2)
        controllers = frozenset(options.split(",")) & set(CONTROLLERS)
        if fstype == "cgroup" and controllers and all(controllers != known.controllers for known in v1):
            v1.append(Hierarchy(mount_point, controllers))
        elif fstype == "cgroup2" and not v2:
            v2 = mount_point
    return v1, v2


def host_hierarchies(mountinfo: str | None = None) -> tuple[int, list[Hierarchy]]:
    """The version in use, 1 or 2, and its hierarchies; 0 and nothing where no cgroups are mounted."""
    v1, v2 = _mounted(_read("/proc/self/mountinfo") if mountinfo is None else mountinfo)
    if v1:
        return 1, v1
    if v2:
        return 2, [Hierarchy(v2, frozenset(CONTROLLERS))]
    return 0, []


def relative_path(cgroups_path: str, container_id: str, systemd: bool | None) -> str:
    """linux.cgroupsPath as a path below the mount points, without a leading slash.

    systemd: whether it is slice:prefix:name; None: if it looks so.
    """
    if not cgroups_path:
        return f"pysc-{container_id}"
    if systemd is None:
        systemd = cgroups_path.count(":") == 2 and not cgroups_path.startswith("/")
    if systemd:
        return _systemd_path(cgroups_path)
    if ".." in cgroups_path.split("/"):
        raise InvalidSpec(f"linux.cgroupsPath: {cgroups_path!r} contains '..'")
    path = os.path.normpath("/" + cgroups_path).lstrip("/")
    if not path:
        raise InvalidSpec("linux.cgroupsPath: the root cgroup cannot be used")
    return path


def _systemd_path(text: str) -> str:
    """`slice:prefix:name`: systemd nests a-b.slice in a.slice."""
    parts = text.split(":")
    if len(parts) != 3 or "/" in text or not parts[2]:
        raise InvalidSpec(f"linux.cgroupsPath: {text!r} is not of the form slice:prefix:name")
    parent, prefix, name = parts
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    parent = parent or "system.slice"
    if parent == "-.slice":
        return unit
    if not parent.endswith(".slice") or parent.startswith("-"):
        raise InvalidSpec(f"linux.cgroupsPath: {parent!r} is not a slice")
    words = parent.removesuffix(".slice").split("-")
    slices = ["-".join(words[: i + 1]) + ".slice" for i in range(len(words))]
    return "/".join([*slices, unit])


def _write(path: str, value: object) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    except OSError as e:
        raise OSError(e.errno, e.strerror, path) from None
    finally:
        os.close(fd)


def _read(path: str) -> str:
    with open(path) as f:
        return f.read().strip()


def cpu_weight(shares: int) -> int:
    """v1's 2..262144 as v2's 1..10000, by the conversion that all runtimes share."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


class Cgroup:
    """The directories of one container's cgroup, one for each hierarchy."""

    def __init__(self, version: int, directories: dict[str, list[str]], created: list[str]) -> None:
        self.version = version
        self.directories = directories
        """Path to controllers."""
        self.created = created
        """Every directory that we made, the outermost first; they are removed with the container."""

    def to_json(self) -> dict[str, Any]:
        return {"version": self.version, "directories": self.directories, "created": self.created}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Cgroup:
        return cls(obj["version"], obj["directories"], obj["created"])

    @classmethod
    def create(cls, path: str, resources: Resources, announce: Callable[[Cgroup], None] = lambda _: None) -> Cgroup:
        """Make the cgroup and set its limits.  Raises OSError or SandboxError, having removed what it had made.

        `announce` is told before of all that is going to be made, for who has to remove it should we be killed.
        """
        version, found = host_hierarchies()
        announce(cls._planned(version, found, path))
        cgroup = cls(version, {}, [])
        try:
            for hierarchy in found:
                directory = os.path.join(hierarchy.mount_point, path)
                cgroup._make(hierarchy, directory)
                cgroup.directories[directory] = sorted(hierarchy.controllers)
            cgroup.apply(resources)
        except BaseException:
            cgroup.remove()
            raise
        return cgroup

    @classmethod
    def _planned(cls, version: int, found: Sequence[Hierarchy], path: str) -> Cgroup:
        directories = {os.path.join(each.mount_point, path): sorted(each.controllers) for each in found}
        names = path.split("/")
        levels = [os.path.join(each.mount_point, *names[: depth + 1]) for each in found for depth in range(len(names))]
        return cls(version, directories, [level for level in levels if not os.path.exists(level)])

    def _make(self, hierarchy: Hierarchy, directory: str) -> None:
        """mkdir -p, handing each new level what its controllers need from the level above."""
        relative = os.path.relpath(directory, hierarchy.mount_point)
        parent = hierarchy.mount_point
        for name in relative.split("/"):
            if self.version == 2:
                _delegate_controllers(parent)
            child = os.path.join(parent, name)
            if _make_level(child, is_last=child == directory):
                self.created.append(child)
            if "cpuset" in hierarchy.controllers and self.version == 1:
                _inherit_cpuset(parent, child)
            parent = child

    def directory_of(self, controller: str) -> str | None:
        for directory, controllers in self.directories.items():
            if controller in controllers:
                return directory
        return None

    def open_procs(self) -> list[int]:
        """For each hierarchy, the file opened for writing through which a process of one thread moves itself in: "0".

        v1's `tasks` moves a thread, and for oneself the kernel then need not wait until nobody forks or ends, which
        takes milliseconds.
        """
        name = "tasks" if self.version == 1 else "cgroup.procs"
        fds: list[int] = []
        try:
            for directory in self.directories:
                fds.append(os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC))
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def pids(self) -> set[int]:
        """Host pids of the processes inside."""
        found: set[int] = set()
        for directory in self.directories:
            try:
                found.update(map(int, _read(f"{directory}/cgroup.procs").split()))
            except FileNotFoundError:
                pass
        return found

    def nested_pids(self) -> dict[int, int]:
        """Of the processes inside that are in a PID namespace below ours: the innermost pid, and the one here."""
        found = {}
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/status", "rb") as f:
                    numbers = next(line for line in f if line.startswith(b"NSpid:")).split()[1:]
            except OSError:  # it has ended
                continue
            if len(numbers) > 1:
                found[int(numbers[-1])] = int(numbers[0])
        return found

    def apply(self, resources: Resources) -> None:
        """Set the limits that `resources` names and leave the others as they are."""
        if self.version == 1:
            self._apply_v1(resources)
        elif self.version == 2:
            self._apply_v2(resources)

    def _set(self, controller: str, name: str, value: object) -> None:
        directory = self.directory_of(controller)
        if directory is None:
            raise SandboxError(f"cannot set {name}: this host has no cgroup controller {controller!r}")
        _write(f"{directory}/{name}", value)

    def _set_pair(self, controller: str, first: tuple[str, int | None], second: tuple[str, int | None]) -> None:
        """Two limits of which one bounds the other: the order depends on what they were."""
        pairs = [(name, value) for name, value in (first, second) if value is not None]
        for name, value in pairs[:1]:
            try:
                self._set(controller, name, value)
            except OSError as e:
                if e.errno not in (errno.EINVAL, errno.EBUSY) or len(pairs) == 1:
                    raise
                pairs.append(pairs[0])
        for name, value in pairs[1:]:
            self._set(controller, name, value)

    def _apply_v1(self, r: Resources) -> None:
        limit, swap = r.memory_limit, r.memory_swap or None
        memory = self.directory_of("memory")
        if swap is not None and memory and not os.path.exists(f"{memory}/memory.memsw.limit_in_bytes"):
            swap = None  # the host does not account swap: then it has no limit of its own to set
        self._set_pair("memory", ("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", swap))
        if r.memory_reservation is not None:
            self._set("memory", "memory.soft_limit_in_bytes", r.memory_reservation)
        if r.oom_kill_disable:
            self._set("memory", "memory.oom_control", 1)
        if r.cpu_shares:
            self._set("cpu", "cpu.shares", r.cpu_shares)
        self._set_pair("cpu", ("cpu.cfs_period_us", r.cpu_period or None), ("cpu.cfs_quota_us", r.cpu_quota or None))
        if r.cpu_burst is not None:
            self._set("cpu", "cpu.cfs_burst_us", r.cpu_burst)
        self._apply_common(r)

    def _apply_v2(self, r: Resources) -> None:
        if r.memory_limit is not None:
            if r.memory_check and 0 <= r.memory_limit < int(_read(f"{self.directory_of('memory')}/memory.current")):
                raise FailedPrecondition(f"cannot set memory.max to {r.memory_limit}: more is in use")
            self._set("memory", "memory.max", _or_max(r.memory_limit))
        if r.memory_swap:
            swap = -1 if r.memory_swap < 0 else max(0, r.memory_swap - (r.memory_limit or 0))
            self._set("memory", "memory.swap.max", _or_max(swap))
        if r.memory_reservation is not None:
            self._set("memory", "memory.low", max(0, r.memory_reservation))
        if r.cpu_shares:
            self._set("cpu", "cpu.weight", cpu_weight(r.cpu_shares))
        if r.cpu_quota or r.cpu_period:
            quota = _or_max(r.cpu_quota or -1)
            self._set("cpu", "cpu.max", f"{quota} {r.cpu_period}" if r.cpu_period else quota)
        if r.cpu_burst is not None:
            self._set("cpu", "cpu.max.burst", r.cpu_burst)
        self._apply_common(r)
        for name, value in r.unified.items():
            self._set("memory", name, value)  # v2 has one directory: any controller finds it

    def _apply_common(self, r: Resources) -> None:
        if r.cpu_idle is not None:
            self._set("cpu", "cpu.idle", r.cpu_idle)
        if r.cpus:
            self._set("cpuset", "cpuset.cpus", r.cpus)
        if r.mems:
            self._set("cpuset", "cpuset.mems", r.mems)
        if r.pids_limit:
            self._set("pids", "pids.max", "max" if r.pids_limit < 0 else r.pids_limit + OWN_TASKS)

    def kill_all(self) -> None:
        """SIGKILL whatever is inside; they may still be dying on return."""
        for pid in self.pids():
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                pass

    def remove(self) -> None:
        """Remove the directories that we made; idempotent.  Raises OSError if processes stay inside."""
        own = set(self.directories)
        for directory in reversed(self.created):
            if directory in own:
                self._remove_own(directory)
            else:
                _remove_ancestor(directory)

    def _remove_own(self, directory: str) -> None:
        """A dying process keeps its cgroup busy for a moment; the kernel offers nothing to wait on in v1."""
        for delay in _delays(REMOVE_TIMEOUT):
            try:
                os.rmdir(directory)
                return
            except FileNotFoundError:
                return
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise
                self.kill_all()
                time.sleep(delay)
        os.rmdir(directory)


def _delays(total: float) -> Iterator[float]:
    """Pauses that double from 1 ms, until they add up to `total` seconds."""
    delay, spent = 0.001, 0.0
    while spent < total:
        yield delay
        spent += delay
        delay = min(2 * delay, 0.1)


def _make_level(directory: str, is_last: bool) -> bool:
    """mkdir; True if removing it is up to us.  A container's own level may be there from a crash, but empty."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        if is_last and _read(f"{directory}/cgroup.procs"):
            raise SandboxError(f"the cgroup {directory} has processes in it") from None
        return is_last
    return True


def _remove_ancestor(directory: str) -> None:
    """Unless other containers live below it by now."""
    try:
        os.rmdir(directory)
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
            raise


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


def _delegate_controllers(directory: str) -> None:
    """v2: a level passes on only the controllers that it has been told to."""
    available = set(_read(f"{directory}/cgroup.controllers").split()) & set(CONTROLLERS)
    enabled = set(_read(f"{directory}/cgroup.subtree_control").split())
    for controller in sorted(available - enabled):
        try:
            _write(f"{directory}/cgroup.subtree_control", f"+{controller}")
        except OSError as e:
            # A level with processes of its own cannot; setting a limit then fails and says which.
            if e.errno not in (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP):
                raise


def _inherit_cpuset(parent: str, child: str) -> None:
    """v1: a new cpuset is empty, and no process may enter it until it has CPUs and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _read(f"{child}/{name}"):
            _write(f"{child}/{name}", _read(f"{parent}/{name}"))
