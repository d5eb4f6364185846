"""A real gofer in a child process, confined as it will be, and a blocking client to talk to it."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gofer.server import serve
from proto.ninep.codec import DEFAULT_MSIZE, attr_entries
from proto.ninep.connection import Connection
from proto.ninep.dialect import VERSION_PYSC, Attr, Tlopenfd, Treaddirattr, Twalkgetattr
from proto.ninep.message import Message
from proto.ninep.messages import NOFID, NONUNAME, Rlerror, Tattach
from sandbox.confine import GOFER_CAPABILITIES, drop_privileges
from sandbox.filters import compiled
from sandbox.filters import load as load_filter

CAP_CHOWN, CAP_SYS_CHROOT = 0, 18
ROOT = 0  # the fid that every client attaches first
WAIT_SECONDS = 20

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@contextmanager
def fails(code: int) -> Iterator[None]:
    """The block must raise this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


class Client:
    """Sends one request at a time and waits for its reply; Rlerror becomes OSError."""

    def __init__(
        self,
        sock: socket.socket,
        version: bytes = VERSION_PYSC,
        msize: int = DEFAULT_MSIZE,
        uid: int = NONUNAME,
    ) -> None:
        self.sock = sock
        self.sock.settimeout(WAIT_SECONDS)
        self.connection = Connection(msize, version)
        self.donated: int | None = None  # by the last reply; the test's to close
        self.sock.sendall(self.connection.hello())
        self._wait()
        self.call(Tattach(self.new_fid(), NOFID, b"", b"", uid))

    def new_fid(self) -> int:
        fid = self.connection.fids.take()
        assert fid is not None
        return fid

    def call(self, request: Message) -> Any:
        """Its reply, of whatever class goes with it."""
        _, frame = self.connection.send(request)
        self.sock.sendall(frame)
        return self._wait()

    def receive(self) -> list[tuple[int, Message, int | None]]:
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 17, 16)
        if not data:
            raise EOFError("the gofer closed the connection")
        return self.connection.receive(data, fds)

    def _wait(self) -> Message:
        replies: list[tuple[int, Message, int | None]] = []
        while not replies:
            replies = self.receive()
        [(_, reply, self.donated)] = replies
        if isinstance(reply, Rlerror):
            raise OSError(reply.ecode, os.strerror(reply.ecode))
        return reply

    def take_donated(self) -> int:
        """The descriptor that came with the last reply."""
        fd, self.donated = self.donated, None
        assert fd is not None
        return fd

    # What most tests of the dialect begin with.

    def walk(self, path: str, start: int = ROOT) -> int:
        fid = self.new_fid()
        names = [os.fsencode(name) for name in path.split("/") if name]
        reply = self.call(Twalkgetattr(start, fid, names))
        if len(reply.attrs) < len(names):
            raise FileNotFoundError(path)
        return fid

    def attr(self, fid: int) -> Attr:
        attr: Attr = self.call(Twalkgetattr(fid, NOFID, [])).attrs[0]
        return attr

    def open(self, fid: int, flags: int = os.O_RDONLY) -> int:
        """The donated descriptor of a regular file."""
        assert self.call(Tlopenfd(fid, flags)).has_fd == 1
        return self.take_donated()

    def read(self, path: str) -> bytes:
        with open(self.open(self.walk(path)), "rb") as file:
            return file.read()

    def open_dir(self, path: str) -> int:
        fid = self.walk(path)
        assert self.call(Tlopenfd(fid, os.O_RDONLY)).has_fd == 0
        return fid

    def entries(self, fid: int, offset: int = 0, count: int = 1 << 20) -> list[tuple[bytes, int, Attr]]:
        return attr_entries(self.call(Treaddirattr(fid, offset, count)).data)

    def listing(self, fid: int, count: int = 1 << 20) -> list[tuple[bytes, int, Attr]]:
        """All entries, in as many requests as that takes."""
        found: list[tuple[bytes, int, Attr]] = []
        while batch := self.entries(fid, found[-1][1] if found else 0, count):
            found += batch
        return found

    def close(self) -> None:
        for fd in self.connection.close()[1]:
            os.close(fd)
        if self.donated is not None:
            os.close(self.donated)
            self.donated = None
        self.sock.close()


def _confine(empty_root: Path, capabilities: Set[int]) -> None:
    """What sandbox/stage.py does to a gofer, as far as it takes no namespaces.  A call outside the filter kills."""
    compiled("gofer", True)
    drop_privileges({*capabilities, CAP_SYS_CHROOT}, become_nobody=False, dumpable=False)
    if os.geteuid() == 0:
        os.chroot(empty_root)
        os.chdir("/")
    load_filter("gofer", {}, debug=True)


class Gofer:
    """A gofer serving the mounts given: [(path, read-only)], one connection each.

    without: capabilities that it shall lack, of those it usually has.
    """

    def __init__(self, *mounts: tuple[Path, bool], empty_root: Path, without: frozenset[int] = frozenset()) -> None:
        self._confine = partial(_confine, empty_root, GOFER_CAPABILITIES.keys() - without)
        pairs = [socket.socketpair() for _ in mounts]
        self.socks = [ours for ours, _ in pairs]
        self._log = os.memfd_create("gofer-log")
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._child([theirs for _, theirs in pairs], mounts)
        for _, theirs in pairs:
            theirs.close()

    def _child(self, socks: list[socket.socket], mounts: tuple[tuple[Path, bool], ...]) -> None:
        """As the gofer lives: nothing but the roots and /proc to be had, all by descriptor."""
        status = 1
        try:
            os.dup2(self._log, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # pytest's own would not get there
            for ours in self.socks:
                ours.close()
            roots = [os.open(path, os.O_PATH | os.O_NOFOLLOW) for path, _ in mounts]
            proc_fd = os.open("/proc", os.O_PATH)
            self._confine()
            served = [(sock, root, ro) for sock, root, (_, ro) in zip(socks, roots, mounts, strict=True)]
            status = serve(served, proc_fd)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def fds(self) -> list[str]:
        """What the gofer has open, sorted."""
        found = []
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{self.pid}/fd/{name}"))
        return sorted(found)

    def log(self) -> str:
        """What it has written to its standard error."""
        return os.pread(self._log, 1 << 20, 0).decode()

    def wait(self) -> int:
        """Close all connections; the exit status, or -SIGKILL if it would not end."""
        for sock in self.socks:
            sock.close()
        pidfd = os.pidfd_open(self.pid)
        if not select.select([pidfd], [], [], WAIT_SECONDS)[0]:
            os.kill(self.pid, signal.SIGKILL)
        os.close(pidfd)
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self) -> None:
        if self.pid:
            self.wait()
        os.close(self._log)


def host_attr(path: Path) -> Attr:
    """What the gofer should say of a file on the root's device."""
    s = path.lstat()
    times = s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns
    sizes = s.st_rdev, s.st_size, s.st_blocks
    return Attr(s.st_ino, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, *sizes, *times, s.st_blksize)


def tick() -> None:
    """Let the clock that files are stamped with move on: until it does, a change may leave no trace in ctime."""
    before = time.clock_gettime_ns(5)
    while time.clock_gettime_ns(5) == before:
        time.sleep(0)
