"""Sockets: include/linux/socket.h, include/uapi/asm-generic/socket.h, include/uapi/linux/un.h, net.h."""

import struct
from typing import Final

AF_UNSPEC: Final = 0
AF_UNIX: Final = 1
AF_MAX: Final = 46

SOCK_STREAM: Final = 1
SOCK_DGRAM: Final = 2
SOCK_RAW: Final = 3
SOCK_SEQPACKET: Final = 5
SOCK_MAX: Final = 11
SOCK_TYPE_MASK: Final = 0xF
SOCK_NONBLOCK: Final = 0o4000
SOCK_CLOEXEC: Final = 0o2000000

SHUT_RD: Final = 0
SHUT_RDWR: Final = 2
# What shutdown(2) leaves behind, include/net/sock.h.
RCV_SHUTDOWN: Final = 1
SEND_SHUTDOWN: Final = 2
SHUTDOWN_MASK: Final = 3

SOMAXCONN: Final = 4096

MSG_OOB: Final = 0x1
MSG_PEEK: Final = 0x2
MSG_CTRUNC: Final = 0x8
MSG_TRUNC: Final = 0x20
MSG_DONTWAIT: Final = 0x40
MSG_EOR: Final = 0x80
MSG_WAITALL: Final = 0x100
MSG_ERRQUEUE: Final = 0x2000
MSG_NOSIGNAL: Final = 0x4000
MSG_MORE: Final = 0x8000
MSG_WAITFORONE: Final = 0x10000
MSG_CMSG_CLOEXEC: Final = 0x40000000

SOL_SOCKET: Final = 1
SCM_RIGHTS: Final = 1
SCM_CREDENTIALS: Final = 2
SCM_PIDFD: Final = 4
SCM_MAX_FD: Final = 253

SO_DEBUG: Final = 1
SO_REUSEADDR: Final = 2
SO_TYPE: Final = 3
SO_ERROR: Final = 4
SO_DONTROUTE: Final = 5
SO_BROADCAST: Final = 6
SO_SNDBUF: Final = 7
SO_RCVBUF: Final = 8
SO_KEEPALIVE: Final = 9
SO_OOBINLINE: Final = 10
SO_NO_CHECK: Final = 11
SO_PRIORITY: Final = 12
SO_LINGER: Final = 13
SO_BSDCOMPAT: Final = 14
SO_REUSEPORT: Final = 15
SO_PASSCRED: Final = 16
SO_PEERCRED: Final = 17
SO_RCVLOWAT: Final = 18
SO_SNDLOWAT: Final = 19
SO_RCVTIMEO: Final = 20
SO_SNDTIMEO: Final = 21
SO_TIMESTAMP: Final = 29
SO_ACCEPTCONN: Final = 30
SO_PEERSEC: Final = 31
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SO_TIMESTAMPNS: Final = 35
SO_MARK: Final = 36
SO_PROTOCOL: Final = 38
SO_DOMAIN: Final = 39
SO_RXQ_OVFL: Final = 40
SO_PEEK_OFF: Final = 42
SO_COOKIE: Final = 57
SO_PEERGROUPS: Final = 59
SO_RCVTIMEO_NEW: Final = 66
SO_SNDTIMEO_NEW: Final = 67
SO_PASSPIDFD: Final = 76
SO_PEERPIDFD: Final = 77

FIONREAD: Final = 0x541B
SIOCOUTQ: Final = 0x5411

SOCKADDR_STORAGE_SIZE: Final = 128
SUN_PATH: Final = 2  # offsetof(struct sockaddr_un, sun_path)
SOCKADDR_UN_SIZE: Final = 110
UNIX_FAMILY: Final = struct.pack("<H", AF_UNIX)

INT: Final = struct.Struct("<i")
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
# struct user_msghdr: name, namelen, iov, iovlen, control, controllen, flags
MSGHDR: Final = struct.Struct("<Qi4xQQQQI4x")
MSGHDR_NAMELEN: Final = 8
# What recvmsg(2) stores besides the name: controllen and flags.
MSGHDR_RESULT: Final = 40
RESULT: Final = struct.Struct("<Qi")
# struct mmsghdr: that and the length
MMSGHDR_SIZE: Final = 64
MMSGHDR_LEN: Final = 56
CMSGHDR: Final = struct.Struct("<Qii")  # length with the header, level, type
UCRED: Final = struct.Struct("<iII")
LINGER: Final = struct.Struct("<ii")
TIMEVAL: Final = struct.Struct("<qq")


def cmsg_align(length: int) -> int:
    """CMSG_ALIGN()."""
    return length + 7 & ~7


def family_of(address: bytes) -> int:
    """sa_family."""
    return int.from_bytes(address[:2], "little")
