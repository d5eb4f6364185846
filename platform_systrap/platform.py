"""The systrap platform's Python side: how its contexts are answered, and the wait call."""

from __future__ import annotations

import os
import struct
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
from sentry.platform import Regs, SyscallTrap, Trap

# The calls that need the thread's registers, or that the Sentry carries out changed.
TRACED: Final = ("clone", "clone3", "fork", "vfork", "execve", "execveat", "rt_sigreturn", "arch_prctl", "brk")

EVENT: Final = struct.Struct("<iiqq6Q")  # struct pt_event, up to its arguments
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

    @property
    def regs(self) -> Regs:
        if self.answer != NONE:
            self._settle()
        return super().regs

    def _settle(self) -> None:
        """Put the answer into the registers."""
        if self.answer == CONTINUE:
            self.result = self._carry_out()
        self.answer = NONE
        super().set_result(self.result)

    def _carry_out(self) -> int:
        """Make the host call that was to be let through."""
        c, trap = self.c, self.trap
        if c.fd < 0:
            return int(lib.pt_inject(c, trap.number, *trap.args))
        fd, c.fd = c.fd, -1
        addr, length, prot, flags, _, offset = trap.args
        return int(lib.pt_map_fd(c, c.listener, fd, addr, length, prot, flags, offset))

    def set_result(self, value: int) -> None:
        self.result = value
        self.answer = RESULT

    def let_through(self, number: int, args: tuple[int, ...], fd: int = -1) -> bool:
        trap, c = self.trap, self.c
        if trap.number != number or trap.args[: len(args)] != args or c.state != NOTIFIED or not trap.native:
            return False
        if fd >= 0 and not self._donate(fd, trap.args[4]):
            return False
        self.answer = CONTINUE
        return True

    def _donate(self, fd: int, number: int) -> bool:
        return False

    def read_xstate(self) -> bytes:
        _ = self.regs
        return super().read_xstate()

    def write_xstate(self, data: bytes) -> None:
        _ = self.regs
        super().write_xstate(data)

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
        self._context.c.fd = -1

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
        check(lib.turn_init(-1, self._traced, len(self._traced)), "setting up the turn")

    def watch(self, epoll_fd: int) -> None:
        check(lib.turn_init(epoll_fd, self._traced, len(self._traced)), "setting up the turn")

    def wait(self, timeout_ns: int) -> list[tuple[Any, Trap]]:
        resuming = self.resuming
        stops = None
        if resuming:
            context = resuming.pop()
            if resuming:
                for other in resuming:
                    self._resume(other)
                stops = [other for other in resuming if other.stop_wanted]
                resuming.clear()
            if context.stop_wanted or stops:
                self._resume(context)
                stops = [*(stops or ()), context]
                n = lib.turn(ffi.NULL, 0, NONE, 0, self._events, MAX_EVENTS)
            else:
                answer, context.answer = context.answer, NONE
                n = lib.turn(context.c, context.result, answer, timeout_ns, self._events, MAX_EVENTS)
        else:
            n = lib.turn(ffi.NULL, 0, NONE, timeout_ns, self._events, MAX_EVENTS)
        if n < 0:
            check(n, "waiting for stubs")
        traps = [trap for i in range(n) if (trap := self._taken(i)) is not None]
        for context in stops or ():
            if context.stop_wanted:
                context.stop_wanted = False
                context.interrupt()
        return traps

    def _resume(self, context: SystrapContext) -> None:
        answer, context.answer = context.answer, NONE
        check(lib.turn_resume(context.c, context.result, answer), "resuming a stub")

    def _taken(self, index: int) -> tuple[Any, Trap] | None:
        """The context and trap of an event; None if nobody waits for it."""
        event = EVENT.unpack_from(self._buffer, index * EVENT_SIZE)
        context = self.contexts.get(event[1])
        if context is None:
            self._bury(self._events[index])
            return None
        if event[0] == EV_SYSCALL:
            context.running = False
            trap = context.trap
            trap.number = event[2]
            trap.args = event[4:]
            trap.native = event[3] == 1
            return context, trap
        result = context, self._trap(context, self._events[index])
        context.running = False
        return result


def probe() -> str:
    """ "" if the host lets this platform work, else the reason."""
    result = lib.pt_probe(1)
    if result == 0:
        return ""
    return f"a stub process that asks by seccomp notifications can't be set up: {os.strerror(-result)}"
