"""The systrap platform's Python side: how its contexts are answered, and the wait call."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, Final

from platform_ptrace.core._core import ffi, lib
from platform_ptrace.platform import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAX_EVENTS,
    REGS_DIRTY,
    REGS_VALID,
    PtraceContext,
    PtracePlatform,
    PtraceSpace,
    PtraceTemplate,
    check,
)
from platform_systrap.patch import Ring, patch
from sentry.abi.errno import ENOMEM
from sentry.abi.nr_x86_64 import NAMES
from sentry.platform import Mapping, SyscallTrap, Trap

# The calls that need the thread's registers, or that the Sentry carries out changed.  A signal is mostly sent by a
# thread to itself, and its frame needs them: to take the thread out of a notification would cost another stop.  A
# thread that exits may be its process's next.
TRACED: Final = (
    *("clone", "clone3", "fork", "vfork", "execve", "execveat", "exit"),
    *("rt_sigreturn", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
)

# The calls that the host may carry out: of those the kernel lets through, no argument points anywhere.
HARMLESS: Final = ("mmap", "munmap", "mprotect", "mremap", "madvise", "arch_prctl")
LET_THROUGH: Final = {number: name for number, name in NAMES.items() if name in HARMLESS}

EVENT: Final = struct.Struct("<iiq?7x6Q")  # struct pt_event, up to its arguments
unpack_arguments: Final = struct.Struct("<24x6Q").unpack_from
turn: Final = lib.turn
turn_resume: Final = lib.turn_resume
answer_posted: Final = lib.turn_answer_posted
EVENT_SIZE: Final[int] = ffi.sizeof("struct pt_event")
EV_SYSCALL: Final[int] = lib.PT_EV_SYSCALL
EV_SITE: Final[int] = lib.PT_EV_SITE
OWN_CALL: Final[int] = lib.PT_OWN_CALL
POSTED_CALL: Final[int] = lib.PT_POSTED_CALL
NUMBER: Final = OWN_CALL - 1
NONE: Final[int] = lib.PT_ANSWER_NONE
RESULT: Final[int] = lib.PT_ANSWER_RESULT
CONTINUE: Final[int] = lib.PT_ANSWER_CONTINUE
GIVEN: Final[int] = lib.PT_ANSWER_GIVEN
NOTIFIED: Final[int] = lib.PT_NOTIFIED
TAKEN: Final = REGS_VALID | REGS_DIRTY
MAX_PROCESSORS: Final = 1 << 20

# These never go through the ring: the thread must be where the host's kernel can stop it or do the call, or ends.
NOT_POSTED: Final = (*TRACED, *HARMLESS, "exit_group")
# Calls that change nothing but the memory that they fill: these may find out late that they cannot.
STAGED: Final = (
    *("stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "pread64", "readlink", "readlinkat"),
    *("getcwd", "uname", "sysinfo", "getrusage", "times", "clock_gettime", "gettimeofday", "getrlimit"),
)
# After how many calls from one site it is patched, 0: none is; after how many calls of a thread in a row it is hot.  A
# patch costs what it saves in some 50 calls.  "eager" takes every chance, for tests.
RING: Final = {"": (256, 16), "eager": (1, 1), "plain": (0, 0)}


class SystrapContext(PtraceContext):
    """One stub thread.  Implements sentry.platform.Context.

    answer says what its trapped call will be answered with when it next runs: NONE (its registers say all),
    RESULT, or CONTINUE (the host carries it out).
    posted: its last call came through the ring.
    """

    __slots__ = ("answer", "posted", "result", "trap", "trapped")

    space: SystrapSpace

    def __init__(self, space: SystrapSpace, c: Any) -> None:
        super().__init__(space, c)
        if space.ring is not None:
            self.use(space.ring)
        self.answer = NONE
        self.posted = False
        self.result = 0
        self.trap = SyscallTrap(-1, (0, 0, 0, 0, 0, 0))
        # What wait() returns of a call: kept, not made.
        self.trapped: tuple[tuple[SystrapContext, Trap], ...] = ((self, self.trap),)

    def _take_registers(self) -> None:
        if self.answer != NONE:
            self._settle()
        if self.c.flags & TAKEN != TAKEN:
            PtraceContext._take_registers(self)

    def _settle(self) -> None:
        """Put the answer into the registers."""
        if self.answer == CONTINUE:
            self.result = self._carry_out()
        self.answer = NONE
        super().set_result(self.result)

    def _carry_out(self) -> int:
        """Make the host call that was to be let through."""
        return int(lib.pt_inject(self.c, self.trap.number, *self.trap.args))

    def set_result(self, value: int) -> None:
        self.result = value
        self.answer = RESULT

    def resume_with(self, value: int) -> None:
        self.running = True
        platform = self.space.platform
        if self.posted and answer_posted(self.c, value):
            platform.given = self
        else:
            self.result = value
            self.answer = RESULT
            platform.resuming.append(self)

    def let_through(self, name: str, args: tuple[int, ...]) -> bool:
        trap, c = self.trap, self.c
        if LET_THROUGH.get(trap.number) != name or trap.args[: len(args)] != args or not trap.native:
            return False
        if c.state != NOTIFIED or self.space.hides(name, args):
            return False
        self.answer = CONTINUE
        return True

    def approve_memory(self, approved: bool) -> None:
        self.c.approved = approved

    def use(self, ring: Ring) -> None:
        """This thread's space has a ring."""
        self.c.ring = ring.c
        ring.c.n_users += 1

    def release(self) -> None:
        if self.space.ring is not None:
            self.space.ring.c.n_users -= 1
        if self.space.platform.given is self:
            self.space.platform.given = None
        super().release()
        self.trapped = ()  # it is part of itself

    def poke(self, addr: int, data: bytes) -> None:
        """Write whole words where the application cannot."""
        self._take_registers()
        check(lib.ring_poke(self.c, addr, data, len(data)), "writing code")


class SystrapSpace(PtraceSpace):
    """One stub process's memory, in which the ring hides some of its own."""

    __slots__ = ("ring",)

    platform: SystrapPlatform

    def __init__(self, platform: PtracePlatform, template: PtraceTemplate) -> None:
        super().__init__(platform, template)
        self.ring: Ring | None = None

    def copied(self) -> SystrapSpace:
        copy = SystrapSpace(self.platform, self.template)
        if self.ring is not None:
            copy.ring = self.ring.copied()
        return copy

    def inject(self, number: int, *args: int) -> int:
        """A host call of the platform's own."""
        return self._inject(number, *args)

    def hides(self, name: str, args: tuple[int, ...]) -> bool:
        """Would this memory call touch what is the ring's?"""
        if self.ring is None or name == "arch_prctl":
            return False
        addr, length = args[0], args[1]
        if name == "mremap":
            return self.ring.hides(addr, addr + max(args[1], args[2])) or (
                len(args) > 4 and self.ring.hides(args[4], args[4] + args[2])
            )
        touched = name != "mmap" or args[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE)
        return bool(touched) and self.ring.hides(addr, addr + length)

    def _check_range(self, addr: int, length: int, *, touched: bool = True) -> None:
        super()._check_range(addr, length)
        if touched and self.ring is not None and self.ring.hides(addr, addr + length):
            raise ENOMEM("the platform's own")

    def mappings(self) -> list[Mapping]:
        mappings = super().mappings()
        return mappings if self.ring is None else self.ring.visible(mappings)


class SystrapTemplate(PtraceTemplate):
    """A template whose filter asks the Sentry about every call."""

    context_type = SystrapContext
    space_type = SystrapSpace

    def _watch(self) -> None:
        check(lib.turn_listen(self.listener), "watching a listener")

    def close(self) -> None:
        lib.turn_unlisten(self.listener)
        super().close()


class SystrapPlatform(PtracePlatform):
    """Implements sentry.platform.Platform."""

    name = "systrap"
    template_type = SystrapTemplate
    systrap = True

    def __init__(self, proc_fd: int, n_processors: int = MAX_PROCESSORS, variant: str = "") -> None:
        """n_processors: what the containers may use; with one, the ring is off.  variant: a key of RING."""
        super().__init__(proc_fd)
        numbers = {name: number for number, name in NAMES.items()}
        self.given: SystrapContext | None = None  # it runs already, its call answered, for nobody else did
        self._traced = [numbers[name] for name in TRACED]
        self._buffer = bytearray(EVENT_SIZE * MAX_EVENTS)
        self._events = ffi.from_buffer("struct pt_event[]", self._buffer)
        self.watch(-1)
        refused, staged = ([numbers[name] for name in names] for names in (NOT_POSTED, STAGED))
        self.ring = bool(lib.ring_init(*RING[variant], n_processors, refused, len(refused), staged, len(staged)))

    def watch(self, epoll_fd: int) -> None:
        traced = self._traced
        check(lib.turn_init(epoll_fd, traced, len(traced), self._events, MAX_EVENTS), "setting up the turn")

    def wait(self, timeout_ns: int) -> Sequence[tuple[Any, Trap]]:
        resuming, context = self.resuming, self.given
        if context is not None and not resuming:
            self.given = None
            n = turn(context.c, 0, GIVEN, timeout_ns)
        elif len(resuming) == 1 and not resuming[0].stop_wanted:
            context = resuming.pop()
            n = turn(context.c, context.result, context.answer, timeout_ns)
            context.answer = NONE
        else:
            return self._wait_for_many(timeout_ns)
        if n < OWN_CALL:
            return self._taken(n)
        context.running = False
        trap = context.trap
        context.posted = n >= POSTED_CALL
        trap.number = n & NUMBER
        trap.args = unpack_arguments(self._buffer)
        trap.native = True
        return context.trapped

    def close(self) -> None:
        super().close()
        lib.turn_close()

    def _wait_for_many(self, timeout_ns: int) -> Sequence[tuple[Any, Trap]]:
        """Any number to resume, some of them perhaps to be interrupted at once."""
        if not self.resuming:
            return self._taken(turn(ffi.NULL, 0, NONE, timeout_ns))
        resuming, self.resuming = self.resuming, []
        stops = []
        for context in resuming:
            error = turn_resume(context.c, context.result, context.answer)
            if error:
                check(error, "resuming a stub")
            context.answer = NONE
            if context.stop_wanted:
                stops.append(context)
        traps = self._taken(turn(ffi.NULL, 0, NONE, 0 if stops else timeout_ns))
        for context in stops:
            context.stop_wanted = False
            context.interrupt()
        return traps

    def _taken(self, n: int) -> Sequence[tuple[Any, Trap]]:
        """The contexts and traps of the n events in the buffer; of those somebody waits for."""
        if n == 1:
            # Most often a call of another thread than the one that was resumed.
            event = EVENT.unpack_from(self._buffer)
            context = self.contexts.get(event[1])
            if context is not None and event[0] == EV_SYSCALL:
                trap = context.trap
                trap.number, trap.args, trap.native = event[2], event[4:], event[3]
                context.running = False
                trapped: Sequence[tuple[Any, Trap]] = context.trapped
                return trapped
        elif n < 0:
            check(n, "waiting for stubs")
        traps: list[tuple[Any, Trap]] = []
        sites = []
        for index in range(n):
            event = EVENT.unpack_from(self._buffer, index * EVENT_SIZE)
            context = self.contexts.get(event[1])
            if context is None:
                self._bury(self._events[index])
            elif event[0] in (EV_SYSCALL, EV_SITE):
                trap = context.trap
                trap.number, trap.args, trap.native = event[2], event[4:], event[3]
                traps.append((context, trap))
                context.running = False
                if event[0] == EV_SITE:
                    sites.append(context)
            else:
                traps.append((context, self._trap(context, self._events[index])))
                context.running = False
        for context in sites:
            patch(context, context.c.call_end, context.trap.number)
        return traps


def probe() -> str:
    """ "" if the host lets this platform work, else the reason."""
    result = lib.pt_probe(1)
    if result == 0:
        return ""
    return f"a stub process that asks by seccomp notifications can't be set up: {os.strerror(-result)}"
