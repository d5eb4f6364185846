"""The system call table: number -> name, handler, argument kinds, support.

@syscall registers a handler under its own name; the numbers are sentry/abi/nr_x86_64.py's.
Calls that have no handler are listed in unsupported.py with their errno and the reason, so
every number is in the table, and none answers with anything it did not compute.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, get_args, get_type_hints, overload

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


@dataclass(slots=True)
class Syscall:
    """One row of the table.

    call(t, a0..a5 as a tuple) runs the handler; it is a coroutine function if `waits`.
    errno is set only for support "none".
    """

    name: str
    support: Support
    gaps: str
    call: Callable[[Any, tuple[int, ...]], Any]
    waits: bool
    kinds: tuple[tuple[str, Arg], ...]
    module: str
    doc: str
    errno: type[LinuxError] | None = None


HANDLERS: Final[dict[str, Syscall]] = {}


@overload
def syscall(function: F) -> F: ...
@overload
def syscall(*, gaps: str) -> Callable[[F], F]: ...
def syscall(function: Any = None, *, gaps: str = "") -> Any:
    """Register a handler.  gaps: what is missing; "" means complete."""

    def register(fn: F) -> F:
        HANDLERS[fn.__name__.rstrip("_")] = _row(fn, gaps)
        return fn

    return register(function) if function is not None else register


def _row(fn: Callable[..., Any], gaps: str) -> Syscall:
    hints = get_type_hints(
        fn, include_extras=True, localns={"Task": object}, globalns=fn.__globals__ | {"Task": object}
    )
    kinds: list[tuple[str, Arg]] = []
    for name in list(inspect.signature(fn).parameters)[1:]:
        kind = next((a for a in get_args(hints[name]) if isinstance(a, Arg)), None)
        assert kind is not None, f"{fn.__name__}: {name} has no argument kind"
        kinds.append((name, kind))
    decoded = "".join(", " + kind.decode.format(f"a[{i}]") for i, (_, kind) in enumerate(kinds))
    call = eval(f"lambda t, a: fn(t{decoded})", {"fn": fn})
    doc = (fn.__doc__ or "").strip().split("\n")[0]
    name = fn.__name__.rstrip("_")
    support: Support = "partial" if gaps else "full"
    return Syscall(name, support, gaps, call, inspect.iscoroutinefunction(fn), tuple(kinds), fn.__module__, doc)


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

    HANDLERS[name] = Syscall(name, "none", reason, refuse, False, (), "sentry.syscalls.unsupported", "", error)


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
