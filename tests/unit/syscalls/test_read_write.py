"""read(2), write(2), their vector and positioned forms, lseek(2), on files."""

import struct

import pytest

from sentry.abi.errno import (
    EBADF,
    EFAULT,
    EFBIG,
    EINVAL,
    EISDIR,
    ENXIO,
    EOPNOTSUPP,
    EOVERFLOW,
    ESPIPE,
)
from sentry.abi.fcntl import (
    O_APPEND,
    O_CREAT,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    SEEK_CUR,
    SEEK_DATA,
    SEEK_END,
    SEEK_HOLE,
    SEEK_SET,
)
from sentry.abi.signal import SIGXFSZ, bit
from sentry.kernel.rlimits import RLIMIT_FSIZE

RWF_APPEND, RWF_DSYNC = 16, 2


@pytest.fixture
def fd(calls):
    fd = calls.open("/file", O_CREAT | O_RDWR)
    calls.write(fd, b"0123456789")
    return fd


def test_reading_and_writing_share_the_offset(calls, fd):
    assert calls.read(fd) == b""
    calls("lseek", fd, 2, SEEK_SET)
    assert calls.read(fd, 3) == b"234"
    assert calls.write(fd, b"AB") == 2
    assert calls("lseek", fd, 0, SEEK_CUR) == 7
    assert calls.pread(fd, 99, 0) == b"01234AB789"


def test_positioned_calls_leave_the_offset_alone(calls, fd):
    assert calls.pread(fd, 4, 6) == b"6789"
    assert calls("pwrite64", fd, b"xy", 2, 12) == 2
    assert calls("lseek", fd, 0, SEEK_CUR) == 10
    assert calls.pread(fd, 99, 8) == b"89\0\0xy"


def test_access_modes(calls, fd):
    reader, writer = calls.open("/file", O_RDONLY), calls.open("/file", O_WRONLY)

    for call in (lambda: calls.read(writer), lambda: calls.pread(writer, 1, 0)):
        with pytest.raises(EBADF):
            call()
    for call in (lambda: calls.write(reader, b"x"), lambda: calls("pwrite64", reader, b"x", 1, 0)):
        with pytest.raises(EBADF):
            call()


def test_bad_arguments(calls, fd):
    with pytest.raises(EINVAL):
        calls.pread(fd, 1, -1)
    with pytest.raises(EINVAL):
        calls("pwrite64", fd, b"x", 1, -1)
    with pytest.raises(EBADF):
        calls.read(99)
    calls("lseek", fd, 0, SEEK_SET)
    with pytest.raises(EFAULT):
        calls("read", fd, 8, 4)
    with pytest.raises(EFAULT):
        calls("write", fd, 8, 4)
    assert calls("read", fd, 8, 0) == 0


def test_a_read_up_to_the_end_of_memory_is_short(calls, fd):
    mem = calls.t.mem
    calls("lseek", fd, 0, SEEK_SET)

    assert calls("read", fd, mem.end - 4, 10) == 4
    assert calls.read(fd) == b"456789"


def test_directories_are_not_read(calls):
    fd = calls.open("/")

    with pytest.raises(EISDIR):
        calls.read(fd)
    with pytest.raises(EISDIR):
        calls.pread(fd, 1, 0)


def test_append_ignores_every_position(calls, fd):
    appending = calls.open("/file", O_WRONLY | O_APPEND)

    calls.write(appending, b"A")
    calls("lseek", appending, 0, SEEK_SET)
    calls.write(appending, b"B")
    calls("pwrite64", appending, b"C", 1, 0)

    assert calls.contents("/file") == b"0123456789ABC"


# ---- Vectors.


def test_vectors_go_through_their_parts_in_order(calls, fd):
    calls("lseek", fd, 0, SEEK_SET)
    assert calls("writev", fd, calls.iov(b"ab", b"", b"cde"), 3) == 5
    assert calls.contents("/file") == b"abcde56789"

    first, second = calls.t.mem.alloc(3), calls.t.mem.alloc(4)
    iov = calls.t.mem.put(struct.pack("<QQQQ", first, 3, second, 4))
    assert calls("preadv", fd, iov, 2, 1) == 7
    assert calls.t.mem.read(first, 3) + calls.t.mem.read(second, 4) == b"bcde567"
    assert calls("pwritev", fd, calls.iov(b"X", b"Y"), 2, 8) == 2
    assert calls.contents("/file") == b"abcde567XY"


def test_vector_limits(calls, fd):
    assert calls("writev", fd, 0, 0) == 0
    with pytest.raises(EINVAL):
        calls("writev", fd, calls.iov(b"x"), 1025)
    with pytest.raises(EINVAL):
        calls("readv", fd, struct.pack("<QQ", 0x10000, 1 << 63), 1)
    with pytest.raises(EFAULT):
        calls("readv", fd, 8, 1)


def test_preadv2_and_pwritev2(calls, fd):
    iov = calls.iov(b"zz")

    assert calls("pwritev2", fd, iov, 1, -1, 0, 0) == 2
    assert calls("lseek", fd, 0, SEEK_CUR) == 12
    assert calls("pwritev2", fd, iov, 1, 0, 0, RWF_APPEND) == 2
    assert calls("lseek", fd, 0, SEEK_CUR) == 12
    assert calls("pwritev2", fd, iov, 1, 0, 0, RWF_DSYNC) == 2
    assert calls.contents("/file") == b"zz23456789zzzz"
    assert calls("preadv2", fd, iov, 1, 4, 0, 0) == 2
    with pytest.raises(EOPNOTSUPP):
        calls("preadv2", fd, iov, 1, 0, 0, 1 << 20)


# ---- Offsets.


def test_lseek(calls, fd):
    assert calls("lseek", fd, -3, SEEK_END) == 7
    assert calls("lseek", fd, 2, SEEK_CUR) == 9
    assert calls("lseek", fd, 100, SEEK_SET) == 100
    assert calls.read(fd) == b""
    with pytest.raises(EINVAL):
        calls("lseek", fd, -1, SEEK_SET)
    with pytest.raises(EINVAL):
        calls("lseek", fd, 0, 9)
    with pytest.raises(EOVERFLOW):
        calls("lseek", fd, (1 << 63) - 1, SEEK_END)


def test_holes_can_be_found(calls, fd):
    calls("pwrite64", fd, b"end", 3, 1 << 20)

    assert calls("lseek", fd, 0, SEEK_DATA) == 0
    hole = calls("lseek", fd, 0, SEEK_HOLE)
    assert 10 <= hole < 1 << 20
    assert hole < calls("lseek", fd, hole, SEEK_DATA) <= 1 << 20
    with pytest.raises(ENXIO):
        calls("lseek", fd, 2 << 20, SEEK_DATA)


def test_fifos_have_no_offset(calls):
    calls("mknod", "/fifo", 0o010666, 0)
    fd = calls.open("/fifo", O_RDWR)

    with pytest.raises(ESPIPE):
        calls("lseek", fd, 0, SEEK_CUR)
    with pytest.raises(ESPIPE):
        calls.pread(fd, 1, 0)


# ---- Limits and privileges.


def test_the_size_limit_shortens_and_then_kills(calls, fd):
    calls.t.tg.rlimits.set(RLIMIT_FSIZE, 12, 12)

    assert calls.write(fd, b"abcdef") == 2
    with pytest.raises(EFBIG):
        calls.write(fd, b"c")
    assert calls.t.pending.mask & bit(SIGXFSZ)
    with pytest.raises(EFBIG):
        calls("ftruncate", fd, 13)
    assert calls("pwrite64", fd, b"xy", 2, 0) == 2


def test_writing_takes_set_id_bits_unless_privileged(calls, user):
    calls.make("/a", mode=0o777)
    calls("chmod", "/a", 0o6777)
    privileged = calls.open("/a", O_WRONLY)

    calls.write(privileged, b"x")
    assert calls.stat("/a").mode & 0o7777 == 0o6777

    user.write(user.open("/a", O_WRONLY), b"x")
    assert calls.stat("/a").mode & 0o7777 == 0o777


def test_a_synchronous_file_is_written_through(calls):
    fd = calls.open("/a", O_CREAT | O_WRONLY | 0o10000)  # O_DSYNC

    assert calls.write(fd, b"data") == 4
    assert calls.contents("/a") == b"data"
