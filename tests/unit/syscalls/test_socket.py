"""socket(2), bind(2), connect(2), accept(2) and their like, on AF_UNIX."""

import os
import socket as host
import struct

import pytest

from sentry.abi.errno import (
    EACCES,
    EADDRINUSE,
    EAFNOSUPPORT,
    EAGAIN,
    EBADF,
    ECONNREFUSED,
    ECONNRESET,
    EFAULT,
    EINTR,
    EINVAL,
    EMFILE,
    ENOENT,
    ENOTCONN,
    ENOTSOCK,
    EPROTONOSUPPORT,
    EPROTOTYPE,
    EROFS,
    ESOCKTNOSUPPORT,
)
from sentry.abi.fcntl import O_CLOEXEC, O_NONBLOCK, O_RDWR
from sentry.abi.poll import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP
from sentry.abi.signal import SIGTERM
from sentry.abi.socket import (
    AF_UNIX,
    INT,
    RCV_SHUTDOWN,
    SO_PASSCRED,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    TIMEVAL,
    UNIX_FAMILY,
)
from sentry.abi.stat import S_IFSOCK
from sentry.fs.volumes import Volumes
from sentry.kernel.fscontext import FsContext
from sentry.kernel.restart import Interrupted
from sentry.kernel.signals import SigInfo
from sentry.net.procunix import HEADER, table
from sentry.vfs.dentry import MS_RDONLY
from tests.gofertree import GoferTree
from tests.unit.syscalls.filecalls import FileCalls
from tests.unit.syscalls.socketcalls import SocketCalls, abstract_address, path_address

CONNECTED = (SOCK_STREAM, SOCK_SEQPACKET)
MS = 1000


@pytest.fixture
def sockets(guest, t):
    return SocketCalls(guest, t)


@pytest.fixture
def files(guest, calls):
    """Socket calls on either kind of file system."""
    return SocketCalls(guest, calls.t)


@pytest.fixture
def other(guest, sockets):
    """A second thread."""
    return SocketCalls(guest, guest.thread(sockets.t))


def timeout_ms(count):
    return TIMEVAL.pack(0, count * MS)


class TestMaking:
    def test_descriptors_and_flags(self, sockets, t):
        fd = sockets.socket(SOCK_STREAM | O_CLOEXEC | O_NONBLOCK)
        assert t.files.get(fd).flags == O_RDWR | O_NONBLOCK
        assert t.files.cloexec(fd)
        for fd in sockets.pair(SOCK_DGRAM | O_NONBLOCK):
            assert t.files.get(fd).flags == O_RDWR | O_NONBLOCK
            assert not t.files.cloexec(fd)

    @pytest.mark.parametrize(
        ("family", "kind", "protocol", "error"),
        [
            (AF_UNIX, SOCK_STREAM | 0x100, 0, EINVAL),
            (AF_UNIX, 12, 0, EINVAL),
            (AF_UNIX, 4, 0, ESOCKTNOSUPPORT),
            (AF_UNIX, SOCK_STREAM, 2, EPROTONOSUPPORT),
            (200, SOCK_STREAM, 0, EAFNOSUPPORT),
            (38, SOCK_STREAM, 0, EAFNOSUPPORT),
        ],
    )
    def test_refusals(self, sockets, t, family, kind, protocol, error):
        with pytest.raises(error):
            sockets("socket", family, kind, protocol)
        with pytest.raises(error):
            sockets("socketpair", family, kind, protocol, t.mem.alloc(8))

    def test_nothing_is_left_of_a_pair_that_fails(self, sockets, t):
        with pytest.raises(EFAULT):
            sockets("socketpair", AF_UNIX, SOCK_STREAM, 0, 8)
        assert not list(t.files.items())
        t.files.limit = 1
        with pytest.raises(EMFILE):
            sockets("socketpair", AF_UNIX, SOCK_STREAM, 0, t.mem.alloc(8))
        assert not list(t.files.items())
        assert not t.kernel.unix_names.sockets

    def test_what_is_no_socket(self, sockets, t):
        fds = t.mem.alloc(8)
        sockets("pipe", fds)
        reader, _ = struct.unpack("<ii", t.mem.read(fds, 8))
        for name, *args in (("listen", 5), ("accept", 0, 0), ("shutdown", 0), ("getsockname", 0, 0)):
            with pytest.raises(ENOTSOCK):
                sockets(name, reader, *args)
            with pytest.raises(EBADF):
                sockets(name, 99, *args)

    def test_its_mode_is_that_of_its_file(self, sockets):
        fd = sockets.socket()
        sockets("fchmod", fd, 0o607)
        sockets("fchown", fd, 5, 6)
        assert sockets.fstat(fd)[3:6] == (S_IFSOCK | 0o607, 5, 6)
        sockets.bind(fd, path_address("/s"))
        assert sockets.stat("/s").mode == S_IFSOCK | 0o605

    def test_stat(self, sockets):
        fd = sockets.socket()
        assert sockets.fstat(fd).mode == S_IFSOCK | 0o777
        assert sockets.fstat(fd).ino != sockets.fstat(sockets.socket()).ino


class TestPaths:
    def test_the_file_obeys_the_umask_and_stays(self, files):
        files("umask", 0o027)
        fd = files.bound(path_address("/s"))
        assert files.stat("/s").mode == S_IFSOCK | 0o750
        assert files.name_of(fd) == path_address("/s")
        files("close", fd)
        assert files.stat("/s").mode == S_IFSOCK | 0o750
        with pytest.raises(EADDRINUSE):
            files.bound(path_address("/s"))
        with pytest.raises(ECONNREFUSED):
            files.connected(path_address("/s"))

    def test_a_second_name_is_refused_and_leaves_no_file(self, files):
        fd = files.bound(path_address("/s"))
        with pytest.raises(EINVAL):
            files.bind(fd, path_address("/other"))
        with pytest.raises(EADDRINUSE):
            files.bind(fd, path_address("/s"))
        with pytest.raises(ENOENT):
            files.stat("/other")

    def test_bad_addresses(self, files):
        fd = files.socket()
        for address in (b"", b"\x01", b"\x02\0/s\0", UNIX_FAMILY + b"/" * 109):
            with pytest.raises(EINVAL):
                files.bind(fd, address)
            with pytest.raises(EINVAL):
                files.connect(fd, address)
        with pytest.raises(EINVAL):
            files("bind", fd, 8, -1)
        with pytest.raises(EFAULT):
            files("bind", fd, 8, 10)

    def test_no_nul_is_needed(self, files):
        fd = files.bound(UNIX_FAMILY + b"/abc")
        assert files.name_of(fd) == path_address("/abc")
        long = "/" + "n" * 107
        assert files.name_of(files.bound(UNIX_FAMILY + long.encode())) == path_address(long)

    def test_the_file_leads_there_whatever_its_name(self, files):
        files.listener(path_address("/s"))
        files("rename", "/s", "/renamed")
        files("link", "/renamed", "/linked")
        files("symlink", "linked", "/symlink")
        files("chdir", "/")
        for name in ("/renamed", "linked", "/symlink"):
            files.connected(path_address(name))
        with pytest.raises(ENOENT):
            files.connected(path_address("/s"))

    def test_a_removed_file_leads_nowhere(self, files):
        files.listener(path_address("/s"))
        files("unlink", "/s")
        with pytest.raises(ENOENT):
            files.connected(path_address("/s"))
        second = files.listener(path_address("/s"))
        files.connected(path_address("/s"))
        assert files.poll_now(second) & POLLIN

    def test_permission_is_that_to_write(self, guest, files, user):
        user = SocketCalls(guest, user.t)
        files.listener(path_address("/s"))
        files("chmod", "/s", 0o755)
        with pytest.raises(EACCES):
            user.connected(path_address("/s"))
        files("chmod", "/s", 0o722)
        user.connected(path_address("/s"))

    def test_other_files_and_types(self, files):
        files.make("/plain")
        files("mkdir", "/d", 0o755)
        for name in ("/plain", "/d"):
            with pytest.raises(ECONNREFUSED):
                files.connected(path_address(name))
        files.listener(path_address("/s"))
        with pytest.raises(EPROTOTYPE):
            files.connected(path_address("/s"), SOCK_SEQPACKET)
        with pytest.raises(EPROTOTYPE):
            files.connected(path_address("/s"), SOCK_DGRAM)

    def test_a_read_only_mount(self, files):
        files.listener(path_address("/s"))
        files.t.fs.root.mount.flags |= MS_RDONLY
        files.connected(path_address("/s"))
        with pytest.raises(EROFS):
            files.bound(path_address("/other"))


class TestVolumes:
    def test_sockets_of_the_host_are_out_of_reach(self, guest, t, tmp_path):
        with host.socket(host.AF_UNIX) as outside, GoferTree(tmp_path, loop=guest.loop) as tree:
            here = os.getcwd()
            os.chdir(tmp_path)  # the path may be too long
            try:
                outside.bind("s")
            finally:
                os.chdir(here)
            outside.listen()
            t.fs = FsContext(tree.root, tree.root)
            with pytest.raises(ECONNREFUSED):
                SocketCalls(guest, t).connected(path_address("/s"))

    def test_containers_meet_on_a_shared_volume(self, guest, tmp_path):
        """Each has a gofer of its own, so one file has two inodes."""
        tmp_path.chmod(0o777)
        loop = guest.loop
        volumes = Volumes()
        with (
            GoferTree(tmp_path, shared=True, loop=loop, volumes=volumes) as one,
            GoferTree(tmp_path, shared=True, loop=loop, volumes=volumes) as two,
        ):
            ends = []
            for tree in (one, two):
                task = guest.process()
                task.fs = FsContext(tree.root, tree.root)
                ends.append(SocketCalls(guest, task))
            server, client = ends
            fd = server.listener(path_address("/s"))
            connection = client.connected(path_address("/s"))
            client.send(connection, b"hello")
            assert server.recv(server.accept(fd)) == b"hello"
            server("close", fd)
            with pytest.raises(ECONNREFUSED):
                client.connected(path_address("/s"))


class TestAbstractNames:
    def test_each_type_has_its_own(self, sockets):
        name = abstract_address("a")
        fds = [sockets.bound(name, kind) for kind in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET)]
        with pytest.raises(EADDRINUSE):
            sockets.bound(name)
        assert sockets.name_of(fds[0]) == name
        sockets.bound(name + b"\0")
        sockets("close", fds[0])
        sockets.bound(name)

    def test_all_containers_share_them(self, guest, sockets):
        sockets.listener(abstract_address("a"))
        SocketCalls(guest, guest.process()).connected(abstract_address("a"))

    def test_autobind(self, sockets):
        fds = [sockets.bound(UNIX_FAMILY) for _ in range(3)]
        names = {sockets.name_of(fd) for fd in fds}
        assert len(names) == 3
        assert all(len(name) == 8 and name[2] == 0 for name in names)
        sockets.bind(fds[0], UNIX_FAMILY)  # nothing, the second time
        assert sockets.name_of(fds[0]) in names
        with pytest.raises(EINVAL):
            sockets.bind(fds[0], abstract_address("a"))

    def test_who_wants_credentials_gets_a_name(self, sockets):
        sockets.listener(abstract_address("a"))
        fd = sockets.socket()
        sockets.set_option(fd, SO_PASSCRED, 1)
        sockets.connect(fd, abstract_address("a"))
        assert len(sockets.name_of(fd)) == 8


class TestConnections:
    @pytest.mark.parametrize("kind", CONNECTED)
    def test_data_before_accept(self, sockets, kind):
        fd = sockets.listener(abstract_address("s"), kind)
        assert not sockets.poll_now(fd) & POLLIN
        client = sockets.connected(abstract_address("s"), kind)
        sockets.send(client, b"early")
        assert sockets.poll_now(fd) & POLLIN
        server = sockets.accept(fd)
        assert sockets.recv(server) == b"early"
        assert sockets.name_of(client, "getpeername") == abstract_address("s")
        assert sockets.name_of(server, "getsockname") == abstract_address("s")
        assert sockets.name_of(server, "getpeername") == UNIX_FAMILY

    def test_accept_tells_who(self, sockets, t):
        fd = sockets.listener(abstract_address("s"))
        client = sockets.bound(abstract_address("client"))
        sockets.connect(client, abstract_address("s"))
        addr, length = t.mem.alloc(128), t.mem.put(INT.pack(5))
        server = sockets("accept4", fd, addr, length, O_NONBLOCK | O_CLOEXEC)
        assert INT.unpack(t.mem.read(length, 4)) == (len(abstract_address("client")),)
        assert t.mem.read(addr, 6) == abstract_address("client")[:5] + b"\0"
        assert t.files.cloexec(server)
        assert t.files.get(server).flags & O_NONBLOCK

    def test_an_accept_that_cannot_tell_closes_the_connection(self, sockets):
        fd = sockets.listener(abstract_address("s"))
        client = sockets.connected(abstract_address("s"))
        with pytest.raises(EFAULT):
            sockets("accept", fd, 8, 8)
        assert sockets.poll_now(client) & POLLHUP

    def test_accept_without_descriptors_leaves_the_connection(self, sockets, t):
        fd = sockets.listener(abstract_address("s"))
        sockets.connected(abstract_address("s"))
        limit, t.files.limit = t.files.limit, 2
        with pytest.raises(EMFILE):
            sockets.accept(fd)
        t.files.limit = limit
        sockets.accept(fd)

    def test_accept_waits(self, guest, sockets, other):
        fd = sockets.listener(abstract_address("s"))
        waiting = other.start("accept", fd, 0, 0)
        guest.settle()
        assert not waiting.done
        sockets.connected(abstract_address("s"))
        guest.settle()
        assert waiting.value() > fd

    def test_accept_is_interrupted(self, guest, sockets, other, t):
        fd = sockets.listener(abstract_address("s"))
        waiting = other.start("accept", fd, 0, 0)
        guest.settle()
        t.tg.send_to(other.t, SigInfo(SIGTERM))
        guest.settle()
        with pytest.raises(Interrupted):
            waiting.value()

    def test_a_timeout_ends_accept_and_makes_signals_final(self, guest, sockets, other, t):
        fd = sockets.listener(abstract_address("s"))
        sockets.set_option(fd, SO_RCVTIMEO, timeout_ms(5))
        with pytest.raises(EAGAIN):
            sockets.accept(fd)
        sockets.set_option(fd, SO_RCVTIMEO, timeout_ms(900))
        waiting = other.start("accept", fd, 0, 0)
        guest.settle()
        t.tg.send_to(other.t, SigInfo(SIGTERM))
        guest.settle()
        with pytest.raises(EINTR):
            waiting.value()

    def test_shutting_a_listener_down_ends_accept(self, guest, sockets, other, t):
        fd = sockets.listener(abstract_address("s"))
        waiting = other.start("accept", fd, 0, 0)
        guest.settle()
        sockets("shutdown", fd, RCV_SHUTDOWN - 1)
        guest.settle()
        with pytest.raises(EINVAL):
            waiting.value()
        with pytest.raises(ECONNREFUSED):
            sockets.connected(abstract_address("s"))
        t.files.get(fd).flags |= O_NONBLOCK
        with pytest.raises(EAGAIN):
            sockets.accept(fd)

    def test_what_was_set_when_the_connection_came_is_inherited(self, sockets):
        fd = sockets.listener(abstract_address("s"))
        sockets.set_option(fd, SO_PASSCRED, 1)
        sockets.connected(abstract_address("s"))
        sockets.set_option(fd, SO_PASSCRED, 0)
        sockets.connected(abstract_address("s"))
        assert [sockets.option(sockets.accept(fd), SO_PASSCRED) for _ in range(2)] == [1, 0]

    def test_a_full_backlog(self, guest, sockets, other):
        fd = sockets.listener(abstract_address("s"), backlog=1)
        for _ in range(2):
            sockets.connected(abstract_address("s"))
        with pytest.raises(EAGAIN):
            sockets.connected(abstract_address("s"), SOCK_STREAM | O_NONBLOCK)
        late = sockets.socket()
        address = abstract_address("s")
        waiting = other.start("connect", late, address, len(address))
        guest.settle()
        assert not waiting.done
        sockets.accept(fd)
        guest.settle()
        assert waiting.value() == 0

    def test_a_longer_backlog_lets_those_who_wait_in(self, guest, sockets, other):
        fd = sockets.listener(abstract_address("s"), backlog=0)
        sockets.connected(abstract_address("s"))
        address = abstract_address("s")
        waiting = other.start("connect", sockets.socket(), address, len(address))
        guest.settle()
        sockets("listen", fd, 5)
        guest.settle()
        assert waiting.value() == 0

    def test_who_waits_to_connect_hears_of_the_end(self, guest, sockets, other):
        fd = sockets.listener(abstract_address("s"), backlog=0)
        sockets.connected(abstract_address("s"))
        address = abstract_address("s")
        waiting = other.start("connect", sockets.socket(), address, len(address))
        guest.settle()
        sockets("close", fd)
        guest.settle()
        with pytest.raises(ECONNREFUSED):
            waiting.value()

    def test_connect_with_a_timeout(self, sockets):
        sockets.listener(abstract_address("s"), backlog=0)
        sockets.connected(abstract_address("s"))
        late = sockets.socket()
        sockets.set_option(late, SO_SNDTIMEO, timeout_ms(5))
        with pytest.raises(EAGAIN):
            sockets.connect(late, abstract_address("s"))

    def test_connections_nobody_accepted(self, sockets):
        fd = sockets.listener(abstract_address("s"))
        client = sockets.connected(abstract_address("s"))
        sockets("close", fd)
        assert sockets.poll_now(client) & (POLLERR | POLLHUP | POLLRDHUP) == POLLERR | POLLHUP | POLLRDHUP
        with pytest.raises(ECONNRESET):
            sockets.recv(client)
        assert sockets.recv(client) == b""

    def test_getpeername_of_nobody(self, sockets, t):
        with pytest.raises(ENOTCONN):
            sockets.name_of(sockets.socket(), "getpeername")

    def test_an_unconnected_stream_hangs_up(self, sockets):
        assert sockets.poll_now(sockets.socket()) & (POLLIN | POLLOUT | POLLHUP) == POLLOUT | POLLHUP


class TestProc:
    def test_the_table(self, guest, sockets):
        calls = FileCalls(guest, sockets.t)
        fd = sockets.listener(path_address("/s"))
        sockets.connected(path_address("/s"))
        sockets.bound(abstract_address("a"), SOCK_DGRAM)
        head, *lines = table(guest.kernel).splitlines(keepends=True)
        assert head == HEADER
        assert len(lines) == 4
        ino = calls.fstat(fd).ino
        assert lines[0].endswith(f": 00000002 00000000 00010000 0001 01 {ino:5d} /s\n")
        assert any(line.endswith(" 00000000 0001 02     0 /s\n") for line in lines)
        assert lines[-1].endswith(" @a\n")

    def test_the_link(self, sockets, t):
        fd = sockets.socket()
        file = t.files.get(fd)
        assert file.describe() == f"socket:[{file.inode.ino}]"
        assert file.fd_info() == "scm_fds: 0\n"
