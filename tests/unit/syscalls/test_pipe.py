"""pipe(2), and read(2) and write(2) on its ends."""

import struct

import pytest

from sentry.abi.errno import EAGAIN, EBADF, EBUSY, EFAULT, EINVAL, EMFILE, ENXIO, EPERM, EPIPE
from sentry.abi.fcntl import O_CLOEXEC, O_DIRECT, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY
from sentry.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from sentry.abi.signal import SIGPIPE, SIGTERM, bit
from sentry.abi.stat import S_IFIFO
from sentry.fs.pipefs import FIONREAD, open_fifo, pipe_size, set_pipe_size
from sentry.kernel.restart import Interrupted
from sentry.kernel.signals import SigInfo
from sentry.syscalls.pipe import pipe2
from sentry.syscalls.read_write import read, write
from sentry.vfs.dentry import Dentry, Path

PIPE_BUF = 4096
CAPACITY = 65536


def make_pipe(guest, t, flags=0):
    addr = t.mem.alloc(8)
    assert guest.call(t, pipe2, addr, flags) == 0
    return struct.unpack("<ii", t.mem.read(addr, 8))


@pytest.fixture
def ends(guest, t):
    return make_pipe(guest, t)


def send(guest, t, fd, data):
    return guest.call(t, write, fd, t.mem.put(data), len(data))


def receive(guest, t, fd, size=CAPACITY):
    buf = t.mem.alloc(size)
    n = guest.call(t, read, fd, buf, size)
    return t.mem.read(buf, n)


def test_what_is_written_is_read_in_order(guest, t, ends):
    reader, writer = ends
    send(guest, t, writer, b"hello ")
    send(guest, t, writer, b"world")

    assert receive(guest, t, reader, 3) == b"hel"
    assert receive(guest, t, reader) == b"lo world"


def test_read_waits_for_a_writer(guest, t, ends):
    reader, writer = ends
    other = guest.thread(t)
    buf = t.mem.alloc(16)
    reading = guest.start(t, read, reader, buf, 16)
    guest.settle()
    assert not reading.done

    send(guest, other, writer, b"now")
    guest.settle()

    assert reading.value() == 3


def test_read_after_the_last_writer_closed_returns_end_of_file(guest, t, ends):
    reader, writer = ends
    other = guest.thread(t)
    reading = guest.start(t, read, reader, t.mem.alloc(8), 8)
    guest.settle()

    other.files.close(writer)
    guest.settle()

    assert reading.value() == 0


def test_write_without_reader_fails_and_raises_sigpipe(guest, t, ends):
    reader, writer = ends
    t.files.close(reader)

    with pytest.raises(EPIPE):
        send(guest, t, writer, b"x")

    assert t.pending.mask == bit(SIGPIPE)


def test_a_blocked_writer_whose_reader_goes_away_gets_epipe(guest, t, ends):
    reader, writer = ends
    other = guest.thread(t)
    send(guest, t, writer, bytes(CAPACITY))
    writing = guest.start(t, write, writer, t.mem.alloc(10), 10)
    guest.settle()
    assert not writing.done

    other.files.close(reader)
    guest.settle()

    with pytest.raises(EPIPE):
        writing.value()


def test_nonblocking_ends_give_eagain(guest, t):
    reader, writer = make_pipe(guest, t, O_NONBLOCK)
    with pytest.raises(EAGAIN):
        receive(guest, t, reader)

    assert send(guest, t, writer, bytes(CAPACITY + 5)) == CAPACITY
    with pytest.raises(EAGAIN):
        send(guest, t, writer, b"x")


def test_writes_up_to_pipe_buf_are_whole_or_not_at_all(guest, t):
    _reader, writer = make_pipe(guest, t, O_NONBLOCK)
    send(guest, t, writer, bytes(CAPACITY - 100))

    with pytest.raises(EAGAIN):
        send(guest, t, writer, bytes(101))
    assert send(guest, t, writer, bytes(100)) == 100


def test_a_blocking_write_goes_on_until_all_is_written(guest, t, ends):
    reader, writer = ends
    other = guest.thread(t)
    data = bytes(range(256)) * 600
    writing = guest.start(t, write, writer, t.mem.put(data), len(data))
    guest.settle()
    received = b""
    while not writing.done:
        received += receive(guest, other, reader)

    received += receive(guest, other, reader)

    assert writing.value() == len(data)
    assert received == data


def test_a_signal_ends_a_blocked_write_with_what_was_written(guest, t, ends):
    _reader, writer = ends
    writing = guest.start(t, write, writer, t.mem.alloc(CAPACITY + 1), CAPACITY + 1)
    guest.settle()

    t.tg.send_to(t, SigInfo(SIGTERM))
    guest.settle()

    assert writing.value() == CAPACITY


def test_a_signal_interrupts_a_read(guest, t, ends):
    reading = guest.start(t, read, ends[0], t.mem.alloc(8), 8)
    guest.settle()

    t.tg.send_to(t, SigInfo(SIGTERM))
    guest.settle()

    with pytest.raises(Interrupted):
        reading.value()


def test_poll_states(guest, t, ends):
    reader, writer = (t.files.get(fd) for fd in ends)
    assert reader.poll() == 0
    assert writer.poll() == POLLOUT | POLLWRNORM

    send(guest, t, ends[1], b"x")
    assert reader.poll() == POLLIN | POLLRDNORM

    send(guest, t, ends[1], bytes(CAPACITY - PIPE_BUF))
    assert writer.poll() == 0  # less than PIPE_BUF is left

    t.files.close(ends[1])
    assert reader.poll() == POLLIN | POLLRDNORM | POLLHUP


def test_writer_polls_an_error_without_reader(guest, t, ends):
    writer = t.files.get(ends[1])
    t.files.close(ends[0])

    assert writer.poll() == POLLOUT | POLLWRNORM | POLLERR


def test_fionread_tells_what_is_there(guest, t, ends):
    send(guest, t, ends[1], b"hello")
    addr = t.mem.alloc(4)

    assert t.files.get(ends[0]).ioctl(t, FIONREAD, addr) == 0
    assert t.mem.read(addr, 4) == b"\5\0\0\0"


def test_size_is_rounded_up_and_kept_above_the_contents(guest, t, ends):
    file = t.files.get(ends[1])
    assert pipe_size(file) == CAPACITY
    assert set_pipe_size(file, 5000, False) == 8192
    assert set_pipe_size(file, 0, False) == 4096
    assert set_pipe_size(file, 100_000, False) == 131072
    send(guest, t, ends[1], bytes(5000))

    with pytest.raises(EBUSY):
        set_pipe_size(file, 4096, False)
    with pytest.raises(EPERM):
        set_pipe_size(file, (1 << 20) + 1, False)
    with pytest.raises(EINVAL):
        set_pipe_size(file, (1 << 31) + 1, True)
    assert set_pipe_size(file, (1 << 20) + 1, True) == 1 << 21


def test_enlarging_wakes_a_blocked_writer(guest, t, ends):
    send(guest, t, ends[1], bytes(CAPACITY))
    writing = guest.start(t, write, ends[1], t.mem.alloc(100), 100)
    guest.settle()

    set_pipe_size(t.files.get(ends[0]), CAPACITY * 2, False)
    guest.settle()

    assert writing.value() == 100


def test_unknown_flags_make_nothing(guest, t):
    with pytest.raises(EINVAL):
        guest.call(t, pipe2, t.mem.alloc(8), O_DIRECT)
    assert list(t.files.items()) == []


def test_a_fault_closes_both_ends_again(guest, t):
    with pytest.raises(EFAULT):
        guest.call(t, pipe2, 8, O_CLOEXEC)
    assert list(t.files.items()) == []


def test_a_full_table_installs_neither_end(guest, t):
    t.files.limit = 1
    with pytest.raises(EMFILE):
        guest.call(t, pipe2, t.mem.alloc(8), 0)
    assert list(t.files.items()) == []


def test_the_wrong_end_is_a_bad_descriptor(guest, t, ends):
    with pytest.raises(EBADF):
        send(guest, t, ends[0], b"x")
    with pytest.raises(EBADF):
        receive(guest, t, ends[1])


class TestFifo:
    """open(2) of a FIFO, fifo(7)."""

    @pytest.fixture
    def opener(self, guest):
        fs_root = guest.root.dentry.inode

        async def make(caller):
            return await fs_root.mknod("fifo", S_IFIFO | 0o600, 0, caller)

        coro = make(guest.process().caller)
        try:
            coro.send(None)
        except StopIteration as end:
            inode = end.value
        path = Path(guest.root.mount, Dentry("fifo", guest.root.dentry, inode))

        async def open_it(t, flags):
            return t.files.install(await open_fifo(inode, path, flags))

        return open_it

    def test_each_end_waits_for_the_other(self, guest, t, opener):
        other = guest.thread(t)
        opening = guest.start(t, opener, O_RDONLY)
        guest.settle()
        assert not opening.done

        writer = guest.call(other, opener, O_WRONLY)
        guest.settle()

        send(guest, other, writer, b"hi")
        assert receive(guest, t, opening.value()) == b"hi"

    def test_a_writer_that_is_gone_already_still_lets_the_reader_in(self, guest, t, opener):
        other = guest.thread(t)
        opening = guest.start(t, opener, O_RDONLY)
        guest.settle()
        other.files.close(guest.call(other, opener, O_WRONLY))

        guest.settle()

        assert receive(guest, t, opening.value()) == b""

    def test_writing_without_reader_and_without_waiting_is_enxio(self, guest, t, opener):
        with pytest.raises(ENXIO):
            guest.call(t, opener, O_WRONLY | O_NONBLOCK)

    def test_a_nonblocking_reader_sees_no_hangup_before_the_first_writer(self, guest, t, opener):
        reader = guest.call(t, opener, O_RDONLY | O_NONBLOCK)
        assert t.files.get(reader).poll() == 0

        t.files.close(guest.call(t, opener, O_WRONLY))

        assert t.files.get(reader).poll() == POLLHUP

    def test_read_and_write_in_one_does_not_wait(self, guest, t, opener):
        fd = guest.call(t, opener, O_RDWR)
        send(guest, t, fd, b"self")
        assert receive(guest, t, fd) == b"self"

    def test_an_interrupted_open_leaves_nothing(self, guest, t, opener):
        opening = guest.start(t, opener, O_RDONLY)
        guest.settle()
        t.tg.send_to(t, SigInfo(SIGTERM))
        guest.settle()
        with pytest.raises(Interrupted):
            opening.value()

        with pytest.raises(ENXIO):
            guest.call(guest.thread(t), opener, O_WRONLY | O_NONBLOCK)
