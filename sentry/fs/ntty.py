"""The line discipline N_TTY: what lies between a terminal's two sides (drivers/tty/n_tty.c).

Bytes typed at the terminal enter by receive(); they are edited, echoed, turned into signals
and queued, and a program takes them with read().  Bytes that a program writes go through
`output` (ttyoutput.py), echo too.  What leaves towards the terminal, and signals, go to a Line, which the
terminal is: this file knows no files, no processes and no waiting.

Positions in the input queue count from the terminal's first byte ever, so that they stay
valid while bytes are consumed:

    tail <= canon_head <= head.  Canonical reads stop at canon_head; behind it is the line
    being edited.  `marks` are the positions of characters that end a line.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from sentry.abi.signal import SIGINT, SIGQUIT, SIGTSTP
from sentry.abi.tty import (
    ECHO,
    ECHOCTL,
    ECHOE,
    ECHOK,
    ECHOKE,
    ECHONL,
    ECHOPRT,
    EXTPROC,
    ICANON,
    ICRNL,
    IEXTEN,
    IGNCR,
    INLCR,
    ISIG,
    ISTRIP,
    IUCLC,
    IXANY,
    IXON,
    NOFLSH,
    PARMRK,
    VEOF,
    VEOL,
    VEOL2,
    VERASE,
    VINTR,
    VKILL,
    VLNEXT,
    VMIN,
    VQUIT,
    VREPRINT,
    VSTART,
    VSTOP,
    VSUSP,
    VTIME,
    VWERASE,
    Termios,
)
from sentry.fs.ttyoutput import (
    AFTER_TAB,
    ALNUM,
    BS,
    CARET,
    CR,
    ERASE_TAB,
    LOWER,
    MOVE_BACK,
    NL,
    SET_CANON_COLUMN,
    TAB,
    Output,
    is_control,
)

BUFFER_SIZE: Final = 4096  # N_TTY_BUF_SIZE: the longest line, with its end
DISABLED: Final = 0  # _POSIX_VDISABLE; also stands for VEOF in the queue


class Line(Protocol):
    """What the discipline needs of its terminal."""

    stopped: bool  # nothing may be shown now; flush_echo() is called when that ends

    def emit(self, data: bytes) -> None:
        """Show data; nothing is done to it any more."""

    def signal_foreground(self, signo: int) -> None: ...

    def drop_output(self) -> None:
        """Forget what was written and not yet shown."""

    def stop_output(self) -> None: ...
    def start_output(self) -> None: ...


class LineDiscipline:
    """One terminal's input queue and editing state.

    termios       replaced as a whole by set_termios()
    queue         positions tail..head; see above
    literal_next  VLNEXT was typed
    erasing       inside \\.../ of ECHOPRT
    output        what programs write and what is echoed goes through it
    """

    __slots__ = (
        "_echoes",
        "_specials",
        "canon_head",
        "erasing",
        "line",
        "literal_next",
        "marks",
        "output",
        "queue",
        "raw",
        "tail",
        "termios",
    )

    def __init__(self, line: Line) -> None:
        self.line = line
        self.queue = bytearray()
        self.tail = 0
        self.canon_head = 0
        self.marks: deque[int] = deque()
        self.literal_next = False
        self.erasing = False
        self._echoes: list[int] = []
        self._specials: frozenset[int] = frozenset()
        self.raw = False
        self.termios = Termios()
        self.output = Output(self.termios)
        self._note_specials()

    @property
    def head(self) -> int:
        return self.tail + len(self.queue)

    @property
    def canonical(self) -> bool:
        return bool(self.termios.lflag & ICANON)

    @property
    def by_lines(self) -> bool:
        """Reads take lines.  With EXTPROC the other side does the editing, and bytes come as they are."""
        return self.termios.lflag & (ICANON | EXTPROC) == ICANON

    # -- settings --

    def set_termios(self, new: Termios) -> None:
        """n_tty_set_termios()."""
        old, self.termios = self.termios, new
        self.output.termios = new
        if (old.lflag ^ new.lflag) & (ICANON | EXTPROC):
            self._change_mode()
        self._note_specials()
        if old.iflag & IXON and not new.iflag & IXON:
            self._go_on()

    def _change_mode(self) -> None:
        self.marks.clear()
        self.erasing = self.literal_next = False
        if not self.canonical or not self.queue:
            self.canon_head = self.tail
        else:
            # What was typed in raw mode is a line for the first canonical read.
            self.marks.append(self.head - 1)
            self.canon_head = self.head

    def _note_specials(self) -> None:
        """Which characters need more than queueing (char_map), and whether any can."""
        termios = self.termios
        iflag, lflag, cc = termios.iflag, termios.lflag, termios.cc
        specials: set[int] = set()
        if iflag & (IGNCR | ICRNL):
            specials.add(CR)
        if iflag & INLCR:
            specials.add(NL)
        if lflag & ICANON:
            specials |= {cc[VERASE], cc[VKILL], cc[VEOF], NL, cc[VEOL]}
            if lflag & IEXTEN:
                specials |= {cc[VWERASE], cc[VLNEXT], cc[VEOL2]}
                if lflag & ECHO:
                    specials.add(cc[VREPRINT])
        if iflag & IXON:
            specials |= {cc[VSTART], cc[VSTOP]}
        if lflag & ISIG:
            specials |= {cc[VINTR], cc[VQUIT], cc[VSUSP]}
        specials.discard(DISABLED)
        self._specials = frozenset(specials)
        self.raw = not (
            iflag & (ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | IXON | PARMRK) or lflag & (ICANON | ISIG | ECHO)
        )

    # -- input --

    def receive(self, data: bytes | bytearray) -> int:
        """Take what is typed; returns how many bytes there was room for.

        A canonical line that fills the queue without an end takes further bytes in its last
        place, so that its end, or an erase, can still be typed.
        """
        done = 0
        while done < len(data):
            room = BUFFER_SIZE - len(self.queue)
            if self.termios.iflag & PARMRK:
                room = -(-room // 3)  # each byte may become three
            room -= 1
            if room <= 0:
                if not self.canonical or self.canon_head != self.tail:
                    break
                if room < 0:
                    self.queue.pop()
                room = 1
            chunk = data[done : done + room]
            self._receive_chunk(chunk)
            done += len(chunk)
        self.flush_echo()
        return done

    def _receive_chunk(self, chunk: bytes | bytearray) -> None:
        termios = self.termios
        if self.raw or termios.lflag & EXTPROC:
            self.queue += chunk
            return
        strip = termios.iflag & ISTRIP
        lower = termios.iflag & IUCLC and termios.lflag & IEXTEN
        for c in chunk:
            if strip:
                c &= 0x7F
            if lower:
                c = LOWER[c]
            if c in self._specials and not self.literal_next:
                self._special(c)
            else:
                self.literal_next = False
                if self.line.stopped and termios.iflag & (IXON | IXANY) == IXON | IXANY:
                    self._go_on()
                self._ordinary(c)

    def _ordinary(self, c: int) -> None:
        """A character that only stands for itself."""
        if self.termios.lflag & ECHO:
            self._finish_erasing()
            self._echo_first(c)
        self._put_marked(c)

    def _put_marked(self, c: int) -> None:
        """Queue c; with PARMRK a real 0377 is doubled."""
        if c == 0xFF and self.termios.iflag & PARMRK:
            self.queue.append(c)
        self.queue.append(c)

    def _special(self, c: int) -> None:
        """n_tty_receive_char_special()."""
        termios = self.termios
        iflag, lflag, cc = termios.iflag, termios.lflag, termios.cc
        if iflag & IXON:
            if c == cc[VSTART]:
                self._go_on()
                return
            if c == cc[VSTOP]:
                self.line.stop_output()
                return
        if lflag & ISIG:
            for index, signo in ((VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)):
                if c == cc[index]:
                    self._signal(signo, c)
                    return
        if self.line.stopped and iflag & (IXON | IXANY) == IXON | IXANY:
            self._go_on()
        if c == CR:
            if iflag & IGNCR:
                return
            if iflag & ICRNL:
                c = NL
        elif c == NL and iflag & INLCR:
            c = CR
        if lflag & ICANON and self._edit(c):
            return
        if c == NL and lflag & ECHO:
            self._finish_erasing()
            self._echoes.append(NL)
            self._put_marked(NL)
        else:
            self._ordinary(c)

    def _signal(self, signo: int, c: int) -> None:
        self.line.signal_foreground(signo)
        if not self.termios.lflag & NOFLSH:
            self._echoes.clear()
            self.line.drop_output()
            self.flush_input()
        if self.termios.iflag & IXON:
            self.line.start_output()
        if self.termios.lflag & ECHO:
            self._echo(c)
        else:
            self.flush_echo()

    def _go_on(self) -> None:
        """Output is stopped no more, unless by TCOOFF."""
        self.line.start_output()
        self.flush_echo()

    # -- editing a line --

    def _edit(self, c: int) -> bool:
        """n_tty_receive_char_canon(): False if c is to be queued like any other."""
        lflag, cc = self.termios.lflag, self.termios.cc
        extended = bool(lflag & IEXTEN)
        if c == cc[VERASE] or c == cc[VKILL] or (c == cc[VWERASE] and extended):
            self._erase(c)
        elif c == cc[VLNEXT] and extended:
            self._next_is_literal()
        elif c == cc[VREPRINT] and lflag & ECHO and extended:
            self._reprint(c)
        elif c == NL:
            if lflag & (ECHO | ECHONL):
                self._echoes.append(NL)
            self._end_line(NL)
        elif c == cc[VEOF]:
            self._end_line(DISABLED)
        elif c == cc[VEOL] or (c == cc[VEOL2] and extended):
            if lflag & ECHO:
                self._echo_first(c)
            if c == 0xFF and self.termios.iflag & PARMRK:
                self.queue.append(c)
            self._end_line(c)
        else:
            return False
        return True

    def _end_line(self, c: int) -> None:
        self.marks.append(self.head)
        self.queue.append(c)
        self.canon_head = self.head

    def _next_is_literal(self) -> None:
        self.literal_next = True
        if self.termios.lflag & ECHO:
            self._finish_erasing()
            if self.termios.lflag & ECHOCTL:
                self._echoes.append(ord("^"))
                self._echoes.append(BS)

    def _reprint(self, c: int) -> None:
        self._finish_erasing()
        self._echo(c)
        self._echoes.append(NL)
        for typed in self._edited():
            self._echo(typed)

    def _edited(self) -> bytearray:
        """The line being edited."""
        return self.queue[self.canon_head - self.tail :]

    def _erase(self, c: int) -> None:
        """eraser(): VERASE, VWERASE and VKILL."""
        start = self.canon_head - self.tail
        if len(self.queue) == start:
            return
        lflag, cc = self.termios.lflag, self.termios.cc
        kind = VERASE if c == cc[VERASE] else VWERASE if c == cc[VWERASE] else VKILL
        if kind == VKILL and not (lflag & ECHO and lflag & ECHOK and lflag & ECHOKE and lflag & ECHOE):
            del self.queue[start:]
            if lflag & ECHO:
                self._finish_erasing()
                self._echo(cc[VKILL])
                if lflag & ECHOK:
                    self._echoes.append(NL)
            return
        seen_word = False
        while len(self.queue) > start:
            at = self._character_start(start)
            if at is None:
                break
            first = self.queue[at]
            if kind == VWERASE:
                if first in ALNUM or first == ord("_"):
                    seen_word = True
                elif seen_word:
                    break
            removed = bytes(self.queue[at:])
            del self.queue[at:]
            if lflag & ECHO:
                self._echo_erasure(kind, removed)
            if kind == VERASE:
                break
        if len(self.queue) == start and lflag & ECHO:
            self._finish_erasing()

    def _character_start(self, start: int) -> int | None:
        """Where the last character, perhaps of several bytes, begins; None: not inside the line."""
        at = len(self.queue) - 1
        while at > start and self.output.is_continuation(self.queue[at]):
            at -= 1
        return None if self.output.is_continuation(self.queue[at]) else at

    # -- echo --

    def _echo_erasure(self, kind: int, removed: bytes) -> None:
        """Show that a character was erased."""
        lflag = self.termios.lflag
        c = removed[0]
        if lflag & ECHOPRT:
            if not self.erasing:
                self._echoes.append(ord("\\"))
                self.erasing = True
            self._echo(c)
            for more in removed[1:]:
                self._echoes += (more, MOVE_BACK)
        elif kind == VERASE and not lflag & ECHOE:
            self._echo(self.termios.cc[VERASE])
        elif c == TAB:
            self._echo_erased_tab()
        else:
            times = (is_control(c) and bool(lflag & ECHOCTL)) + (not is_control(c) or bool(lflag & ECHOCTL))
            self._echoes += (BS, 32, BS) * times

    def _echo_erased_tab(self) -> None:
        """Go back over a tab: as far as what stands before it in the line leaves."""
        columns = 0
        after_tab = False
        for c in reversed(self._edited()):
            if c == TAB:
                after_tab = True
                break
            if is_control(c):
                columns += 2 if self.termios.lflag & ECHOCTL else 0
            elif not self.output.is_continuation(c):
                columns += 1
        self._echoes.append(ERASE_TAB | columns & 7 | (AFTER_TAB if after_tab else 0))

    def _finish_erasing(self) -> None:
        if self.erasing:
            self._echoes.append(ord("/"))
            self.erasing = False

    def _echo(self, c: int) -> None:
        """Echo c, control characters as ^X if ECHOCTL."""
        shown_by_caret = self.termios.lflag & ECHOCTL and is_control(c) and c != TAB
        self._echoes.append(CARET | c if shown_by_caret else c)

    def _echo_first(self, c: int) -> None:
        """Echo c, which may be the first of its line: then that is where the line begins on the screen."""
        if self.canon_head == self.head:
            self._echoes.append(SET_CANON_COLUMN)
        self._echo(c)

    def flush_echo(self) -> None:
        """Show what was echoed; while output is stopped it is kept, up to a limit."""
        if not self._echoes:
            return
        if not self.line.stopped:
            echoes, self._echoes = self._echoes, []
            self.line.emit(b"".join(map(self.output.show_echo, echoes)))
        elif len(self._echoes) > BUFFER_SIZE:
            self._echoes.clear()

    # -- reading --

    def available(self) -> int:
        """How many bytes a read may take now: FIONREAD (a VEOF in the queue does not count)."""
        if not self.by_lines:
            return len(self.queue)
        count = self.canon_head - self.tail
        ends = sum(1 for mark in self.marks if self.queue[mark - self.tail] == DISABLED)
        return count - ends

    def input_ready(self, polling: bool = False) -> bool:
        """input_available_p(): is there something to read?  poll(2) waits for VMIN bytes, if VTIME is 0."""
        if self.by_lines:
            return self.canon_head != self.tail
        cc = self.termios.cc
        wanted = cc[VMIN] if polling and not cc[VTIME] and cc[VMIN] else 1
        return len(self.queue) >= wanted

    def read(self, limit: int) -> bytes:
        """Take at most limit bytes: in canonical mode no more than one line, b"" for an end of file."""
        if self.by_lines:
            return self._read_line(limit)
        return self._take(min(limit, len(self.queue)))

    def _read_line(self, limit: int) -> bytes:
        """canon_copy_from_read_buf().

        A VEOF ends a line and is not part of it.  It also goes when the reader's buffer ended right before
        it: else the next read would see an empty line, that is, an end of file nobody typed.
        """
        if not limit or not self.marks:
            return b""
        length = self.marks[0] - self.tail + 1
        size = length - (self.queue[length - 1] == DISABLED)
        if size > limit:
            return self._take(limit)
        data = self._take(length)
        self.marks.popleft()
        return data[:size]

    def _take(self, count: int) -> bytes:
        data = bytes(self.queue[:count])
        del self.queue[:count]
        self.tail += count
        self.canon_head = max(self.canon_head, self.tail)
        return data

    def flush_input(self) -> None:
        """reset_buffer_flags(): forget everything typed."""
        self.tail = self.canon_head = self.head
        self.queue.clear()
        self.marks.clear()
        self.erasing = False
