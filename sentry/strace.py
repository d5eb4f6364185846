"""--strace: every system call as a line of text, as strace(1) -f writes it.

How an argument looks comes from its kind (syscalls/args.py), so that a new handler is traced
without a word here.  The tables below add what a kind can't know: which buffers are filled
by the call and how long they are.

A call is written when it returns, on one line, unless something else has to be written while
it waits, or it takes long: then it is written as unfinished, and resumed later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import ENOENT, ENOSYS, LinuxError
from sentry.abi.fcntl import O_CREAT, O_TMPFILE_BIT
from sentry.kernel import restart
from sentry.kernel.restart import Interrupted
from sentry.kernel.signals import SigInfo
from sentry.platform import AddressSpace, PlatformError, SyscallTrap
from sentry.syscalls import show, showsocket
from sentry.syscalls.args import CLONE, Arg, flags_of, one_of
from sentry.syscalls.registry import Syscall, decoder
from sentry.wait import Timer

if TYPE_CHECKING:
    from sentry.kernel.task import Task

Result = int | BaseException | None
# (memory, all arguments, result) -> text of one argument; the result is 0 before the call.
Text = Callable[[AddressSpace, tuple[int, ...], int], str]

RESULT_COLUMN: Final = 40
PATIENCE_NS: Final = 50_000_000  # a call that lasts longer is written as unfinished

INTERRUPTED_AS: Final = {
    restart.ERESTARTSYS: "ERESTARTSYS (To be restarted if SA_RESTART is set)",
    restart.ERESTARTNOINTR: "ERESTARTNOINTR (To be restarted)",
    restart.ERESTARTNOHAND: "ERESTARTNOHAND (To be restarted if no handler)",
    restart.ERESTART_RESTARTBLOCK: "ERESTART_RESTARTBLOCK (Interrupted by signal)",
}
NEVER_RETURN: Final = frozenset({"exit", "exit_group"})
ADDRESS_RESULTS: Final = frozenset({"mmap", "mremap", "brk"})

_FUTEX: Final = (
    "FUTEX_WAIT", "FUTEX_WAKE", "FUTEX_FD", "FUTEX_REQUEUE", "FUTEX_CMP_REQUEUE", "FUTEX_WAKE_OP", "FUTEX_LOCK_PI",
    "FUTEX_UNLOCK_PI", "FUTEX_TRYLOCK_PI", "FUTEX_WAIT_BITSET", "FUTEX_WAKE_BITSET", "FUTEX_WAIT_REQUEUE_PI",
    "FUTEX_CMP_REQUEUE_PI", "FUTEX_LOCK_PI2",
)  # fmt: skip
_HOW: Final = ("SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK")
_WHENCE: Final = ("SEEK_SET", "SEEK_CUR", "SEEK_END", "SEEK_DATA", "SEEK_HOLE")
_WAIT_OPTIONS: Final = {1: "WNOHANG", 2: "WUNTRACED", 4: "WEXITED", 8: "WCONTINUED", 0x1000000: "WNOWAIT"}


_clone_names = flags_of(CLONE)


def _at(show_one: Callable[[AddressSpace, int], str], index: int) -> Text:
    """A structure whose address is argument index."""
    return lambda mem, args, result: show_one(mem, args[index])


def _futex_op(mem: AddressSpace, args: tuple[int, ...], result: int) -> str:
    op = args[1]
    name = _FUTEX[op & 0x7F] if op & 0x7F < len(_FUTEX) else hex(op & 0x7F)
    return name + ("_PRIVATE" if op & 0x80 else "") + ("|FUTEX_CLOCK_REALTIME" if op & 0x100 else "")


def _name(names: tuple[str, ...], index: int) -> Text:
    show_one = one_of(dict(enumerate(names)))
    return lambda mem, args, result: show_one(mem, args[index])


def _wait_options(mem: AddressSpace, args: tuple[int, ...], result: int) -> str:
    return "|".join(name for bit, name in _WAIT_OPTIONS.items() if args[2] & bit) or "0"


def _clone_flags(mem: AddressSpace, args: tuple[int, ...], result: int) -> str:
    """The low byte is the signal sent at the end."""
    flags, signo = args[0] & ~0xFF, args[0] & 0xFF
    names = [_clone_names(mem, flags)] if flags else []
    return "|".join(names + ([show.signal_name(signo)] if signo else [])) or "0"


def _dirents(mem: AddressSpace, args: tuple[int, ...], result: int) -> str:
    data = show.peek(mem, args[1], result) or b""
    at = count = 0
    while at + 18 < len(data):
        at += max(int.from_bytes(data[at + 16 : at + 18], "little"), 1)
        count += 1
    return f"{show.pointer(args[1])} /* {count} entries */"


_written: Final[Text] = lambda mem, args, result: show.buffer(mem, args[1], args[2])  # noqa: E731
_filled: Final[Text] = lambda mem, args, result: show.buffer(mem, args[1], result)  # noqa: E731
_iov_written: Final[Text] = lambda mem, args, result: show.iovec(mem, args[1], args[2])  # noqa: E731
_iov_filled: Final[Text] = lambda mem, args, result: show.iovec(mem, args[1], args[2], result)  # noqa: E731


def _sets(index: int) -> Text:
    return lambda mem, args, result: show.fd_set(mem, args[index], args[0])


# What is known before the call: call -> {argument: text}.
ON_ENTRY: Final[dict[str, dict[int, Text]]] = {
    "write": {1: _written},
    "pwrite64": {1: _written},
    **showsocket.ON_ENTRY,
    "sendto": {1: _written, **showsocket.ON_ENTRY["sendto"]},
    "writev": {1: _iov_written},
    "pwritev": {1: _iov_written},
    "pwritev2": {1: _iov_written},
    "vmsplice": {1: _iov_written},
    "lseek": {2: _name(_WHENCE, 2)},
    "execve": {1: _at(show.string_list, 1), 2: _at(show.count_list, 2)},
    "execveat": {2: _at(show.string_list, 2), 3: _at(show.count_list, 3)},
    "nanosleep": {0: _at(show.timespec, 0)},
    "clock_nanosleep": {2: _at(show.timespec, 2)},
    "clone": {0: _clone_flags},
    "splice": {1: _at(show.offset, 1), 3: _at(show.offset, 3)},
    "sendfile": {2: _at(show.offset, 2)},
    "copy_file_range": {1: _at(show.offset, 1), 3: _at(show.offset, 3)},
    "futex": {1: _futex_op},
    "poll": {0: lambda mem, args, result: show.pollfds(mem, args[0], args[1])},
    "ppoll": {
        0: lambda mem, args, result: show.pollfds(mem, args[0], args[1]),
        2: _at(show.timespec, 2),
        3: _at(show.sigset, 3),
    },
    "select": {1: _sets(1), 2: _sets(2), 3: _sets(3), 4: _at(show.timeval, 4)},
    "pselect6": {1: _sets(1), 2: _sets(2), 3: _sets(3), 4: _at(show.timespec, 4)},
    "epoll_ctl": {3: _at(show.epoll_event, 3)},
    "rt_sigaction": {1: _at(show.sigaction, 1)},
    "rt_sigprocmask": {0: _name(_HOW, 0), 1: _at(show.sigset, 1)},
    "rt_sigsuspend": {0: _at(show.sigset, 0)},
    "rt_sigtimedwait": {0: _at(show.sigset, 0), 2: _at(show.timespec, 2)},
    "signalfd4": {1: _at(show.sigset, 1)},
    "sigaltstack": {0: _at(show.stack, 0)},
    "setitimer": {1: _at(show.itimerval, 1)},
    "timer_settime": {2: _at(show.itimerspec, 2)},
    "timerfd_settime": {2: _at(show.itimerspec, 2)},
    "setrlimit": {1: _at(show.rlimit, 1)},
    "prlimit64": {2: _at(show.rlimit, 2)},
    "wait4": {2: _wait_options},
}

# What the call stores: shown if it did not fail.
ON_RETURN: Final[dict[str, dict[int, Text]]] = {
    "read": {1: _filled},
    "pread64": {1: _filled},
    **showsocket.ON_RETURN,
    "recvfrom": {1: _filled, **showsocket.ON_RETURN["recvfrom"]},
    "readlink": {1: _filled},
    "readlinkat": {2: lambda mem, args, result: show.buffer(mem, args[2], result)},
    "getcwd": {0: lambda mem, args, result: show.string(mem, args[0])},
    "getrandom": {0: lambda mem, args, result: show.buffer(mem, args[0], result)},
    "readv": {1: _iov_filled},
    "preadv": {1: _iov_filled},
    "preadv2": {1: _iov_filled},
    "pipe": {0: _at(show.fd_pair, 0)},
    "pipe2": {0: _at(show.fd_pair, 0)},
    "stat": {1: _at(show.stat, 1)},
    "lstat": {1: _at(show.stat, 1)},
    "fstat": {1: _at(show.stat, 1)},
    "newfstatat": {2: _at(show.stat, 2)},
    "getdents64": {1: _dirents},
    "uname": {0: _at(show.utsname, 0)},
    "wait4": {1: _at(show.wait_status, 1)},
    "clock_gettime": {1: _at(show.timespec, 1)},
    "clock_getres": {1: _at(show.timespec, 1)},
    "gettimeofday": {0: _at(show.timeval, 0)},
    "epoll_wait": {1: lambda mem, args, result: show.epoll_events(mem, args[1], result)},
    "epoll_pwait": {1: lambda mem, args, result: show.epoll_events(mem, args[1], result)},
    "epoll_pwait2": {1: lambda mem, args, result: show.epoll_events(mem, args[1], result)},
    "rt_sigaction": {2: _at(show.sigaction, 2)},
    "rt_sigprocmask": {2: _at(show.sigset, 2)},
    "rt_sigpending": {0: _at(show.sigset, 0)},
    "sigaltstack": {1: _at(show.stack, 1)},
    "getitimer": {1: _at(show.itimerval, 1)},
    "setitimer": {2: _at(show.itimerval, 2)},
    "timer_settime": {3: _at(show.itimerspec, 3)},
    "timer_gettime": {1: _at(show.itimerspec, 1)},
    "timerfd_settime": {3: _at(show.itimerspec, 3)},
    "timerfd_gettime": {1: _at(show.itimerspec, 1)},
    "getrlimit": {1: _at(show.rlimit, 1)},
    "prlimit64": {3: _at(show.rlimit, 3)},
}

# What follows the result.
AFTER_RESULT: Final[dict[str, Text]] = {
    "poll": lambda mem, args, result: show.ready_pollfds(mem, args[0], args[1]),
    "ppoll": lambda mem, args, result: show.ready_pollfds(mem, args[0], args[1]),
    "select": lambda mem, args, result: "" if result else " (Timeout)",
    "pselect6": lambda mem, args, result: "" if result else " (Timeout)",
}


class _Call:
    """A call that has begun.

    texts: its arguments, None for those shown when it returns; shown: how many are written already, -1 if none of
    the line is.
    """

    __slots__ = ("args", "mem", "row", "shown", "texts")

    def __init__(self, mem: AddressSpace, row: Syscall, raw: tuple[int, ...]) -> None:
        self.mem = mem
        self.row = row
        self.args = decoder(row.name)(raw) if row.kinds else raw
        self.shown = -1
        self.texts = self._entry_texts()

    def _entry_texts(self) -> list[str | None]:
        row, args = self.row, self.args
        if not row.kinds and row.support == "none":
            return [hex(value) for value in args]
        on_entry = ON_ENTRY.get(row.name, {})
        on_return = ON_RETURN.get(row.name, {})
        texts: list[str | None] = []
        for index, (_, kind) in enumerate(row.kinds):
            if index in on_entry:
                texts.append(on_entry[index](self.mem, args, 0))
            elif index in on_return:
                texts.append(None)
            else:
                texts.append(_shown(kind, self.mem, args[index]))
        return texts[: len(texts) - _hidden(row.name, args)]

    def begin(self) -> str:
        """The line up to the first argument that is not known yet."""
        self.shown = next((i for i, text in enumerate(self.texts) if text is None), len(self.texts))
        known = ", ".join(str(text) for text in self.texts[: self.shown])
        more = ", " if 0 < self.shown < len(self.texts) else ""
        return f"{self.row.name}({known}{more} <unfinished ...>"

    def rest(self, result: Result) -> str:
        """What begin() left out, and the closing parenthesis."""
        on_return = ON_RETURN.get(self.row.name, {})
        parts = []
        for index in range(max(self.shown, 0), len(self.texts)):
            text = self.texts[index]
            if text is None and isinstance(result, int):
                text = on_return[index](self.mem, self.args, result)
            parts.append(show.pointer(self.args[index]) if text is None else text)
        start = f"{self.row.name}(" if self.shown < 0 else f"<... {self.row.name} resumed>"
        return start + ", ".join(parts) + ")"

    def result_text(self, result: Result) -> str:
        name = self.row.name
        if name in NEVER_RETURN:
            return "?"
        if isinstance(result, int):
            after = AFTER_RESULT.get(name)
            value = hex(result) if name in ADDRESS_RESULTS else str(result)
            return value + (after(self.mem, self.args, result) if after is not None else "")
        if isinstance(result, LinuxError):
            return error_text(result)
        if isinstance(result, Interrupted):
            return "? " + INTERRUPTED_AS.get(result.kind, str(result.kind))
        return "0" if result is None else f"? {result!r}"


def _shown(kind: Arg, mem: AddressSpace, value: int) -> str:
    try:
        return kind.show(mem, value)
    except (LinuxError, PlatformError):
        return hex(value)


def _hidden(name: str, args: tuple[int, ...]) -> int:
    """How many arguments at the end mean nothing: the mode of open(2) without O_CREAT."""
    if name in ("open", "openat") and not args[-2] & (O_CREAT | O_TMPFILE_BIT):
        return 1
    return 0


def error_text(e: LinuxError) -> str:
    """-1 ENOENT (No such file or directory), and what only the kernel knows as a comment."""
    meaning = (type(e).__doc__ or "").split("\n")[0].rstrip(".")
    return f"-1 {e.name} ({meaning})" + (f" /* {e.why} */" if e.why else "")


class Strace:
    """Writes lines for calls, signals and ends of all tasks; write(line) gets no newline.

    only: the names of the calls to be written; empty: all.
    """

    def __init__(self, write: Callable[[str], None], only: Collection[str] = ()) -> None:
        self._write = write
        self._only = frozenset(only)
        self._calls: dict[Task, _Call] = {}  # in the order of their begin
        self._timer: Timer | None = None

    # -- what the run loop calls --

    def enter(self, t: Task, row: Syscall, args: tuple[int, ...]) -> None:
        if self._only and row.name not in self._only:
            return
        call = _Call(t.mem, row, args)
        self._calls[t] = call
        if self._timer is None:
            loop = t.kernel.loop
            self._timer = loop.call_at(loop.now_ns() + PATIENCE_NS, self._out_of_patience)

    def leave(self, t: Task, row: Syscall, args: tuple[int, ...], result: Result) -> None:
        call = self._calls.pop(t, None)
        if call is None:
            return
        if result == -ENOENT.code:
            result = ENOENT()  # syscalls/paths.py:NO_SUCH_FILE
        self._begin_others()
        self._line(t, call.rest(result), call.result_text(result))

    def unknown(self, t: Task, trap: SyscallTrap) -> None:
        """A number that is not in the table."""
        if self._only:
            return
        self._begin_others()
        text = f"syscall_{trap.number:#x}" + ("" if trap.native else "@i386")
        self._line(t, f"{text}({', '.join(hex(a) for a in trap.args)})", error_text(ENOSYS()))

    def signal(self, t: Task, info: SigInfo) -> None:
        """A signal is about to be acted upon."""
        self._begin_others()
        self._line(t, f"--- {show.signal_name(info.signo)} {show.siginfo(info)} ---")

    def exit(self, t: Task, status: int) -> None:
        """The task's end; status is the wait(2) word."""
        self._begin_others()
        self._calls.pop(t, None)
        killed_by = status & 0x7F
        how = f"killed by {show.signal_name(killed_by)}" if killed_by else f"exited with {status >> 8 & 0xFF}"
        self._line(t, f"+++ {how} +++")

    # -- lines --

    def _line(self, t: Task, text: str, result: str | None = None) -> None:
        line = f"[pid {t.tid:5d}] {text}"
        if result is not None:
            line = f"{line:<{RESULT_COLUMN - 1}} = {result}"
        self._write(line)

    def _begin_others(self) -> None:
        """Something else is to be written: the calls that wait show what is known of them."""
        for t, call in self._calls.items():
            if call.shown < 0:
                self._line(t, call.begin())

    def _out_of_patience(self) -> None:
        self._timer = None
        self._begin_others()
