"""procfs: processes and the kernel as files, proc(5).

A mount shows the processes of one PID namespace, the mounting container's.  The root's other
entries are made once, so that something may be mounted over them (OCI's maskedPaths).  Read on:
proc_pid.py for /proc/PID, proc_system.py for the machine, proc_sys.py for /proc/sys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Final

from sentry.abi import stat as st
from sentry.abi.errno import EINVAL, ENOENT
from sentry.fs import proc_system
from sentry.fs.proc_pid import TaskDir
from sentry.fs.proc_sys import sys_dir
from sentry.fs.proc_view import TaskView
from sentry.fs.simple import Link, ListedDir, StaticDir, TextNode
from sentry.kernel.task import current
from sentry.vfs.inode import FileSystem, Inode

if TYPE_CHECKING:
    from sentry.kernel.container import Container
    from sentry.kernel.ids import PidNamespace
    from sentry.kernel.kernel import Kernel
    from sentry.kernel.task import Task

ROOT_INO: Final = 1
# Directories that are there for mount points and configuration of drivers, of which there are none.
EMPTY_DIRS: Final = ("bus", "driver", "fs", "irq")
PRUNE_AT: Final = 64


class ProcFs(FileSystem):
    """One mount."""

    NAME: ClassVar[str] = "proc"
    MAGIC: ClassVar[int] = 0x9FA0

    def __init__(self, container: Container, options: Mapping[str, str] | None = None) -> None:
        """EINVAL: an option (hidepid=, subset=) that is not supported."""
        super().__init__()
        if options:
            raise EINVAL("proc: unknown option")
        self.container: Container = container
        self.kernel: Kernel = container.kernel
        self.ns: PidNamespace = container.pidns
        self._next_ino = ROOT_INO + 1
        self._root = ProcRoot(self)

    async def root(self) -> ProcRoot:
        return self._root


class ProcRoot(ListedDir):
    """/proc: a directory for each process, and what concerns them all."""

    __slots__ = ("_static", "_tasks")

    volatile: ClassVar[bool] = True
    fs: ProcFs

    def __init__(self, fs: ProcFs) -> None:
        super().__init__(fs, st.S_IFDIR | 0o555, ino=ROOT_INO)
        self._static = _static_entries(fs)
        self._tasks: dict[int, TaskDir] = {}

    async def lookup(self, name: str) -> Inode:
        found = self._static.get(name)
        if found is not None:
            return found
        # Threads have directories too, /proc/TID: they are only not listed.
        t = self.fs.ns.tasks.get(int(name)) if name.isdecimal() and name.isascii() else None
        if t is None or name != str(t.tid_in(self.fs.ns)):
            raise ENOENT
        return self.directory(t)

    def directory(self, t: Task) -> TaskDir:
        """The directory of t, the same one as long as t lives."""
        number = t.tid_in(self.fs.ns)
        kept = self._tasks.get(number)
        if kept is None or kept.view.t is not t:
            if len(self._tasks) > 2 * len(self.fs.ns.tasks) + PRUNE_AT:
                self._tasks = {n: d for n, d in self._tasks.items() if not d.view.gone}
            kept = self._tasks[number] = TaskDir(self.fs, TaskView(t, self.fs.ns, whole=True))
        kept.uid, kept.gid = t.creds.euid, t.creds.egid
        return kept

    def listing(self) -> Iterable[tuple[str, int, int]]:
        for name, inode in self._static.items():
            yield name, inode.ino, inode.mode
        for tg in self.fs.ns.thread_groups():
            directory = self.directory(tg.leader)
            yield str(directory.view.number), directory.ino, directory.mode


def _static_entries(fs: ProcFs) -> dict[str, Inode]:
    entries: dict[str, Inode] = {}
    for name, make in proc_system.FILES.items():
        entries[name] = TextNode(fs, lambda make=make: make(fs))  # type: ignore[misc]
    for name in EMPTY_DIRS:
        entries[name] = StaticDir(fs, {})
    entries["mounts"] = Link(fs, "self/mounts")
    entries["net"] = Link(fs, "self/net")
    entries["self"] = Link(fs, lambda: _self(fs))
    entries["thread-self"] = Link(fs, lambda: _thread_self(fs))
    entries["sys"] = sys_dir(fs)
    return entries


def _self(fs: ProcFs) -> str:
    """ENOENT: the reader is not in this PID namespace."""
    t = current()
    number = t.tg.pid_in(fs.ns) if t is not None else 0
    if not number:
        raise ENOENT
    return str(number)


def _thread_self(fs: ProcFs) -> str:
    t = current()
    number = t.tid_in(fs.ns) if t is not None else 0
    if not number:
        raise ENOENT
    return f"{_self(fs)}/task/{number}"
