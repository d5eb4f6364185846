"""The systrap platform's Python side: how its contexts are answered, and the wait call."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, Final

from platform_ptrace.core._core import ffi, lib
from platform_ptrace.platform import (
    MAX_EVENTS,
    PtraceContext,
    PtracePlatform,
    PtraceSpace,
    PtraceTemplate,
    check,
)
from sentry.abi.nr_x86_64 import NAMES
from sentry.platform import SyscallTrap, Trap

# The calls that need the thread's registers, or that the Sentry carries out changed.  A signal is mostly sent by a
# thread to itself, and its frame needs them: to take the thread out of a notification would cost another stop.
TRACED: Final = (
    *("clone", "clone3", "fork", "vfork", "execve", "execveat"),
    *("rt_sigreturn", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
)

# The calls that the host may carry out: of those the kernel lets through, no argument points anywhere.
HARMLESS: Final = ("mmap", "munmap", "mprotect", "mremap", "madvise", "arch_prctl")
LET_THROUGH: Final = {number: name for number, name in NAMES.items() if name in HARMLESS}

EVENT: Final = struct.Struct("<iiq?7x6Q")  # struct pt_event, up to its arguments
unpack_event: Final = EVENT.unpack_from
turn: Final = lib.turn
EVENT_SIZE: Final[int] = ffi.sizeof("struct pt_event")
EV_SYSCALL: Final[int] = lib.PT_EV_SYSCALL
NONE: Final[int] = lib.PT_ANSWER_NONE
RESULT: Final[int] = lib.PT_ANSWER_RESULT
CONTINUE: Final[int] = lib.PT_ANSWER_CONTINUE
NOTIFIED: Final[int] = lib.PT_NOTIFIED
SYS_EXIT: Final = 60


class SystrapContext(PtraceContext):
    """One stub thread.  Implements sentry.platform.Context.

    answer says what its trapped call will be answered with when it next runs: NONE (its registers say all),
    RESULT, or CONTINUE (the host carries it out).
    """

    __slots__ = ("answer", "result", "trap")

    def __init__(self, space: PtraceSpace, c: Any) -> None:
        super().__init__(space, c)
        self.answer = NONE
        self.result = 0
        self.trap = SyscallTrap(-1, (0, 0, 0, 0, 0, 0))

    def _take_registers(self) -> None:
        if self.answer != NONE:
            self._settle()
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

    def let_through(self, name: str, args: tuple[int, ...]) -> bool:
        trap, c = self.trap, self.c
        if LET_THROUGH.get(trap.number) != name or trap.args[: len(args)] != args or not trap.native:
            return False
        if c.state != NOTIFIED:
            return False
        self.answer = CONTINUE
        return True

    def end_thread(self) -> None:
        """Its own exit call is simply carried out."""
        c = self.c
        if c.state == NOTIFIED and self.trap.number == SYS_EXIT and self.trap.native:
            c.flags |= lib.PT_DYING
            check(lib.turn_resume(c, 0, CONTINUE), "ending a thread")
        else:
            super().end_thread()


class SystrapTemplate(PtraceTemplate):
    """A template whose filter asks the Sentry about every call."""

    context_type = SystrapContext

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

    def __init__(self, proc_fd: int) -> None:
        super().__init__(proc_fd)
        numbers = {name: number for number, name in NAMES.items()}
        self._traced = [numbers[name] for name in TRACED]
        self._buffer = bytearray(EVENT_SIZE * MAX_EVENTS)
        self._events = ffi.from_buffer("struct pt_event[]", self._buffer)
        self.watch(-1)

    def watch(self, epoll_fd: int) -> None:
        traced = self._traced
        check(lib.turn_init(epoll_fd, traced, len(traced), self._events, MAX_EVENTS), "setting up the turn")

    def wait(self, timeout_ns: int) -> Sequence[tuple[Any, Trap]]:
        resuming = self.resuming
        if len(resuming) != 1 or resuming[0].stop_wanted:
            return self._wait_for_many(timeout_ns)
        context = resuming.pop()
        n = turn(context.c, context.result, context.answer, timeout_ns)
        context.answer = NONE
        if n == 1:
            event = unpack_event(self._buffer)
            context = self.contexts.get(event[1])
            if event[0] == EV_SYSCALL and context is not None:
                context.running = False
                trap = context.trap
                trap.number, trap.native, trap.args = event[2], event[3], event[4:]
                return ((context, trap),)
        return self._taken(n)

    def close(self) -> None:
        super().close()
        lib.turn_close()

    def _wait_for_many(self, timeout_ns: int) -> list[tuple[Any, Trap]]:
        """Any number to resume, some of them perhaps to be interrupted at once."""
        if not self.resuming:
            return self._taken(turn(ffi.NULL, 0, NONE, timeout_ns))
        resuming, self.resuming = self.resuming, []
        for context in resuming:
            check(lib.turn_resume(context.c, context.result, context.answer), "resuming a stub")
            context.answer = NONE
        stops = [context for context in resuming if context.stop_wanted]
        traps = self._taken(turn(ffi.NULL, 0, NONE, 0 if stops else timeout_ns))
        for context in stops:
            context.stop_wanted = False
            context.interrupt()
        return traps

    def _taken(self, n: int) -> list[tuple[Any, Trap]]:
        """The contexts and traps of the n events in the buffer; of those somebody waits for."""
        if n < 0:
            check(n, "waiting for stubs")
        traps: list[tuple[Any, Trap]] = []
        for index in range(n):
            event = EVENT.unpack_from(self._buffer, index * EVENT_SIZE)
            context = self.contexts.get(event[1])
            if context is None:
                self._bury(self._events[index])
            elif event[0] == EV_SYSCALL:
                traps.append((context, SyscallTrap(event[2], event[4:], event[3])))
                context.trap = traps[-1][1]
                context.running = False
            else:
                traps.append((context, self._trap(context, self._events[index])))
                context.running = False
        return traps


def probe() -> str:
    """ "" if the host lets this platform work, else the reason."""
    result = lib.pt_probe(1)
    if result == 0:
        return ""
    return f"a stub process that asks by seccomp notifications can't be set up: {os.strerror(-result)}"
