"""sendfile(2), copy_file_range(2), splice(2), tee(2), vmsplice(2)."""

import struct

import pytest

from sentry.abi.errno import EAGAIN, EBADF, EFBIG, EINVAL, EISDIR, EPIPE, ESPIPE
from sentry.abi.fcntl import O_APPEND, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY
from sentry.abi.signal import SIGPIPE, SIGXFSZ, bit
from sentry.abi.stat import S_IFREG
from sentry.fs.memfd import new_memfd
from sentry.fs.tmpfs import TmpFile, TmpFs, TmpRegular
from sentry.kernel.rlimits import RLIM_INFINITY, RLIMIT_FSIZE
from sentry.syscalls.pipe import pipe2
from sentry.syscalls.read_write import read, write
from sentry.syscalls.splice import SPLICE_F_NONBLOCK, copy_file_range, sendfile, splice, tee, vmsplice
from sentry.vfs.iov import BytesSink, BytesSource

CAPACITY = 65536


@pytest.fixture
def fs():
    return TmpFs()


@pytest.fixture
def make(t, fs):
    """A file with contents, and its descriptor."""

    def make(data=b"", flags=O_RDWR):
        file = TmpFile(TmpRegular(fs, S_IFREG | 0o644, 0, 0), None, O_RDWR)
        file.write_at(BytesSource(data), 0)
        file.flags = flags
        return t.files.install(file)

    return make


def content(t, fd):
    sink = BytesSink(1 << 20)
    t.files.get(fd).read_at(sink, 0)
    return bytes(sink.data)


def pipe_of(guest, t, data=b"", flags=0):
    addr = t.mem.alloc(8)
    guest.call(t, pipe2, addr, flags)
    ends = struct.unpack("<ii", t.mem.read(addr, 8))
    if data:
        guest.call(t, write, ends[1], t.mem.put(data), len(data))
    return ends


def drain(guest, t, fd):
    addr = t.mem.alloc(CAPACITY)
    return t.mem.read(addr, guest.call(t, read, fd, addr, CAPACITY))


def offset(t, value):
    return t.mem.put(struct.pack("<q", value))


def offset_at(t, addr):
    return struct.unpack("<q", t.mem.read(addr, 8))[0]


class TestSendfile:
    def test_copies_from_the_position_and_moves_it(self, guest, t, make):
        source, target = make(b"hello world"), make()
        t.files.get(source).offset = 6

        assert guest.call(t, sendfile, target, source, 0, 100) == 5
        assert content(t, target) == b"world"
        assert t.files.get(source).offset == 11

    def test_an_offset_is_updated_and_the_position_stays(self, guest, t, make):
        source, target = make(b"hello world"), make()
        at = offset(t, 6)

        assert guest.call(t, sendfile, target, source, at, 3) == 3
        assert offset_at(t, at) == 9
        assert t.files.get(source).offset == 0

    def test_large_files_go_in_slices(self, guest, t, make):
        data = bytes(range(256)) * 12_000
        source, target = make(data), make()
        assert guest.call(t, sendfile, target, source, 0, len(data)) == len(data)
        assert t.files.get(target).inode.size == len(data)

    def test_into_a_pipe_it_is_what_fits(self, guest, t, make):
        source = make(bytes(100_000))
        reader, writer = pipe_of(guest, t)
        assert guest.call(t, sendfile, writer, source, 0, 100_000) == CAPACITY
        assert len(drain(guest, t, reader)) == CAPACITY
        assert t.files.get(source).offset == CAPACITY

    def test_without_reader_sigpipe(self, guest, t, make):
        reader, writer = pipe_of(guest, t)
        t.files.close(reader)
        with pytest.raises(EPIPE):
            guest.call(t, sendfile, writer, make(b"x"), 0, 1)
        assert t.pending.mask == bit(SIGPIPE)

    def test_errors(self, guest, t, make):
        reader, _ = pipe_of(guest, t)
        with pytest.raises(EBADF):
            guest.call(t, sendfile, make(), make(flags=O_WRONLY), 0, 1)
        with pytest.raises(EBADF):
            guest.call(t, sendfile, make(flags=O_RDONLY), make(), 0, 1)
        with pytest.raises(EINVAL):
            guest.call(t, sendfile, make(flags=O_WRONLY | O_APPEND), make(b"x"), 0, 1)
        with pytest.raises(ESPIPE):
            guest.call(t, sendfile, make(), reader, offset(t, 0), 1)
        with pytest.raises(EINVAL):
            guest.call(t, sendfile, make(), reader, 0, 1)
        with pytest.raises(EINVAL):
            guest.call(t, sendfile, make(), make(), offset(t, -1), 1)

    def test_the_file_size_limit(self, guest, t, make):
        t.tg.rlimits.set(RLIMIT_FSIZE, 4, RLIM_INFINITY)
        source, target = make(b"hello world"), make()
        assert guest.call(t, sendfile, target, source, 0, 11) == 4
        with pytest.raises(EFBIG):
            guest.call(t, sendfile, target, source, 0, 11)
        assert (t.pending.mask | t.tg.pending.mask) == bit(SIGXFSZ)


class TestCopyFileRange:
    def test_copies_between_positions(self, guest, t, make):
        source, target = make(b"hello world"), make(b"......")
        t.files.get(target).offset = 1
        assert guest.call(t, copy_file_range, source, 0, target, 0, 5, 0) == 5
        assert content(t, target) == b".hello"
        assert (t.files.get(source).offset, t.files.get(target).offset) == (5, 6)

    def test_offsets_are_updated(self, guest, t, make):
        source, target = make(b"hello world"), make()
        from_at, to_at = offset(t, 6), offset(t, 0)
        assert guest.call(t, copy_file_range, source, from_at, target, to_at, 100, 0) == 5
        assert (offset_at(t, from_at), offset_at(t, to_at)) == (11, 5)
        assert t.files.get(source).offset == 0

    def test_at_the_end_there_is_nothing(self, guest, t, make):
        assert guest.call(t, copy_file_range, make(b"x"), offset(t, 1), make(), 0, 10, 0) == 0

    def test_within_a_file(self, guest, t, make):
        fd = make(b"abcd....")
        assert guest.call(t, copy_file_range, fd, offset(t, 0), fd, offset(t, 4), 4, 0) == 4
        assert content(t, fd) == b"abcdabcd"
        with pytest.raises(EINVAL):
            guest.call(t, copy_file_range, fd, offset(t, 0), fd, offset(t, 2), 4, 0)

    def test_errors(self, guest, t, make):
        _reader, writer = pipe_of(guest, t)
        with pytest.raises(EINVAL):
            guest.call(t, copy_file_range, make(), 0, make(), 0, 1, 1)
        with pytest.raises(EINVAL):
            guest.call(t, copy_file_range, make(), 0, writer, 0, 1, 0)
        with pytest.raises(EBADF):
            guest.call(t, copy_file_range, make(), 0, make(flags=O_RDWR | O_APPEND), 0, 1, 0)
        with pytest.raises(EBADF):
            guest.call(t, copy_file_range, make(flags=O_WRONLY), 0, make(), 0, 1, 0)
        directory = guest.root.dentry.inode.open(guest.root, O_RDONLY)
        try:
            directory.send(None)
        except StopIteration as end:
            fd = t.files.install(end.value)
        with pytest.raises(EISDIR):
            guest.call(t, copy_file_range, fd, 0, make(), 0, 1, 0)


class TestSplice:
    def test_file_to_pipe_and_back(self, guest, t, make):
        source, target = make(b"file data"), make(b"____________")
        reader, writer = pipe_of(guest, t)
        from_at, to_at = offset(t, 5), offset(t, 2)

        assert guest.call(t, splice, source, from_at, writer, 0, 4, 0) == 4
        assert guest.call(t, splice, reader, 0, target, to_at, 100, 0) == 4

        assert content(t, target) == b"__data______"
        assert (offset_at(t, from_at), offset_at(t, to_at)) == (9, 6)

    def test_pipe_to_pipe(self, guest, t):
        first, second = pipe_of(guest, t, b"abcdef"), pipe_of(guest, t)
        assert guest.call(t, splice, first[0], 0, second[1], 0, 4, 0) == 4
        assert drain(guest, t, second[0]) == b"abcd"
        assert drain(guest, t, first[0]) == b"ef"

    def test_waits_for_data_unless_told_not_to(self, guest, t, make):
        reader, writer = pipe_of(guest, t)
        other = guest.thread(t)
        target = make()
        with pytest.raises(EAGAIN):
            guest.call(t, splice, reader, 0, target, 0, 10, SPLICE_F_NONBLOCK)
        splicing = guest.start(t, splice, reader, 0, target, 0, 10, 0)
        guest.settle()
        assert not splicing.done
        guest.call(other, write, writer, t.mem.put(b"late"), 4)
        guest.settle()
        assert splicing.value() == 4

    def test_end_of_file_is_zero(self, guest, t, make):
        reader, writer = pipe_of(guest, t)
        t.files.close(writer)
        assert guest.call(t, splice, reader, 0, make(), 0, 10, 0) == 0

    def test_a_failed_write_leaves_the_data_in_the_pipe(self, guest, t):
        reader, _ = pipe_of(guest, t, b"precious")
        target = new_memfd(t.caller, "x", False, True)
        fd = t.files.install(target)
        target.inode.seals = 8  # F_SEAL_WRITE
        with pytest.raises(Exception, match="EPERM"):
            guest.call(t, splice, reader, 0, fd, 0, 100, 0)
        assert drain(guest, t, reader) == b"precious"

    def test_errors(self, guest, t, make):
        reader, writer = pipe_of(guest, t, b"x")
        with pytest.raises(EINVAL):
            guest.call(t, splice, make(), 0, make(), 0, 1, 0)
        with pytest.raises(ESPIPE):
            guest.call(t, splice, reader, offset(t, 0), make(), 0, 1, 0)
        with pytest.raises(ESPIPE):
            guest.call(t, splice, make(), 0, writer, offset(t, 0), 1, 0)
        with pytest.raises(EINVAL):
            guest.call(t, splice, reader, 0, writer, 0, 1, 0)
        with pytest.raises(EINVAL):
            guest.call(t, splice, reader, 0, make(flags=O_WRONLY | O_APPEND), 0, 1, 0)
        with pytest.raises(EBADF):
            guest.call(t, splice, writer, 0, make(), 0, 1, 0)
        with pytest.raises(EINVAL):
            guest.call(t, splice, reader, 0, make(), 0, 1, 64)
        assert guest.call(t, splice, 99, 0, 99, 0, 0, 0) == 0


class TestTee:
    def test_copies_and_leaves(self, guest, t):
        first, second = pipe_of(guest, t, b"abcdef"), pipe_of(guest, t)
        assert guest.call(t, tee, first[0], second[1], 3, 0) == 3
        assert drain(guest, t, second[0]) == b"abc"
        assert drain(guest, t, first[0]) == b"abcdef"

    def test_errors(self, guest, t, make):
        first = pipe_of(guest, t, b"x")
        with pytest.raises(EINVAL):
            guest.call(t, tee, first[0], first[1], 1, 0)
        with pytest.raises(EINVAL):
            guest.call(t, tee, make(), first[1], 1, 0)
        empty, full = pipe_of(guest, t, flags=O_NONBLOCK), pipe_of(guest, t)
        with pytest.raises(EAGAIN):
            guest.call(t, tee, empty[0], full[1], 1, 0)


class TestVmsplice:
    def iov(self, t, *buffers):
        return t.mem.put(b"".join(struct.pack("<QQ", addr, length) for addr, length in buffers))

    def test_memory_to_pipe_and_back(self, guest, t):
        reader, writer = pipe_of(guest, t)
        iov = self.iov(t, (t.mem.put(b"abc"), 3), (t.mem.put(b"def"), 3))
        assert guest.call(t, vmsplice, writer, iov, 2, 0) == 6
        out = t.mem.alloc(16)
        assert guest.call(t, vmsplice, reader, self.iov(t, (out, 4)), 1, 0) == 4
        assert t.mem.read(out, 4) == b"abcd"

    def test_not_a_pipe(self, guest, t, make):
        with pytest.raises(EBADF):
            guest.call(t, vmsplice, make(), self.iov(t, (t.mem.put(b"x"), 1)), 1, 0)


def test_a_pipe_that_is_closed_while_it_is_waited_for_stays_until_then(guest, t, make):
    reader, writer = pipe_of(guest, t)
    other = guest.thread(t)
    splicing = guest.start(t, splice, reader, 0, make(), 0, 10, 0)
    guest.settle()
    other.files.close(reader)

    guest.call(other, write, writer, t.mem.put(b"late"), 4)
    guest.settle()

    assert splicing.value() == 4
    with pytest.raises(EPIPE):
        guest.call(other, write, writer, t.mem.put(b"x"), 1)
