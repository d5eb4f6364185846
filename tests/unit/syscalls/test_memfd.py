"""memfd_create(2) and seals."""

import pytest

from sentry.abi.errno import EFAULT, EINVAL, ENOSYS, EPERM
from sentry.abi.fcntl import F_SEAL_EXEC, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, O_RDONLY
from sentry.fs.memfd import FILESYSTEM, add_seals, get_seals
from sentry.syscalls.eventfd import eventfd2
from sentry.syscalls.memfd import MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_HUGETLB, MFD_NOEXEC_SEAL, memfd_create
from sentry.vfs.iov import BytesSink, BytesSource


def make(guest, t, flags=0, name=b"test"):
    fd = guest.call(t, memfd_create, t.mem.put(name + b"\0"), flags)
    return t.files.get(fd)


def test_it_is_an_unnamed_file_that_can_be_written_and_read(guest, t):
    file = make(guest, t, MFD_CLOEXEC)
    file.write(BytesSource(b"hello"))
    sink = BytesSink(10)
    file.read_at(sink, 0)

    assert bytes(sink.data) == b"hello"
    assert file.inode.mode == 0o100777
    assert file.inode.nlink == 0
    assert file.describe() == "/memfd:test (deleted)"
    assert t.files.cloexec(0)


def test_its_memory_goes_with_it(guest, t):
    before = FILESYSTEM.pool.used
    make(guest, t).write(BytesSource(bytes(100_000)))
    assert FILESYSTEM.pool.used > before

    t.files.close(0)

    assert FILESYSTEM.pool.used == before


def test_it_can_be_opened_again_through_its_path(guest, t):
    file = make(guest, t)
    file.write(BytesSource(b"hello"))
    opening = file.path.inode.open(file.path, O_RDONLY)
    with pytest.raises(StopIteration) as end:
        opening.send(None)
    again = end.value.value
    sink = BytesSink(10)
    again.read(sink)

    assert bytes(sink.data) == b"hello"


def test_whoever_wrote_it_may_execute_it(guest, t):
    """execve(2) refuses files that are open for writing; a memfd is not counted as such."""
    file = make(guest, t)
    assert file.writable and file.inode.writers == 0
    t.files.close(0)
    assert file.inode.writers == 0


def test_seals_forbid_what_they_say(guest, t):
    file = make(guest, t, MFD_ALLOW_SEALING)
    file.write(BytesSource(b"hello"))
    assert get_seals(file) == 0
    add_seals(file, F_SEAL_SHRINK | F_SEAL_GROW)
    with pytest.raises(EPERM):
        file.inode.resize(1)
    with pytest.raises(EPERM):
        file.inode.resize(10)
    file.write_at(BytesSource(b"H"), 0)
    add_seals(file, F_SEAL_WRITE)
    with pytest.raises(EPERM):
        file.write_at(BytesSource(b"h"), 0)
    add_seals(file, F_SEAL_SEAL)
    with pytest.raises(EPERM):
        add_seals(file, F_SEAL_GROW)


def test_without_being_asked_for_there_is_no_sealing(guest, t):
    file = make(guest, t)
    assert get_seals(file) == F_SEAL_SEAL
    with pytest.raises(EPERM):
        add_seals(file, F_SEAL_GROW)


def test_sealing_an_executable_file_as_such_seals_its_contents(guest, t):
    file = make(guest, t, MFD_ALLOW_SEALING)
    add_seals(file, F_SEAL_EXEC)
    assert get_seals(file) & F_SEAL_WRITE


def test_noexec_is_sealed_so(guest, t):
    file = make(guest, t, MFD_NOEXEC_SEAL)
    assert file.inode.mode & 0o777 == 0o666
    assert get_seals(file) == F_SEAL_EXEC


def test_errors(guest, t):
    with pytest.raises(EINVAL):
        make(guest, t, 0x100)
    with pytest.raises(EINVAL):
        make(guest, t, MFD_EXEC | MFD_NOEXEC_SEAL)
    with pytest.raises(EINVAL):
        make(guest, t, name=b"x" * 250)
    with pytest.raises(EFAULT):
        guest.call(t, memfd_create, 8, 0)
    with pytest.raises(ENOSYS):
        make(guest, t, MFD_HUGETLB)
    assert make(guest, t, name=b"x" * 249)
    with pytest.raises(EINVAL):
        get_seals(t.files.get(guest.call(t, eventfd2, 0, 0)))
