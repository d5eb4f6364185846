"""Where the Sentry's time goes: a sampling profiler, and a stopwatch in each handler.

Off, it costs nothing: it hangs on a signal that nobody else uses, and on the rows of the system
call table, which are put back in the end.  On, SIGPROF interrupts the Sentry whenever it has used
some more processor time; Python runs the handler between two bytecodes, and it notes the stack.
What a C function uses is thereby its caller's.  The timer does not run while the Sentry sleeps.
"""

from __future__ import annotations

import time
from _signal import (  # type: ignore[import-not-found]  # what signal has, but not made into enums
    ITIMER_PROF,
    SIG_IGN,
    SIGPROF,
    setitimer,
    siginterrupt,
    signal,
)  # fmt: skip
from collections.abc import Awaitable, Callable, Generator
from types import CodeType, FrameType
from typing import Any, Final

from sentry.syscalls.registry import Syscall

INTERVAL_S: Final = 0.001  # the host rounds it up to its own tick, 1 to 10 ms
MAX_DEPTH: Final = 100
MAX_TEXT: Final = 3 << 20  # of all stacks: what one answer can carry


class CallTime:
    """What one row was asked, and the time in its handler: without what it waited."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0


class _Timed:
    """An awaitable of a handler, with a stopwatch that stands while it is parked."""

    __slots__ = ("_awaited", "_time")

    def __init__(self, awaited: Awaitable[Any], call_time: CallTime) -> None:
        self._awaited = awaited
        self._time = call_time

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaited.__await__()
        now, call_time = time.perf_counter_ns, self._time
        value = None
        while True:
            start = now()
            try:
                request = steps.send(value)
            except StopIteration as end:
                return end.value
            finally:
                call_time.ns += now() - start
            value = yield request


def _timed(call: Callable[[Any, tuple[int, ...]], Any], call_time: CallTime) -> Callable[[Any, tuple[int, ...]], Any]:
    """call, measured."""
    now = time.perf_counter_ns

    def measured(t: Any, args: tuple[int, ...]) -> Any:
        call_time.count += 1
        start = now()
        try:
            answer = call(t, args)
        finally:
            call_time.ns += now() - start
        return answer if answer is None or type(answer) is int else _Timed(answer, call_time)

    return measured


class Profiler:
    """One measurement: start(), later stop(), then the results.  Only in the main thread.

    stacks  code objects, outermost first -> how often
    calls   by the name of the system call
    """

    def __init__(self, table: dict[int, Syscall]) -> None:
        self._table = table
        self._originals: dict[str, tuple[Syscall, Callable[[Any, tuple[int, ...]], Any]]] = {}
        self._names: dict[CodeType, str] = {}
        self.stacks: dict[tuple[CodeType, ...], int] = {}
        self.calls: dict[str, CallTime] = {}
        self.samples = 0

    def start(self) -> None:
        for row in self._table.values():
            row.prepare()
            self._originals[row.name] = row, row.call
            call_time = self.calls[row.name] = CallTime()
            row.call = _timed(row.call, call_time)
        signal(SIGPROF, self._sample)
        # Host calls that were interrupted go on: those in C code must not fail with EINTR for being watched.
        siginterrupt(SIGPROF, False)
        setitimer(ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def stop(self) -> None:
        setitimer(ITIMER_PROF, 0)
        # Not the default action: one that is pending already would end the Sentry.
        signal(SIGPROF, SIG_IGN)
        for row, call in self._originals.values():
            row.call = call
        self._originals.clear()

    def _sample(self, signo: int, frame: FrameType | None) -> None:
        self.samples += 1
        names = self._names
        stack: list[CodeType] = []
        while frame is not None and len(stack) < MAX_DEPTH:
            code = frame.f_code
            stack.append(code)
            if code not in names:
                names[code] = f"{frame.f_globals.get('__name__', '?')}:{code.co_qualname}"
            frame = frame.f_back
        stack.reverse()
        key = tuple(stack)
        self.stacks[key] = self.stacks.get(key, 0) + 1

    def folded(self) -> list[str]:
        """Lines `outermost;...;innermost count`, as flame graphs are drawn from; the most frequent first."""
        names = self._names
        lines: list[str] = []
        room = MAX_TEXT
        for stack, count in sorted(self.stacks.items(), key=lambda item: -item[1]):
            line = ";".join([names[code] for code in stack]) + f" {count}"
            room -= len(line) + 3
            if room < 0:
                break
            lines.append(line)
        return lines
