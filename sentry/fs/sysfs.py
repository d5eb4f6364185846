"""sysfs: the little of it that programs look for, sysfs(5).

There are processors, and mount points; there are no devices, drivers or modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Final

from sentry.abi.errno import EINVAL
from sentry.fs.proc_status import cpu_list, cpu_mask
from sentry.fs.proc_system import anonymous_bytes
from sentry.fs.simple import StaticDir, TextNode, fixed
from sentry.vfs.inode import FileSystem, Inode

if TYPE_CHECKING:
    from sentry.kernel.container import Container

Maker = Callable[[], str]

# Empty directories: places to mount something at, and classes without members.
EMPTY: Final = (
    "block", "bus", "class/net", "class/tty", "dev/block", "dev/char", "devices/virtual", "firmware", "fs/cgroup",
    "fs/fuse/connections", "kernel/debug", "kernel/mm", "kernel/security", "module", "power",
)  # fmt: skip


class SysFs(FileSystem):
    """One mount."""

    NAME: ClassVar[str] = "sysfs"
    MAGIC: ClassVar[int] = 0x62656572

    def __init__(self, container: Container, options: Mapping[str, str] | None = None) -> None:
        """EINVAL: there are no options."""
        super().__init__()
        if options:
            raise EINVAL("sysfs: unknown option")
        tree = _cpus(container.facts.ncpus, container.facts.cpuinfo)
        tree |= _node(container)
        self._root = _directory(self, tree, EMPTY)

    async def root(self) -> Inode:
        return self._root


def _directory(fs: FileSystem, files: Mapping[str, Maker], empty: tuple[str, ...]) -> StaticDir:
    """The tree that has these files (by their path), and these empty directories."""
    children: dict[str, Inode] = {name: TextNode(fs, make) for name, make in files.items() if "/" not in name}
    below = {name.partition("/")[0] for name in (*files, *empty)} - children.keys()
    for name in sorted(below):
        prefix = name + "/"
        inner_files = {path.removeprefix(prefix): make for path, make in files.items() if path.startswith(prefix)}
        inner_empty = tuple(path.removeprefix(prefix) for path in empty if path.startswith(prefix))
        children[name] = _directory(fs, inner_files, inner_empty)
    return StaticDir(fs, children, 0o755)


def _cpus(ncpus: int, cpuinfo: str) -> dict[str, Maker]:
    """devices/system/cpu: each processor is a core of one package, as far as anybody needs to know."""
    every = (1 << ncpus) - 1
    base = "devices/system/cpu/"
    tree = {base + name: fixed(cpu_list(every) + "\n") for name in ("online", "possible", "present")}
    tree[base + "offline"] = fixed("\n")
    tree[base + "kernel_max"] = fixed(f"{ncpus - 1}\n")
    packages, cores = _topology(ncpus, cpuinfo)
    for n in range(ncpus):
        topology = f"{base}cpu{n}/topology/"
        threads = sum(1 << m for m in range(ncpus) if (packages[m], cores[m]) == (packages[n], cores[n]))
        siblings = sum(1 << m for m in range(ncpus) if packages[m] == packages[n])
        tree[topology + "physical_package_id"] = fixed(f"{packages[n]}\n")
        tree[topology + "core_id"] = fixed(f"{cores[n]}\n")
        for name, mask in (
            ("thread_siblings", threads),
            ("core_cpus", threads),
            ("core_siblings", siblings),
            ("package_cpus", siblings),
        ):
            tree[topology + name] = fixed(cpu_mask(mask, ncpus) + "\n")
            tree[topology + name + "_list"] = fixed(cpu_list(mask) + "\n")
    return tree


def _topology(ncpus: int, cpuinfo: str) -> tuple[list[int], list[int]]:
    """(package, core) numbers of the processors, from /proc/cpuinfo if it has them."""
    found: dict[str, list[int]] = {"physical id": [], "core id": []}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in found and value.strip().isdigit():
            found[name.strip()].append(int(value))
    packages, cores = found.values()
    if len(packages) == len(cores) == ncpus:
        return packages, cores
    return [0] * ncpus, list(range(ncpus))


def _node(container: Container) -> dict[str, Maker]:
    """devices/system/node: all memory is near all processors."""
    ncpus = container.facts.ncpus
    every = (1 << ncpus) - 1
    base = "devices/system/node/"
    tree = {base + name: fixed("0\n") for name in ("has_cpu", "has_memory", "has_normal_memory", "online", "possible")}
    tree[base + "node0/cpulist"] = fixed(cpu_list(every) + "\n")
    tree[base + "node0/cpumap"] = fixed(cpu_mask(every, ncpus) + "\n")
    tree[base + "node0/distance"] = fixed("10\n")
    tree[base + "node0/meminfo"] = lambda: _node_meminfo(container)
    return tree


def _node_meminfo(container: Container) -> str:
    total, used = container.facts.total_ram, anonymous_bytes(container)
    values = {"MemTotal": total, "MemFree": total - used, "MemUsed": used}
    return "".join(f"Node 0 {name + ':':<15}{value // 1024:8d} kB\n" for name, value in values.items())
