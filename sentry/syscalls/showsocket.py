"""Sockets' arguments as strace(1) writes them: constants, addresses, struct msghdr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sentry.abi import socket as s
from sentry.platform import AddressSpace
from sentry.syscalls.args import flags_of, quote
from sentry.syscalls.show import I32, fd_pair, iovec, one, peek, pointer

# (memory, all arguments, result) -> text of one argument
Text = Callable[[AddressSpace, tuple[int, ...], int], str]

FAMILY_NAMES: Final = {0: "AF_UNSPEC", 1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6", 16: "AF_NETLINK", 17: "AF_PACKET"}
TYPE_NAMES: Final = {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 4: "SOCK_RDM", 5: "SOCK_SEQPACKET"}
SHUT_NAMES: Final = {0: "SHUT_RD", 1: "SHUT_WR", 2: "SHUT_RDWR"}
LEVEL_NAMES: Final = {0: "SOL_IP", 1: "SOL_SOCKET", 6: "SOL_TCP", 17: "SOL_UDP", 41: "SOL_IPV6"}
MSG_NAMES: Final = {
    value: name for name, value in vars(s).items() if name.startswith("MSG_") and isinstance(value, int)
}
OPTION_NAMES: Final = {
    value: name for name, value in vars(s).items() if name.startswith("SO_") and isinstance(value, int)
}
CONTROL_NAMES: Final = {s.SCM_RIGHTS: "SCM_RIGHTS", s.SCM_CREDENTIALS: "SCM_CREDENTIALS", s.SCM_PIDFD: "SCM_PIDFD"}

_type_flags = flags_of({s.SOCK_NONBLOCK: "SOCK_NONBLOCK", s.SOCK_CLOEXEC: "SOCK_CLOEXEC"})
_msg_flags = flags_of(MSG_NAMES)


def socket_type(mem: AddressSpace, value: int) -> str:
    kind = TYPE_NAMES.get(value & s.SOCK_TYPE_MASK) or hex(value & s.SOCK_TYPE_MASK)
    flags = value & ~s.SOCK_TYPE_MASK
    return f"{kind}|{_type_flags(mem, flags)}" if flags else kind


def address_text(data: bytes) -> str:
    """A sockaddr: {sa_family=AF_UNIX, sun_path="/run/x"}, with @ before an abstract name."""
    if len(data) < 2:
        return quote(data)
    family = s.family_of(data)
    name = FAMILY_NAMES.get(family) or str(family)
    rest = data[2:]
    if family != s.AF_UNIX:
        return f"{{sa_family={name}, sa_data={quote(rest)}}}"
    if not rest:
        return f"{{sa_family={name}}}"
    abstract = rest[0] == 0
    path = "@" * abstract + quote(rest[1:] if abstract else rest.split(b"\0")[0], s.SOCKADDR_UN_SIZE)
    return f"{{sa_family={name}, sun_path={path}}}"


def address(mem: AddressSpace, addr: int, length: int) -> str:
    data = peek(mem, addr, min(length, s.SOCKADDR_STORAGE_SIZE)) if length > 0 else None
    return pointer(addr) if data is None else address_text(data)


def filled_address(mem: AddressSpace, addr: int, length_addr: int) -> str:
    """One whose length the call stored."""
    length = peek(mem, length_addr, s.INT.size) if addr else None
    return pointer(addr) if length is None else address(mem, addr, s.INT.unpack(length)[0])


def control(mem: AddressSpace, addr: int, length: int) -> str:
    data = peek(mem, addr, min(length, 4096)) if length else None
    if data is None:
        return pointer(addr)
    shown: list[str] = []
    at = 0
    while at + s.CMSGHDR.size <= len(data):
        size, level, kind = s.CMSGHDR.unpack_from(data, at)
        body = data[at + s.CMSGHDR.size : at + size]
        shown.append(_control_text(level, kind, size, body))
        at += max(s.cmsg_align(size), s.CMSGHDR.size)
    return "[" + ", ".join(shown) + "]"


def _control_text(level: int, kind: int, size: int, body: bytes) -> str:
    known = level == s.SOL_SOCKET
    text = f"{{cmsg_len={size}, cmsg_level={LEVEL_NAMES.get(level, level)}"
    text += f", cmsg_type={CONTROL_NAMES.get(kind, hex(kind)) if known else hex(kind)}"
    if known and kind == s.SCM_RIGHTS:
        text += f", cmsg_data={[fd for (fd,) in s.INT.iter_unpack(body[: len(body) // 4 * 4])]}"
    elif known and kind == s.SCM_CREDENTIALS and len(body) == s.UCRED.size:
        text += ", cmsg_data={{pid={}, uid={}, gid={}}}".format(*s.UCRED.unpack(body))
    return text + "}"


def message(mem: AddressSpace, addr: int, limit: int | None) -> str:
    """struct msghdr; limit: how many bytes of its buffers are valid, None for all."""

    def text(name: int, name_length: int, iov: int, count: int, control_addr: int, length: int, flags: int) -> str:
        return (
            f"{{msg_name={address(mem, name, name_length)}, msg_namelen={name_length}, "
            f"msg_iov={iovec(mem, iov, count, limit)}, msg_iovlen={count}, "
            f"msg_control={control(mem, control_addr, length)}, msg_controllen={length}, "
            f"msg_flags={_msg_flags(mem, flags & 0xFFFFFFFF)}}}"
        )

    return one(mem, addr, s.MSGHDR, text)


def option_name(mem: AddressSpace, args: tuple[int, ...], result: int) -> str:
    return OPTION_NAMES.get(args[2], str(args[2])) if args[1] == s.SOL_SOCKET else str(args[2])


def _option_value(mem: AddressSpace, addr: int, length: int) -> str:
    data = peek(mem, addr, min(length, 64)) if length > 0 else None
    if data is None:
        return pointer(addr)
    return f"[{s.INT.unpack(data)[0]}]" if len(data) == s.INT.size else quote(data)


def _filled_value(mem: AddressSpace, args: tuple[int, ...], result: int) -> str:
    length = peek(mem, args[4], s.INT.size)
    return pointer(args[3]) if length is None else _option_value(mem, args[3], s.INT.unpack(length)[0])


def _given(index: int) -> Text:
    """An address and its length."""
    return lambda mem, args, result: address(mem, args[index], args[index + 1])


def _filled(index: int) -> Text:
    """An address and a pointer to its length."""
    return lambda mem, args, result: filled_address(mem, args[index], args[index + 1])


def _length(index: int) -> Text:
    return lambda mem, args, result: one(mem, args[index], I32, lambda value: f"[{value}]")


ON_ENTRY: Final[dict[str, dict[int, Text]]] = {
    "bind": {1: _given(1)},
    "connect": {1: _given(1)},
    "sendto": {4: _given(4)},
    "sendmsg": {1: lambda mem, args, result: message(mem, args[1], None)},
    "setsockopt": {2: option_name, 3: lambda mem, args, result: _option_value(mem, args[3], args[4])},
    "getsockopt": {2: option_name},
}

ON_RETURN: Final[dict[str, dict[int, Text]]] = {
    "accept": {1: _filled(1), 2: _length(2)},
    "accept4": {1: _filled(1), 2: _length(2)},
    "getsockname": {1: _filled(1), 2: _length(2)},
    "getpeername": {1: _filled(1), 2: _length(2)},
    "recvfrom": {4: _filled(4), 5: _length(5)},
    "recvmsg": {1: lambda mem, args, result: message(mem, args[1], result)},
    "socketpair": {3: lambda mem, args, result: fd_pair(mem, args[3])},
    "getsockopt": {3: _filled_value, 4: _length(4)},
}
