"""Limits as an update asks for them: linux.resources read, put together with those that hold, and checked.

What is not named stays as it was.  As with runc, what a container cannot be given anew is left alone when engines
repeat it from its configuration: devices, huge pages, network classes, kernel memory, swappiness.
"""

from collections.abc import Mapping
from typing import Any

from sandbox.errors import InvalidSpec, Unsupported
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
    for name, value in vars(change).items():
        if value not in (None, "", {}, False):
            named[name] = value
    if "unified" in named:
        named["unified"] = old.unified | change.unified
    if change.memory_limit == -1 and change.memory_swap is None:
        named["memory_swap"] = -1
    named["memory_check"] = change.memory_check  # of this once
    return Resources(**{**vars(old), **named})


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
