"""What a terminal shows: OPOST, and where the cursor is (drivers/tty/n_tty.c, the output half).

Programs' output and echo both pass here, one after the other, so that the column is right for
both: echo needs it to erase tabs.
"""

from __future__ import annotations

from typing import Final

from sentry.abi.tty import IUTF8, OCRNL, OLCUC, ONLCR, ONLRET, ONOCR, OPOST, TABDLY, XTABS, Termios

NL, CR, TAB, BS = 10, 13, 9, 8
# Character classes are Latin-1's, as in the kernel (lib/ctype.c).
CONTROLS: Final = bytes([*range(32), 127])
# Echo is kept as operations until it is shown: a byte as it is (0..255), or one of these.
CARET: Final = 0x100  # + a control character: ^X
ERASE_TAB: Final = 0x200  # + columns used before the tab in its field, + AFTER_TAB
AFTER_TAB: Final = 0x80
SET_CANON_COLUMN: Final = 0x300
MOVE_BACK: Final = 0x301

_UPPER_CASE: Final = {*range(65, 91), *range(0xC0, 0xDF)} - {0xD7}
_LOWER_CASE: Final = {*range(97, 123), *range(0xDF, 0x100)} - {0xF7}
ALNUM: Final = frozenset(b"0123456789") | _UPPER_CASE | _LOWER_CASE
LOWER: Final = bytes(c + 32 if c in _UPPER_CASE else c for c in range(256))
UPPER: Final = bytes(c - 32 if c in _LOWER_CASE else c for c in range(256))


def is_control(c: int) -> bool:
    return c < 32 or c == 127


class Output:
    """The output half of a terminal.

    termios       the line discipline's
    column        where the cursor is; canon_column: where it was when the line being edited began
    """

    __slots__ = ("canon_column", "column", "termios")

    def __init__(self, termios: Termios) -> None:
        self.termios = termios
        self.column = self.canon_column = 0

    def is_continuation(self, c: int) -> bool:
        """c is a later byte of a character in UTF-8."""
        return bool(self.termios.iflag & IUTF8) and c & 0xC0 == 0x80

    @property
    def widest(self) -> int:
        """How many bytes one may become: a line's end two, a tab as spaces eight."""
        return 8 if self.termios.oflag & TABDLY == XTABS else 2

    def process(self, data: bytes) -> bytes:
        """What the terminal shows when a program writes data."""
        termios = self.termios
        oflag = termios.oflag
        if not oflag & OPOST:
            return data
        if oflag & (OLCUC | ONLCR | OCRNL | ONOCR | ONLRET) != ONLCR or oflag & TABDLY == XTABS:
            return b"".join(self._character(c) for c in data)
        self._follow_column(data)
        return data.replace(b"\n", b"\r\n")

    def _follow_column(self, data: bytes) -> None:
        """Keep `column` right for output that needs nothing but ONLCR."""
        tail = data[max(data.rfind(b"\n"), data.rfind(b"\r")) + 1 :]
        if len(tail) < len(data):
            self.column = self.canon_column = 0
        if b"\t" in tail or b"\b" in tail or self.termios.iflag & IUTF8:
            for c in tail:
                self._move(c)
        else:
            self.column += len(tail.translate(None, CONTROLS))

    def _move(self, c: int) -> None:
        if c == TAB:
            self.column += 8 - (self.column & 7)
        elif c == BS:
            self.column = max(self.column - 1, 0)
        elif not is_control(c) and not self.is_continuation(c):
            self.column += 1

    def _character(self, c: int) -> bytes:
        """do_character(): OPOST for one character."""
        oflag = self.termios.oflag
        if c == NL:
            if oflag & ONLRET:
                self.column = 0
            if oflag & ONLCR:
                self.canon_column = self.column = 0
                return b"\r\n"
            self.canon_column = self.column
        elif c == CR:
            if oflag & ONOCR and self.column == 0:
                return b""
            if oflag & OCRNL:
                if oflag & ONLRET:
                    self.canon_column = self.column = 0
                return b"\n"
            self.canon_column = self.column = 0
        elif c == TAB and oflag & TABDLY == XTABS:
            spaces = 8 - (self.column & 7)
            self.column += spaces
            return b" " * spaces
        else:
            if oflag & OLCUC:
                c = UPPER[c]
            self._move(c)
        return bytes((c,))

    def show_echo(self, echo: int) -> bytes:
        """process_echoes(), one operation."""
        if echo == 0xFF:  # n_tty's mark for operations, which it shows without OPOST
            self.column += 1
            return b"\xff"
        if echo < CARET:
            return self._character(echo) if self.termios.oflag & OPOST else bytes((echo,))
        if echo < ERASE_TAB:
            self.column += 2
            return bytes((ord("^"), (echo ^ 0o100) & 0xFF))
        if echo == SET_CANON_COLUMN:
            self.canon_column = self.column
        elif echo == MOVE_BACK:
            self.column = max(self.column - 1, 0)
        else:
            columns = echo & 7 if echo & AFTER_TAB else self.canon_column + (echo & 7)
            back = 8 - (columns & 7)
            self.column = max(self.column - back, 0)
            return bytes((BS,)) * back
        return b""
