"""dup(2), fcntl(2), flock(2), ioctl(2) of descriptors and files."""

import struct

import pytest

from sentry.abi import fcntl as f
from sentry.abi.errno import (
    EAGAIN,
    EBADF,
    EDEADLK,
    EFAULT,
    EINVAL,
    EISDIR,
    EMFILE,
    ENOTTY,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
)
from sentry.abi.fcntl import (
    O_ASYNC,
    O_CLOEXEC,
    O_CREAT,
    O_NOATIME,
    O_NONBLOCK,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
)
from sentry.abi.signal import SIGIO, SIGUSR1, bit
from sentry.kernel.restart import Interrupted
from sentry.kernel.signals import SigInfo
from sentry.syscalls.ioctl import FICLONE, FIOASYNC, FIOCLEX, FIONBIO, FIONCLEX, FIONREAD, FIOQSIZE
from tests.unit.syscalls.filecalls import FileCalls


@pytest.fixture
def calls(guest, t):
    """On memory files alone: nothing here depends on the file system."""
    return FileCalls(guest, t)


@pytest.fixture
def fd(calls):
    fd = calls.open("/a", O_CREAT | O_RDWR, 0o666)
    calls.write(fd, b"0123456789")
    return fd


@pytest.fixture
def other(guest, t, fd):
    """Another process that was forked when fd was open."""
    process = guest.process()
    process.files = t.files.copy()
    return FileCalls(guest, process)


def fails(error, call, *args, **more):
    with pytest.raises(error):
        call(*args, **more)


# ---- dup.


def test_dup_shares_offset_and_flags(calls, fd):
    copy = calls("dup", fd)

    calls("lseek", fd, 3, f.SEEK_SET)
    assert calls.read(copy, 2) == b"34"
    calls("fcntl", copy, f.F_SETFL, O_NONBLOCK)
    assert calls("fcntl", fd, f.F_GETFL) & O_NONBLOCK
    fails(EBADF, calls, "dup", 99)


def test_dup2_and_dup3(calls, fd):
    assert calls("dup2", fd, 7) == 7
    assert calls("dup2", fd, fd) == fd
    assert calls("dup3", fd, 8, O_CLOEXEC) == 8
    assert calls("fcntl", 8, f.F_GETFD) == 1
    assert calls("dup2", fd, 8) == 8
    assert calls("fcntl", 8, f.F_GETFD) == 0
    fails(EINVAL, calls, "dup3", fd, fd, 0)
    fails(EINVAL, calls, "dup3", fd, 9, O_NONBLOCK)
    fails(EBADF, calls, "dup2", fd, 1 << 20)
    fails(EBADF, calls, "dup2", fd, -1)
    fails(EBADF, calls, "dup2", 99, 99)


def test_dupfd(calls, fd):
    assert calls("fcntl", fd, f.F_DUPFD, 10) == 10
    assert calls("fcntl", fd, f.F_DUPFD_CLOEXEC, 10) == 11
    assert calls("fcntl", 11, f.F_GETFD) == 1
    assert calls("fcntl", fd, f.F_DUPFD_QUERY, 11) == 1
    assert calls("fcntl", fd, f.F_DUPFD_QUERY, calls.open("/a")) == 0
    fails(EBADF, calls, "fcntl", fd, f.F_DUPFD_QUERY, 99)
    fails(EINVAL, calls, "fcntl", fd, f.F_DUPFD, calls.t.files.limit)
    calls.t.files.limit = 12
    fails(EMFILE, calls, "fcntl", fd, f.F_DUPFD, 11)


# ---- Flags.


def test_setfl_changes_only_what_can_change(calls, guest, fd):
    calls("fcntl", fd, f.F_SETFL, O_WRONLY | O_CREAT | f.O_APPEND | O_ASYNC)

    assert calls("fcntl", fd, f.F_GETFL) == O_RDWR | f.O_APPEND | f.O_LARGEFILE
    user = guest.process(creds=calls.t.creds.changed(fsuid=5, effective=0))
    user.files = calls.t.files
    fails(EPERM, FileCalls(guest, user), "fcntl", fd, f.F_SETFL, O_NOATIME)
    fails(EINVAL, calls, "fcntl", fd, 999, 0)


def test_path_descriptors_take_few_commands(calls, fd):
    path = calls.open("/a", O_PATH)

    assert calls("fcntl", path, f.F_DUPFD, 0) == path + 1
    for command in (f.F_SETFL, f.F_GETLK, f.F_SETOWN):
        fails(EBADF, calls, "fcntl", path, command, 0)
    fails(EBADF, calls, "ioctl", path, FIONREAD, 0)
    fails(EBADF, calls, "flock", path, f.LOCK_SH)


def test_pipe_size_and_seals_belong_to_their_files(calls, fd):
    fails(EBADF, calls, "fcntl", fd, f.F_GETPIPE_SZ)
    assert calls("fcntl", fd, f.F_GET_SEALS) == f.F_SEAL_SEAL
    assert calls("fcntl", fd, f.F_GETLEASE) == f.F_UNLCK


# ---- Record locks.


def lock(calls, fd, command, kind, start=0, length=0, **more):
    return calls("fcntl", fd, command, calls.flock(kind, start, length, **more))


def blocker(calls, fd, kind, start=0, length=0, command=f.F_GETLK):
    addr = calls.flock(kind, start, length)
    calls("fcntl", fd, command, addr)
    return struct.unpack("<hh4xqqi4x", calls.t.mem.read(addr, 32))


def test_record_locks_exclude_other_processes(calls, other, fd):
    lock(calls, fd, f.F_SETLK, f.F_WRLCK, 2, 4)

    lock(calls, fd, f.F_SETLK, f.F_WRLCK, 0, 10)
    lock(calls, fd, f.F_SETLK, f.F_UNLCK, 0, 2)
    lock(calls, fd, f.F_SETLK, f.F_UNLCK, 6, 0)
    fails(EAGAIN, lock, other, fd, f.F_SETLK, f.F_RDLCK, 5, 1)
    lock(other, fd, f.F_SETLK, f.F_WRLCK, 6, 1)
    assert blocker(other, fd, f.F_RDLCK) == (f.F_WRLCK, 0, 2, 4, calls.t.tid)
    assert blocker(other, fd, f.F_RDLCK, 0, 2)[0] == f.F_UNLCK
    lock(calls, fd, f.F_SETLK, f.F_RDLCK, 2, 4)
    lock(other, fd, f.F_SETLK, f.F_RDLCK, 5, 1)


def test_ranges_may_start_anywhere(calls, other, fd):
    calls("lseek", fd, 4, f.SEEK_SET)
    lock(calls, fd, f.F_SETLK, f.F_WRLCK, -2, 1, whence=f.SEEK_CUR)
    lock(calls, fd, f.F_SETLK, f.F_WRLCK, 0, -1, whence=f.SEEK_END)

    assert blocker(other, fd, f.F_RDLCK)[2:4] == (2, 1)
    assert blocker(other, fd, f.F_RDLCK, 5)[2:4] == (9, 1)
    fails(EINVAL, lock, calls, fd, f.F_SETLK, f.F_WRLCK, -1, 1)
    fails(EINVAL, lock, calls, fd, f.F_SETLK, 7)
    fails(EINVAL, lock, calls, fd, f.F_SETLK, f.F_WRLCK, 0, 0, whence=5)
    fails(EFAULT, calls, "fcntl", fd, f.F_SETLK, 8)


def test_a_lock_needs_the_access_it_is_for(calls, fd):
    fails(EBADF, lock, calls, calls.open("/a", O_RDONLY), f.F_SETLK, f.F_WRLCK)
    fails(EBADF, lock, calls, calls.open("/a", O_WRONLY), f.F_SETLK, f.F_RDLCK)


def test_closing_any_descriptor_of_a_file_drops_its_record_locks(calls, other, fd):
    again = calls.open("/a")
    lock(calls, fd, f.F_SETLK, f.F_WRLCK)

    calls("close", again)

    lock(other, fd, f.F_SETLK, f.F_WRLCK)


def test_waiting_for_a_record_lock(guest, calls, other, fd):
    lock(calls, fd, f.F_SETLK, f.F_WRLCK)
    waiting = other.start("fcntl", fd, f.F_SETLKW, other.flock(f.F_WRLCK))
    guest.settle()
    assert not waiting.done

    lock(calls, fd, f.F_SETLK, f.F_UNLCK)
    guest.settle()

    assert waiting.value() == 0
    fails(EAGAIN, lock, calls, fd, f.F_SETLK, f.F_RDLCK)


def test_a_signal_ends_the_wait(guest, calls, other, fd):
    lock(calls, fd, f.F_SETLK, f.F_WRLCK)
    waiting = other.start("fcntl", fd, f.F_SETLKW, other.flock(f.F_WRLCK))
    guest.settle()

    other.t.tg.send_signal(SigInfo(SIGUSR1))
    guest.settle()

    fails(Interrupted, waiting.value)
    lock(calls, fd, f.F_SETLK, f.F_UNLCK)
    lock(calls, fd, f.F_SETLK, f.F_WRLCK)


def test_closing_the_file_while_waiting_gives_no_lock(guest, calls, other, fd):
    lock(calls, fd, f.F_SETLK, f.F_WRLCK)
    waiting = other.start("fcntl", fd, f.F_SETLKW, other.flock(f.F_WRLCK))
    guest.settle()
    other.t.files.close(fd)

    lock(calls, fd, f.F_SETLK, f.F_UNLCK)
    guest.settle()

    fails(EBADF, waiting.value)
    assert calls.t.files.get(fd).inode.locks().held(other.t.files) == []


def test_deadlock(guest, calls, other, fd):
    lock(calls, fd, f.F_SETLK, f.F_WRLCK, 0, 1)
    lock(other, fd, f.F_SETLK, f.F_WRLCK, 1, 1)
    waiting = other.start("fcntl", fd, f.F_SETLKW, other.flock(f.F_WRLCK, 0, 1))
    guest.settle()

    fails(EDEADLK, lock, calls, fd, f.F_SETLKW, f.F_WRLCK, 1, 1)

    lock(calls, fd, f.F_SETLK, f.F_UNLCK)
    guest.settle()
    assert waiting.value() == 0


def test_open_file_description_locks(calls, other, fd):
    again = calls.open("/a", O_RDWR)
    lock(calls, fd, f.F_OFD_SETLK, f.F_WRLCK)

    fails(EAGAIN, lock, calls, again, f.F_OFD_SETLK, f.F_WRLCK)
    lock(other, fd, f.F_OFD_SETLK, f.F_WRLCK)  # the same description
    assert blocker(calls, again, f.F_RDLCK, command=f.F_OFD_GETLK)[4] == -1
    fails(EINVAL, lock, calls, fd, f.F_OFD_SETLK, f.F_WRLCK, pid=1)
    calls("close", fd)
    other("close", fd)
    lock(calls, again, f.F_OFD_SETLK, f.F_WRLCK)


# ---- flock.


def test_flock(guest, calls, other, fd):
    again = calls.open("/a")
    calls("flock", fd, f.LOCK_EX)

    calls("flock", calls("dup", fd), f.LOCK_EX | f.LOCK_NB)
    fails(EAGAIN, calls, "flock", again, f.LOCK_SH | f.LOCK_NB)
    waiting = other.start("flock", other.open("/a"), f.LOCK_EX)
    guest.settle()
    assert not waiting.done
    calls("flock", fd, f.LOCK_UN)
    guest.settle()
    assert waiting.value() == 0
    fails(EINVAL, calls, "flock", fd, 0)
    fails(EINVAL, calls, "flock", fd, f.LOCK_SH | f.LOCK_EX)
    fails(EBADF, calls, "flock", 99, f.LOCK_SH)


def test_closing_the_last_descriptor_drops_the_flock(calls, fd):
    again = calls.open("/a")
    calls("flock", fd, f.LOCK_EX)

    calls("close", fd)

    calls("flock", again, f.LOCK_EX | f.LOCK_NB)


# ---- Signals on readiness.


@pytest.fixture
def pipe(calls):
    addr = calls.t.mem.alloc(8)
    calls("pipe2", addr, O_NONBLOCK)
    return struct.unpack("<ii", calls.t.mem.read(addr, 8))


def test_owners(calls, pipe):
    reader, _ = pipe
    assert calls("fcntl", reader, f.F_GETOWN) == 0
    calls("fcntl", reader, f.F_SETOWN, calls.t.tid)
    assert calls("fcntl", reader, f.F_GETOWN) == calls.t.tid
    calls("fcntl", reader, f.F_SETOWN, -calls.t.tid)
    assert calls("fcntl", reader, f.F_GETOWN) == -calls.t.tid
    calls("fcntl", reader, f.F_SETOWN_EX, struct.pack("<ii", 0, calls.t.tid))
    addr = calls.t.mem.alloc(8)
    calls("fcntl", reader, f.F_GETOWN_EX, addr)
    assert struct.unpack("<ii", calls.t.mem.read(addr, 8)) == (0, calls.t.tid)
    fails(ESRCH, calls, "fcntl", reader, f.F_SETOWN, 9999)
    fails(EINVAL, calls, "fcntl", reader, f.F_SETOWN, -(1 << 31))
    fails(EINVAL, calls, "fcntl", reader, f.F_SETOWN_EX, struct.pack("<ii", 9, 1))


def test_an_async_file_signals_its_owner(guest, calls, pipe):
    reader, writer = pipe
    calls("fcntl", reader, f.F_SETOWN, calls.t.tid)
    calls("fcntl", reader, f.F_SETFL, O_ASYNC)
    assert calls("fcntl", reader, f.F_GETFL) & O_ASYNC
    calls.t.tg.handlers.set(SIGIO, type(calls.t.tg.handlers.get(SIGIO))(handler=0x1000))

    calls.write(writer, b"x")

    assert calls.t.tg.pending.mask & bit(SIGIO)
    calls.t.tg.pending.discard(bit(SIGIO))
    calls("ioctl", reader, FIOASYNC, struct.pack("<i", 0))
    calls.write(writer, b"x")
    assert not calls.t.tg.pending.mask & bit(SIGIO)


def test_setsig_chooses_the_signal(calls, pipe):
    reader, writer = pipe
    calls("fcntl", reader, f.F_SETSIG, 40)
    calls("fcntl", reader, f.F_SETOWN, calls.t.tid)
    calls("fcntl", reader, f.F_SETFL, O_ASYNC)

    calls.write(writer, b"x")

    assert calls("fcntl", reader, f.F_GETSIG) == 40
    assert calls.t.tg.pending.mask & bit(40)
    fails(EINVAL, calls, "fcntl", reader, f.F_SETSIG, 65)


# ---- ioctl.


def test_ioctls_of_the_descriptor(calls, fd):
    calls("ioctl", fd, FIOCLEX)
    assert calls("fcntl", fd, f.F_GETFD) == 1
    calls("ioctl", fd, FIONCLEX)
    assert calls("fcntl", fd, f.F_GETFD) == 0
    calls("ioctl", fd, FIONBIO, struct.pack("<i", 1))
    assert calls("fcntl", fd, f.F_GETFL) & O_NONBLOCK
    calls("ioctl", fd, FIONBIO, struct.pack("<i", 0))
    assert not calls("fcntl", fd, f.F_GETFL) & O_NONBLOCK
    fails(ENOTTY, calls, "ioctl", fd, FIOASYNC, struct.pack("<i", 1))
    fails(ENOTTY, calls, "ioctl", fd, 0x5401)  # TCGETS
    fails(EBADF, calls, "ioctl", 99, FIOCLEX)


def test_ioctls_of_files(calls, fd):
    buf = calls.t.mem.alloc(8)
    calls("lseek", fd, 4, f.SEEK_SET)

    calls("ioctl", fd, FIONREAD, buf)
    assert struct.unpack("<i", calls.t.mem.read(buf, 4)) == (6,)
    calls("ioctl", fd, FIOQSIZE, buf)
    assert struct.unpack("<q", calls.t.mem.read(buf, 8)) == (10,)
    fails(EOPNOTSUPP, calls, "ioctl", fd, FICLONE, fd)
    fails(EISDIR, calls, "ioctl", calls.open("/"), FICLONE, fd)
    fails(EFAULT, calls, "ioctl", fd, FIONREAD, 8)
