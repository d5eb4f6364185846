"""The line discipline: by tables, and byte for byte against the host's own.

The comparison drives a host pseudo-terminal and ours with the same steps and compares every
result: what each read returns, what the terminal shows, what poll(2) says.
"""

import os
import select
import termios as host
from contextlib import contextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from sentry.abi import tty as abi
from sentry.abi.errno import EAGAIN
from sentry.abi.signal import SIGINT, SIGQUIT, SIGTSTP
from sentry.fs.devpts import DevPts, open_master, slave_path
from sentry.fs.ntty import BUFFER_SIZE, LineDiscipline
from sentry.fs.ttyfile import open_tty
from sentry.vfs.iov import BytesSink, BytesSource
from tests.unit.fs.conformance import mount


class Screen:
    """A Line that remembers."""

    def __init__(self):
        self.shown = b""
        self.signals = []
        self.stopped = False

    def emit(self, data):
        self.shown += data

    def signal_foreground(self, signo):
        self.signals.append(signo)

    def drop_output(self):
        self.shown = b""

    def stop_output(self):
        self.stopped = True

    def start_output(self):
        self.stopped = False


@pytest.fixture
def screen():
    return Screen()


@pytest.fixture
def ldisc(screen):
    return LineDiscipline(screen)


def configure(ldisc, *, iflag=None, oflag=None, lflag=None, **cc):
    new = ldisc.termios.copy()
    if iflag is not None:
        new.iflag = iflag
    if oflag is not None:
        new.oflag = oflag
    if lflag is not None:
        new.lflag = lflag
    chars = bytearray(new.cc)
    for name, value in cc.items():
        chars[getattr(abi, name.upper())] = value
    new.cc = bytes(chars)
    ldisc.set_termios(new)


def reads(ldisc, size=4096):
    """Every read that has something to return."""
    found = []
    while ldisc.input_ready():
        found.append(ldisc.read(size))
    return found


EDITING = [
    # typed, what reads return, what is shown
    (b"hi\n", [b"hi\n"], b"hi\r\n"),
    (b"hi\r", [b"hi\n"], b"hi\r\n"),
    (b"hi", [], b"hi"),
    (b"ab\x7fc\n", [b"ac\n"], b"ab\b \bc\r\n"),
    (b"\x7f\x7fa\n", [b"a\n"], b"a\r\n"),
    (b"one two\x17three\n", [b"one three\n"], b"one two\b \b\b \b\b \bthree\r\n"),
    (b"abc\x15d\n", [b"d\n"], b"abc\b \b\b \b\b \bd\r\n"),
    (b"\x01\x7f\n", [b"\n"], b"^A\b \b\b \b\r\n"),
    (b"abc\x04", [b"abc"], b"abc"),
    (b"\x04", [b""], b""),
    (b"a\x04\x04", [b"a", b""], b"a"),
    (b"a\x16\x03b\n", [b"a\x03b\n"], b"a^\b^Cb\r\n"),
    (b"ab\x12c\n", [b"abc\n"], b"ab^R\r\nabc\r\n"),
    (b"one\ntwo\nth", [b"one\n", b"two\n"], b"one\r\ntwo\r\nth"),
    (b"a\tb\x7f\x7fc\n", [b"ac\n"], b"a\tb\b \b" + b"\b" * 7 + b"c\r\n"),
]


@pytest.mark.parametrize(("typed", "lines", "shown"), EDITING)
def test_canonical_editing(ldisc, screen, typed, lines, shown):
    assert ldisc.receive(typed) == len(typed)

    assert reads(ldisc) == lines
    assert screen.shown == shown


@pytest.mark.parametrize(("key", "signo"), [(b"\x03", SIGINT), (b"\x1c", SIGQUIT), (b"\x1a", SIGTSTP)])
def test_keys_send_signals_and_flush(ldisc, screen, key, signo):
    ldisc.receive(b"one\ntyped" + key)

    assert screen.signals == [signo]
    assert reads(ldisc) == []
    assert screen.shown == b"^" + bytes([key[0] ^ 64])


def test_noflsh_keeps_what_was_typed(ldisc, screen):
    configure(ldisc, lflag=ldisc.termios.lflag | abi.NOFLSH)

    ldisc.receive(b"one\n\x03")

    assert screen.signals == [SIGINT]
    assert reads(ldisc) == [b"one\n"]


def test_a_read_shorter_than_the_line_leaves_the_rest(ldisc):
    ldisc.receive(b"abcdef\ngh\n")

    assert ldisc.read(4) == b"abcd"
    assert ldisc.read(4) == b"ef\n"
    assert ldisc.read(100) == b"gh\n"


def test_an_end_of_file_right_behind_a_full_buffer_is_not_seen_twice(ldisc):
    ldisc.receive(b"abc\x04def\n")

    assert ldisc.read(3) == b"abc"
    assert ldisc.read(100) == b"def\n"


def test_a_line_is_at_most_4095_characters_and_its_end(ldisc):
    assert ldisc.receive(b"x" * 5000) == 5000
    assert ldisc.receive(b"\n") == 1

    assert reads(ldisc, 1 << 16) == [b"x" * (BUFFER_SIZE - 1) + b"\n"]


def test_a_full_queue_of_lines_takes_no_more(ldisc):
    taken = ldisc.receive(b"12345678\n" * 1000)

    assert taken == BUFFER_SIZE - 1
    assert ldisc.read(9) == b"12345678\n"
    assert ldisc.receive(b"x" * 100) == 9


def test_raw_mode_takes_bytes_as_they_are(ldisc, screen):
    configure(ldisc, iflag=0, lflag=0)

    ldisc.receive(b"\x03\x04\r\n\x7f\x00")

    assert reads(ldisc) == [b"\x03\x04\r\n\x7f\x00"]
    assert screen.shown == b""
    assert screen.signals == []


def test_bytes_typed_raw_are_a_line_once_the_mode_is_canonical(ldisc):
    configure(ldisc, lflag=0)
    ldisc.receive(b"abc")
    configure(ldisc, lflag=abi.ICANON)

    assert ldisc.input_ready()
    assert ldisc.read(100) == b"abc"


def test_an_unfinished_line_can_be_read_once_the_mode_is_raw(ldisc):
    ldisc.receive(b"abc")
    assert not ldisc.input_ready()

    configure(ldisc, lflag=0)

    assert ldisc.read(100) == b"abc"


def test_poll_waits_for_vmin_bytes_only_without_vtime(ldisc):
    configure(ldisc, iflag=0, lflag=0, vmin=3)
    ldisc.receive(b"ab")
    assert ldisc.input_ready()
    assert not ldisc.input_ready(polling=True)

    ldisc.receive(b"c")
    assert ldisc.input_ready(polling=True)
    configure(ldisc, vmin=9, vtime=1)
    assert ldisc.input_ready(polling=True)


def test_stopped_output_keeps_echo_until_it_goes_on(ldisc, screen):
    ldisc.receive(b"a")
    ldisc.receive(b"\x13bc")
    assert screen.shown == b"a"

    ldisc.receive(b"\x11")

    assert screen.shown == b"abc"


def test_utf8_characters_are_erased_whole(ldisc, screen):
    configure(ldisc, iflag=ldisc.termios.iflag | abi.IUTF8)

    ldisc.receive("aü".encode() + b"\x7f\n")

    assert reads(ldisc) == [b"a\n"]
    assert screen.shown == "aü\b \b\r\n".encode()


def test_available_does_not_count_ends_of_file(ldisc):
    ldisc.receive(b"ab\ncd\x04e")
    assert ldisc.available() == 5


OUTPUT = [
    (abi.OPOST | abi.ONLCR, b"a\nb", b"a\r\nb"),
    (0, b"a\nb\t", b"a\nb\t"),
    (abi.OPOST | abi.XTABS, b"ab\tc\n\td", b"ab      c\n       d"),
    (abi.OPOST | abi.OLCUC, b"aBc", b"ABC"),
    (abi.OPOST | abi.OCRNL, b"a\rb", b"a\nb"),
    (abi.OPOST | abi.ONOCR, b"\ra\r\r", b"a\r"),
]


@pytest.mark.parametrize(("oflag", "written", "shown"), OUTPUT)
def test_output_processing(ldisc, oflag, written, shown):
    configure(ldisc, oflag=oflag)
    assert ldisc.output.process(written) == shown


# -- against the host --


class HostTerminal:
    """A host pseudo-terminal, all reads without waiting."""

    def __init__(self):
        self.master, self.slave = os.openpty()
        for fd in (self.master, self.slave):
            os.set_blocking(fd, False)

    def close(self):
        os.close(self.slave)
        os.close(self.master)

    def settle(self):
        """Wait until the host has handed on what is on its way, in both directions.

        poll(2) waits for that, unless there is input already; then setting attributes waits for the lock
        that the host holds while it hands on.  What was typed in one step was then received as a whole,
        provided nothing was readable before (see the "type" step).
        """
        for fd in (self.slave, self.master):
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.poll(0)
        host.tcsetattr(self.slave, host.TCSANOW, host.tcgetattr(self.slave))

    def configure(self, iflag, oflag, lflag, cc):
        old = host.tcgetattr(self.slave)
        chars = list(old[6])
        for index, value in cc.items():
            chars[index] = bytes([value])
        if not lflag & abi.ICANON:
            chars[abi.VMIN], chars[abi.VTIME] = cc.get(abi.VMIN, 1), cc.get(abi.VTIME, 0)
        host.tcsetattr(self.slave, host.TCSANOW, [iflag, oflag, old[2], lflag, old[4], old[5], chars])

    def _read(self, fd, size):
        self.settle()
        try:
            return os.read(fd, size)
        except BlockingIOError:
            return None

    def type(self, data):
        os.write(self.master, data)
        self.settle()

    def read(self, size):
        return self._read(self.slave, size)

    def write(self, data):
        self.settle()
        try:
            return os.write(self.slave, data)
        except BlockingIOError:
            return None

    def screen(self):
        parts = []
        while part := self._read(self.master, 4096):
            parts.append(part)
        return b"".join(parts)

    def readable(self):
        self.settle()
        poller = select.poll()
        poller.register(self.slave, select.POLLIN)
        return bool(poller.poll(0))


class OurTerminal:
    """The same, of ours."""

    def __init__(self):
        pts = mount(DevPts())
        self.master = open_master(pts.inode.fs.ptmx, pts, pts, os.O_RDWR | os.O_NONBLOCK).hold()
        self.master.tty.locked = False
        slave = self.master.slave
        self.slave = open_tty(slave.tty, slave, slave_path(pts, slave), os.O_RDWR | os.O_NONBLOCK).hold()

    def close(self):
        self.slave.drop()
        self.master.drop()

    def configure(self, iflag, oflag, lflag, cc):
        new = self.slave.tty.ldisc.termios.copy()
        new.iflag, new.oflag, new.lflag = iflag, oflag, lflag
        chars = bytearray(new.cc)
        for index, value in cc.items():
            chars[index] = value
        if not lflag & abi.ICANON:
            chars[abi.VMIN], chars[abi.VTIME] = cc.get(abi.VMIN, 1), cc.get(abi.VTIME, 0)
        new.cc = bytes(chars)
        self.slave.tty.set_termios(new)

    @staticmethod
    def _read(file, size):
        sink = BytesSink(size)
        try:
            file.read(sink)
        except EAGAIN:
            return None
        return bytes(sink.data)

    def type(self, data):
        self.master.write(BytesSource(data))

    def read(self, size):
        return self._read(self.slave, size)

    def write(self, data):
        try:
            return self.slave.write(BytesSource(data))
        except EAGAIN:
            return None

    def screen(self):
        parts = []
        while part := self._read(self.master, 4096):
            parts.append(part)
        return b"".join(parts)

    def readable(self):
        return bool(self.slave.poll() & select.POLLIN)


@contextmanager
def both_terminals():
    pair = HostTerminal(), OurTerminal()
    try:
        yield pair
    finally:
        for terminal in pair:
            terminal.close()


def flags_of(*bits):
    return some.lists(some.sampled_from(bits), unique=True).map(lambda chosen: sum(chosen))


iflags = flags_of(abi.ISTRIP, abi.INLCR, abi.IGNCR, abi.ICRNL, abi.IUCLC, abi.IXON, abi.IXANY, abi.PARMRK, abi.IUTF8)
oflags = flags_of(abi.OPOST, abi.ONLCR, abi.OLCUC, abi.OCRNL, abi.ONOCR, abi.ONLRET, abi.XTABS)
lflags = flags_of(
    *(abi.ISIG, abi.ICANON, abi.ECHO, abi.ECHOE, abi.ECHOK, abi.ECHONL),
    *(abi.NOFLSH, abi.ECHOCTL, abi.ECHOPRT, abi.ECHOKE, abi.IEXTEN),
)
KEYS = b"abZ _.\t\b\r\n\0\x01\x03\x04\x0f\x11\x12\x13\x15\x16\x17\x1a\x1c\x7f\xff\xc3\xbc:;"
keys = some.lists(some.sampled_from(KEYS), min_size=1, max_size=12).map(bytes)
specials = some.dictionaries(
    some.sampled_from([abi.VEOL, abi.VEOL2, abi.VERASE, abi.VMIN]), some.sampled_from(b":;\x08\x01"), max_size=2
)
USUAL = (
    abi.ICRNL | abi.IXON,
    abi.OPOST | abi.ONLCR,
    abi.ISIG | abi.ICANON | abi.ECHO | abi.ECHOE | abi.ECHOK | abi.ECHOCTL | abi.ECHOKE | abi.IEXTEN,
)
steps = some.lists(
    some.one_of(
        some.tuples(some.just("type"), keys),
        some.tuples(some.just("type"), keys),
        some.tuples(some.just("read"), some.sampled_from([1, 3, 64])),
        some.tuples(some.just("write"), some.sampled_from([b"x\n", b"a\tb", b"lower\rUP\b", b"tab\t\tend\n"])),
        some.tuples(some.just("screen"), some.none()),
        some.tuples(some.just("configure"), some.tuples(iflags, oflags, lflags, specials)),
        some.tuples(some.just("configure"), some.just((*USUAL, {}))),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/ptmx"), reason="the host gives no pseudo-terminals")
@settings(max_examples=300, deadline=None, derandomize=True)
@given(steps)
@example([("type", b"a\x04"), ("read", 1), ("read", 64)])
@example([("type", b"\x13\x16"), ("configure", (abi.IXON | abi.IXANY, 0, 11, {})), ("type", b"a"), ("write", b"x\n")])
@example([("type", b"abc\x13"), ("write", b"x\n"), ("type", b"d\x11"), ("screen", None)])
def test_every_step_has_the_host_s_result(steps):
    with both_terminals() as (theirs, ours):
        for number, (what, argument) in enumerate(steps):
            results = []
            for terminal in (theirs, ours):
                if what == "screen":
                    results.append(terminal.screen())
                elif what == "type":
                    results.append(list(iter(lambda: terminal.read(64), None)))  # noqa: B023
                    terminal.type(argument)
                elif what == "configure":
                    terminal.configure(*argument)
                    results.append(None)
                else:
                    results.append(getattr(terminal, what)(argument))
                results.append(terminal.readable())
            assert results[: len(results) // 2] == results[len(results) // 2 :], f"step {number}: {what} {argument!r}"
        assert theirs.screen() == ours.screen()
