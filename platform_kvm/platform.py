"""The kvm platform's Python side: contexts, address spaces and the wait call."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import random
import struct
import time
import types
from collections.abc import Generator, Sequence
from typing import Any, Final, NamedTuple

from platform_kvm.core._core import ffi, lib
from platform_kvm.timepage import TimePage
from sentry.abi.errno import EFAULT, ENAMETOOLONG, ENOMEM, LinuxError, from_code
from sentry.abi.nr_x86_64 import NAMES
from sentry.arch.vsyscall import ENTRIES as VSYSCALLS
from sentry.arch.vsyscall import vsyscall_trap
from sentry.arch.x86_64 import TASK_SIZE_MAX
from sentry.platform import (
    PAGE_SIZE,
    ExitTrap,
    FaultTrap,
    InterruptTrap,
    Mapping,
    PlatformError,
    Regs,
    SpaceGone,
    SyscallTrap,
    Trap,
)

log = logging.getLogger(__name__)

MAX_EVENTS: Final = 64
SCRATCH_SIZE: Final = 1 << 18
MREMAP_FIXED: Final = 2
SIGKILL: Final = 9
PROBE_MEMORY: Final = 1 << 24
USER_CS: Final = 0x33
USER_SS: Final = 0x2B
INITIAL_FLAGS: Final = 0x202
MASK64: Final = (1 << 64) - 1
# Below it lies the stack, above it what nobody maps without asking for it: arch_pick_mmap_layout() of Linux.
STACK_GAP: Final = 128 << 20
RANDOM_PAGES: Final = 1 << 28
PERMISSIONS: Final = tuple(
    "".join((r, w, x)) for x in "-x" for w in "-w" for r in "-r"
)  # by PROT_READ | PROT_WRITE | PROT_EXEC
KINDS: Final = {lib.KV_NORMAL: "", lib.KV_VDSO: "vdso", lib.KV_VVAR: "vvar"}
# Ring 0 answers these by itself, core/slots.h; those of CLOCKS from the page that the vDSO reads.
SLOTS: Final[dict[str, int]] = {
    name: slot for number, name in NAMES.items() if (slot := int(lib.kv_slot_of(number))) != 0
}
CLOCKS: Final = ("clock_gettime", "gettimeofday", "time", "getcpu", "sched_yield")
REGISTERS: Final = struct.Struct("<23Q")  # struct ring0_regs, as far as sentry.platform.Regs knows it
REGS_SIZE: Final[int] = ffi.sizeof("struct ring0_regs")
XSTATE_SIZE_MAX: Final = 3072


def _address(addr: int) -> int:
    """For the core, which takes any 64-bit number.  EFAULT: no number of that size."""
    if 0 <= addr <= MASK64:
        return addr
    raise EFAULT


def _done(result: int) -> int:
    """The core's result of a change, or the errno that it is."""
    if result < 0:
        raise from_code(-result)
    return result


class Process:
    """Contexts that count as one process: whose processor time is added up."""

    __slots__ = ("contexts", "ended_cycles")

    def __init__(self) -> None:
        self.contexts: list[KvmContext] = []
        self.ended_cycles = 0


class KvmContext:
    """One context.  Implements sentry.platform.Context."""

    __slots__ = ("_registers", "c", "gone", "id", "owner", "process", "running", "space", "stop_wanted")

    def __init__(self, space: KvmSpace, process: Process) -> None:
        platform = space.platform
        self.id = next(platform.ids)
        self.c = ffi.new("struct kv_ctx *")
        _done(lib.kv_ctx_init(self.c, self.id, space.c))
        self._registers = ffi.buffer(self.c.regs, REGISTERS.size)
        self.owner: Any = None
        self.space = space
        self.process = process
        self.running = False
        self.stop_wanted = False
        self.gone = False
        space.users += 1
        process.contexts.append(self)
        platform.contexts[self.id] = self

    @property
    def host_pid(self) -> int:
        return 0

    @property
    def regs(self) -> Regs:
        if self.gone:
            raise SpaceGone("context")
        regs: Regs = self.c.regs
        return regs

    def registers(self) -> tuple[int, ...]:
        if self.gone:
            raise SpaceGone("context")
        return REGISTERS.unpack(self._registers)

    def set_registers(self, values: tuple[int, ...]) -> None:
        if self.gone:
            raise SpaceGone("context")
        REGISTERS.pack_into(self._registers, 0, *values)

    def set_result(self, value: int) -> None:
        self.c.regs.rax = value & MASK64

    @types.coroutine
    def switch(self) -> Generator[Any, Any, Trap]:
        if self.gone:
            return ExitTrap(SIGKILL)
        if self.stop_wanted:
            self.stop_wanted = False
            return InterruptTrap()
        self.resume()
        trap: Trap = yield self
        return trap

    def resume(self) -> None:
        self.running = True
        self.space.platform.resuming.append(self)

    def resume_with(self, value: int) -> None:
        self.set_result(value)
        self.resume()

    def let_through(self, name: str, args: tuple[int, ...]) -> bool:
        return False

    def approve_memory(self, approved: bool) -> None:
        """Every call asks: its memory is ours, and only we can change it."""

    def keep_answers(self, results: dict[str, int]) -> None:
        c = self.c
        bits = self.space.platform.clock_slots if results else 0
        for name, result in results.items():
            slot = SLOTS[name]
            c.answers[slot] = result
            bits |= 1 << slot
        c.answered[0] = bits

    def interrupt(self) -> None:
        if not self.running:
            return
        if self in self.space.platform.resuming:
            self.stop_wanted = True
        else:
            lib.kv_interrupt(self.c)

    def clone(self, *, share_space: bool, same_process: bool) -> KvmContext:
        if self.gone:
            raise SpaceGone("clone")
        space = self.space if share_space else self.space.forked()
        try:
            child = KvmContext(space, self.process if same_process else Process())
        except LinuxError:
            space.close_if_unused()
            raise
        ffi.memmove(child.c.regs, self.c.regs, REGS_SIZE)
        ffi.memmove(child.c.xstate, self.c.xstate, XSTATE_SIZE_MAX)
        return child

    def read_xstate(self) -> bytes:
        if self.gone:
            raise SpaceGone("context")
        scratch = self.space.platform.scratch
        lib.kv_read_xstate(self.c, scratch)
        return bytes(ffi.buffer(scratch, lib.kv_xstate_size()))

    def write_xstate(self, data: bytes) -> None:
        _done(lib.kv_write_xstate(self.c, data, len(data)))

    def _cycles(self) -> int:
        return 0 if self.gone else int(lib.kv_cycles(self.c))

    def cpu_ns(self) -> int:
        return self.space.platform.ns_of(self._cycles())

    def process_cpu_ns(self) -> int:
        process = self.process
        cycles = process.ended_cycles + sum(context._cycles() for context in process.contexts)
        return self.space.platform.ns_of(cycles)

    def lose(self) -> None:
        """It can't go on."""
        self._give_up()
        self.gone = True

    def _give_up(self) -> None:
        if self.gone:
            return
        process = self.process
        process.contexts.remove(self)
        lib.kv_ctx_release(self.c)  # it runs no more then
        process.ended_cycles += int(lib.kv_cycles(self.c))

    def release(self) -> None:
        platform = self.space.platform
        if self in platform.resuming:
            platform.resuming.remove(self)
        elif self.running:
            platform.forget_running()
        self.running = False
        self.lose()
        platform.contexts.pop(self.id, None)
        self.space.users -= 1
        self.space.close_if_unused()


class KvmSpace:
    """One tree of page tables.  Implements sentry.platform.AddressSpace.

    c is the core's space; ffi.NULL once the last context has gone, and then there is no memory any more.
    """

    __slots__ = ("c", "end", "platform", "template", "users", "vdso")

    def __init__(self, template: KvmTemplate, c: Any) -> None:
        self.platform = template.platform
        self.template = template
        self.c = c
        self.users = 0
        self.end = TASK_SIZE_MAX
        self.vdso = 0

    def _alive(self) -> Any:
        if not self.c:
            raise SpaceGone("address space")
        return self.c

    def _looked_at(self) -> Any:
        if not self.c:
            raise EFAULT
        return self.c

    def _check_range(self, addr: int, length: int) -> None:
        if not (0 <= length <= self.end and 0 <= addr <= self.end - length):
            raise ENOMEM("past the end")

    def forked(self) -> KvmSpace:
        child = ffi.new("struct kv_space **")
        _done(lib.kv_space_fork(self._alive(), child))
        space = KvmSpace(self.template, child[0])
        space.vdso = self.vdso
        return space

    def close_if_unused(self) -> None:
        if not self.users and self.c:
            lib.kv_space_close(self.c)
            self.c = ffi.NULL

    def map(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
        self._check_range(addr, length)
        return _done(lib.kv_map(self._alive(), addr, length, prot, flags, fd, offset))

    def unmap(self, addr: int, length: int) -> None:
        self._check_range(addr, length)
        _done(lib.kv_unmap(self._alive(), addr, length))

    def protect(self, addr: int, length: int, prot: int) -> None:
        self._check_range(addr, length)
        _done(lib.kv_protect(self._alive(), addr, length, prot))

    def remap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int) -> int:
        self._check_range(addr, old_length)
        self._check_range(new_addr if flags & MREMAP_FIXED else 0, new_length)
        return _done(lib.kv_remap(self._alive(), addr, old_length, new_length, flags, new_addr))

    def advise(self, addr: int, length: int, advice: int) -> None:
        self._check_range(addr, length)
        _done(lib.kv_advise(self._alive(), addr, length, advice))

    def sync(self, addr: int, length: int, flags: int) -> None:
        self._check_range(addr, length)
        _done(lib.kv_sync(self._alive(), addr, length, flags))

    def show(self, name: bytes, arguments: tuple[int, int], environment: tuple[int, int], scratch: int) -> None:
        """There is no host process of its own."""

    def read(self, addr: int, length: int) -> bytes:
        data = self.read_some(addr, length)
        if len(data) != length:
            raise EFAULT
        return data

    def read_some(self, addr: int, length: int) -> bytes:
        if length <= 0:
            return b""
        buffer = self.platform.scratch if length <= SCRATCH_SIZE else ffi.new("char[]", min(length, self.end))
        n = lib.kv_read(self._looked_at(), _address(addr), buffer, length)
        if n <= 0:
            raise EFAULT
        data: bytes = ffi.buffer(buffer, n)[:]
        return data

    def read_cstr(self, addr: int, limit: int) -> bytes:
        scratch = self.platform.scratch
        n = lib.kv_read_cstr(self._looked_at(), _address(addr), scratch, min(limit, SCRATCH_SIZE))
        if n > 0:
            data: bytes = ffi.buffer(scratch, n - 1)[:]
            return data
        if n == -errno.ENAMETOOLONG:
            raise ENAMETOOLONG
        raise EFAULT

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        if self.write_some(addr, data) != len(data):
            raise EFAULT

    def write_some(self, addr: int, data: bytes | bytearray | memoryview) -> int:
        length = len(data)
        if not length:
            return 0
        source = data if type(data) is bytes else ffi.from_buffer(data)
        n: int = lib.kv_write(self._looked_at(), _address(addr), source, length)
        if n <= 0:
            raise EFAULT
        return n

    def read_from_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        return _done(lib.kv_read_from_file(self._looked_at(), fd, offset, _address(addr), length))

    def write_to_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        return _done(lib.kv_write_to_file(self._looked_at(), fd, offset, _address(addr), length))

    def cmpxchg32(self, addr: int, expected: int, value: int) -> int:
        if addr & 3 or not 0 <= addr < self.end:
            raise EFAULT
        return _done(lib.kv_cmpxchg(self._looked_at(), addr, expected, value))

    def mappings(self) -> list[Mapping]:
        if not self.c:
            return []
        room = 64
        while True:
            regions = ffi.new("struct kv_mapping[]", room)
            n = lib.kv_mappings(self.c, regions, room)
            if n <= room:
                return [_mapping(regions[i]) for i in range(n)]
            room = n

    def resident_pages(self) -> tuple[int, int, int]:
        if not self.c:
            return 0, 0, 0
        pages = ffi.new("unsigned long[3]")
        lib.kv_resident(self.c, pages)
        return int(pages[0]), int(pages[1]), int(pages[2])


def _mapping(region: Any) -> Mapping:
    perms = PERMISSIONS[region.prot & 7] + ("s" if region.shared else "p")
    if region.kind != lib.KV_NORMAL:
        return Mapping(region.start, region.end, perms, 0, 0, 0, KINDS[region.kind])  # whose file it is, is ours alone
    return Mapping(region.start, region.end, perms, region.offset, region.dev, region.ino, "")


class KvmTemplate:
    """What the address spaces of one container have in common: the account of their memory."""

    def __init__(self, platform: KvmPlatform) -> None:
        self.platform = platform
        self.oom_kills = 0
        self.account = lib.kv_account_new(platform.memory_limit // PAGE_SIZE)
        if not self.account:
            raise PlatformError("no memory for an account")

    def new_space(self) -> KvmContext:
        """A fresh address space, empty but for the vDSO, with one context that has not run."""
        base = TASK_SIZE_MAX - STACK_GAP - random.randrange(RANDOM_PAGES) * PAGE_SIZE
        c = lib.kv_space_new(self.account, TASK_SIZE_MAX, base, lib.kv_kernel_half())
        if not c:
            raise ENOMEM("no memory for an address space")
        space = KvmSpace(self, c)
        try:
            space.vdso = _done(self.platform.time_page.map_into(c))
            context = KvmContext(space, Process())
        except LinuxError:
            space.close_if_unused()
            raise
        regs = context.c.regs
        regs.cs, regs.ss, regs.eflags = USER_CS, USER_SS, INITIAL_FLAGS
        return context

    def memory_used(self) -> int | None:
        return int(lib.kv_account_used(self.account)) * PAGE_SIZE

    def limit_memory(self, limit: int) -> None:
        lib.kv_account_limit(self.account, limit // PAGE_SIZE)

    def close(self) -> None:
        for context in [c for c in self.platform.contexts.values() if c.space.template is self]:
            context.release()
        lib.kv_account_free(self.account)


class Statistics(NamedTuple):
    """What is in use of guest memory; exact while no context runs."""

    contexts: int
    pages: int  # of applications and of their page tables
    objects: int  # files and shared memory that are mapped


class KvmPlatform:
    """Implements sentry.platform.Platform.

    kvm_fd: /dev/kvm, which is kept open by whoever gave it; memory_limit: bytes that the applications may use;
    trust_counter: the host's own clock is the time stamp counter, whatever the processor promises of it.
    """

    name = "kvm"
    answers = True

    def __init__(self, kvm_fd: int, memory_limit: int, cpus: int, trust_counter: bool = False) -> None:
        self.memory_limit = memory_limit
        self.ids = itertools.count(1)
        self.contexts: dict[int, KvmContext] = {}
        self.resuming: list[KvmContext] = []
        self.scratch = ffi.new("char[]", SCRATCH_SIZE)
        self._events = ffi.new("struct kv_event[]", MAX_EVENTS)
        self._epoll_fd = -1
        self.time_page = TimePage()
        self.clock_slots = sum(1 << SLOTS[name] for name in CLOCKS)
        why = ffi.new("const char **")
        result = lib.kv_machine_init(kvm_fd, cpus, self.time_page.fd, why)
        if result < 0:
            self.time_page.close()
            reason = ffi.string(why[0]).decode() if why[0] else os.strerror(-result)
            raise PlatformError(f"no virtual machine can be made with KVM: {reason}")
        result = lib.kv_machine_check()
        if result < 0:
            if result != -errno.ETIMEDOUT:
                lib.kv_machine_close()
                self.time_page.close()
            raise PlatformError(f"KVM does not run a guest as a processor would: {os.strerror(-result)}")
        self._khz = int(lib.kv_tsc_khz()) or 1
        self._n_running = 0
        if lib.kv_tsc_offset() == 0:
            self.time_page.calibrate(trust_counter)

    def forget_running(self) -> None:
        """A context that was resumed is released: no event tells of it."""
        self._n_running -= 1

    def ns_of(self, cycles: int) -> int:
        return cycles * 1_000_000 // self._khz

    def new_template(self, cgroup_fds: tuple[int, ...]) -> KvmTemplate:
        return KvmTemplate(self)

    def watch(self, epoll_fd: int) -> None:
        self._epoll_fd = epoll_fd

    def wait(self, timeout_ns: int) -> Sequence[tuple[Any, Trap]]:
        resuming, self.resuming = self.resuming, []
        self._n_running += len(resuming)
        if len(resuming) == 1 and not resuming[0].stop_wanted:
            timeout_ns = self._until_update(timeout_ns)
            return self._traps(lib.kv_run(resuming[0].c, self._epoll_fd, timeout_ns, self._events, MAX_EVENTS))
        for context in resuming:
            lib.kv_resume(context.c)
        for context in resuming:
            if context.stop_wanted:
                context.stop_wanted = False
                lib.kv_interrupt(context.c)
        return self._traps(lib.kv_wait(self._epoll_fd, self._until_update(timeout_ns), self._events, MAX_EVENTS))

    def _traps(self, n: int) -> list[tuple[Any, Trap]]:
        """Of the n events that the core has found."""
        if n < 0:
            raise PlatformError(f"waiting for virtual processors: {os.strerror(-n)}")
        traps = []
        for i in range(n):
            event = self._events[i]
            trapped = self.contexts.get(event.id)
            self._n_running -= 1
            if trapped is not None:
                trapped.running = False
                traps.append((trapped, self._trap(trapped, event)))
        return traps

    def _until_update(self, timeout_ns: int) -> int:
        """timeout_ns, or less if the page of the time has to be written before; now if it is time."""
        if not self._n_running:
            return timeout_ns
        left_ns = self.time_page.next_update_ns - time.monotonic_ns()
        if left_ns <= 0:
            self.time_page.update()
            left_ns = self.time_page.next_update_ns - time.monotonic_ns()
        return left_ns if timeout_ns < 0 or left_ns < timeout_ns else timeout_ns

    def _trap(self, context: KvmContext, event: Any) -> Trap:
        kind = event.kind
        if kind == lib.KV_EV_SYSCALL:
            return SyscallTrap(event.number, tuple(event.args), bool(event.native))
        if kind == lib.KV_EV_FAULT:
            if event.addr in VSYSCALLS:
                trap = vsyscall_trap(context.regs, context.space, event.addr)
                if trap is not None:
                    return trap
            return FaultTrap(event.signo, event.code, event.addr)
        if kind == lib.KV_EV_INTERRUPT:
            return InterruptTrap()
        if kind == lib.KV_EV_MEMORY:
            log.warning("out of memory: a process is killed")
            context.space.template.oom_kills += 1
        else:
            log.error("a virtual processor can't go on: KVM exit %d, %#x", event.number, event.addr)
        context.lose()
        return ExitTrap(SIGKILL)

    def statistics(self) -> Statistics:
        info = ffi.new("struct kv_frames_info *")
        lib.kv_frames(info)
        return Statistics(len(self.contexts), info.handed_out - lib.kv_cpu_stock(), info.objects)

    def close(self) -> None:
        for context in list(self.contexts.values()):
            context.release()
        left = self.statistics()
        if left != (0, 0, 0):
            log.error("guest memory that nobody gave back: %d pages, %d files", left.pages, left.objects)
        lib.kv_machine_close()
        self.time_page.close()


def is_emulated() -> bool:
    """Whether the last machine's ring 0 was run instruction by instruction by its host: that is slow."""
    return bool(lib.kv_is_emulated())


def probe(kvm_fd: int) -> str:
    """ "" if the host lets this platform work, else the reason."""
    try:
        KvmPlatform(kvm_fd, PROBE_MEMORY, 1).close()
    except PlatformError as e:
        return str(e)
    return ""
