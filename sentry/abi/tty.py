"""Terminals: include/uapi/asm-generic/termbits.h, termios.h, ioctls.h."""

from __future__ import annotations

import struct
from typing import Final

# c_cc indices
VINTR: Final = 0
VQUIT: Final = 1
VERASE: Final = 2
VKILL: Final = 3
VEOF: Final = 4
VTIME: Final = 5
VMIN: Final = 6
VSTART: Final = 8
VSTOP: Final = 9
VSUSP: Final = 10
VEOL: Final = 11
VREPRINT: Final = 12
VWERASE: Final = 14
VLNEXT: Final = 15
VEOL2: Final = 16
NCCS: Final = 19

# c_iflag
ISTRIP: Final = 0o40
INLCR: Final = 0o100
IGNCR: Final = 0o200
ICRNL: Final = 0o400
IUCLC: Final = 0o1000
IXON: Final = 0o2000
IXANY: Final = 0o4000
PARMRK: Final = 0o10
IUTF8: Final = 0o40000

# c_oflag
OPOST: Final = 0o1
OLCUC: Final = 0o2
ONLCR: Final = 0o4
OCRNL: Final = 0o10
ONOCR: Final = 0o20
ONLRET: Final = 0o40
TABDLY: Final = 0o14000
XTABS: Final = 0o14000

# c_cflag
CBAUD: Final = 0o10017
CSIZE: Final = 0o60
CS8: Final = 0o60
CREAD: Final = 0o200
PARENB: Final = 0o400
BOTHER: Final = 0o10000
CIBAUD_SHIFT: Final = 16
B38400: Final = 0o17
# Speeds in the order of the values 0..15 and 0o10001..0o10017.
BAUD_RATES: Final = (0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400)
HIGH_BAUD_RATES: Final = (
    57600, 115200, 230400, 460800, 500000, 576000, 921600, 1000000,
    1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000,
)  # fmt: skip

# c_lflag
ISIG: Final = 0o1
ICANON: Final = 0o2
ECHO: Final = 0o10
ECHOE: Final = 0o20
ECHOK: Final = 0o40
ECHONL: Final = 0o100
NOFLSH: Final = 0o200
TOSTOP: Final = 0o400
ECHOCTL: Final = 0o1000
ECHOPRT: Final = 0o2000
ECHOKE: Final = 0o4000
IEXTEN: Final = 0o100000
EXTPROC: Final = 0o200000

TCGETS: Final = 0x5401
TCSETS: Final = 0x5402
TCSETSW: Final = 0x5403
TCSETSF: Final = 0x5404
TCGETA: Final = 0x5405
TCSETA: Final = 0x5406
TCSETAW: Final = 0x5407
TCSETAF: Final = 0x5408
TCSBRK: Final = 0x5409
TCXONC: Final = 0x540A
TCFLSH: Final = 0x540B
TIOCEXCL: Final = 0x540C
TIOCNXCL: Final = 0x540D
TIOCSCTTY: Final = 0x540E
TIOCGPGRP: Final = 0x540F
TIOCSPGRP: Final = 0x5410
TIOCOUTQ: Final = 0x5411
TIOCSTI: Final = 0x5412
TIOCGWINSZ: Final = 0x5413
TIOCSWINSZ: Final = 0x5414
FIONREAD: Final = 0x541B
TIOCCONS: Final = 0x541D
TIOCPKT: Final = 0x5420
TIOCNOTTY: Final = 0x5422
TIOCSETD: Final = 0x5423
TIOCGETD: Final = 0x5424
TCSBRKP: Final = 0x5425
TIOCSBRK: Final = 0x5427
TIOCCBRK: Final = 0x5428
TIOCGSID: Final = 0x5429
TCGETS2: Final = 0x802C542A
TCSETS2: Final = 0x402C542B
TCSETSW2: Final = 0x402C542C
TCSETSF2: Final = 0x402C542D
TIOCGPTN: Final = 0x80045430
TIOCSPTLCK: Final = 0x40045431
TIOCGDEV: Final = 0x80045432
TIOCSIG: Final = 0x40045436
TIOCGPKT: Final = 0x80045438
TIOCGPTLCK: Final = 0x80045439
TIOCGEXCL: Final = 0x80045440
TIOCGPTPEER: Final = 0x5441

# TCFLSH
TCIFLUSH: Final = 0
TCOFLUSH: Final = 1
TCIOFLUSH: Final = 2
# TCXONC
TCOOFF: Final = 0
TCOON: Final = 1
TCIOFF: Final = 2
TCION: Final = 3

# What a packet-mode read begins with: ioctl_tty(2), TIOCPKT.
TIOCPKT_DATA: Final = 0
TIOCPKT_FLUSHREAD: Final = 1
TIOCPKT_FLUSHWRITE: Final = 2
TIOCPKT_STOP: Final = 4
TIOCPKT_START: Final = 8
TIOCPKT_NOSTOP: Final = 16
TIOCPKT_DOSTOP: Final = 32
TIOCPKT_IOCTL: Final = 64

TERMIOS: Final = struct.Struct("<IIIIB19s")  # struct termios, the kernel's own
TERMIOS2: Final = struct.Struct("<IIIIB19sII")
TERMIO: Final = struct.Struct("<HHHHB8sx")
WINSIZE: Final = struct.Struct("<HHHH")  # rows, columns, pixels across and down

TTYAUX_MAJOR: Final = 5
UNIX98_PTY_SLAVE_MAJOR: Final = 136

# INIT_C_CC, include/asm-generic/termios.h
INIT_CC: Final = b"\003\034\177\025\004\0\1\0\021\023\032\0\022\017\027\026\0\0\0"


class Termios:
    """struct ktermios: a terminal's settings."""

    __slots__ = ("cc", "cflag", "iflag", "ispeed", "lflag", "line", "oflag", "ospeed")

    def __init__(self) -> None:
        """tty_std_termios, as a pseudo-terminal's slave starts."""
        self.iflag = ICRNL | IXON
        self.oflag = OPOST | ONLCR
        self.cflag = B38400 | CS8 | CREAD
        self.lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
        self.line = 0
        self.cc = INIT_CC
        self.ispeed = self.ospeed = 38400

    def copy(self) -> Termios:
        other = Termios()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def pack(self) -> bytes:
        return TERMIOS.pack(self.iflag, self.oflag, self.cflag, self.lflag, self.line, self.cc)

    def pack2(self) -> bytes:
        return self.pack() + struct.pack("<II", self.ispeed, self.ospeed)

    def unpack(self, data: bytes) -> None:
        self.iflag, self.oflag, self.cflag, self.lflag, self.line, self.cc = TERMIOS.unpack(data)
        self.ospeed = baud_rate(self.cflag & CBAUD, self.ospeed)
        self.ispeed = baud_rate(self.cflag >> CIBAUD_SHIFT & CBAUD, self.ispeed) or self.ospeed

    def unpack2(self, data: bytes) -> None:
        ispeed, ospeed = struct.unpack_from("<II", data, TERMIOS.size)
        self.ispeed, self.ospeed = ispeed, ospeed
        self.unpack(data[: TERMIOS.size])

    def pack_termio(self) -> bytes:
        """struct termio: the low halves."""
        flags = (flag & 0xFFFF for flag in (self.iflag, self.oflag, self.cflag, self.lflag))
        return TERMIO.pack(*flags, self.line, self.cc[:8])

    def unpack_termio(self, data: bytes) -> None:
        iflag, oflag, cflag, lflag, self.line, cc = TERMIO.unpack(data)
        self.iflag = self.iflag & ~0xFFFF | iflag
        self.oflag = self.oflag & ~0xFFFF | oflag
        self.cflag = self.cflag & ~0xFFFF | cflag
        self.lflag = self.lflag & ~0xFFFF | lflag
        self.cc = cc + self.cc[8:]
        self.ospeed = self.ispeed = baud_rate(self.cflag & CBAUD, self.ospeed)


def baud_rate(code: int, other: int) -> int:
    """tty_termios_baud_rate(): the speed that c_cflag's bits mean; `other` for BOTHER."""
    if code == BOTHER:
        return other
    if code & BOTHER:
        return HIGH_BAUD_RATES[(code & 0o17) - 1]
    return BAUD_RATES[code & 0o17]
