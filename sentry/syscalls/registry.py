"""The system call table: number -> name, handler, argument kinds, support.

@syscall registers a handler under its own name; the numbers are sentry/abi/nr_x86_64.py's.
Calls that have no handler are listed in unsupported.py with their errno and the reason, so
every number is in the table, and none answers with anything it did not compute.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, overload

from sentry.abi.errno import ENOSYS, LinuxError
from sentry.abi.nr_x86_64 import NAMES
from sentry.syscalls.args import Arg

Support = Literal["full", "partial", "none"]
F = TypeVar("F", bound=Callable[..., Any])

# A handler's result when the registers were set already (rt_sigreturn, execve) or the task ends.
NO_RESULT: Final = None

TOPICS: Final = (
    "attr",
    "clone",
    "credentials",
    "dir",
    "epoll",
    "eventfd",
    "exec",
    "exit",
    "fcntl",
    "futex",
    "ioctl",
    "locks",
    "memfd",
    "message",
    "mmap",
    "mount",
    "open",
    "pidfd",
    "pipe",
    "poll",
    "process",
    "read_write",
    "rlimit",
    "sched",
    "signal",
    "signalfd",
    "socket",
    "sockopt",
    "splice",
    "stat",
    "sync",
    "system",
    "time",
    "timer",
    "timerfd",
    "wait",
    "xattr",
)


class Syscall:
    """One row of the table.

    call(t, a0..a5 as a tuple) runs the handler; errno is set only for support "none".

    A sandbox starts in a tenth of a second and few programs make more than some dozens of different calls; so what
    a start can do without is made when it is first asked for, and `call` is at first what makes it.
    """

    __slots__ = ("call", "errno", "function", "gaps", "name", "support")

    def __init__(
        self,
        name: str,
        support: Support,
        gaps: str,
        function: Callable[..., Any],
        errno: type[LinuxError] | None = None,
    ) -> None:
        self.name = name
        self.support = support
        self.gaps = gaps
        self.function = function
        self.errno = errno
        self.call: Callable[[Any, tuple[int, ...]], Any] = self._first_call if errno is None else function

    def _first_call(self, t: Any, a: tuple[int, ...]) -> Any:
        self.prepare()
        return self.call(t, a)

    def prepare(self) -> None:
        """Make `call` now; idempotent."""
        if self.call == self._first_call:
            decoded = "".join(", " + kind.decode.format(f"a[{i}]") for i, (_, kind) in enumerate(self.kinds))
            self.call = eval(f"lambda t, a: fn(t{decoded})", {"fn": self.function})

    @property
    def kinds(self) -> tuple[tuple[str, Arg], ...]:
        """The arguments' names and kinds."""
        return () if self.errno is not None else _kinds(self.function)

    @property
    def module(self) -> str:
        return self.function.__module__ if self.errno is None else "sentry.syscalls.unsupported"

    @property
    def doc(self) -> str:
        return (self.function.__doc__ or "").strip().split("\n")[0]


HANDLERS: Final[dict[str, Syscall]] = {}


@overload
def syscall(function: F) -> F: ...
@overload
def syscall(*, gaps: str) -> Callable[[F], F]: ...
def syscall(function: Any = None, *, gaps: str = "") -> Any:
    """Register a handler.  gaps: what is missing; "" means complete."""

    def register(fn: F) -> F:
        name = fn.__name__.rstrip("_")
        HANDLERS[name] = Syscall(name, "partial" if gaps else "full", gaps, fn)
        return fn

    return register(function) if function is not None else register


@functools.cache
def _kinds(fn: Callable[..., Any]) -> tuple[tuple[str, Arg], ...]:
    """Of a handler's parameters but the task.  Each is annotated with one name, which its module has."""
    code = fn.__code__
    kinds: list[tuple[str, Arg]] = []
    for name in code.co_varnames[1 : code.co_argcount]:
        annotated = fn.__globals__[fn.__annotations__[name]]
        kind = next((a for a in annotated.__metadata__ if isinstance(a, Arg)), None)
        assert kind is not None, f"{fn.__name__}: {name} has no argument kind"
        kinds.append((name, kind))
    return tuple(kinds)


@functools.cache
def decoder(row_name: str) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """From raw registers to the arguments that the handler of that name gets; for tracing."""
    decoded = "".join(kind.decode.format(f"a[{i}]") + ", " for i, (_, kind) in enumerate(HANDLERS[row_name].kinds))
    decode: Callable[[tuple[int, ...]], tuple[int, ...]] = eval(f"lambda a: ({decoded})")
    return decode


def unsupported(name: str, error: type[LinuxError], reason: str) -> None:
    """A call that is known and refused."""

    def refuse(t: Any, a: tuple[int, ...]) -> int:
        raise error(f"{name}: {reason}")

    HANDLERS[name] = Syscall(name, "none", reason, refuse, error)


def build_table() -> dict[int, Syscall]:
    """Import every topic and join handlers with numbers.  Raises RuntimeError if one has no row."""
    for topic in TOPICS:
        importlib.import_module(f"sentry.syscalls.{topic}")
    importlib.import_module("sentry.syscalls.unsupported")
    table: dict[int, Syscall] = {}
    missing: list[str] = []
    for number, name in NAMES.items():
        row = HANDLERS.get(name)
        if row is None:
            missing.append(name)
        else:
            table[number] = row
    if missing:
        raise RuntimeError(f"system calls without a row: {' '.join(missing)}")
    return table


def refuse_unknown(t: Any, a: tuple[int, ...]) -> int:
    """A number that Linux does not have either."""
    raise ENOSYS
