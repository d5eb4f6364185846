"""Stand-ins for what is below the kernel: no application code runs in unit tests."""

from __future__ import annotations

import os
import select
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, ClassVar, Final, NamedTuple, Protocol, TypeVar

from sentry.abi.errno import EEXIST, EFAULT, EINVAL, ENAMETOOLONG, ENOMEM, from_host
from sentry.mm.mm import MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_SHARED, PROT_READ, PROT_WRITE
from sentry.platform import Context, InterruptTrap, Mapping, Regs, SyscallTrap, Trap
from sentry.wait import Loop

T = TypeVar("T")
RT_SIGRETURN: Final = 15


class IdlePlatform:
    """A platform without contexts: wait() only sleeps until the loop's epoll fd is readable."""

    name = "idle"
    answers = False

    def __init__(self) -> None:
        self._poll = select.poll()

    def watch(self, epoll_fd: int) -> None:
        self._poll.register(epoll_fd, select.POLLIN)

    def wait(self, timeout_ns: int) -> list[tuple[Context, Trap]]:
        self._poll.poll(None if timeout_ns < 0 else timeout_ns / 1_000_000)
        return []

    def new_template(self, cgroup_fds: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def run(loop: Loop, coro: Coroutine[Any, Any, T], seconds: float = 20) -> T:
    """Run the loop until coro ends; its result, or what it raised.  Fails after `seconds`."""
    outcome: list[T] = []
    errors: list[BaseException] = []

    async def main() -> None:
        try:
            outcome.append(await coro)
        except BaseException as e:
            errors.append(e)
        finally:
            loop.stop()

    def give_up() -> None:
        errors.append(TimeoutError("the loop did not come to an end"))
        loop.stop()

    timer = loop.call_at(loop.now_ns() + int(seconds * 1e9), give_up)
    loop._stopping = False
    loop.spawn(main(), "test")
    loop.run()
    timer.cancel()
    if errors:
        raise errors[0]
    return outcome[0]


# -- application code as a list of traps --


class Registers:
    """General registers that take what the host's would: 64 bits, not negative."""

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int

    NAMES: ClassVar = tuple(name for name, kind in __annotations__.items() if kind == "int")

    def __init__(self) -> None:
        self.clear()

    def __setattr__(self, name: str, value: int) -> None:
        if not 0 <= value < 1 << 64:
            raise OverflowError(f"{name} = {value:#x}")
        object.__setattr__(self, name, value)

    def clear(self) -> None:
        for name in self.NAMES:
            setattr(self, name, 0)
        self.cs, self.ss, self.eflags = 0x33, 0x2B, 0x202

    def copy_from(self, other: Regs) -> None:
        for name in self.NAMES:
            setattr(self, name, getattr(other, name))

    def all(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.NAMES}


class Accessible(Protocol):
    """What of an address space read_from_file and write_to_file need."""

    def read_some(self, addr: int, length: int) -> bytes: ...
    def write_some(self, addr: int, data: bytes) -> int: ...


def read_from_file(space: Accessible, fd: int, offset: int, addr: int, length: int) -> int:
    """AddressSpace.read_from_file by means of the rest."""
    try:
        return space.write_some(addr, os.pread(fd, length, offset))
    except OSError as e:
        raise from_host(e) from None


def write_to_file(space: Accessible, fd: int, offset: int, addr: int, length: int) -> int:
    """AddressSpace.write_to_file by means of the rest."""
    try:
        return os.pwrite(fd, space.read_some(addr, length), offset)
    except OSError as e:
        raise from_host(e) from None


class Area(NamedTuple):
    """What a page of ScriptedSpace belongs to: one mmap's protection, kind and file."""

    prot: int
    shared: bool
    dev: int
    ino: int
    offset: int  # of this very page


class ScriptedSpace:
    """Application memory in pages that are made when touched.  Shared ones are shared with forks."""

    PAGE: ClassVar = 4096
    ROOM: ClassVar = 1 << 28  # of one mapping: each page takes an entry

    def __init__(self) -> None:
        self.end = 0x7FFF_0000_0000
        self.vdso = 0
        self.areas: dict[int, Area] = {}
        self._pages: dict[int, bytearray] = {}

    def fork(self) -> ScriptedSpace:
        copy = ScriptedSpace()
        copy.areas = dict(self.areas)
        for number, area in self.areas.items():
            if number in self._pages or area.shared:
                page = self._page(number)
                copy._pages[number] = page if area.shared else bytearray(page)
        return copy

    def _range(self, addr: int, length: int) -> range:
        if addr % self.PAGE:
            raise EINVAL
        if not (0 < length <= self.end and 0 <= addr <= self.end - length):
            raise ENOMEM
        return range(addr // self.PAGE, (addr + length + self.PAGE - 1) // self.PAGE)

    def _page(self, number: int) -> bytearray:
        return self._pages.setdefault(number, bytearray(self.PAGE))

    def map(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
        numbers = self._range(addr, length)
        if length > self.ROOM:
            raise ENOMEM
        if flags & MAP_FIXED_NOREPLACE and any(number in self.areas for number in numbers):
            raise EEXIST
        if not flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            top = min((n for n in self.areas if n > 0x7F00_0000_0), default=self.end // self.PAGE)
            numbers = range(top - len(numbers) - 16, top - 16)
        info = os.fstat(fd) if fd >= 0 else None
        for i, number in enumerate(numbers):
            at = offset + i * self.PAGE
            dev, ino = (info.st_dev, info.st_ino) if info is not None else (0, 0)
            self.areas[number] = Area(prot, bool(flags & MAP_SHARED), dev, ino, at)
            self._pages.pop(number, None)
            if info is not None:
                self._page(number)[:] = os.pread(fd, self.PAGE, at).ljust(self.PAGE, b"\0")
        return numbers.start * self.PAGE

    def unmap(self, addr: int, length: int) -> None:
        for number in self._range(addr, length):
            self.areas.pop(number, None)
            self._pages.pop(number, None)

    def protect(self, addr: int, length: int, prot: int) -> None:
        for number in self._range(addr, length):
            if number not in self.areas:
                raise ENOMEM
            self.areas[number] = self.areas[number]._replace(prot=prot)

    def remap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int) -> int:
        data = self.read_some(addr, min(old_length, new_length))
        area = self.areas[addr // self.PAGE]
        to = new_addr if flags & 2 else addr if new_length <= old_length else 0
        self.unmap(addr, old_length)
        to = self.map(to, new_length, area.prot, MAP_FIXED if to else 0, -1, 0)
        self.write(to, data)
        return to

    def advise(self, addr: int, length: int, advice: int) -> None:
        self._range(addr, length)

    def sync(self, addr: int, length: int, flags: int) -> None:
        self._range(addr, length)

    def show(self, name: bytes, arguments: tuple[int, int], environment: tuple[int, int], scratch: int) -> None:
        """Nobody looks."""

    def _walk(self, addr: int, length: int, prot: int) -> Iterator[tuple[bytearray, int, int]]:
        """(page, start, end) as far as the range allows prot."""
        while length > 0:
            number, at = divmod(addr, self.PAGE)
            if not 0 <= addr < self.end or number not in self.areas or not self.areas[number].prot & prot:
                return
            n = min(length, self.PAGE - at)
            yield self._page(number), at, at + n
            addr, length = addr + n, length - n

    def read_some(self, addr: int, length: int) -> bytes:
        data = b"".join(bytes(page[start:end]) for page, start, end in self._walk(addr, length, PROT_READ))
        if length and not data:
            raise EFAULT
        return data

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
        done = 0
        for page, start, end in self._walk(addr, len(data), PROT_WRITE):
            page[start:end] = data[done : done + end - start]
            done += end - start
        if data and not done:
            raise EFAULT
        return done

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        if self.write_some(addr, data) < len(data):
            raise EFAULT

    def read_from_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        return read_from_file(self, fd, offset, addr, length)

    def write_to_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        return write_to_file(self, fd, offset, addr, length)

    def cmpxchg32(self, addr: int, expected: int, value: int) -> int:
        found = int.from_bytes(self.read(addr, 4), "little")
        if addr % 4:
            raise EFAULT
        self.write(addr, (value if found == expected else found).to_bytes(4, "little"))
        return found

    def mappings(self) -> list[Mapping]:
        found: list[Mapping] = []
        for number, area in sorted(self.areas.items()):
            perms = "".join(c if area.prot >> i & 1 else "-" for i, c in enumerate("rwx"))
            start = number * self.PAGE
            line = Mapping(start, start + self.PAGE, perms + "ps"[area.shared], area.offset, area.dev, area.ino, "")
            last = found[-1] if found else None
            if last and last.end == start and last[2:3] + last[4:] == line[2:3] + line[4:]:
                found[-1] = last._replace(end=line.end)
            else:
                found.append(line)
        return found

    def resident_pages(self) -> tuple[int, int, int]:
        return len(self.areas), len(self._pages), 0


Step = Trap | Callable[["ScriptedContext"], Trap]


class At(NamedTuple):
    """Where application code left off: behind a call, or anywhere."""

    call: SyscallTrap | None
    rip: int


class ScriptedContext:
    """One thread of application code: its steps, and what it saw of the kernel.

    results  what its system calls returned, in order; a call that is issued again counts once
    entered  the addresses of signal handlers that were entered
    answers  what the kernel said that calls return, for a platform that answers by itself
    Without steps left it runs until it is interrupted.
    """

    host_pid = 0

    def __init__(self, platform: ScriptedPlatform, space: ScriptedSpace) -> None:
        self.platform = platform
        self.space = space
        self.owner: Any = None
        self.regs = Registers()
        self.regs.rip = 0x400000
        self.xstate = bytes(576)
        self.steps: deque[Step] = platform.scripts.popleft() if platform.scripts else deque()
        self.results: list[int] = []
        self.entered: list[int] = []
        self.running = False
        self.released = False
        self.used_ns = 0
        self.answers: dict[str, int] = {}
        self.approved = False
        self._interrupted = False
        self._at: At | None = None
        self._frames: list[At] = []  # what signal handlers interrupted
        platform.contexts.append(self)

    def approve_memory(self, approved: bool) -> None:
        self.approved = approved

    def keep_answers(self, results: dict[str, int]) -> None:
        self.answers = results

    def set_result(self, value: int) -> None:
        self.regs.rax = value & (1 << 64) - 1

    @types.coroutine
    def switch(self) -> Generator[Any, Any, Trap]:
        self.resume()
        trap: Trap = yield self
        return trap

    def resume(self) -> None:
        assert not self.running and not self.released
        self.running = True
        self.platform.running.append(self)

    def resume_with(self, value: int) -> None:
        self.set_result(value)
        self.resume()

    def let_through(self, name: str, args: tuple[int, ...]) -> bool:
        return False

    def next_trap(self) -> Trap | None:
        """What running it now comes to; None: it runs on."""
        if self._interrupted:
            self._interrupted = False
            return InterruptTrap()
        again = self._returned()
        if again is not None:
            return self._make(again)
        if not self.steps:
            return None
        step = self.steps.popleft()
        return self._make(step(self) if callable(step) else step)

    def _returned(self) -> SyscallTrap | None:
        """The kernel lets it run: note why its code goes on where it does.  The call, if it is to be issued again."""
        at, self._at = self._at, At(None, self.regs.rip)
        if at is None:
            return None
        if at.call is not None and at.call.number == RT_SIGRETURN and self._frames:
            at = self._frames.pop()
        if self.regs.rip == at.rip:
            if at.call is not None:
                self.results.append(self.regs.rax - (self.regs.rax >> 63 << 64))
        elif at.call is not None and self.regs.rip == at.rip - 2:
            return SyscallTrap(self.regs.rax, at.call.args, at.call.native)
        else:
            self.entered.append(self.regs.rip)
            self._frames.append(at)
        return None

    def _make(self, trap: Trap) -> Trap:
        if isinstance(trap, SyscallTrap):
            self.regs.rip += 2
            self.regs.rax = trap.number & (1 << 64) - 1
            self._at = At(trap, self.regs.rip)
        return trap

    def interrupt(self) -> None:
        if self.running:
            self._interrupted = True

    def clone(self, *, share_space: bool, same_process: bool) -> ScriptedContext:
        child = ScriptedContext(self.platform, self.space if share_space else self.space.fork())
        child.regs.copy_from(self.regs)
        child.xstate = self.xstate
        return child

    def registers(self) -> tuple[int, ...]:
        return tuple(self.regs.all().values())

    def set_registers(self, values: tuple[int, ...]) -> None:
        for name, value in zip(Registers.NAMES, values, strict=True):
            setattr(self.regs, name, value)

    def read_xstate(self) -> bytes:
        return self.xstate

    def write_xstate(self, data: bytes) -> None:
        if data[24:28] == b"\xff" * 4:
            raise EINVAL("MXCSR")
        self.xstate = data.ljust(576, b"\0")

    def cpu_ns(self) -> int:
        return self.used_ns

    def process_cpu_ns(self) -> int:
        return sum(context.used_ns for context in self.platform.contexts if context.space is self.space)

    def release(self) -> None:
        assert not self.released
        self.released = True
        if self.running:
            self.platform.running.remove(self)


class ScriptedPlatform:
    """Plays steps instead of running code.  Its clock stands still while anybody runs, and jumps to the next timer.

    scripts  the steps of contexts to come, in the order in which they are made
    on_idle  called when nothing can happen any more: everybody waits
    """

    name = "scripted"
    answers = True

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.scripts: deque[deque[Step]] = deque()
        self.contexts: list[ScriptedContext] = []
        self.running: list[ScriptedContext] = []
        self.waits = 0
        self.on_idle: Callable[[], None] = lambda: None
        self._poll = select.poll()

    def script(self, *steps: Step) -> None:
        """What the next context will do."""
        self.scripts.append(deque(steps))

    def now_ns(self) -> int:
        return self.now

    def watch(self, epoll_fd: int) -> None:
        self._poll.register(epoll_fd, select.POLLIN)

    def wait(self, timeout_ns: int) -> list[tuple[ScriptedContext, Trap]]:
        self.waits += 1
        traps: list[tuple[ScriptedContext, Trap]] = []
        for context in list(self.running):
            trap = context.next_trap()
            if trap is not None:
                context.running = False
                self.running.remove(context)
                traps.append((context, trap))
        if not traps and not self._poll.poll(0):
            if timeout_ns < 0:
                self.on_idle()
            else:
                self.now += timeout_ns
        return traps

    def new_template(self, cgroup_fds: tuple[int, ...]) -> ScriptedTemplate:
        return ScriptedTemplate(self)

    def close(self) -> None:
        pass


class ScriptedTemplate:
    oom_kills = 0

    def __init__(self, platform: ScriptedPlatform) -> None:
        self.platform = platform
        self.closed = False

    def new_space(self) -> ScriptedContext:
        return ScriptedContext(self.platform, ScriptedSpace())

    def memory_used(self) -> int | None:
        return None

    def limit_memory(self, limit: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True
