"""New limits for a container that exists: linux.resources, as far as they can change.

What is not named stays as it was.  As with runc, what a container cannot be given anew is left alone when engines
repeat it from its configuration: devices, huge pages, network classes, kernel memory, swappiness.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from proto import control
from sandbox import state
from sandbox.cgroups import Cgroup
from sandbox.errors import FailedPrecondition, InvalidSpec, NotFound, SandboxError, Unsupported
from sandbox.sandbox import CALL_TIMEOUT, CREATING, Sandbox
from sandbox.spec import Reader, Resources

UNSUPPORTED_CPU = ("realtimeRuntime", "realtimePeriod")


def parse_resources(obj: object) -> Resources:
    """An OCI linux.resources object.  Raises InvalidSpec for nonsense, Unsupported for what only others can do."""
    reader = Reader(obj, "resources")
    cpu, block_io = reader.section("cpu"), reader.section("blockIO")
    for name in UNSUPPORTED_CPU:
        if cpu.get(name, int, 0):
            raise Unsupported(f"{cpu.name_of(name)}: not implemented")
    for name in block_io.obj:
        if block_io.obj[name]:
            raise Unsupported(f"{block_io.name_of(name)}: not implemented")
    resources = Resources.from_json(reader.obj, "resources")
    resources.oom_kill_disable = False  # of a running container it cannot change
    return resources


def merged(old: Resources, change: Resources) -> Resources:
    """`old` with what `change` names.  Without a memory limit there is none on swap either."""
    named: dict[str, Any] = {}
    for each in fields(Resources):
        value = getattr(change, each.name)
        if value not in (None, "", {}, False):
            named[each.name] = value
    if "unified" in named:
        named["unified"] = old.unified | change.unified
    if change.memory_limit == -1 and change.memory_swap is None:
        named["memory_swap"] = -1
    return replace(old, **named)


def check(resources: Resources, version: int) -> None:
    """What the kernel would take in some order of writing, and in another not.  Raises InvalidSpec."""
    least: Mapping[str, int] = {"memory_limit": -1, "memory_swap": -1, "memory_reservation": -1, "cpu_quota": -1,
                                "cpu_shares": 0, "cpu_period": 0}  # fmt: skip
    for name, minimum in least.items():
        value = getattr(resources, name)
        if value is not None and value < minimum:
            raise InvalidSpec(f"{name.replace('_', ' ')}: {value} makes no sense")
    limit, swap = resources.memory_limit or 0, resources.memory_swap or 0
    if swap > 0 and limit > 0 and swap < limit:
        raise InvalidSpec(f"memory swap: {swap} is memory and swap together, and less than the memory limit of {limit}")
    if swap > 0 and limit <= 0 and version == 2:
        raise InvalidSpec("memory swap: it cannot be limited without a memory limit")


def update(sandbox: Sandbox, change: Resources, container: str = "") -> None:
    """Give a created, running or paused container new limits; on failure it has those that it had.

    Raises InvalidSpec, FailedPrecondition, NotFound or another SandboxError.
    """
    with state.locked(sandbox.directory):
        sandbox.record = state.load(sandbox.directory.parent, sandbox.id)[1]
        name = container or sandbox.id
        status = sandbox.status(name)
        known = sandbox.record.containers.get(name)
        if known is None:
            raise NotFound(f"container {name} does not exist")
        if status in (control.STOPPED, CREATING):
            raise FailedPrecondition(f"cannot update container {name}: it is {status}")
        resources = merged(known.resources, change)
        check(resources, known.cgroup.version if known.cgroup else 0)
        if known.cgroup is not None:
            _apply(known.cgroup, known.resources, resources)
        elif change != Resources():
            raise FailedPrecondition(f"cannot update container {name}: it has no cgroup")
        sandbox.call("Update", _for_sentry(sandbox, name, change), control.Empty, CALL_TIMEOUT)
        known.resources = resources
        state.save(sandbox.directory, sandbox.record)


def _apply(cgroup: Cgroup, old: Resources, new: Resources) -> None:
    try:
        cgroup.apply(new)
    except (OSError, SandboxError) as e:
        try:
            cgroup.apply(old)
        except (OSError, SandboxError):
            pass  # the first error is the one to hear of
        if isinstance(e, SandboxError):
            raise
        raise _explained(e) from None


def _explained(e: OSError) -> SandboxError:
    """A limit that the kernel does not take."""
    name = os.path.basename(e.filename or "cgroup")
    if e.errno == errno.EBUSY:
        return FailedPrecondition(f"cannot update {name}: more is in use than it would allow")
    if e.errno in (errno.EINVAL, errno.ERANGE, errno.EOVERFLOW):
        return InvalidSpec(f"cannot update {name}: the kernel refuses the value")
    if e.errno == errno.ENOENT:
        return Unsupported(f"cannot update {name}: this host's kernel does not have it")
    return SandboxError(f"cannot update {name}: {e.strerror}")


def _for_sentry(sandbox: Sandbox, container: str, change: Resources) -> control.Update:
    """What the Sentry keeps to, or shows.  The memory that it shows is the whole sandbox's: its root container's."""
    request = control.Update(container, change.pids_limit or None)
    if change.memory_limit is not None and container == sandbox.id:
        from sandbox.launch import memory_size

        request.total_ram = memory_size(change)
    return request
