"""A Sentry without a kernel: answers the control service and runs the processes on the host, unconfined.

One thread, one container.  An ended first process takes the others with it, as in a pid namespace of its own; this
process's own death takes them all.
"""

import ctypes
import fcntl
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from proto import control
from proto.ttrpc.connection import ServerConnection
from proto.ttrpc.message import Request
from proto.ttrpc.status import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    PERMISSION_DENIED,
    RpcError,
)

PR_SET_PDEATHSIG = 1


@dataclass
class Guest:
    """A process of the container."""

    process: dict[str, Any]
    terminal: bool
    fds: dict[str, int]
    child: subprocess.Popen[bytes] | None = None
    ended: control.ExitStatus | None = None
    waiters: list[Callable[[], None]] = field(default_factory=list)


class Later(Exception):
    """The answer comes when the process has ended."""


class FakeSentry:
    def __init__(self, listener: socket.socket) -> None:
        self.selector = selectors.DefaultSelector()
        self.guests: dict[str, Guest] = {}
        self.selector.register(listener, selectors.EVENT_READ, lambda: self.accept(listener))

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                key.data()

    def accept(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        connection = ServerConnection()
        self.selector.register(sock, selectors.EVENT_READ, lambda: self.receive(sock, connection))

    def receive(self, sock: socket.socket, connection: ServerConnection) -> None:
        data, fds, _, _ = socket.recv_fds(sock, 1 << 20, 16, socket.MSG_CMSG_CLOEXEC)
        if not data:
            self.selector.unregister(sock)
            sock.close()
            return
        for request in connection.receive(data, fds):
            try:
                payload = self.answer(sock, connection, request).to_json()
                sock.sendall(connection.respond(request.stream_id, payload))
            except Later:
                pass
            except RpcError as e:
                for fd in request.fds:
                    os.close(fd)
                sock.sendall(connection.error(request.stream_id, e.code, e.message))

    def answer(self, sock: socket.socket, connection: ServerConnection, request: Request) -> control.Message:
        assert request.service == control.SERVICE
        message = control.METHODS[request.method][0].from_json(request.payload)
        match message:
            case control.CreateContainer():
                fds = dict(zip(message.fds, request.fds, strict=True))
                self.guests[""] = Guest(runnable(message.spec["process"]), message.terminal, fds)
            case control.StartContainer():
                self.start(self.guests[""])
            case control.Exec():
                fds = dict(zip(message.fds, request.fds, strict=True))
                guest = Guest(runnable(message.process), message.terminal, fds)
                self.guests[message.exec_id] = guest
                return control.ExecResponse(self.start(guest))
            case control.Wait():
                guest = self.guests[message.exec_id]
                if guest.ended is None:
                    guest.waiters.append(lambda: self.answer_wait(sock, connection, request.stream_id, guest))
                    raise Later
                return guest.ended
            case control.Signal():
                self.signal(message)
            case control.Pause() | control.Resume():
                self.freeze(isinstance(message, control.Pause))
            case control.Resize():
                self.resize(message)
            case control.Processes():
                return self.processes()
            case _:
                raise RpcError(INVALID_ARGUMENT, request.method)
        return control.Empty()

    def start(self, guest: Guest) -> int:
        console = guest.fds.get(control.CONSOLE)
        std = [console if console is not None else guest.fds.get(role, subprocess.DEVNULL)
               for role in (control.STDIN, control.STDOUT, control.STDERR)]  # fmt: skip
        if console is not None:
            make_cooked(console)
        for fd in guest.fds.values():
            os.set_blocking(fd, True)  # host programs expect it
        guest.child = subprocess.Popen(
            guest.process["args"], stdin=std[0], stdout=std[1], stderr=std[2], cwd=guest.process["cwd"],
            env=dict(word.split("=", 1) for word in guest.process.get("env", [])), start_new_session=True,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )  # fmt: skip
        for fd in guest.fds.values():
            os.close(fd)
        guest.fds = {}
        pidfd = os.pidfd_open(guest.child.pid)
        self.selector.register(pidfd, selectors.EVENT_READ, lambda: self.ended(guest, pidfd))
        return guest.child.pid

    def ended(self, guest: Guest, pidfd: int) -> None:
        assert guest.child is not None
        self.selector.unregister(pidfd)
        os.close(pidfd)
        status = guest.child.wait()
        self.finish(guest, status if status >= 0 else 128 - status)

    def finish(self, guest: Guest, status: int) -> None:
        guest.ended = control.ExitStatus(status, time.time_ns())
        if guest is self.guests[""]:
            for other in self.guests.values():
                if other.child is not None and other.ended is None:
                    os.killpg(other.child.pid, signal.SIGKILL)
        for waiter in guest.waiters:
            waiter()

    @staticmethod
    def answer_wait(sock: socket.socket, connection: ServerConnection, stream_id: int, guest: Guest) -> None:
        assert guest.ended is not None
        try:
            sock.sendall(connection.respond(stream_id, guest.ended.to_json()))
        except OSError:
            pass

    def signal(self, message: control.Signal) -> None:
        guest = self.guests.get(message.exec_id)
        if guest is None or guest.ended is not None:
            raise RpcError(NOT_FOUND, "process already finished")
        if guest.child is None:
            for fd in guest.fds.values():
                os.close(fd)
            self.finish(guest, 128 + message.signal)
        elif message.all:
            for each in self.guests.values():
                if each.child is not None and each.ended is None:
                    os.killpg(each.child.pid, message.signal)
        else:
            os.kill(guest.child.pid, message.signal)

    def freeze(self, stop: bool) -> None:
        for guest in self.guests.values():
            if guest.child is not None and guest.ended is None:
                os.killpg(guest.child.pid, signal.SIGSTOP if stop else signal.SIGCONT)

    def resize(self, message: control.Resize) -> None:
        guest = self.guests[message.exec_id]
        if not guest.terminal or guest.child is None:
            raise RpcError(FAILED_PRECONDITION, "no terminal, or not started")
        os.kill(guest.child.pid, signal.SIGWINCH)

    def processes(self) -> control.ProcessesResponse:
        rows = []
        for exec_id, guest in self.guests.items():
            if guest.child is not None and guest.ended is None:
                pid = guest.child.pid if exec_id else 1
                row = control.Process(pid, 0, 1, 0, "S", "?", 0, 0, guest.process["args"][0], is_first=pid == 1)
                row.host_pid = guest.child.pid
                rows.append(row)
        return control.ProcessesResponse(rows)


def runnable(process: dict[str, Any]) -> dict[str, Any]:
    """What CreateContainer and Exec check of a process object."""
    program = process["args"][0]
    if "/" not in program and shutil.which(program) is None:
        raise RpcError(NOT_FOUND, f'exec: "{program}": executable file not found in $PATH')
    if "/" in program and not os.path.exists(program):
        raise RpcError(NOT_FOUND, f'exec: "{program}": no such file or directory')
    if "/" in program and not os.access(program, os.X_OK):
        raise RpcError(PERMISSION_DENIED, f'exec: "{program}": permission denied')
    return process


def make_cooked(console: int) -> None:
    """Output as it is, and no echo: what a test sees is what the program wrote."""
    attributes = termios.tcgetattr(console)
    attributes[3] |= termios.ICANON | termios.ISIG
    termios.tcsetattr(console, termios.TCSANOW, attributes)


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    fcntl.fcntl(listener, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    FakeSentry(listener).run()


if __name__ == "__main__":
    main()
