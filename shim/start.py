"""The start action, as it is without a warm parent: listen, fork the process that serves, print its address.

The address is all that may be printed, on stdout, and the serving process must not keep this process's output open:
containerd takes whatever comes until the end of file for the address.  The socket listens before the address is
printed, so containerd's connect cannot come too early; it waits in the backlog while the serving process imports
what it needs.

Containers of one pod share a shim: for the second one nothing is started, the address is that of the first.
"""

import os
import sys
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket
from errno import EADDRINUSE

from proto.ttrpc.protobuf import DecodeError, as_bytes, as_int, as_text, fields, int_field, text_field
from sandbox.interpreter import start_nursery
from shim.address import is_served, remove, socket_path, to_address, write_address
from shim.flags import Flags, UsageError

BACKLOG = 128
DEBUG_LEVEL = -4
"""Of BootstrapParams.log_level; less is more."""
GROUP_ANNOTATIONS = (
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri-o.SandboxID",
)


class Bootstrap:
    """BootstrapParams of containerd 2.3 and newer, as far as the flags do not say the same.

    They come in protobuf's binary form.  The message's own documentation says JSON; who sends that is understood too.
    """

    __slots__ = ("debug", "grpc_address", "is_json", "socket_dir", "ttrpc_address")

    def __init__(self) -> None:
        self.grpc_address = ""
        self.ttrpc_address = ""
        self.socket_dir = ""
        self.debug = False
        self.is_json = False


class Prepared:
    """What is done before the shim is there."""

    __slots__ = ("answer", "events_address", "listener", "path")

    def __init__(self, path: str, listener: socket | None, events_address: str, answer: bytes) -> None:
        self.path = path
        self.listener = listener
        """None: the shim of this container's group listens already."""
        self.events_address = events_address
        self.answer = answer
        """What containerd is told."""


def run(flags: Flags, stdin: bytes) -> bytes:
    """Start or find the shim of this container's group; what containerd is told."""
    prepared = prepare(flags, stdin)
    if prepared.listener is not None:
        fork_daemon(flags, prepared)
    return prepared.answer


def prepare(flags: Flags, stdin: bytes) -> Prepared:
    """Listen, unless somebody does, and leave the address in the bundle, which is the working directory."""
    bundle = os.getcwd()
    bootstrap = parse_bootstrap(stdin, flags)
    containerd = flags.address or (bootstrap.grpc_address if bootstrap else "")
    folder = bootstrap.socket_dir if bootstrap else ""
    path = socket_path(containerd, flags.namespace, group_id(bundle, flags.id), folder)
    listener = listen(path)
    write_address(bundle, to_address(path))
    events = (bootstrap.ttrpc_address if bootstrap else "") or os.environ.get("TTRPC_ADDRESS", "")
    flags.debug = flags.debug or (bootstrap is not None and bootstrap.debug)
    answer = result(to_address(path), bootstrap)
    return Prepared(path, listener, events.removeprefix("unix://"), answer)


def parse_bootstrap(data: bytes, flags: Flags) -> Bootstrap | None:
    """Recognise BootstrapParams.

    Older versions send a bare Any with the runtime's options, and either message decodes as the other; only the
    repeated id and namespace tell which it is.
    """
    if data[:1] == b"{":  # which begins no message of protobuf's
        return _parse_json(data, flags)
    bootstrap = Bootstrap()
    names = {1: "", 2: ""}
    try:
        for number, value in fields(data):
            match number:
                case 1:
                    names[1] = as_text(value)
                case 2:
                    names[2] = as_bytes(value).decode(errors="replace")
                case 3:
                    bootstrap.debug = as_int(value) <= DEBUG_LEVEL
                case 5:
                    bootstrap.ttrpc_address = as_text(value)
                case 6:
                    bootstrap.grpc_address = as_text(value)
                case 9:
                    bootstrap.socket_dir = as_text(value)
    except DecodeError:
        return None
    return bootstrap if names == {1: flags.id, 2: flags.namespace} else None


def _parse_json(data: bytes, flags: Flags) -> Bootstrap | None:
    """The same in protobuf's JSON form, with its names or those of the .proto."""
    import json

    try:
        given = json.loads(data)
    except ValueError:
        return None
    values = {name.replace("_", "").lower(): value for name, value in given.items()}
    if (values.get("instanceid"), values.get("namespace")) != (flags.id, flags.namespace):
        return None
    bootstrap = Bootstrap()
    bootstrap.is_json = True
    bootstrap.debug = values.get("loglevel") in ("LOG_LEVEL_DEBUG", "LOG_LEVEL_TRACE", "DEBUG", "TRACE", -4, -8)
    bootstrap.ttrpc_address = str(values.get("containerdttrpcaddress", ""))
    bootstrap.grpc_address = str(values.get("containerdgrpcaddress", ""))
    bootstrap.socket_dir = str(values.get("socketdir", ""))
    return bootstrap


def result(address: str, bootstrap: Bootstrap | None) -> bytes:
    """The answer, in the language of the question.

    BootstrapResult: version 1 int32; address 2 string; protocol 3 string.  Version 2 means that start and delete run
    for every container of a pod, which is what we want.
    """
    if bootstrap is None:
        return address.encode()
    if bootstrap.is_json:
        return f'{{"version":2,"address":"{address}","protocol":"ttrpc"}}'.encode()
    return int_field(1, 2) + text_field(2, address) + text_field(3, "ttrpc")


def group_id(bundle: str, container_id: str) -> str:
    """The id that the containers of one pod have in common; a container's own id outside a pod."""
    try:
        with open(f"{bundle}/config.json", "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        return container_id
    if not any(name.encode() in raw for name in GROUP_ANNOTATIONS):
        return container_id  # the usual case with ctr and nerdctl; json stays unimported
    import json

    try:
        annotations = json.loads(raw).get("annotations") or {}
    except ValueError as e:
        raise UsageError(f"{bundle}/config.json: {e}") from None
    return next((str(annotations[name]) for name in GROUP_ANNOTATIONS if annotations.get(name)), container_id)


def listen(path: str) -> socket | None:
    """A listening socket; None if the group's shim already listens there."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    listener = _bind(path)
    if listener is None:
        if is_served(path):
            return None
        remove(path)  # left by a shim that was killed
        listener = _bind(path)
        if listener is None:
            raise UsageError(f"{path}: another shim has just taken the socket")
    listener.listen(BACKLOG)
    return listener


def _bind(path: str) -> socket | None:
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    umask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as e:
        listener.close()
        if e.errno == EADDRINUSE:
            return None
        raise
    finally:
        os.umask(umask)
    return listener


def fork_daemon(flags: Flags, prepared: Prepared) -> None:
    """Fork the serving process; returns in the parent only, which then exits and leaves it to its subreaper."""
    assert prepared.listener is not None
    oom_score = _oom_score_of(os.getppid())
    sys.stdout.flush()
    if os.fork():
        prepared.listener.close()
        return
    status = 1
    try:
        detach(f"{os.getcwd()}/log")
        set_oom_score(oom_score + 1)
        nursery_fd, _ = start_nursery()  # while it imports, we do; it is reaped with our other children
        from shim.lean import leave_out

        leave_out()
        status = serve(flags, prepared, nursery_fd)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def serve(flags: Flags, prepared: Prepared, nursery_fd: int) -> int:
    """Be the shim; its exit status."""
    from shim import daemon

    assert prepared.listener is not None
    config = daemon.Config(flags.namespace, flags.id, flags.debug, prepared.path, prepared.events_address, nursery_fd)
    return daemon.serve(config, prepared.listener.detach())


def detach(log: str) -> None:
    """Leave containerd's session and working directory, and give up its pipes; errors go to the bundle's log."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    try:
        errors = os.open(log, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        errors = null
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(errors, 2)
    for fd in {null, errors} - {0, 1, 2}:
        os.close(fd)
    os.chdir("/")


def _oom_score_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/oom_score_adj") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def set_oom_score(score: int) -> None:
    """Be killed before containerd; less is not allowed to an unprivileged process, and then not needed."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(max(-1000, min(1000, score))))
    except OSError:
        pass
