"""The ptrace platform's Python side: contexts, address spaces and the wait call."""

from __future__ import annotations

import errno
import os
import struct
import time
import types
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any, Final

from platform_ptrace.core._core import ffi, lib
from sentry.abi.errno import EFAULT, EINVAL, ENAMETOOLONG, ENOMEM, from_code
from sentry.arch.vsyscall import ENTRIES as VSYSCALLS
from sentry.arch.vsyscall import vsyscall_trap
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

SYS_MMAP: Final = 9
SYS_MPROTECT: Final = 10
SYS_MUNMAP: Final = 11
SYS_MREMAP: Final = 25
SYS_MSYNC: Final = 26
SYS_MADVISE: Final = 28
SYS_PRCTL: Final = 157
PR_SET_NAME: Final = 15
PR_SET_MM: Final = 35
PR_SET_MM_MAP: Final = 14
MREMAP_FIXED: Final = 2
MAP_FIXED: Final = 0x10
MAP_FIXED_NOREPLACE: Final = 0x100000

CLONE_VM: Final = 0x100
CLONE_FS: Final = 0x200
CLONE_FILES: Final = 0x400
CLONE_SIGHAND: Final = 0x800
CLONE_PARENT: Final = 0x8000
CLONE_THREAD: Final = 0x10000
CLONE_SYSVSEM: Final = 0x40000
SIGCHLD: Final = 17

SAME_PROCESS: Final = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
# CLONE_PARENT: every stub process is a child of the Sentry, which alone reaps it.
OTHER_PROCESS: Final = CLONE_PARENT | SIGCHLD
SHARED_SPACE: Final = OTHER_PROCESS | CLONE_VM | CLONE_FS | CLONE_FILES

MAX_EVENTS: Final = 64
START_ATTEMPTS: Final = 3
SCRATCH_SIZE: Final = 1 << 18
CPUCLOCK_SCHED: Final = 2
# Threads of a container: each may be a spare, which is one of the host's tasks (sandbox.cgroups.OWN_TASKS).
MAX_REUSED: Final = 4
GONE: Final[int] = lib.PT_GONE
STOPPED: Final[int] = lib.PT_STOPPED
REGS_VALID: Final[int] = lib.PT_REGS_VALID
REGS_DIRTY: Final[int] = lib.PT_REGS_DIRTY
REGS_RAX: Final[int] = lib.PT_REGS_RAX
REGISTERS: Final = struct.Struct("<23Q")  # struct pt_regs_x86, as far as sentry.platform.Regs knows it
STUB_START: Final[int] = lib.pt_stub_start()
STUB_END: Final[int] = lib.pt_stub_end()
HOST_END: Final = (1 << 47) - PAGE_SIZE  # TASK_SIZE_MAX
WALL: Final = 0x40000000  # __WALL
ECHILD: Final = errno.ECHILD
ENAMETOOLONG_CODE: Final = errno.ENAMETOOLONG
NOBODY: Final = ffi.new("struct pt_ctx *", {"flags": GONE})
# On the path of nearly every call.
_read, _read_cstr, _write = lib.pt_read, lib.pt_read_cstr, lib.pt_write
_read_from_file, _write_to_file = lib.pt_read_from_file, lib.pt_write_to_file
_bytes = ffi.buffer
_read_xstate, _write_xstate = lib.pt_read_xstate, lib.pt_write_xstate
RESERVE: Final = 0x4032  # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE


def check(result: int, what: str) -> int:
    """A core result: itself, or PlatformError/SpaceGone for a failure of the machinery."""
    if result >= 0:
        return result
    if result == -errno.ESRCH:
        raise SpaceGone(what)
    raise PlatformError(f"{what}: {os.strerror(-result)}")


_MM_MAP: Final = struct.Struct("<12QII")
"""struct prctl_mm_map (linux/prctl.h): code, data, heap, stack, arguments, environment; auxv, executable: as before."""


class PtraceContext:
    """One stub thread.  Implements sentry.platform.Context."""

    __slots__ = ("_registers", "c", "cpu_before_ns", "owner", "running", "schedstat", "space", "stop_wanted")

    def __init__(self, space: PtraceSpace, c: Any) -> None:
        self.c = c
        self.cpu_before_ns = 0  # used by those whose thread it was before
        self.schedstat = -1  # that thread's file of this name, if there were any
        self._registers: Any = None  # a view of c.regs, for those of which signals want it
        self.owner: Any = None
        self.space = space
        self.running = False
        self.stop_wanted = False
        space.contexts.append(self)
        space.platform.contexts[c.tid] = self

    @property
    def host_pid(self) -> int:
        return int(self.c.pid)

    @property
    def gone(self) -> bool:
        """Its end was collected: its numbers may be another process's by now."""
        return bool(self.c.flags & GONE)

    def _tid(self) -> int:
        c = self.c
        if c.flags & GONE:
            raise SpaceGone("context")
        tid: int = c.tid
        return tid

    @property
    def regs(self) -> Regs:
        self._take_registers()
        regs: Regs = self.c.regs
        return regs

    def registers(self) -> tuple[int, ...]:
        self._take_registers()
        return REGISTERS.unpack(self._registers or self._view_registers())

    def set_registers(self, values: tuple[int, ...]) -> None:
        self._take_registers()
        REGISTERS.pack_into(self._registers or self._view_registers(), 0, *values)

    def _view_registers(self) -> Any:
        self._registers = _bytes(ffi.addressof(self.c, "regs"), REGISTERS.size)
        return self._registers

    def _take_registers(self) -> None:
        """Make c.regs what the thread will run on with.  It is stopped then, whatever it had trapped by."""
        c = self.c
        flags = c.flags
        if flags & (REGS_VALID | REGS_DIRTY) == REGS_VALID | REGS_DIRTY:
            return
        if not flags & REGS_VALID:
            self._tid()
            check(lib.pt_fetch_regs(c), "reading registers")
        c.flags |= REGS_DIRTY

    def set_result(self, value: int) -> None:
        c = self.c
        if c.flags & REGS_VALID:
            c.flags |= REGS_DIRTY
            c.regs.rax = value & 0xFFFFFFFFFFFFFFFF
        else:
            c.flags |= REGS_RAX
            c.result = value

    @types.coroutine
    def switch(self) -> Generator[Any, Any, Trap]:
        if self.c.flags & GONE:
            return ExitTrap(9)
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
        """Every call asks."""

    def keep_answers(self, results: dict[str, int]) -> None:
        """Every call asks."""

    def interrupt(self) -> None:
        if not self.running:
            return
        if self in self.space.platform.resuming:
            self.stop_wanted = True
            return
        lib.pt_interrupt(self.c)

    def clone(self, *, share_space: bool, same_process: bool) -> PtraceContext:
        self._tid()
        space = self.space
        if same_process and space.spare is not None:
            revived = self._revive(space.spare)
            if revived is not None:
                return revived
        flags = SAME_PROCESS if same_process else SHARED_SPACE if share_space else OTHER_PROCESS
        child = ffi.new("struct pt_ctx *")
        result = lib.pt_clone(self.c, flags, child)
        if result < 0:
            if result == -errno.ESRCH:
                raise SpaceGone("clone")
            raise from_code(-result)
        return type(self)(space if share_space else space.copied(), child)

    def _revive(self, spare: PtraceContext) -> PtraceContext | None:
        """clone() of a thread of this process, by one that has ended; None if that is gone, or another process's."""
        if spare.c.pid != self.c.pid:
            return None
        child = ffi.new("struct pt_ctx *")
        if lib.pt_revive(self.c, spare.c, child) < 0:
            spare.end_spare()
            spare.end_thread()
            return None
        spare.forget_spare()
        context = type(self)(self.space, child)
        context.cpu_before_ns = spare.cpu_before_ns
        context.schedstat = spare.schedstat
        return context

    def read_xstate(self) -> bytes:
        self._take_registers()
        space = self.space
        size: int = _read_xstate(self.c, space.scratch)
        if size < 0:
            check(size, "reading the extended state")
        data: bytes = space.view[:size]
        return data

    def write_xstate(self, data: bytes) -> None:
        self._take_registers()
        result = _write_xstate(self.c, data, len(data))
        if result < 0:
            self._tid()
            raise EINVAL("extended state refused")

    def cpu_ns(self) -> int:
        c = self.c
        if self.gone:
            return 0
        if c.tid == c.pid and len(self.space.contexts) == 1:
            return self.process_cpu_ns()  # cheaper than a file, and nearly always all there is
        return self._thread_cpu_ns() - self.cpu_before_ns

    def _thread_cpu_ns(self) -> int:
        """Of the host's thread, whosesoever it was."""
        try:
            if self.schedstat >= 0:
                return int(os.pread(self.schedstat, 64, 0).split(None, 1)[0])
        except ProcessLookupError:
            return 0
        return int((self.space.platform.read_proc(self.c.tid, "schedstat") or b"0").split()[0])

    def process_cpu_ns(self) -> int:
        if self.gone:
            return 0
        try:
            return time.clock_gettime_ns(~self.c.pid << 3 | CPUCLOCK_SCHED)  # clock_getcpuclockid(3)
        except OSError:
            return 0

    def release(self) -> None:
        space = self.space
        platform = space.platform
        if self in platform.resuming:
            platform.resuming.remove(self)
            self.running = False
        space.contexts.remove(self)
        if space.c is self.c:
            space.c = NOBODY
        if platform.contexts.get(self.c.tid) is self:
            del platform.contexts[self.c.tid]
        others = self._has_others()
        # Its host process has other threads: this one becomes a spare, or ends alone.  It has to be stopped for that,
        # which a running one will be soon.
        if others and not self.running and not self.gone and self._become_spare():
            return
        self.forget_times()
        if self.gone:
            return
        platform.dying[self.c.tid] = self
        if not others:
            if space.spare is not None and space.spare.c.pid == self.c.pid:
                space.spare.end_spare()
            lib.pt_kill(self.c.pid)
        elif self.running:
            lib.pt_interrupt(self.c)
        else:
            self.end_thread()

    def _has_others(self) -> bool:
        """Does its host process have another context?"""
        pid = self.c.pid
        for other in self.space.contexts:  # noqa: SIM110 (any() takes four times as long)
            if other.c.pid == pid:
                return True
        return False

    def _become_spare(self) -> bool:
        """Its thread stays, for the next that its process makes."""
        space, c = self.space, self.c
        if space.spare is not None or c.state != STOPPED or c.tid == c.pid or not self._remember_times():
            return False
        space.spare = space.platform.spares[c.tid] = self
        return True

    def _remember_times(self) -> bool:
        """What its thread has used until now is not its successor's."""
        template = self.space.template
        if self.schedstat < 0:
            if template.n_reused == MAX_REUSED:
                return False
            self.schedstat = self.space.platform.open_proc(self.c.tid, "schedstat")
            if self.schedstat < 0:
                return False
            template.n_reused += 1
        self.cpu_before_ns = self._thread_cpu_ns()
        return True

    def forget_times(self) -> None:
        """Nobody will be its successor."""
        if self.schedstat >= 0:
            os.close(self.schedstat)
            self.schedstat = -1
            self.space.template.n_reused -= 1

    def forget_spare(self) -> None:
        """It is a spare no more."""
        self.space.spare = None
        del self.space.platform.spares[self.c.tid]

    def end_spare(self) -> None:
        """Its end is on its way, and nobody will be its successor."""
        self.forget_spare()
        self.forget_times()
        self.space.platform.dying[self.c.tid] = self

    def end_thread(self) -> None:
        """End this one thread, which is stopped."""
        lib.pt_exit_thread(self.c)


class PtraceSpace:
    """One stub process's memory.  Implements sentry.platform.AddressSpace."""

    __slots__ = ("c", "contexts", "end", "platform", "scratch", "spare", "template", "vdso", "view")

    def __init__(self, platform: PtracePlatform, template: PtraceTemplate) -> None:
        self.platform = platform
        self.template = template
        self.contexts: list[PtraceContext] = []
        self.spare: PtraceContext | None = None  # one that has ended, whose thread is stopped
        self.c: Any = NOBODY  # the thread through which we look at the memory
        self.scratch = platform.scratch
        self.view = platform.view
        self.end = STUB_START
        self.vdso = template.vdso

    def copied(self) -> PtraceSpace:
        return type(self)(self.platform, self.template)

    def _stopped(self) -> Any:
        """A context that can be made to run an injected call."""
        for context in self.contexts:
            if not context.running and not context.gone:
                return context.c
        if all(context.gone for context in self.contexts):
            raise SpaceGone("address space")
        raise PlatformError("no stopped context in this address space")

    def _check_range(self, addr: int, length: int, *, touched: bool = True) -> None:
        """touched: what lies there changes; else the host looks for room, with addr as a hint at most."""
        if not (0 <= length <= self.end and 0 <= addr <= self.end - length):
            raise ENOMEM("past the end")

    def _inject(self, number: int, *args: int) -> int:
        padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
        result = int(lib.pt_inject(self._stopped(), number, *padded))
        if result < 0:
            if result == -errno.ESRCH:
                raise SpaceGone("injected call")
            raise from_code(-result)
        return result

    def map(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
        self._check_range(addr, length, touched=bool(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)))
        if fd < 0:
            return self._inject(SYS_MMAP, addr, length, prot, flags, 0xFFFFFFFFFFFFFFFF, offset)
        result = int(lib.pt_map_fd(self._stopped(), self.template.listener, fd, addr, length, prot, flags, offset))
        if result < 0:
            if result == -errno.ESRCH:
                raise SpaceGone("mmap")
            raise from_code(-result)
        return result

    def unmap(self, addr: int, length: int) -> None:
        self._check_range(addr, length)
        self._inject(SYS_MUNMAP, addr, length)

    def protect(self, addr: int, length: int, prot: int) -> None:
        self._check_range(addr, length)
        self._inject(SYS_MPROTECT, addr, length, prot)

    def remap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int) -> int:
        self._check_range(addr, old_length)
        fixed = bool(flags & MREMAP_FIXED)
        self._check_range(new_addr if fixed else 0, new_length, touched=fixed)
        return self._inject(SYS_MREMAP, addr, old_length, new_length, flags, new_addr)

    def advise(self, addr: int, length: int, advice: int) -> None:
        self._check_range(addr, length)
        self._inject(SYS_MADVISE, addr, length, advice)

    def sync(self, addr: int, length: int, flags: int) -> None:
        self._check_range(addr, length)
        self._inject(SYS_MSYNC, addr, length, flags)

    def show(self, name: bytes, arguments: tuple[int, int], environment: tuple[int, int], scratch: int) -> None:
        """The host must have been built with CONFIG_CHECKPOINT_RESTORE, else it shows the name alone."""
        code, heap = (STUB_START, STUB_END), (STUB_END, STUB_END)
        fields = (*code, *code, *heap, STUB_START, *arguments, *environment, 0, 0, 0xFFFFFFFF)
        self.write(scratch, _MM_MAP.pack(*fields) + name[:15] + b"\0")
        stopped = self._stopped()
        lib.pt_inject(stopped, SYS_PRCTL, PR_SET_NAME, scratch + _MM_MAP.size, 0, 0, 0, 0)
        lib.pt_inject(stopped, SYS_PRCTL, PR_SET_MM, PR_SET_MM_MAP, scratch, _MM_MAP.size, 0, 0)

    def _other(self) -> Any:
        """A thread in whose memory to look, after the one through which we did turned out to be gone.  EFAULT."""
        for context in self.contexts:
            if not context.gone:
                self.c = context.c
                return self.c
        raise EFAULT

    def read(self, addr: int, length: int) -> bytes:
        data = self.read_some(addr, length)
        if len(data) != length:
            raise EFAULT
        return data

    def read_some(self, addr: int, length: int) -> bytes:
        if length > SCRATCH_SIZE:
            return self._read_much(addr, length)
        if length <= 0:
            return b""
        try:
            n = _read(self.c, addr, self.scratch, length)
        except OverflowError:
            raise EFAULT from None
        if n > 0:
            data: bytes = self.view[:n]
            return data
        if n != -ECHILD:
            raise EFAULT
        self._other()
        return self.read_some(addr, length)

    def _read_much(self, addr: int, length: int) -> bytes:
        """read_some() of more than the scratch buffer holds."""
        buffer = ffi.new("char[]", min(length, self.end))
        try:
            n = _read(self.c, addr, buffer, length)
        except OverflowError:
            raise EFAULT from None
        if n > 0:
            data: bytes = _bytes(buffer, n)[:]
            return data
        if n != -ECHILD:
            raise EFAULT
        self._other()
        return self._read_much(addr, length)

    def read_cstr(self, addr: int, limit: int) -> bytes:
        try:
            n = _read_cstr(self.c, addr, self.scratch, limit if limit < SCRATCH_SIZE else SCRATCH_SIZE)
        except OverflowError:
            raise EFAULT from None
        if n >= 0:
            data: bytes = self.view[:n]
            return data
        if n == -ENAMETOOLONG_CODE:
            raise ENAMETOOLONG
        if n != -ECHILD:
            raise EFAULT
        self._other()
        return self.read_cstr(addr, limit)

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        if self.write_some(addr, data) != len(data):
            raise EFAULT

    def write_some(self, addr: int, data: bytes | bytearray | memoryview) -> int:
        length = len(data)
        if not length:
            return 0
        try:
            n: int = _write(self.c, addr, data if type(data) is bytes else ffi.from_buffer(data), length)
        except OverflowError:
            raise EFAULT from None
        if n > 0:
            return n
        if n != -ECHILD:
            raise EFAULT
        self._other()
        return self.write_some(addr, data)

    def read_from_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        try:
            n: int = _read_from_file(self.c, fd, offset, addr, length)
        except OverflowError:
            raise EFAULT from None
        if n >= 0:
            return n
        self._not_moved(n)
        return self.read_from_file(fd, offset, addr, length)

    def write_to_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        try:
            n: int = _write_to_file(self.c, fd, offset, addr, length)
        except OverflowError:
            raise EFAULT from None
        if n >= 0:
            return n
        self._not_moved(n)
        return self.write_to_file(fd, offset, addr, length)

    def _not_moved(self, error: int) -> None:
        """Why nothing went between a file and memory; returns if that is to be tried through another thread."""
        if error == -errno.ESRCH:
            raise EFAULT
        if error != -ECHILD:
            raise from_code(-error)
        self._other()

    def cmpxchg32(self, addr: int, expected: int, value: int) -> int:
        if addr & 3 or not 0 <= addr < self.end:
            raise EFAULT
        result = int(lib.pt_cmpxchg(self._stopped(), addr, expected, value))
        if result == -errno.EFAULT:
            raise EFAULT
        return check(result, "exchanging a word")

    def mappings(self) -> list[Mapping]:
        return [m for m in map(_parse_mapping, self._proc("maps").splitlines()) if m.start < STUB_START]

    def resident_pages(self) -> tuple[int, int, int]:
        size, resident, shared = (self._proc("statm") or b"0 0 0").split()[:3]
        return int(size), int(resident), int(shared)

    def _proc(self, name: str) -> bytes:
        """The host's /proc/PID/name, empty if the space is gone."""
        for context in self.contexts:
            if not context.gone:
                return self.platform.read_proc(context.c.tid, name)
        return b""


def _parse_mapping(line: bytes) -> Mapping:
    """One line of the host's /proc/PID/maps, proc(5)."""
    fields = line.split(None, 5)
    start, end = fields[0].split(b"-")
    major, minor = fields[3].split(b":")
    name = fields[5].strip() if len(fields) > 5 else b""
    kind = "vdso" if name == b"[vdso]" else "vvar" if name.startswith(b"[vvar") else ""
    return Mapping(
        int(start, 16),
        int(end, 16),
        fields[1].decode(),
        int(fields[2], 16),
        os.makedev(int(major, 16), int(minor, 16)),
        int(fields[4]),
        kind,
    )


class PtraceTemplate:
    """A stub that never runs application code; address spaces are copies of it.

    It is empty but for the stub region and the vDSO, confined by its filter, and a member
    of its container's cgroup; its copies inherit all three.
    """

    context_type: type[PtraceContext] = PtraceContext
    oom_kills = 0
    space_type: type[PtraceSpace] = PtraceSpace

    def __init__(self, platform: PtracePlatform, cgroup_fds: tuple[int, ...]) -> None:
        self.platform = platform
        self.vdso = 0
        self.n_reused = 0  # threads that are spares, or were
        c = ffi.new("struct pt_ctx *")
        result = -errno.ESRCH
        for _ in range(START_ATTEMPTS):
            # It dies if execve puts the stack where the stub belongs, which is as random as it is rare.
            if result == -errno.ESRCH:
                result = lib.pt_template(platform.systrap, list(cgroup_fds), len(cgroup_fds), c)
        check(result, "starting a stub")
        self._space = self.space_type(platform, self)
        self._context = self.context_type(self._space, c)
        self._empty()
        self.listener = check(lib.pt_confine(c, platform.systrap), "confining a stub")
        self._watch()

    def _watch(self) -> None:
        """Make the platform's wait hear of this template's calls: stubs under ptrace tell by stops alone."""

    def _empty(self) -> None:
        """Unmap what execve left.  The vDSO stays where it is."""
        for mapping in self._space.mappings():
            if mapping.kind == "vdso":
                self.vdso = mapping.start
            elif not mapping.kind:
                self._space.unmap(mapping.start, mapping.end - mapping.start)
        # Above the stub: the rest of that stack.  Reserved, so that the host never chooses an address there.
        args = STUB_END, HOST_END - STUB_END, 0, RESERVE, 0xFFFFFFFFFFFFFFFF, 0
        check(lib.pt_inject(self._context.c, SYS_MMAP, *args), "reserving what is above the stub")

    def new_space(self) -> PtraceContext:
        """A fresh, empty address space with one context that has not run."""
        return self._context.clone(share_space=False, same_process=False)

    def memory_used(self) -> int | None:
        return None

    def limit_memory(self, limit: int) -> None:
        """The container's cgroup does."""

    def close(self) -> None:
        self._context.release()
        os.close(self.listener)


class PtracePlatform:
    """Implements sentry.platform.Platform."""

    name = "ptrace"
    answers = False
    template_type: type[PtraceTemplate] = PtraceTemplate
    systrap = False

    def __init__(self, proc_fd: int) -> None:
        """proc_fd: an O_PATH descriptor of a /proc that shows this process's children."""
        self.proc_fd = proc_fd
        self.contexts: dict[int, Any] = {}
        self.resuming: list[Any] = []
        self.dying: dict[int, PtraceContext] = {}
        self.spares: dict[int, PtraceContext] = {}
        self.scratch = ffi.new("char[]", SCRATCH_SIZE)
        self.view = _bytes(self.scratch)  # of scratch; kept, for a slice of it is the fastest way to bytes
        self._events = ffi.new("struct pt_event[]", MAX_EVENTS)
        self._epoll_fd = -1
        check(lib.pt_init(), "setting up signals")

    def read_proc(self, tid: int, name: str) -> bytes:
        """/proc/TID/name of a stub; empty if that is gone."""
        fd = self.open_proc(tid, name)
        if fd < 0:
            return b""
        try:
            with os.fdopen(fd, "rb") as file:
                return file.read()
        except ProcessLookupError:
            return b""

    def open_proc(self, tid: int, name: str) -> int:
        """A descriptor of /proc/TID/name of a stub; -1 if that is gone."""
        try:
            return os.open(f"{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc_fd)
        except (FileNotFoundError, ProcessLookupError):
            return -1

    def new_template(self, cgroup_fds: tuple[int, ...]) -> PtraceTemplate:
        return self.template_type(self, cgroup_fds)

    def watch(self, epoll_fd: int) -> None:
        self._epoll_fd = epoll_fd

    def wait(self, timeout_ns: int) -> Sequence[tuple[PtraceContext, Trap]]:
        resuming = self.resuming
        traps: list[tuple[PtraceContext, Trap]] = []
        if resuming:
            run = [context.c for context in resuming]
            stops = [context for context in resuming if context.stop_wanted]
            resuming.clear()
            n = lib.pt_wait(run, len(run), self._epoll_fd, 0 if stops else timeout_ns, self._events, MAX_EVENTS)
        else:
            stops = []
            n = lib.pt_wait(ffi.NULL, 0, self._epoll_fd, timeout_ns, self._events, MAX_EVENTS)
        if n < 0:
            check(n, "waiting for stubs")
        contexts = self.contexts
        for i in range(n):
            event = self._events[i]
            trapped = contexts.get(event.tid)
            if trapped is None:
                self._bury(event)
                continue
            traps.append((trapped, self._trap(trapped, event)))
            trapped.running = False
        for context in stops:
            context.stop_wanted = False
            context.interrupt()
        return traps

    def _bury(self, event: Any) -> None:
        """An event of a context that was released: its end, or a stop that is to be followed by it."""
        if event.tid in self.spares:
            self.spares[event.tid].end_spare()
        if event.kind == lib.PT_EV_EXIT:
            self.dying.pop(event.tid, None)
        elif event.tid in self.dying:
            context = self.dying[event.tid]
            context.c.flags &= lib.PT_ENTRY
            lib.pt_exit_thread(context.c)

    def _trap(self, context: PtraceContext, event: Any) -> Trap:
        kind = event.kind
        if kind == lib.PT_EV_SYSCALL:
            return SyscallTrap(event.number, tuple(event.args), bool(event.native))
        if kind == lib.PT_EV_FAULT:
            if event.addr in VSYSCALLS:
                trap = vsyscall_trap(context.regs, context.space, event.addr)
                if trap is not None:
                    return trap
            return FaultTrap(event.signo, event.code, event.addr)
        if kind == lib.PT_EV_INTERRUPT:
            return InterruptTrap()
        context.c.flags = lib.PT_GONE
        return ExitTrap(event.signo or 9, context.running)

    def close(self) -> None:
        """End every stub, and collect them all: threads before the process that they belong to."""
        alive = [c for c in self.contexts.values() if not c.gone] + [*self.dying.values(), *self.spares.values()]
        for context in alive:
            lib.pt_kill(context.c.pid)
        for context in [*self.contexts.values(), *self.spares.values()]:
            context.forget_times()
        for context in alive:
            lib.pt_forget(context.c)
        for context in sorted(alive, key=lambda context: bool(context.c.tid == context.c.pid)):
            with suppress(ChildProcessError):
                while os.WIFSTOPPED(os.waitpid(context.c.tid, WALL)[1]):
                    pass
        self.contexts.clear()
        self.dying.clear()
        self.spares.clear()


def probe() -> str:
    """ "" if the host lets this platform work, else the reason."""
    result = lib.pt_probe(0)
    if result == 0:
        return ""
    return f"a traced stub process can't be set up: {os.strerror(-result)}"
