"""Argument kinds: how a register becomes a handler's argument, and how a trace shows it.

A kind is `Annotated[int, Arg(decode, show)]`.  `decode` is an expression over `{}`, the raw
64-bit register, put into the handler's stub once, at import; `show(mem, value)` makes the
text for --strace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from proto.slotted import slotted
from sentry.abi.errno import LinuxError
from sentry.platform import AddressSpace

Show = Callable[[AddressSpace, int], str]


@slotted
class Arg:
    """decode: expression text; show: the value as strace writes it."""

    decode: str
    show: Show


def _dec(mem: AddressSpace, value: int) -> str:
    return str(value)


def _hex(mem: AddressSpace, value: int) -> str:
    return hex(value) if value else "0"


def _pointer(mem: AddressSpace, value: int) -> str:
    return hex(value) if value else "NULL"


def _octal(mem: AddressSpace, value: int) -> str:
    return f"0{value:o}" if value else "0"


def quote(data: bytes, limit: int = 32) -> str:
    """Bytes as strace prints strings."""
    text = "".join(chr(b) if 32 <= b < 127 and b not in (34, 92) else _escape(b) for b in data[:limit])
    return f'"{text}"' + ("..." if len(data) > limit else "")


_ESCAPES = {9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


def _escape(byte: int) -> str:
    return _ESCAPES.get(byte) or f"\\{byte:o}"


def _path(mem: AddressSpace, addr: int) -> str:
    if not addr:
        return "NULL"
    try:
        return quote(mem.read_cstr(addr, 4096), 256)
    except LinuxError:
        return hex(addr)


def _dirfd(mem: AddressSpace, value: int) -> str:
    return "AT_FDCWD" if value == -100 else str(value)


def flags_of(names: dict[int, str], zero: str = "0") -> Show:
    """Bits as A|B|0x40."""

    def show(mem: AddressSpace, value: int) -> str:
        parts = [name for bit, name in names.items() if bit and value & bit == bit]
        rest = value
        for bit, name in names.items():
            if name in parts:
                rest &= ~bit
        if rest:
            parts.append(hex(rest))
        return "|".join(parts) or names.get(0, zero)

    return show


def one_of(names: dict[int, str]) -> Show:
    """One constant's name."""

    def show(mem: AddressSpace, value: int) -> str:
        return names.get(value) or hex(value)

    return show


OPEN_FLAGS = {
    0o100: "O_CREAT",
    0o200: "O_EXCL",
    0o400: "O_NOCTTY",
    0o1000: "O_TRUNC",
    0o2000: "O_APPEND",
    0o4000: "O_NONBLOCK",
    0o40000: "O_DIRECT",
    0o100000: "O_LARGEFILE",
    0o200000: "O_DIRECTORY",
    0o400000: "O_NOFOLLOW",
    0o1000000: "O_NOATIME",
    0o2000000: "O_CLOEXEC",
    0o10000000: "O_PATH",
}
_OPEN_REST = flags_of(OPEN_FLAGS, "")


def _open_flags(mem: AddressSpace, value: int) -> str:
    access = ("O_RDONLY", "O_WRONLY", "O_RDWR", "0x3")[value & 3]
    rest = _OPEN_REST(mem, value & ~3)
    return f"{access}|{rest}" if rest else access


PROT = {1: "PROT_READ", 2: "PROT_WRITE", 4: "PROT_EXEC", 0: "PROT_NONE"}
MAP = {
    1: "MAP_SHARED",
    2: "MAP_PRIVATE",
    0x10: "MAP_FIXED",
    0x20: "MAP_ANONYMOUS",
    0x40: "MAP_32BIT",
    0x100: "MAP_GROWSDOWN",
    0x800: "MAP_DENYWRITE",
    0x2000: "MAP_LOCKED",
    0x4000: "MAP_NORESERVE",
    0x8000: "MAP_POPULATE",
    0x20000: "MAP_STACK",
    0x100000: "MAP_FIXED_NOREPLACE",
}
CLONE = {
    0x100: "CLONE_VM",
    0x200: "CLONE_FS",
    0x400: "CLONE_FILES",
    0x800: "CLONE_SIGHAND",
    0x4000: "CLONE_VFORK",
    0x8000: "CLONE_PARENT",
    0x10000: "CLONE_THREAD",
    0x20000: "CLONE_NEWNS",
    0x40000: "CLONE_SYSVSEM",
    0x80000: "CLONE_SETTLS",
    0x100000: "CLONE_PARENT_SETTID",
    0x200000: "CLONE_CHILD_CLEARTID",
    0x1000000: "CLONE_CHILD_SETTID",
}
AT = {
    0x100: "AT_SYMLINK_NOFOLLOW",
    0x200: "AT_REMOVEDIR",
    0x400: "AT_SYMLINK_FOLLOW",
    0x1000: "AT_EMPTY_PATH",
}
_SIGNAL_NAMES = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
)  # fmt: skip
SIGNALS = {n: "SIG" + name for n, name in enumerate(_SIGNAL_NAMES, 1)} | {n: f"SIGRT_{n - 32}" for n in range(32, 65)}

# Nearly all values are small: comparing them costs a third of the arithmetic, on registers that are large numbers.
I32_DECODE = "({0} if {0} < 0x80000000 else (({0} & 0xffffffff) ^ 0x80000000) - 0x80000000)"
I64_DECODE = "({0} if {0} < 0x8000000000000000 else {0} - 0x10000000000000000)"
U32_DECODE = "{} & 0xffffffff"

Fd = Annotated[int, Arg(I32_DECODE, _dec)]
DirFd = Annotated[int, Arg(I32_DECODE, _dirfd)]
Addr = Annotated[int, Arg("{}", _pointer)]
PathAddr = Annotated[int, Arg("{}", _path)]
Size = Annotated[int, Arg("{}", _dec)]
Offset = Annotated[int, Arg(I64_DECODE, _dec)]
I32 = Annotated[int, Arg(I32_DECODE, _dec)]
I64 = Annotated[int, Arg(I64_DECODE, _dec)]
U32 = Annotated[int, Arg(U32_DECODE, _dec)]
U64 = Annotated[int, Arg("{}", _hex)]
Flags = Annotated[int, Arg(U32_DECODE, _hex)]
Mode = Annotated[int, Arg("{} & 0xffff", _octal)]
Pid = Annotated[int, Arg(I32_DECODE, _dec)]
Signo = Annotated[int, Arg(I32_DECODE, one_of(SIGNALS | {0: "0"}))]
OpenFlags = Annotated[int, Arg(U32_DECODE, _open_flags)]
AtFlags = Annotated[int, Arg(U32_DECODE, flags_of(AT))]
Prot = Annotated[int, Arg("{}", flags_of(PROT))]
MapFlags = Annotated[int, Arg("{}", flags_of(MAP))]
CloneFlags = Annotated[int, Arg("{}", flags_of(CLONE))]
