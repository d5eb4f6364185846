"""Structures in application memory as strace(1) writes them.

Every function takes memory and an address and never fails: what can't be read is shown as its
address.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from sentry.abi import signal as sig
from sentry.abi.errno import LinuxError
from sentry.abi.poll import EPOLL_EVENT, POLLFD
from sentry.abi.stat import STAT
from sentry.abi.time import ITIMERSPEC, TIMESPEC
from sentry.kernel.signals import SigInfo
from sentry.platform import AddressSpace, PlatformError
from sentry.syscalls.args import SIGNALS, flags_of, quote

MAX_STRING: Final = 32  # -s: bytes of a buffer that are shown
MAX_PATH: Final = 256
MAX_ITEMS: Final = 16  # elements of an array that are shown

SIGACTION: Final = sig.SIGACTION
U64: Final = struct.Struct("<Q")
I32: Final = struct.Struct("<i")
I32X2: Final = struct.Struct("<ii")
U64X2: Final = struct.Struct("<QQ")
STACK_T: Final = sig.STACK_T

POLL_NAMES: Final = {
    0x1: "POLLIN",
    0x2: "POLLPRI",
    0x4: "POLLOUT",
    0x8: "POLLERR",
    0x10: "POLLHUP",
    0x20: "POLLNVAL",
    0x40: "POLLRDNORM",
    0x80: "POLLRDBAND",
    0x100: "POLLWRNORM",
    0x200: "POLLWRBAND",
    0x2000: "POLLRDHUP",
}
EPOLL_NAMES: Final = {bit: "E" + name for bit, name in POLL_NAMES.items() if bit != 0x20} | {
    1 << 28: "EPOLLEXCLUSIVE",
    1 << 29: "EPOLLWAKEUP",
    1 << 30: "EPOLLONESHOT",
    1 << 31: "EPOLLET",
}
SA_NAMES: Final = {
    sig.SA_RESTORER: "SA_RESTORER",
    sig.SA_ONSTACK: "SA_ONSTACK",
    sig.SA_RESTART: "SA_RESTART",
    sig.SA_NODEFER: "SA_NODEFER",
    sig.SA_RESETHAND: "SA_RESETHAND",
    sig.SA_SIGINFO: "SA_SIGINFO",
    sig.SA_NOCLDSTOP: "SA_NOCLDSTOP",
    sig.SA_NOCLDWAIT: "SA_NOCLDWAIT",
}
FILE_TYPES: Final = {
    0o140000: "S_IFSOCK",
    0o120000: "S_IFLNK",
    0o100000: "S_IFREG",
    0o060000: "S_IFBLK",
    0o040000: "S_IFDIR",
    0o020000: "S_IFCHR",
    0o010000: "S_IFIFO",
}
SI_NAMES: Final = {
    sig.SI_USER: "SI_USER",
    sig.SI_KERNEL: "SI_KERNEL",
    sig.SI_QUEUE: "SI_QUEUE",
    sig.SI_TIMER: "SI_TIMER",
    sig.SI_MESGQ: "SI_MESGQ",
    sig.SI_TKILL: "SI_TKILL",
}
CLD_NAMES: Final = (
    "",
    "CLD_EXITED",
    "CLD_KILLED",
    "CLD_DUMPED",
    "CLD_TRAPPED",
    "CLD_STOPPED",
    "CLD_CONTINUED",
)
SEGV_NAMES: Final = {1: "SEGV_MAPERR", 2: "SEGV_ACCERR"}

_poll_flags = flags_of(POLL_NAMES)
_epoll_flags = flags_of(EPOLL_NAMES)
_sa_flags = flags_of(SA_NAMES)


def signal_name(signo: int) -> str:
    return SIGNALS.get(signo, str(signo))


def pointer(addr: int) -> str:
    return hex(addr) if addr else "NULL"


def peek(mem: AddressSpace, addr: int, size: int) -> bytes | None:
    """size bytes at addr, or None."""
    if not addr:
        return None
    try:
        return mem.read(addr, size)
    except (LinuxError, PlatformError):
        return None


def one(mem: AddressSpace, addr: int, layout: struct.Struct, text: Callable[..., str]) -> str:
    """A structure at addr: text(*fields)."""
    data = peek(mem, addr, layout.size)
    return pointer(addr) if data is None else text(*layout.unpack(data))


def many(mem: AddressSpace, addr: int, count: int, layout: struct.Struct, text: Callable[..., str]) -> str:
    """An array of structures."""
    if not count:
        return "[]"
    data = peek(mem, addr, min(count, MAX_ITEMS) * layout.size)
    if data is None:
        return pointer(addr)
    items = [text(*fields) for fields in layout.iter_unpack(data)]
    return "[" + ", ".join(items) + (", ...]" if count > MAX_ITEMS else "]")


# -- strings and buffers --


def buffer(mem: AddressSpace, addr: int, length: int) -> str:
    if not length:
        return '""' if addr else "NULL"
    try:
        data = mem.read_some(addr, min(length, MAX_STRING + 1))
    except (LinuxError, PlatformError):
        return pointer(addr)
    return quote(data, MAX_STRING) + ("..." if length > len(data) and len(data) <= MAX_STRING else "")


def string(mem: AddressSpace, addr: int) -> str:
    if not addr:
        return "NULL"
    try:
        return quote(mem.read_cstr(addr, 4096), MAX_PATH)
    except (LinuxError, PlatformError):
        return pointer(addr)


def iovec(mem: AddressSpace, addr: int, count: int, limit: int | None = None) -> str:
    """struct iovec[] with the contents, of which limit bytes are valid."""
    left = limit if limit is not None else 1 << 62

    def text(base: int, length: int) -> str:
        nonlocal left
        shown = min(length, left)
        left -= shown
        return f"{{iov_base={buffer(mem, base, shown)}, iov_len={length}}}"

    return many(mem, addr, count, U64X2, text)


def string_list(mem: AddressSpace, addr: int) -> str:
    """argv."""
    pointers = _pointers(mem, addr)
    if pointers is None:
        return pointer(addr)
    shown = [string(mem, p) for p in pointers[:MAX_ITEMS]]
    return "[" + ", ".join(shown) + (", ...]" if len(pointers) > MAX_ITEMS else "]")


def count_list(mem: AddressSpace, addr: int) -> str:
    """envp: only how many."""
    pointers = _pointers(mem, addr)
    if pointers is None:
        return pointer(addr)
    return f"{pointer(addr)} /* {len(pointers)} var{'' if len(pointers) == 1 else 's'} */"


def _pointers(mem: AddressSpace, addr: int) -> list[int] | None:
    found: list[int] = []
    while len(found) < 4096:
        data = peek(mem, addr + 8 * len(found), 8)
        if data is None:
            return None
        value: int = U64.unpack(data)[0]
        if not value:
            break
        found.append(value)
    return found


# -- times --


def timespec(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, TIMESPEC, lambda s, ns: f"{{tv_sec={s}, tv_nsec={ns}}}")


def timeval(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, TIMESPEC, lambda s, us: f"{{tv_sec={s}, tv_usec={us}}}")


def itimerspec(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, ITIMERSPEC, lambda *f: _interval("nsec", *f))


def itimerval(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, ITIMERSPEC, lambda *f: _interval("usec", *f))


def _interval(unit: str, interval_s: int, interval: int, value_s: int, value: int) -> str:
    parts = (f"{{tv_sec={s}, tv_{unit}={rest}}}" for s, rest in ((interval_s, interval), (value_s, value)))
    return "{{it_interval={}, it_value={}}}".format(*parts)


# -- signals --


def mask_text(mask: int) -> str:
    """A sigset: [INT TERM], or ~[...] if most are in it."""
    if mask.bit_count() > 48:
        return "~" + mask_text(~mask & (1 << 64) - 1)
    names = [signal_name(n).removeprefix("SIG") for n in range(1, 65) if mask & sig.bit(n)]
    return "[" + " ".join(names) + "]"


def sigset(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, U64, mask_text)


def sigaction(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, SIGACTION, lambda *f: _action(mem, *f))


def _action(mem: AddressSpace, handler: int, flags: int, restorer: int, mask: int) -> str:
    name = {sig.SIG_DFL: "SIG_DFL", sig.SIG_IGN: "SIG_IGN"}.get(handler) or hex(handler)
    rest = f", sa_restorer={hex(restorer)}" if flags & sig.SA_RESTORER else ""
    return f"{{sa_handler={name}, sa_mask={mask_text(mask)}, sa_flags={_sa_flags(mem, flags)}{rest}}}"


def stack(mem: AddressSpace, addr: int) -> str:
    def text(sp: int, flags: int, size: int) -> str:
        names = {0: "0", sig.SS_ONSTACK: "SS_ONSTACK", sig.SS_DISABLE: "SS_DISABLE"}
        return f"{{ss_sp={pointer(sp)}, ss_flags={names.get(flags, hex(flags))}, ss_size={size}}}"

    return one(mem, addr, STACK_T, text)


def siginfo(info: SigInfo) -> str:
    """{si_signo=SIGCHLD, si_code=CLD_EXITED, ...}."""
    signo, code = info.signo, info.code
    parts = [f"si_signo={signal_name(signo)}"]
    if signo == sig.SIGCHLD and 1 <= code <= 6:
        parts.append(f"si_code={CLD_NAMES[code]}")
        status = str(info.status) if code == sig.CLD_EXITED else signal_name(info.status)
        parts += [f"si_pid={info.pid}", f"si_uid={info.uid}", f"si_status={status}"]
        parts += [f"si_utime={info.utime}", f"si_stime={info.stime}"]
    elif sig.bit(signo) & sig.SYNCHRONOUS and 0 < code < sig.SI_KERNEL:
        name = SEGV_NAMES.get(code, str(code)) if signo == sig.SIGSEGV else str(code)
        parts += [f"si_code={name}", f"si_addr={pointer(info.addr)}"]
    else:
        parts.append(f"si_code={SI_NAMES.get(code, code)}")
        if code == sig.SI_TIMER:
            parts += [f"si_timerid={info.timer_id:#x}", f"si_overrun={info.overrun}", f"si_int={info.value}"]
        elif code <= 0:
            parts += [f"si_pid={info.pid}", f"si_uid={info.uid}"]
    return "{" + ", ".join(parts) + "}"


# -- files --


def fd_pair(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, I32X2, lambda a, b: f"[{a}, {b}]")


def offset(mem: AddressSpace, addr: int) -> str:
    """A loff_t that is updated."""
    return one(mem, addr, U64, lambda value: f"[{value}]")


def mode_text(mode: int) -> str:
    kind = FILE_TYPES.get(mode & 0o170000)
    return f"{kind}|0{mode & 0o7777:o}" if kind else f"0{mode:o}"


def stat(mem: AddressSpace, addr: int) -> str:
    def text(*f: int) -> str:
        mode, rdev, size = f[3], f[7], f[8]
        if mode & 0o170000 in (0o020000, 0o060000):
            what = f"st_rdev=makedev({rdev >> 8 & 0xFFF:#x}, {rdev & 0xFF:#x})"
        else:
            what = f"st_size={size}"
        return f"{{st_mode={mode_text(mode)}, {what}, ...}}"

    return one(mem, addr, STAT, text)


def rlimit(mem: AddressSpace, addr: int) -> str:
    def number(value: int) -> str:
        if value == (1 << 64) - 1:
            return "RLIM64_INFINITY"
        return f"{value >> 10}*1024" if value >= 1024 and not value & 1023 else str(value)

    return one(mem, addr, U64X2, lambda soft, hard: f"{{rlim_cur={number(soft)}, rlim_max={number(hard)}}}")


def utsname(mem: AddressSpace, addr: int) -> str:
    data = peek(mem, addr, 130)
    if data is None:
        return pointer(addr)
    names = [quote(data[at : at + 65].split(b"\0")[0], 65) for at in (0, 65)]
    return f"{{sysname={names[0]}, nodename={names[1]}, ...}}"


# -- readiness --


def pollfds(mem: AddressSpace, addr: int, count: int) -> str:
    """What was asked."""
    return many(
        mem, addr, count, POLLFD, lambda fd, events, _: f"{{fd={fd}, events={_poll_flags(mem, events & 0xFFFF)}}}"
    )


def ready_pollfds(mem: AddressSpace, addr: int, count: int) -> str:
    """What was found, as it follows the result."""
    data = peek(mem, addr, count * POLLFD.size)
    if data is None:
        return ""
    ready = [
        f"{{fd={fd}, revents={_poll_flags(mem, found & 0xFFFF)}}}" for fd, _, found in POLLFD.iter_unpack(data) if found
    ]
    return f" ([{', '.join(ready[:MAX_ITEMS])}])" if ready else " (Timeout)"


def epoll_events(mem: AddressSpace, addr: int, count: int) -> str:
    return many(mem, addr, count, EPOLL_EVENT, lambda *f: _epoll_event(mem, *f))


def epoll_event(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, EPOLL_EVENT, lambda *f: _epoll_event(mem, *f))


def _epoll_event(mem: AddressSpace, events: int, data: int) -> str:
    return f"{{events={_epoll_flags(mem, events)}, data={data:#x}}}"


def fd_set(mem: AddressSpace, addr: int, count: int) -> str:
    data = peek(mem, addr, (max(count, 0) + 63) // 64 * 8) if count > 0 else None
    if data is None:
        return pointer(addr)
    bits = int.from_bytes(data, "little")
    return "[" + " ".join(str(fd) for fd in range(count) if bits >> fd & 1) + "]"


# -- processes --


def wait_status(mem: AddressSpace, addr: int) -> str:
    return one(mem, addr, I32, status_text)


def status_text(status: int) -> str:
    """A wait(2) status word."""
    if status == 0xFFFF:
        return "[{WIFCONTINUED(s)}]"
    if status & 0xFF == 0x7F:
        return f"[{{WIFSTOPPED(s) && WSTOPSIG(s) == {signal_name(status >> 8 & 0xFF)}}}]"
    if status & 0x7F:
        core = " && WCOREDUMP(s)" if status & 0x80 else ""
        return f"[{{WIFSIGNALED(s) && WTERMSIG(s) == {signal_name(status & 0x7F)}{core}}}]"
    return f"[{{WIFEXITED(s) && WEXITSTATUS(s) == {status >> 8 & 0xFF}}}]"
