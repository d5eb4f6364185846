"""A whole kernel over a ScriptedPlatform: processes are lists of system calls that really run.

world = World()
init = world.process(call("fork"), call("wait4", -1, DATA, 0, 0))
world.run()
assert context(init).results == [2, 2]
"""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from sentry.abi.fcntl import O_WRONLY
from sentry.abi.nr_x86_64 import NAMES
from sentry.abi.stat import S_IFREG
from sentry.fs.tmpfs import TmpFs
from sentry.kernel import run
from sentry.kernel.container import Container
from sentry.kernel.creds import ALL_CAPS, Creds
from sentry.kernel.fscontext import FsContext
from sentry.kernel.ids import ProcessGroup, Session
from sentry.kernel.kernel import HostFacts, Kernel
from sentry.kernel.rlimits import Rlimits
from sentry.kernel.signals import SignalHandlers
from sentry.kernel.task import Task
from sentry.kernel.threadgroup import ThreadGroup
from sentry.kernel.utsname import UtsNamespace
from sentry.mm.mm import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, Mm
from sentry.platform import SyscallTrap
from sentry.syscalls.registry import build_table
from sentry.vfs.dentry import Dentry, Path
from sentry.vfs.fdtable import FdTable
from sentry.vfs.iov import BytesSource
from tests.fakes import ScriptedContext, ScriptedPlatform, ScriptedTemplate, Step

T = TypeVar("T")
NUMBERS: Final = {name: number for number, name in NAMES.items()}
DATA: Final = 0x500000
DATA_SIZE: Final = 0x20000
SHARED: Final = 0x580000
STACK: Final = 0x680000
STACK_SIZE: Final = 0x40000
MASK64: Final = (1 << 64) - 1
ROOT: Final = Creds(permitted=ALL_CAPS, effective=ALL_CAPS)
FLAGS: Final = MAP_ANONYMOUS | MAP_FIXED


def user(uid: int = 1000) -> Creds:
    """A user without any capability."""
    return Creds(*(uid, uid, uid, uid), *(uid, uid, uid, uid))


def call(name: str, *args: int) -> SyscallTrap:
    """A system call as a step."""
    a, b, c, d, e, f = (*(arg & MASK64 for arg in args), *[0] * (6 - len(args)))
    return SyscallTrap(NUMBERS[name], (a, b, c, d, e, f))


def context(t: Task) -> ScriptedContext:
    assert isinstance(t.context, ScriptedContext)
    return t.context


class World:
    """The first process made is pid 1."""

    def __init__(self) -> None:
        self.platform = ScriptedPlatform()
        self.proc_fd = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        self.kernel = Kernel(self.platform, build_table(), HostFacts(), self.proc_fd)
        self.loop = self.kernel.loop
        self.loop.now_ns = self.platform.now_ns
        self.platform.on_idle = self.loop.stop
        self.container = Container(self.kernel, "test", ScriptedTemplate(self.platform), UtsNamespace("guest"))
        self.kernel.containers["test"] = self.container
        fs = TmpFs()
        mount = self.container.mounts.new_mount(fs, Dentry("", None, fs._root))
        self.container.mounts.attach(mount, None)
        self.root = Path(mount, mount.root)

    def process(self, *steps: Step, parent: Task | None = None, creds: Creds = ROOT) -> Task:
        """A process in a session of its own, or in its parent's process group; it begins with the next run()."""
        pidns = self.container.pidns
        handlers = SignalHandlers()
        of = parent.tg if parent is not None else None
        tg = ThreadGroup(self.kernel, self.container, pidns, of, handlers, Rlimits())
        self.platform.script(*steps)
        space = self.container.new_space().space
        space.map(DATA, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | FLAGS, -1, 0)
        space.map(SHARED, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | FLAGS, -1, 0)
        space.map(STACK - STACK_SIZE, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | FLAGS, -1, 0)
        t = self._task(tg, Mm(space), creds, self.platform.contexts[-1])
        tg.leader = t
        if of is None:
            ProcessGroup(tg, Session(tg)).adopt(tg)
        else:
            of.pgrp.adopt(tg)
        t.files = FdTable()
        t.fs = FsContext(self.root, self.root)
        if pidns.init is None:
            pidns.init = tg
            tg.unkillable = True
        return t

    def thread(self, of: Task, *steps: Step) -> Task:
        """One more thread of a process."""
        self.platform.script(*steps)
        t = self._task(of.tg, of.mm, of.creds, context(of).clone(share_space=True, same_process=True))
        of.mm.users += 1
        of.files.refs += 1
        t.files, t.fs = of.files, of.fs
        return t

    def _task(self, tg: ThreadGroup, mm: Mm, creds: Creds, context: ScriptedContext) -> Task:
        context.regs.rsp = STACK - 4096
        t = Task(self.kernel, tg, context, mm, creds)
        self.kernel.number_task(t)
        tg.tasks.append(t)
        t.start(run.run(t), f"task {t.tid}")
        return t

    def run(self) -> None:
        """Until everybody waits, for ever or in code that runs on; timers end at once."""
        self.loop._stopping = False
        self.loop.run()
        assert self.kernel.bugs == 0, "a bug of the kernel's was logged"

    def close(self) -> None:
        """End the coroutines of those who still wait."""
        for t in list(self.kernel.root_pidns.tasks.values()):
            t.coro.close()
        os.close(self.proc_fd)

    def file(self, name: str, data: bytes, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Path:
        """A file in the root directory."""

        async def make() -> None:
            root = self.root.inode
            inode = await root.create(name, mode & 0o777, ROOT.caller(0))
            path = Path(self.root.mount, Dentry(name, self.root.dentry, inode))
            opened = (await inode.open(path, O_WRONLY)).hold()
            opened.write(BytesSource(data))
            opened.drop()
            inode.mode, inode.uid, inode.gid = S_IFREG | mode, uid, gid
            made.append(path)

        made: list[Path] = []
        drive(make())
        return made[0]


def drive(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coro.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")
