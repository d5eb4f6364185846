"""What a system call costs in its handler: each is called as the run loop calls it, without any trap.

    python -m bench.handlers [--platform NAME] [--seconds S] [WORD...]

prints microseconds per round, for the cases whose names contain one of the words.  The task, its files and the
gofer are real, and its memory is that of a stub of the platform, which never runs: so copies cost what they cost
in a sandbox, and the difference to bench's other figures is the trap.  --profile prints where the time of the chosen
cases goes instead.
"""

from __future__ import annotations

import argparse
import os
import struct
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path as HostPath
from typing import Any, Final

from cli.debug import report
from proto.control import ProfileResponse
from sentry.abi import signal as sig
from sentry.abi.errno import LinuxError
from sentry.abi.fcntl import O_CREAT, O_DIRECTORY, O_RDWR
from sentry.abi.nr_x86_64 import NAMES
from sentry.abi.poll import EPOLL_CTL_ADD, EPOLL_EVENT, POLLIN
from sentry.boot import Host, choose_platform
from sentry.kernel.container import Container
from sentry.kernel.creds import ALL_CAPS, Creds
from sentry.kernel.delivery import deliver
from sentry.kernel.fscontext import FsContext
from sentry.kernel.ids import ProcessGroup, Session
from sentry.kernel.kernel import HostFacts, Kernel
from sentry.kernel.rlimits import Rlimits
from sentry.kernel.signals import SignalHandlers
from sentry.kernel.task import Task
from sentry.kernel.threadgroup import ThreadGroup
from sentry.kernel.utsname import UtsNamespace
from sentry.mm.mm import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE, Mm
from sentry.profiler import Profiler
from sentry.syscalls.registry import build_table
from sentry.vfs.fdtable import FdTable
from tests.gofertree import GoferTree

MEMORY: Final = 0x10000000
MEMORY_SIZE: Final = 1 << 20
# Where things lie in it.
NAME, OTHER_NAME, PAIR, EVENT, STRUCT, BUFFER = (MEMORY + i * 0x1000 for i in range(6))
STACK: Final = MEMORY + MEMORY_SIZE - 0x100
ENTRIES: Final = 100

NUMBERS: Final = {name: number for number, name in NAMES.items()}

# One round of a case: it may make several calls.  None: it has to be awaited.
Round = Callable[[], object]


class Replay:
    """A process of a container on a real platform, whose calls are made by us."""

    def __init__(self, platform: str, folder: HostPath) -> None:
        self.proc_fd = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        self.platform = choose_platform(platform, Host(self.proc_fd))
        self.kernel = Kernel(self.platform, build_table(), HostFacts(), self.proc_fd)
        self.tree = GoferTree(folder, loop=self.kernel.loop)
        self.container = Container(self.kernel, "bench", self.platform.new_template(()), UtsNamespace("bench"))
        self.other = self.process()  # pid 1 has rules of its own
        self.t = self.process()

    def process(self) -> Task:
        tg = ThreadGroup(self.kernel, self.container, self.container.pidns, None, SignalHandlers(), Rlimits())
        context = self.container.template.new_space()
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        context.space.map(MEMORY, MEMORY_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0)
        context.space.write(MEMORY, bytes(MEMORY_SIZE))
        context.regs.rsp = STACK
        t = Task(self.kernel, tg, context, Mm(context.space), Creds(permitted=ALL_CAPS, effective=ALL_CAPS))
        self.kernel.number_task(t)
        tg.tasks.append(t)
        tg.leader = t
        ProcessGroup(tg, Session(tg)).adopt(tg)
        t.files = FdTable()
        t.fs = FsContext(self.tree.root, self.tree.root)
        return t

    def close(self) -> None:
        self.platform.close()
        self.tree.close()

    def caller(self, name: str, *args: int, t: Task | None = None) -> Round:
        """A function that makes one call and gives its answer: a number, None, or something to be awaited."""
        registers = (*(arg & (1 << 64) - 1 for arg in args), *[0] * (6 - len(args)))
        call, caller = self.kernel.table[NUMBERS[name]].call, t or self.t
        return lambda: call(caller, registers)

    def echo(self, reader: int, writer: int) -> None:
        """Let the other process answer each byte, from now on."""
        other = self.other
        other.files = self.t.files
        calls = self.caller("read", reader, BUFFER, 1, t=other), self.caller("write", writer, BUFFER, 1, t=other)

        async def body() -> None:
            while True:
                for call in calls:
                    answer = call()
                    if not isinstance(answer, int):
                        await answer  # type: ignore[misc]

        other.start(body(), "echo")

    def do(self, name: str, *args: int) -> int:
        """Make one call, whatever it takes; its result."""
        results: list[int] = []

        async def body() -> None:
            answer = self.caller(name, *args)()
            results.append(answer if isinstance(answer, int) else await answer)  # type: ignore[misc]

        self.run(body())
        return results[0]

    def run(self, body: Coroutine[Any, Any, None]) -> None:
        """Run body as the task's own coroutine: its calls are the task's, and may wait."""
        loop, errors = self.kernel.loop, []

        async def main() -> None:
            try:
                await body
            except BaseException as e:
                errors.append(e)
            loop.stop()

        self.t.done = loop._stopping = False
        self.t.start(main(), "bench")
        loop.run()
        if errors:
            raise errors[0]

    def measure(self, rounds: tuple[Round, ...], seconds: float) -> float:
        """Microseconds for one of each of rounds: of many slices the first quintile, for others use the machine too."""
        slices: list[float] = []

        async def body() -> None:
            deadline = time.perf_counter() + seconds
            count = 100
            while time.perf_counter() < deadline:
                start = time.perf_counter()
                for _ in range(count):
                    for call in rounds:
                        try:
                            answer = call()
                            if type(answer) is not int and answer is not None:
                                await answer  # type: ignore[misc]
                        except LinuxError:
                            continue  # the run loop's part of it is setting a register
                slices.append((time.perf_counter() - start) / count * 1e6)

        self.run(body())
        slices.sort()
        return slices[len(slices) // 5]


def cases(r: Replay) -> Iterator[tuple[str, tuple[Round, ...]]]:
    """(name, the calls of one round), each prepared when its turn comes."""
    call, do, memory = r.caller, r.do, r.t.mem
    memory.write(NAME, b"/folder/file\0")
    memory.write(OTHER_NAME, b"/folder/none\0")
    fd = do("open", NAME, O_RDWR, 0)
    yield "getpid", (call("getpid"),)
    yield "pread 4 KiB", (call("pread64", fd, BUFFER, 4096, 0),)
    yield "pread 64 KiB", (call("pread64", fd, BUFFER, 65536, 0),)
    yield "pwrite 4 KiB", (call("pwrite64", fd, BUFFER, 4096, 0),)
    yield "lseek + read 4 KiB", (call("lseek", fd, 0, 0), call("read", fd, BUFFER, 4096))
    yield "fstat", (call("fstat", fd, STRUCT),)
    yield "pwrite + fstat", (call("pwrite64", fd, BUFFER, 64, 0), call("fstat", fd, STRUCT))
    yield "stat", (call("stat", NAME, STRUCT),)
    yield "stat, missing", (call("stat", OTHER_NAME, STRUCT),)
    yield "statx", (call("statx", -100, NAME, 0, 0x7FF, STRUCT),)
    yield "access", (call("access", NAME, 4),)
    lowest = fd + 1
    yield "open + close", (call("open", NAME, 0, 0), call("close", lowest))
    yield "create + unlink", (
        call("open", OTHER_NAME, O_CREAT | O_RDWR, 0o600), call("close", lowest), call("unlink", OTHER_NAME),
    )  # fmt: skip
    memory.write(OTHER_NAME, b"/folder/names\0")
    yield f"readdir of {ENTRIES}", (
        call("open", OTHER_NAME, O_DIRECTORY, 0), call("getdents64", lowest, BUFFER, 32768),
        call("getdents64", lowest, BUFFER, 32768), call("close", lowest),
    )  # fmt: skip
    memory.write(OTHER_NAME, b"/folder/link\0")
    yield "readlink", (call("readlink", OTHER_NAME, BUFFER, 100),)
    yield "getcwd", (call("getcwd", BUFFER, 100),)
    yield from streams(r)
    yield from signals(r)
    yield "clock_gettime", (call("clock_gettime", 1, STRUCT),)
    yield "futex wake", (call("futex", BUFFER, 129, 1),)
    yield (
        "mmap + munmap",
        (
            call("mmap", 0x20000000, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            call("munmap", 0x20000000, 4096),
        ),
    )


def streams(r: Replay) -> Iterator[tuple[str, tuple[Round, ...]]]:
    call, do, memory = r.caller, r.do, r.t.mem
    do("pipe2", PAIR, 0)
    reader, writer = struct.unpack("<ii", memory.read(PAIR, 8))
    for size in (1, 4096):
        yield f"pipe write + read {size}", (call("write", writer, BUFFER, size), call("read", reader, BUFFER, size))
    do("pipe2", PAIR, 0)
    back, forth = struct.unpack("<ii", memory.read(PAIR, 8))
    do("pipe2", PAIR, 0)
    there, away = struct.unpack("<ii", memory.read(PAIR, 8))
    r.echo(there, forth)
    yield "pipe ping-pong", (call("write", away, BUFFER, 1), call("read", back, BUFFER, 1))
    do("socketpair", 1, 1, 0, PAIR)
    one, other = struct.unpack("<ii", memory.read(PAIR, 8))
    yield "unix socket write + read 1 KiB", (call("write", one, BUFFER, 1024), call("read", other, BUFFER, 1024))
    yield "unix socket send + recv 1 KiB", (
        call("sendto", one, BUFFER, 1024), call("recvfrom", other, BUFFER, 1024),
    )  # fmt: skip
    event, epoll = do("eventfd2", 0, 0), do("epoll_create1", 0)
    memory.write(EVENT, EPOLL_EVENT.pack(POLLIN, 7))
    do("epoll_ctl", epoll, EPOLL_CTL_ADD, event, EVENT)
    memory.write(STRUCT, struct.pack("<Q", 1))
    yield "eventfd write + epoll_wait + read", (
        call("write", event, STRUCT, 8), call("epoll_wait", epoll, EVENT, 8, -1), call("read", event, BUFFER, 8),
    )  # fmt: skip
    memory.write(EVENT, struct.pack("<ihhihh", reader, POLLIN, 0, writer, 4, 0))
    yield "poll of 2", (call("poll", EVENT, 2, 0),)


def signals(r: Replay) -> Iterator[tuple[str, tuple[Round, ...]]]:
    """kill, the entry of the handler, and its rt_sigreturn as the handler's end would make it."""
    call, do, t = r.caller, r.do, r.t
    t.mem.write(STRUCT, sig.SIGACTION.pack(MEMORY, sig.SA_RESTORER, MEMORY, 0))
    do("rt_sigaction", 10, STRUCT, 0, 8)
    memory_mask = STRUCT + 0x100
    yield "rt_sigprocmask", (call("rt_sigprocmask", 0, memory_mask, memory_mask + 8, 8),)

    def look() -> None:
        if t.attention:
            deliver(t)

    def pop() -> None:
        t.context.regs.rsp += 8  # the handler's `ret` takes the return address

    yield "kill + handler + sigreturn", (
        call("kill", t.tg.pid, 10), look, pop, call("rt_sigreturn"), look,
    )  # fmt: skip


def make_folder(folder: HostPath) -> None:
    (folder / "folder" / "names").mkdir(parents=True)
    (folder / "folder" / "file").write_bytes(bytes(1 << 20))
    (folder / "folder" / "link").symlink_to("file")
    for i in range(ENTRIES):
        (folder / "folder" / "names" / f"entry-{i}").touch()


def show_profile(r: Replay, name: str, rounds: tuple[Round, ...], seconds: float) -> None:
    profiler = Profiler({})  # no stopwatches in the rows: there is only one case
    profiler.start()
    r.measure(rounds, seconds)
    profiler.stop()
    print(f"{name}\n{report(ProfileResponse(profiler.samples, profiler.folded()))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.handlers", description="microseconds per handler")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only cases with one of these in their names")
    parser.add_argument("--platform", default="ptrace", help="whose memory the calls work on (ptrace)")
    parser.add_argument("--seconds", type=float, default=0.3, help="how long to measure each case (0.3)")
    parser.add_argument("--profile", action="store_true", help="where the time goes, instead of how much it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_folder(HostPath(folder))
        replay = Replay(options.platform, HostPath(folder))
        try:
            for name, rounds in cases(replay):
                if options.words and not any(word in name for word in options.words):
                    continue
                if options.profile:
                    show_profile(replay, name, rounds, options.seconds)
                else:
                    print(f"{name:<36}{replay.measure(rounds, options.seconds):8.2f}", flush=True)
        finally:
            replay.close()


if __name__ == "__main__":
    main()
