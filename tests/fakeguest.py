"""A guest without a processor: real kernel, real handlers, memory that is a bytearray.

Tests call handlers as run.py would, on behalf of tasks that they make:

    guest = Guest()
    t = guest.process()
    fd = guest.call(t, eventfd2, 3, 0)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from sentry.abi.errno import EFAULT, ENAMETOOLONG
from sentry.fs.tmpfs import TmpFs
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
from sentry.mm.mm import Mm
from sentry.platform import Mapping
from sentry.vfs.dentry import Dentry, Path
from sentry.vfs.fdtable import FdTable
from tests.fakes import IdlePlatform, read_from_file, write_to_file


class Memory:
    """Application memory that is a bytearray: one readable and writable range, nothing around it."""

    BASE = 0x10000

    def __init__(self, size: int = 1 << 20) -> None:
        self.bytes = bytearray(size)
        self.end = self.BASE + size
        self.vdso = 0
        self._next = self.BASE

    def alloc(self, size: int, data: bytes = b"") -> int:
        """A range nobody else has; never given back."""
        addr, self._next = self._next, self._next + max(size, len(data)) + 15 & ~15
        self.write(addr, data)
        return addr

    def put(self, data: bytes) -> int:
        return self.alloc(len(data), data)

    def read_some(self, addr: int, length: int) -> bytes:
        at = addr - self.BASE
        if length and not 0 <= at < len(self.bytes):
            raise EFAULT
        return bytes(self.bytes[at : at + length])

    def read(self, addr: int, length: int) -> bytes:
        data = self.read_some(addr, length)
        if len(data) < length:
            raise EFAULT
        return data

    def read_cstr(self, addr: int, limit: int) -> bytes:
        data = self.read_some(addr, limit)
        end = data.find(0)
        if end < 0:
            raise ENAMETOOLONG if len(data) == limit else EFAULT
        return data[:end]

    def write_some(self, addr: int, data: bytes | bytearray | memoryview) -> int:
        at = addr - self.BASE
        if data and not 0 <= at < len(self.bytes):
            raise EFAULT
        n = min(len(data), len(self.bytes) - at)
        self.bytes[at : at + n] = data[:n]
        return n

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        if self.write_some(addr, data) < len(data):
            raise EFAULT

    def read_from_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        return read_from_file(self, fd, offset, addr, length)

    def write_to_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        return write_to_file(self, fd, offset, addr, length)

    def resident_pages(self) -> tuple[int, int, int]:
        return 3, 2, 1

    def mappings(self) -> list[Mapping]:
        return []


class IdleContext:
    """A context that never runs."""

    host_pid = 0

    def __init__(self, space: Memory) -> None:
        self.space = space
        self.owner: Any = None
        self.used_ns = 0

    def cpu_ns(self) -> int:
        return self.used_ns

    def process_cpu_ns(self) -> int:
        return sum(task.context.used_ns for task in self.owner.tg.tasks)

    def interrupt(self) -> None:
        pass

    def approve_memory(self, approved: bool) -> None:
        pass


class Call:
    """A system call under way: result is None until it is done, then a number or what was raised."""

    def __init__(self) -> None:
        self.result: Any = None
        self.done = False
        self.awaited = False  # finish() runs the loop until it is done

    def value(self) -> Any:
        """The number it returned; raises what it raised."""
        assert self.done, "the call still waits"
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Guest:
    """A real kernel without application code: tasks whose system calls are made by the test.

    call() is for calls that return; start() and settle() are for those that wait.
    """

    def __init__(self) -> None:
        self.kernel = Kernel(IdlePlatform(), {}, HostFacts(), -1)
        self.loop = self.kernel.loop
        self.container = Container(self.kernel, "test", None, UtsNamespace("guest"))  # type: ignore[arg-type]
        fs = TmpFs()
        root = Dentry("", None, fs._root)
        mount = self.container.mounts.new_mount(fs, root)
        self.container.mounts.attach(mount, None)
        self.root = Path(mount, root)
        self._serial = itertools.count()

    def process(self, parent: ThreadGroup | None = None, creds: Creds | None = None) -> Task:
        """A new process with memory and an empty descriptor table; root, unless creds are given."""
        handlers = SignalHandlers()
        pidns = self.container.pidns
        tg = ThreadGroup(self.kernel, self.container, pidns, parent, handlers, Rlimits())
        t = self._task(tg, Mm(Memory()), creds or Creds(permitted=ALL_CAPS, effective=ALL_CAPS))  # type: ignore[arg-type]
        tg.leader = t
        ProcessGroup(tg, Session(tg)).adopt(tg)
        t.files = FdTable()
        t.fs = FsContext(self.root, self.root)
        if pidns.init is None:
            pidns.init = tg
        return t

    def thread(self, of: Task) -> Task:
        """One more thread of a process."""
        t = self._task(of.tg, of.mm, of.creds)
        t.files, t.fs = of.files, of.fs
        return t

    def _task(self, tg: ThreadGroup, mm: Mm, creds: Creds) -> Task:
        t = Task(self.kernel, tg, IdleContext(mm.space), mm, creds)  # type: ignore[arg-type]
        self.kernel.number_task(t)
        tg.tasks.append(t)
        return t

    def start(self, t: Task, handler: Callable[..., Any], *args: int) -> Call:
        """Begin handler(t, *args); it may wait.  Run it with settle() or finish()."""
        call = Call()

        async def body() -> None:
            try:
                answer = handler(t, *args)
                call.result = answer if answer is None or isinstance(answer, int) else await answer
            except Exception as e:
                call.result = e
            call.done = True
            if call.awaited:
                self.loop.stop()

        t.done = False
        t.start(body(), f"call {next(self._serial)}")
        return call

    def settle(self) -> None:
        """Run until everybody waits."""
        while self.loop._ready:
            job, value = self.loop._ready.popleft()
            self.loop._step(job, value)

    def finish(self, call: Call, seconds: float = 10) -> Any:
        """Run, timers included, until the call is done; its value."""
        self.settle()
        if not call.done:
            give_up = self.loop.call_at(self.loop.now_ns() + int(seconds * 1e9), self.loop.stop)
            self.loop._stopping = False
            call.awaited = True
            self.loop.run()
            give_up.cancel()
        return call.value()

    def call(self, t: Task, handler: Callable[..., Any], *args: int) -> Any:
        """The value of a call that need not wait for others."""
        call = self.start(t, handler, *args)
        self.settle()
        return call.value() if call.done else self.finish(call)
