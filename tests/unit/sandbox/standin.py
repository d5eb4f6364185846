"""A stand-in for the Sentry: confined by the real stage, it serves the control service and acts out a few programs.

    exit N          ends with that status            echo WORDS   writes them to its stdout, ends
    cat             copies stdin to stdout           sleep        waits for a signal
    size            prints its console's size        sigs         prints the number of each signal, ends with USR1
    fds             prints the roles it was given    missing, noexec   cannot be run

`python -m tests.unit.sandbox.standin ARGS` is the command line with it in place of the Sentry; importing code sets
`spawn._BOOTSTRAP = standin.BOOTSTRAP`.
"""

import os
import select
import signal
import socket
import sys
import termios
import time

from proto import control
from proto.control import METHODS, Code, Empty, ExecResponse, ExitStatus, StateResponse
from proto.ttrpc.connection import ServerConnection
from proto.ttrpc.status import RpcError
from sandbox import stage

BOOTSTRAP = "import sys; sys.path.append(sys.argv[1]); from tests.unit.sandbox.standin import stage_main; stage_main()"


class Program:
    """An acted process: its streams, its end and who waits for it."""

    def __init__(self, args, roles, fds):
        self.args = args
        self.roles = dict(zip(roles, fds))
        self.stdin = self.roles.get("console", self.roles.get("stdin"))
        self.stdout = self.roles.get("console", self.roles.get("stdout"))
        self.running = False
        self.ended = None
        self.waiters = []
        self.namespaces = {}
        self.deputy = None
        if args[0] == "missing":
            raise RpcError(Code.NOT_FOUND, 'exec: "missing": executable file not found in $PATH')
        if args[0] == "noexec":
            raise RpcError(Code.PERMISSION_DENIED, 'exec: "noexec": permission denied')

    def write(self, text):
        if self.stdout is not None:
            os.write(self.stdout, text.encode())

    def start(self):
        self.running = True
        name, *rest = self.args
        if name == "exit":
            self.end(int(rest[0]))
        elif name == "echo":
            self.write(" ".join(rest) + "\n")
            self.end(0)
        elif name == "shares":
            self.write(" ".join(f"{kind}:{owner}" for kind, owner in sorted(self.namespaces.items())) + "\n")
            self.end(0)
        elif name == "fds":
            self.write(" ".join(sorted(self.roles)) + "\n")
            self.end(0)

    def readable(self):
        assert self.stdin is not None
        data = os.read(self.stdin, 4096)
        if data:
            assert self.stdout is not None
            os.write(self.stdout, data)
        if not data or data == b"\x04":
            self.end(0)

    def print_size(self):
        rows, columns = termios.tcgetwinsize(self.roles["console"])
        self.write(f"{rows} {columns}\n")

    def signal(self, signo):
        if self.args[0] == "sigs" and self.running:
            self.write(f"{signo}\n")
            if signo != signal.SIGUSR1:
                return
            self.end(0)
        elif signo:
            self.end(128 + signo)

    def end(self, status):
        self.ended = ExitStatus(status, time.time_ns())
        for fd in self.roles.values():
            os.close(fd)
        self.roles = {}
        self.stdin = self.stdout = None
        if self.deputy is not None:
            os.write(self.deputy, bytes([status]))
            os.close(self.deputy)
        for answer in self.waiters:
            answer(self.ended)

    @property
    def reads(self):
        return self.running and self.ended is None and self.args[0] == "cat" and self.stdin is not None


class Peer:
    def __init__(self, sentry, sock):
        self.sentry = sentry
        self.sock = sock
        self.connection = ServerConnection()

    def readable(self):
        data, fds, _, _ = socket.recv_fds(self.sock, 65536, 253)
        if not data:
            self.sentry.drop(self)
            return
        for request in self.connection.receive(data, fds):
            self.serve(request)

    def serve(self, request):
        def answer(message):
            self.sock.send(self.connection.respond(request.stream_id, message.to_json()))

        try:
            kind = METHODS[request.method][0]
            result = self.sentry.handle(kind.from_json(request.payload), request.fds, answer)
            if result is not None:
                answer(result)
        except RpcError as e:
            self.sock.send(self.connection.error(request.stream_id, e.code, e.message))


class Sentry:
    def __init__(self, config):
        self.config = config
        self.listener = socket.socket(fileno=config["control_fd"])
        self.peers = {}
        self.programs = {}
        self.over = False

    def drop(self, peer):
        del self.peers[peer.sock.fileno()]
        peer.sock.close()

    def run(self):
        os.write(self.config["ready_fd"], b"ok\n")
        os.close(self.config["ready_fd"])
        while not self.over:
            self.turn()
        init = self.root_init
        return init.ended.exit_status if init and init.ended else 0

    @property
    def root_init(self):
        return self.programs.get((self.config["id"], ""))

    def turn(self):
        poller = select.poll()
        lifeline = self.config["lifeline_fd"]
        readers = {program.stdin: program for program in self.programs.values() if program.reads}
        for fd in (self.listener.fileno(), *self.peers, *readers, *([lifeline] if lifeline is not None else [])):
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll():
            if fd == lifeline:
                self.over = True
            elif fd == self.listener.fileno():
                sock, _ = self.listener.accept()
                self.peers[sock.fileno()] = Peer(self, sock)
            elif fd in self.peers:
                self.peers[fd].readable()
            elif fd in readers:
                readers[fd].readable()
        init = self.root_init
        if self.config["exit_with_init"] and init and init.ended:
            self.over = True

    def program(self, m, exec_id=""):
        try:
            return self.programs[m.id, exec_id]
        except KeyError:
            raise RpcError(Code.NOT_FOUND, "no such process") from None

    def handle(self, m, fds, answer):
        match m:
            case control.CreateContainer():
                kept = [(role, fd) for role, fd in zip(m.fds, fds) if role not in ("cgroup", control.DEPUTY)]
                for role, fd in zip(m.fds, fds):
                    if role == "cgroup":
                        os.close(fd)
                roles, given = [role for role, _ in kept], [fd for _, fd in kept]
                self.programs[m.id, ""] = Program(m.spec["process"]["args"], roles, given)
                self.program(m).namespaces = m.namespaces
                self.program(m).deputy = next((fd for role, fd in zip(m.fds, fds) if role == control.DEPUTY), None)
            case control.StartContainer():
                self.program(m).start()
            case control.Exec():
                program = self.programs[m.id, m.exec_id] = Program(m.process["args"], m.fds, fds)
                program.start()
                return ExecResponse(len(self.programs))
            case control.Wait():
                program = self.program(m, m.exec_id)
                if program.ended:
                    return program.ended
                program.waiters.append(answer)
                return None
            case control.Signal():
                if self.program(m, m.exec_id).ended:
                    raise RpcError(Code.NOT_FOUND, "process already finished")
                self.program(m, m.exec_id).signal(m.signal)
            case control.Resize():
                self.program(m, m.exec_id).print_size()
            case control.Processes():
                return control.ProcessesResponse([control.Process(1, 0, 1, 0, "S", "?", 10**18, 0, "sleep", ["sleep"])])
            case control.State():
                return self.state(m)
            case control.DestroyContainer():
                if self.program(m).args[0] == "stuck":
                    return None  # no answer
                for key in [key for key in self.programs if key[0] == m.id]:
                    program = self.programs.pop(key)
                    if not program.ended:
                        program.end(137)
            case control.Shutdown():
                self.over = True
        return Empty()

    def state(self, m):
        init = self.program(m)
        if init.ended:
            return StateResponse("stopped", init.ended.exit_status, init.ended.exited_at_ns, 1)
        return StateResponse("running" if init.running else "created", pid=1)


def prepare(config, own_pid):
    stage.confine_as("sentry", config, own_pid)
    return Sentry(config["boot"]).run


def stage_main():
    stage.ROLES["sentry"] = prepare
    stage.main()


if __name__ == "__main__":
    from cli.main import main
    from sandbox import spawn

    spawn._BOOTSTRAP = BOOTSTRAP
    sys.exit(main(sys.argv[1:]))
