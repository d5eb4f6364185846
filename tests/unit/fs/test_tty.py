"""Terminals as processes use them: through real system calls, sessions and signals."""

import os
import select
import socket
import termios
from tty import setraw

import pytest

from sentry.abi import signal as sig
from sentry.abi import tty as abi
from sentry.abi.errno import EAGAIN, EBUSY, EINVAL, EIO, ENOTTY, ENXIO, EPERM, ESRCH
from sentry.abi.fcntl import O_NOCTTY, O_NONBLOCK, O_RDWR, O_WRONLY
from sentry.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI
from sentry.fs.console import new_console
from sentry.fs.devfs import open_device, populate_dev
from sentry.fs.devpts import DevPts, open_master, slave_path
from sentry.fs.tty import QUEUE_LIMIT, controlling_tty
from sentry.fs.ttyfile import open_tty
from sentry.kernel.creds import Creds
from sentry.kernel.ids import ProcessGroup
from sentry.kernel.restart import Interrupted
from sentry.kernel.signals import Action
from sentry.syscalls.ioctl import ioctl
from sentry.syscalls.read_write import read, write
from sentry.vfs.iov import BytesSink, BytesSource
from tests.fakeguest import Guest
from tests.unit.fs.conformance import mount, run


@pytest.fixture
def guest():
    guest = Guest()
    guest.process()  # pid 1 is somebody else: its signals have rules of their own
    return guest


@pytest.fixture
def pts():
    return mount(DevPts())


@pytest.fixture
def master(pts):
    master = open_master(pts.inode.fs.ptmx, pts, pts, O_RDWR).hold()
    master.tty.locked = False
    yield master
    if master.refs:
        master.drop()


@pytest.fixture
def tty(master):
    return master.tty


@pytest.fixture
def shell(guest, tty):
    """A session leader with the terminal as its descriptor 0."""
    t = guest.process()
    tty.make_controlling(t.tg)
    attach(t, tty)
    return t


def slave_file(tty, flags=O_RDWR):
    """An open slave side; which inode it hangs on does not matter here."""
    return open_tty(tty, run(DevPts().root()), None, flags)


def attach(t, tty, flags=O_RDWR):
    """Give t the terminal as its next descriptor."""
    return t.files.install(slave_file(tty, flags | O_NOCTTY))


def job(guest, shell, foreground=False):
    """A child of the shell in a process group of its own, with the terminal as descriptor 0."""
    t = guest.process(shell.tg)
    t.tg.pgrp.leave(t.tg)
    ProcessGroup(t.tg, shell.tg.session).adopt(t.tg)
    t.files = shell.files.copy()
    if foreground:
        shell.tg.session.foreground = t.tg.pgrp
    return t


def type_in(master, data):
    master.write(BytesSource(data))


def shown(master):
    sink = BytesSink(1 << 20)
    try:
        master.read(sink)
    except EAGAIN:
        pass
    return bytes(sink.data)


def read_line(guest, t, size=100, fd=0):
    addr = t.mem.alloc(size)
    n = guest.call(t, read, fd, addr, size)
    return t.mem.read(addr, n)


def int_ioctl(guest, t, request, value=0, fd=0):
    """An ioctl on an int: (result, the int afterwards)."""
    addr = t.mem.put(value.to_bytes(4, "little", signed=True))
    result = guest.call(t, ioctl, fd, request, addr)
    return result, int.from_bytes(t.mem.read(addr, 4), "little", signed=True)


def handled():
    return Action(handler=0x1000)


def ignored():
    return Action(handler=sig.SIG_IGN)


def pending(t, signo):
    return bool((t.pending.mask | t.tg.pending.mask) & sig.bit(signo))


# -- reading and writing --


def test_a_reader_sleeps_until_a_line_is_typed(guest, shell, master):
    addr = shell.mem.alloc(100)
    call = guest.start(shell, read, 0, addr, 100)
    guest.settle()
    type_in(master, b"hel")
    guest.settle()
    assert not call.done

    type_in(master, b"lo\n")
    guest.settle()

    assert shell.mem.read(addr, call.value()) == b"hello\n"
    assert shown(master) == b"hello\r\n"


def test_a_writer_sleeps_while_nobody_takes_what_it_shows(guest, shell, master):
    data = b"x" * 40_000
    call = guest.start(shell, write, 0, shell.mem.put(data), len(data))
    guest.settle()
    assert not call.done
    seen = b""
    while chunk := shown(master):
        seen += chunk
        guest.settle()

    assert call.value() == len(data)
    assert seen == data


def test_stopped_output_holds_the_writer(guest, shell, master):
    type_in(master, b"\x13")
    call = guest.start(shell, write, 0, shell.mem.put(b"x"), 1)
    guest.settle()
    assert not call.done

    type_in(master, b"\x11")
    guest.settle()

    assert call.value() == 1
    assert shown(master) == b"x"


def test_typing_ahead_is_bounded_and_goes_on_as_lines_are_read(guest, shell, master):
    file = shell.files.get(0)
    master.flags |= O_NONBLOCK
    total = 0
    with pytest.raises(EAGAIN):
        while True:
            total += master.write(BytesSource(b"12345678\n"))
    assert QUEUE_LIMIT <= total <= QUEUE_LIMIT + 4096
    assert not master.poll() & POLLOUT
    assert file.poll() & POLLIN

    lines = b""
    while file.poll() & POLLIN:
        lines += read_line(guest, shell, 16)

    assert lines == (b"12345678\n" * total)[:total][: len(lines)]
    assert total - len(lines) < 9
    assert master.poll() & POLLOUT


def raw(tty, vmin, vtime):
    new = tty.ldisc.termios.copy()
    new.lflag = new.iflag = 0
    cc = bytearray(new.cc)
    cc[abi.VMIN], cc[abi.VTIME] = vmin, vtime
    new.cc = bytes(cc)
    tty.set_termios(new)


def test_vmin_makes_a_read_wait_for_enough(guest, shell, master, tty):
    raw(tty, 3, 0)
    addr = shell.mem.alloc(100)
    call = guest.start(shell, read, 0, addr, 100)
    guest.settle()
    type_in(master, b"ab")
    guest.settle()
    assert not call.done

    type_in(master, b"c")
    guest.settle()

    assert call.value() == 3


def test_a_small_read_needs_no_more_than_it_has_room_for(guest, shell, master, tty):
    raw(tty, 10, 0)
    type_in(master, b"abcd")
    assert read_line(guest, shell, 2) == b"ab"


def test_vtime_alone_ends_a_read_without_input(guest, shell, tty):
    raw(tty, 0, 1)
    addr = shell.mem.alloc(10)
    call = guest.start(shell, read, 0, addr, 10)
    assert guest.finish(call) == 0


def test_vtime_between_bytes_ends_a_read_that_has_some(guest, shell, master, tty):
    raw(tty, 10, 1)
    addr = shell.mem.alloc(10)
    call = guest.start(shell, read, 0, addr, 10)
    guest.settle()
    assert not call.done
    type_in(master, b"ab")

    assert guest.finish(call) == 2


def test_neither_vmin_nor_vtime_never_waits(guest, shell, tty):
    raw(tty, 0, 0)
    assert read_line(guest, shell) == b""
    shell.files.get(0).flags |= O_NONBLOCK
    assert read_line(guest, shell) == b""


def test_nonblocking_reads(guest, shell, master, tty):
    shell.files.get(0).flags |= O_NONBLOCK
    with pytest.raises(EAGAIN):
        read_line(guest, shell)
    raw(tty, 5, 0)
    type_in(master, b"ab")
    assert read_line(guest, shell) == b"ab"


# -- settings --


def test_settings_are_one_for_both_sides(guest, shell, master):
    shell.files.install(master)
    addr = shell.mem.alloc(64)
    guest.call(shell, ioctl, 0, abi.TCGETS, addr)
    settings = bytearray(shell.mem.read(addr, 36))
    iflag, oflag, cflag, lflag = abi.TERMIOS.unpack(settings)[:4]
    assert (iflag, oflag, cflag, lflag) == (0o2400, 0o5, 0o277, 0o105073)

    settings[:4] = (0).to_bytes(4, "little")
    shell.mem.write(addr, settings)
    guest.call(shell, ioctl, 1, abi.TCSETS, addr)

    assert master.tty.ldisc.termios.iflag == 0
    guest.call(shell, ioctl, 0, abi.TCGETS2, addr)
    assert abi.TERMIOS2.unpack(shell.mem.read(addr, 44))[-2:] == (38400, 38400)


def test_arbitrary_speeds_by_termios2(guest, shell, tty):
    addr = shell.mem.alloc(64)
    guest.call(shell, ioctl, 0, abi.TCGETS2, addr)
    fields = list(abi.TERMIOS2.unpack(shell.mem.read(addr, 44)))
    fields[2] = fields[2] & ~abi.CBAUD | abi.BOTHER
    fields[-2:] = [12345, 12345]
    shell.mem.write(addr, abi.TERMIOS2.pack(*fields))
    guest.call(shell, ioctl, 0, abi.TCSETS2, addr)

    assert (tty.ldisc.termios.ispeed, tty.ldisc.termios.ospeed) == (12345, 12345)


def test_tcsetsf_forgets_what_was_typed(guest, shell, master):
    type_in(master, b"old\n")
    addr = shell.mem.alloc(36)
    guest.call(shell, ioctl, 0, abi.TCGETS, addr)
    guest.call(shell, ioctl, 0, abi.TCSETSF, addr)

    assert not shell.files.get(0).poll() & POLLIN


def test_a_new_size_is_told_to_the_foreground(guest, shell, master):
    other = job(guest, shell)
    shell.files.install(master)
    shell.tg.handlers.set(sig.SIGWINCH, handled())
    size = abi.WINSIZE.pack(24, 80, 0, 0)
    addr = shell.mem.put(size)
    assert guest.call(shell, ioctl, 1, abi.TIOCSWINSZ, addr) == 0

    assert pending(shell, sig.SIGWINCH)
    assert not pending(other, sig.SIGWINCH)
    addr = shell.mem.alloc(8)
    guest.call(shell, ioctl, 0, abi.TIOCGWINSZ, addr)
    assert shell.mem.read(addr, 8) == size
    shell.tg.pending.discard(~0)
    guest.call(shell, ioctl, 0, abi.TIOCSWINSZ, addr)
    assert not pending(shell, sig.SIGWINCH)


def test_fionread_and_flushing(guest, shell, master):
    type_in(master, b"ab\ncd")
    assert int_ioctl(guest, shell, abi.FIONREAD) == (0, 3)

    assert guest.call(shell, ioctl, 0, abi.TCFLSH, abi.TCIFLUSH) == 0

    assert int_ioctl(guest, shell, abi.FIONREAD) == (0, 0)
    with pytest.raises(EINVAL):
        guest.call(shell, ioctl, 0, abi.TCFLSH, 7)


def test_tcooff_holds_output_against_vstart(guest, shell, master):
    guest.call(shell, ioctl, 0, abi.TCXONC, abi.TCOOFF)
    type_in(master, b"\x11")
    assert not shell.files.get(0).poll() & POLLOUT

    guest.call(shell, ioctl, 0, abi.TCXONC, abi.TCOON)

    assert shell.files.get(0).poll() & POLLOUT


def test_faked_input_is_refused(guest, shell):
    with pytest.raises(EIO):
        guest.call(shell, ioctl, 0, abi.TIOCSTI, shell.mem.put(b"x"))


def test_exclusive_terminals_open_for_root_only(guest, shell, tty):
    guest.call(shell, ioctl, 0, abi.TIOCEXCL, 0)
    assert int_ioctl(guest, shell, abi.TIOCGEXCL) == (0, 1)
    user = guest.process(creds=Creds(*(1000,) * 8))

    def opening(t):
        open_tty(tty, shell.files.get(0).inode, None, O_RDWR).hold().drop()
        return 0

    with pytest.raises(EBUSY):
        guest.call(user, opening)
    assert guest.call(shell, opening) == 0


def test_unknown_requests(guest, shell, master):
    shell.files.install(master)
    for fd in (0, 1):
        with pytest.raises(ENOTTY):
            guest.call(shell, ioctl, fd, 0x12345678, 0)
    with pytest.raises(ENOTTY):
        int_ioctl(guest, shell, abi.TIOCGPTN)


# -- sessions and job control --


def test_opening_makes_a_leader_s_controlling_terminal_unless_noctty(guest, tty):
    leader = guest.process()

    def opening(t, flags):
        t.files.install(slave_file(tty, flags))
        return 0

    guest.call(leader, opening, O_RDWR | O_NOCTTY)
    assert controlling_tty(leader.tg.session) is None
    guest.call(leader, opening, O_WRONLY)
    assert controlling_tty(leader.tg.session) is None
    guest.call(leader, opening, O_RDWR)
    assert controlling_tty(leader.tg.session) is tty
    assert leader.tg.session.foreground is leader.tg.pgrp

    other = guest.process()
    guest.call(other, opening, O_RDWR)
    assert controlling_tty(other.tg.session) is None


def test_tiocsctty(guest, tty):
    leader, second = guest.process(), guest.process()
    for t in (leader, second):
        attach(t, tty)
    follower = job(guest, leader)

    with pytest.raises(EPERM):
        guest.call(follower, ioctl, 0, abi.TIOCSCTTY, 0)
    assert guest.call(leader, ioctl, 0, abi.TIOCSCTTY, 0) == 0
    assert guest.call(leader, ioctl, 0, abi.TIOCSCTTY, 0) == 0
    with pytest.raises(EPERM):
        guest.call(second, ioctl, 0, abi.TIOCSCTTY, 0)
    assert guest.call(second, ioctl, 0, abi.TIOCSCTTY, 1) == 0
    assert controlling_tty(leader.tg.session) is None
    assert controlling_tty(second.tg.session) is tty


def test_the_foreground_group_can_be_read_and_set(guest, shell, master):
    child = job(guest, shell)
    group = child.tg.pgrp.id(child.pidns)
    assert int_ioctl(guest, shell, abi.TIOCGPGRP)[1] == shell.tg.pgrp.id(shell.pidns)
    assert int_ioctl(guest, shell, abi.TIOCGSID)[1] == shell.tg.session.id(shell.pidns)

    assert int_ioctl(guest, shell, abi.TIOCSPGRP, group)[0] == 0

    assert int_ioctl(guest, child, abi.TIOCGPGRP)[1] == group
    shell.tg.handlers.set(sig.SIGTTOU, ignored())
    for number, error in ((99999, ESRCH), (-1, EINVAL), (1, EPERM)):
        with pytest.raises(error):
            int_ioctl(guest, shell, abi.TIOCSPGRP, number)


def test_strangers_may_not_ask_through_the_slave_but_through_the_master(guest, shell, master, tty):
    stranger = guest.process()
    attach(stranger, tty)
    stranger.files.install(master)
    for request in (abi.TIOCGPGRP, abi.TIOCGSID, abi.TIOCSPGRP):
        with pytest.raises(ENOTTY):
            int_ioctl(guest, stranger, request)
    assert int_ioctl(guest, stranger, abi.TIOCGPGRP, fd=1)[1] == shell.tg.pgrp.id(shell.pidns)


@pytest.mark.parametrize(("key", "signo"), [(b"\x03", sig.SIGINT), (b"\x1c", sig.SIGQUIT), (b"\x1a", sig.SIGTSTP)])
def test_keys_signal_the_foreground_group_only(guest, shell, master, key, signo):
    child = job(guest, shell, foreground=True)

    type_in(master, key)

    assert pending(child, signo)
    assert not pending(shell, signo)


def test_a_background_reader_is_stopped(guest, shell, master):
    child = job(guest, shell)
    type_in(master, b"line\n")

    with pytest.raises(Interrupted):
        read_line(guest, child)

    assert pending(child, sig.SIGTTIN)
    assert read_line(guest, shell) == b"line\n"


@pytest.mark.parametrize("how", ["ignored", "blocked", "orphaned"])
def test_a_background_reader_that_can_not_be_stopped_gets_eio(guest, shell, how):
    child = job(guest, shell)
    if how == "ignored":
        child.tg.handlers.set(sig.SIGTTIN, ignored())
    elif how == "blocked":
        child.sigmask = sig.bit(sig.SIGTTIN)
    else:
        child.tg.parent = child.pidns.init

    with pytest.raises(EIO):
        read_line(guest, child)

    assert not pending(child, sig.SIGTTIN)


def test_a_shell_that_is_pid_1_has_job_control():
    """Only the machine's own init makes its children's groups orphans, not a container's."""
    guest = Guest()
    shell = guest.process()
    tty = DevPts().new_slave(0, 0).tty
    tty.make_controlling(shell.tg)
    attach(shell, tty)
    assert shell.tg.pidns.init is shell.tg
    child = job(guest, shell)

    with pytest.raises(Interrupted):
        read_line(guest, child)
    assert pending(child, sig.SIGTTIN)


def test_background_writers_are_stopped_only_with_tostop(guest, shell, master, tty):
    child = job(guest, shell)
    assert guest.call(child, write, 0, child.mem.put(b"x"), 1) == 1
    new = tty.ldisc.termios.copy()
    new.lflag |= abi.TOSTOP
    tty.set_termios(new)

    with pytest.raises(Interrupted):
        guest.call(child, write, 0, child.mem.put(b"x"), 1)
    assert pending(child, sig.SIGTTOU)
    child.tg.pending.discard(~0)
    child.tg.handlers.set(sig.SIGTTOU, ignored())
    assert guest.call(child, write, 0, child.mem.put(b"x"), 1) == 1


def test_a_background_process_may_not_change_settings(guest, shell):
    child = job(guest, shell)
    addr = child.mem.put(shell.files.get(0).tty.ldisc.termios.pack())
    with pytest.raises(Interrupted):
        guest.call(child, ioctl, 0, abi.TCSETS, addr)
    assert pending(child, sig.SIGTTOU)
    guest.call(child, ioctl, 0, abi.TCGETS, addr)


def test_the_leader_s_end_hangs_up_the_foreground(guest, shell, tty):
    child = job(guest, shell, foreground=True)
    session = shell.tg.session

    tty.leader_exited(session)

    assert pending(child, sig.SIGHUP)
    assert controlling_tty(session) is None
    assert tty.session is None


def test_giving_the_terminal_up(guest, shell, tty):
    child = job(guest, shell, foreground=True)
    assert guest.call(child, ioctl, 0, abi.TIOCNOTTY, 0) == 0
    assert controlling_tty(shell.tg.session) is tty

    assert guest.call(shell, ioctl, 0, abi.TIOCNOTTY, 0) == 0

    assert controlling_tty(shell.tg.session) is None
    assert pending(child, sig.SIGHUP)
    with pytest.raises(ENOTTY):
        guest.call(shell, ioctl, 0, abi.TIOCNOTTY, 0)


def test_dev_tty_is_the_caller_s_terminal(guest, shell, tty):
    run(populate_dev(guest.root.inode))
    inode = run(guest.root.inode.lookup("tty"))

    async def opening(t):
        t.files.install(await open_device(inode, guest.root, O_RDWR))
        return 0

    guest.call(shell, opening)
    assert shell.files.get(1).tty is tty
    with pytest.raises(ENXIO):
        guest.call(guest.process(), opening)


# -- the ends --


def test_hanging_up(guest, shell, master, tty):
    child = job(guest, shell, foreground=True)
    sleeper = guest.start(child, read, 0, child.mem.alloc(10), 10)
    guest.settle()
    file = shell.files.get(0)

    master.drop()
    guest.settle()

    with pytest.raises(EIO):
        sleeper.value()
    assert pending(shell, sig.SIGHUP)
    assert not pending(child, sig.SIGHUP)
    assert read_line(guest, shell) == b""
    with pytest.raises(EIO):
        guest.call(shell, write, 0, shell.mem.put(b"x"), 1)
    with pytest.raises(EIO):
        int_ioctl(guest, shell, abi.FIONREAD)
    assert file.poll() & (POLLIN | POLLOUT | POLLERR | POLLHUP) == POLLIN | POLLOUT | POLLERR | POLLHUP
    assert controlling_tty(shell.tg.session) is None
    tty.leader_exited(shell.tg.session)
    assert pending(child, sig.SIGHUP)


def test_the_master_sees_the_last_slave_close(guest, tty, master):
    assert not master.poll() & POLLHUP
    first, second = (slave_file(tty).hold() for _ in range(2))
    second.write(BytesSource(b"last words"))
    first.drop()
    assert not master.poll() & POLLHUP
    second.drop()

    assert master.poll() & (POLLIN | POLLHUP) == POLLIN | POLLHUP
    assert shown(master) == b"last words"
    with pytest.raises(EIO):
        master.read(BytesSink(10))
    again = slave_file(tty).hold()
    with pytest.raises(EAGAIN):
        master.read(BytesSink(10))
    again.drop()


# -- packet mode --


def test_packet_mode_tells_data_from_events(guest, shell, master, tty):
    shell.files.install(master)
    int_ioctl(guest, shell, abi.TIOCPKT, 1, fd=1)
    assert int_ioctl(guest, shell, abi.TIOCGPKT, fd=1)[1] == 1
    guest.call(shell, write, 0, shell.mem.put(b"hi"), 2)
    assert shown(master) == b"\0hi"

    type_in(master, b"\x13")
    assert master.poll() & (POLLIN | POLLPRI) == POLLIN | POLLPRI
    assert shown(master) == bytes([abi.TIOCPKT_STOP])
    type_in(master, b"\x11")
    assert shown(master) == bytes([abi.TIOCPKT_START])
    raw(tty, 1, 0)
    assert shown(master) == bytes([abi.TIOCPKT_NOSTOP])
    guest.call(shell, ioctl, 0, abi.TCFLSH, abi.TCIOFLUSH)
    assert shown(master) == bytes([abi.TIOCPKT_FLUSHREAD | abi.TIOCPKT_FLUSHWRITE])


# -- the console --


@pytest.fixture
def console(guest, pts):
    """A console, and the host's end of it."""
    theirs, ours = socket.socketpair()
    console = new_console(pts.inode.fs, guest.loop, ours.detach())
    yield console, theirs
    if not console.closed:
        console._hang_up()
    theirs.close()


@pytest.fixture
def program(guest, pts, console):
    """A session leader that the console controls."""
    t = guest.process()
    slave = console[0].slave
    t.files.install(run(slave.open(slave_path(pts, slave), O_RDWR | O_NOCTTY)))
    slave.tty.make_controlling(t.tg)
    return t


def turn(guest):
    """What the loop does when host descriptors are ready."""
    guest.loop._poll_fds()
    guest.settle()


def test_a_console_has_the_size_of_the_hosts_terminal(guest, pts):
    """Whoever holds the master sets it and tells nobody: we see it when something is typed, or at the next look."""
    master, slave = os.openpty()
    setraw(slave)
    termios.tcsetwinsize(master, (24, 80))
    console = new_console(pts.inode.fs, guest.loop, slave)
    try:
        assert console.tty.window[:2] == (24, 80)
        termios.tcsetwinsize(master, (33, 99))
        os.write(master, b"x")
        select.select([slave], [], [], 10)  # the host's kernel passes it on in its own time
        turn(guest)
        assert console.tty.window[:2] == (33, 99)
        console.tty.set_window(5, 6)  # by the application: it stays until the host's changes
        os.write(master, b"y")
        select.select([slave], [], [], 10)
        turn(guest)
        assert console.tty.window[:2] == (5, 6)
        termios.tcsetwinsize(master, (44, 111))
        console._take_size()
        assert console.tty.window[:2] == (44, 111)
    finally:
        os.close(master)
    console._take_size()  # of a terminal that has hung up
    turn(guest)
    assert console.closed


def test_a_console_is_typed_at_and_shown_on_the_host(guest, console, program):
    console, host_end = console
    host_end.send(b"hello\r")
    turn(guest)
    assert read_line(guest, program) == b"hello\n"
    assert host_end.recv(100) == b"hello\r\n"

    host_end.send(b"\x03")
    turn(guest)
    assert pending(program, sig.SIGINT)
    assert host_end.recv(100) == b"^C"

    console.resize(10, 20)
    assert console.tty.window == (10, 20, 0, 0)


def test_a_console_shows_everything_before_it_closes(guest, pts, console, program):
    console, host_end = console
    written = 0
    while room := console.tty.room():  # until the host takes no more
        console.tty.show(b"x" * room)
        written += room
    console.close()
    assert not console.ended.is_set
    seen = b""
    while not console.closed:
        seen += host_end.recv(1 << 16)
        turn(guest)
    while chunk := host_end.recv(1 << 16):
        seen += chunk

    assert seen == b"x" * written
    assert console.ended.is_set
    assert console.slave.number not in pts.inode.fs.slaves


def test_a_console_without_output_closes_at_once(console):
    console[0].close()
    assert console[0].ended.is_set
    console[0].close()


@pytest.mark.slow
def test_typing_at_a_console_is_bounded(guest, console, program):
    console, host_end = console
    host_end.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += host_end.send(b"1234567\n" * 1000)
            turn(guest)
    assert len(console.tty.typed) == QUEUE_LIMIT
    received = 0
    while console.tty.ldisc.input_ready():
        received += len(read_line(guest, program, 16))
        turn(guest)
    assert received == sent


def test_losing_the_host_s_end_hangs_the_console_up(guest, console, program):
    console, host_end = console
    host_end.close()

    turn(guest)

    assert console.closed
    assert pending(program, sig.SIGHUP)
    assert read_line(guest, program) == b""
