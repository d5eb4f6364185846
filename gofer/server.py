"""The gofer's sockets: one loop over the connections, each with its session.

One thread.  Replies to requests that came together go back together, so that the client is woken once; one that waits
for the disk keeps nobody else's reply back.  A connection whose replies cannot be sent whole is not read from, and none
of its further requests are carried out, until the rest is out: a client that does not read its replies costs so much
memory and one more reply, no more.
"""

from __future__ import annotations

import gc
import os
from _socket import MSG_DONTWAIT, SCM_RIGHTS, SO_RCVTIMEO, SOL_SOCKET
from errno import EAGAIN
from select import EPOLLIN, EPOLLOUT, epoll
from struct import Struct

from gofer.localfs import enter_proc
from gofer.session import Session
from proto.ninep import codec
from proto.ninep.dialect import Tlopenfd, Twalkgetattr
from proto.ninep.message import ProtocolError
from proto.ninep.messages import Tattach, Tversion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Iterator, Sequence

RECEIVE_SIZE = 64 << 10
SEND_SIZE = 64 << 10  # replies of so many bytes are sent without waiting for others

FIRST_REQUESTS = (Tversion, Tattach, Twalkgetattr, Tlopenfd)
"""What each container begins with."""

_pack_fd = Struct("i").pack
_pack_timeval = Struct("ll").pack


class Peer:
    """A connection: its socket, its session, and what is under way between them."""

    def __init__(self, sock: socket, root_fd: int, readonly: bool) -> None:
        self.sock = sock  # used with MSG_DONTWAIT: the filter allows no ioctl, which setblocking() is
        self.root_fd = root_fd
        self.session = Session(root_fd, readonly)
        self.replies: Iterator[tuple[bytes, int]] = iter(())  # of the requests received, not yet all carried out
        self.unsent: bytes | memoryview = b""  # the rest of some replies
        self.unsent_fd = -1  # goes with its first byte
        self.is_silent = False  # nothing has come for as long as receive() has patience, see limit_patience()

    def receive(self, flags: int) -> bool:
        """Take what has arrived and answer it.  flags: MSG_DONTWAIT, or 0 to wait.  False: the client has gone."""
        try:
            # No room for descriptors: the kernel closes those that a client might send.
            data = self.sock.recv(RECEIVE_SIZE, flags)
        except BlockingIOError:
            self.is_silent = True
            return True
        if not data:
            return False
        reply = self.session.receive_whole(data)
        if reply is not None:
            self._send(*reply)
            return True
        self.replies = self.session.receive(data)
        self.advance()
        return True

    def advance(self) -> None:
        """Send what is unsent; then carry out and answer requests for as long as the socket takes the replies."""
        if self.unsent and not self._send(self.unsent, self.unsent_fd):
            return
        frames = b""
        for frame, fd in self.replies:
            frames += frame
            if frames and (fd >= 0 or not frame or len(frames) >= SEND_SIZE):
                if not self._send(frames, fd):
                    return
                frames = b""
        if frames:
            self._send(frames, -1)

    def _send(self, frame: bytes | memoryview, fd: int) -> bool:
        """Whether the whole of it went out; otherwise the rest is kept in unsent."""
        self.unsent_fd = fd
        try:
            if fd < 0:
                sent = self.sock.send(frame, MSG_DONTWAIT)
            else:
                ancillary = ((SOL_SOCKET, SCM_RIGHTS, _pack_fd(fd)),)
                sent = self.sock.sendmsg((frame,), ancillary, MSG_DONTWAIT)
                os.close(fd)
                self.unsent_fd = -1
        except OSError as error:
            if error.errno != EAGAIN:
                raise
            sent = 0
        if sent == len(frame):
            self.unsent = b""
            return True
        self.unsent = memoryview(frame)[sent:]
        return False

    def close(self) -> None:
        """Nothing that belonged to this connection stays open, the root included."""
        if self.unsent_fd >= 0:
            os.close(self.unsent_fd)
        self.session.close()
        os.close(self.root_fd)
        self.sock.close()


class Server:
    """All connections, and the loop."""

    def __init__(
        self, mounts: Sequence[tuple[socket, int, bool]], idle_after_s: int, when_idle: Callable[[], object]
    ) -> None:
        self.idle_after_s = idle_after_s
        self.when_idle = when_idle
        self.poller = epoll()
        self.peers: dict[int, Peer] = {}
        for sock, root_fd, readonly in mounts:
            peer = self.peers[sock.fileno()] = Peer(sock, root_fd, readonly)
            self.poller.register(peer.sock, EPOLLIN)

    def run(self) -> None:
        """Serve until the last connection has ended."""
        while len(self.peers) > 1 or self._serve_last():
            for fd, _ in self._wait():
                self._turn(fd, self.peers[fd], MSG_DONTWAIT)
        self.poller.close()

    def _serve_last(self) -> bool:
        """One connection alone is waited for by receiving, which spares a system call for each message.

        True when it waits for its client to read; False when it has ended.
        """
        while self.peers:
            [(fd, peer)] = self.peers.items()
            if peer.unsent:
                return True
            self._turn(fd, peer, 0)
            if peer.is_silent:
                peer.is_silent = False
                self._rest()
        return False

    def _wait(self) -> list[tuple[int, int]]:
        return self.poller.poll(self.idle_after_s) or self._rest()

    def _rest(self) -> list[tuple[int, int]]:
        """Nothing has come for a while: wait for as long as it takes."""
        self.when_idle()
        return self.poller.poll()

    def _turn(self, fd: int, peer: Peer, flags: int) -> None:
        """flags 0: no other connection wants anything, so stay with this one for as long as it goes well."""
        was_blocked = bool(peer.unsent)
        try:
            if was_blocked:
                peer.advance()
            else:
                while peer.receive(flags):
                    if flags or peer.unsent or peer.is_silent:
                        break
                else:
                    self._drop(fd, peer)
                    return
        except ProtocolError as error:
            os.write(2, f"gofer: closing a connection: {error}\n".encode())
            self._drop(fd, peer)
            return
        except OSError:  # of the socket: the client has gone
            self._drop(fd, peer)
            return
        if bool(peer.unsent) != was_blocked:
            self.poller.modify(fd, EPOLLOUT if peer.unsent else EPOLLIN)

    def _drop(self, fd: int, peer: Peer) -> None:
        del self.peers[fd]
        self.poller.unregister(fd)
        peer.close()


def prepare() -> None:
    """Make ahead what the first requests will need, in a process that has to wait for them."""
    codec.prepare_to_answer(FIRST_REQUESTS)


def limit_patience(sock: socket, seconds: int) -> None:
    """How long to wait for a message before one is idle.  Before confinement, for its filter allows no setsockopt."""
    sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _pack_timeval(seconds, 0))


def serve(
    mounts: Sequence[tuple[socket, int, bool]],
    proc_fd: int,
    idle_after_s: int = -1,
    when_idle: Callable[[], object] = int,
) -> int:
    """Serve 9P until all connections have ended.  Called in a process of its own, after confinement; the exit status.

    mounts: (connected stream socket, O_PATH descriptor of the directory or file to serve, read-only); this function
    closes both descriptors of each.  proc_fd: O_PATH descriptor of a /proc in which this process is `self`; it stays
    the caller's.  when_idle is called when nothing has come for so long, or never (-1).  Sets the umask to 0 and the
    working directory to /proc/self/fd; opens nothing else by path.
    """
    os.umask(0)
    enter_proc(proc_fd)
    gc.freeze()  # what is loaded by now stays: leave it out of every collection
    Server(mounts, idle_after_s, when_idle).run()
    return 0
