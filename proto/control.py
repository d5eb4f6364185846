"""What is said over a sandbox's control socket: one record per message, JSON on the wire.

The service runs over ttrpc on `<state>/<id>/control.sock`; the Sentry serves it, the shim and the command line
call it.  File descriptors travel as SCM_RIGHTS on the first byte of the request frame; the request's `fds` names
the role of each, in the same order.

Either side may be newer, so unknown keys are ignored and missing ones take the field's default.  Types are checked:
the Sentry is the less trusted peer, and nothing it answers may surprise its caller later.

Reading order: `Message` (the codec), the records, `METHODS` (who answers what).
"""

from types import GenericAlias, NoneType, UnionType

from .jsontext import dumps, loads
from .record import Record, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self
else:
    Any = object  # in the annotations, which are the schema: whatever JSON can say

SERVICE = "pysc.control.v1.Sentry"

# Roles in `fds`.  A missing std* is /dev/null inside; with a console there are no std*.
STDIN, STDOUT, STDERR, CONSOLE, CGROUP = "stdin", "stdout", "stderr", "console", "cgroup"
DEPUTY = "deputy"
"""Of CreateContainer: a stream socket to the process that stands for the container on the host, if there is one.  The
Sentry sends the exit status, one byte, and closes it; it gets the numbers of signals, a byte each.  When the deputy
dies, so does the container."""

# Container states, as in the OCI runtime specification, and runc's "paused".
CREATED, RUNNING, PAUSED, STOPPED = "created", "running", "paused", "stopped"


def gofer_role(index: int) -> str:
    """The role of the client end of the 9P connection that serves the mount whose `gofer` is `index`."""
    return f"gofer:{index}"


class Code:
    """The ttrpc (gRPC) status codes that this service uses."""

    OK = 0
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13


class MessageError(ValueError):
    """The peer sent something that is not the message expected; names the field."""


def _fits(kind: Any, value: object) -> bool:
    """Whether a JSON value may stand in a plain field; bool is no int here."""
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _decode_collection(kind: GenericAlias, value: Any, where: str) -> Any:
    inner = kind.__args__[-1]
    if kind.__origin__ is list:
        if not isinstance(value, list):
            raise MessageError(f"{where}: list expected")
        return [_decode(inner, item, f"{where}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, dict):
        raise MessageError(f"{where}: object expected")
    return {key: _decode(inner, item, f"{where}.{key}") for key, item in value.items()}


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Check `value` against a field's annotation and turn nested objects into records."""
    if kind is Any:
        return value
    if isinstance(kind, UnionType):
        if value is None and NoneType in kind.__args__:
            return None
        kind = next(arm for arm in kind.__args__ if arm is not NoneType)
    if isinstance(kind, GenericAlias):
        return _decode_collection(kind, value, where)
    if isinstance(kind, type) and issubclass(kind, Message):
        return kind.from_dict(value, where)
    if not _fits(kind, value):
        raise MessageError(f"{where}: {kind.__name__} expected")
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, Message):
        return value.to_dict()
    if isinstance(value, list):
        return [_encode(item) for item in value]
    return value


class Message(Record):
    """Base of all messages: their annotations are the schema."""

    def to_dict(self) -> "dict[str, Any]":
        return {name: _encode(getattr(self, name)) for name in self.kinds}

    def to_json(self) -> bytes:
        return dumps(self.to_dict()).encode("utf-8", "surrogateescape")

    @classmethod
    def from_dict(cls, obj: object, where: str = "") -> "Self":
        """Raises MessageError for a wrong type or a missing field."""
        where = where or cls.__name__
        if not isinstance(obj, dict):
            raise MessageError(f"{where}: object expected")
        known: dict[str, Any] = {}
        for name, kind in cls.kinds.items():
            if name in obj:
                known[name] = _decode(kind, obj[name], f"{where}.{name}")
            elif not cls.has_default(name):
                raise MessageError(f"{where}.{name}: missing")
        return cls(**known)

    @classmethod
    def from_json(cls, data: bytes) -> "Self":
        """An empty payload is an empty object."""
        try:
            obj = loads(data.decode("utf-8", "surrogateescape")) if data else {}
        except (ValueError, RecursionError) as e:
            raise MessageError(f"{cls.__name__}: not JSON: {e}") from None
        return cls.from_dict(obj)


class Empty(Message):
    """A response that says only that it was done, or a request without arguments."""


class Mount(Message):
    """One entry of CreateContainer.mounts, in the order of the OCI spec; the first is "/"."""

    destination: str
    type: str
    source: str = ""
    options: list[str] = field(default_factory=list)
    gofer: int | None = None
    """Which donated 9P connection serves it; None: the Sentry makes it itself, by type."""
    device: int | None = None
    """The host's st_dev of what is served: files are the same in two containers if device and inode number are."""


class CreateContainer(Message):
    """Make a container, ready to start.  Fails with 5 or 7 when process.args[0] cannot be run.

    The first one is the sandbox's root: when its first process ends, so do the others, and with 9 fails whoever comes
    then.
    """

    id: str
    spec: dict[str, Any]
    """The OCI configuration as it was in config.json."""
    mounts: list[Mount]
    terminal: bool = False
    fds: list[str] = field(default_factory=list)
    namespaces: dict[str, str] = field(default_factory=dict)
    """Kind ("pid", "ipc", "uts") to the container whose namespace is shared; of those that are absent it has its own.

    There is one network namespace for all."""
    ncpus: int = 0
    """How many CPUs are to be seen inside; 0: all of the sandbox's."""
    total_ram: int = 0
    """Bytes of memory to be seen inside; 0: all of the sandbox's."""


class StartContainer(Message):
    """Let the container's first process run."""

    id: str


class Exec(Message):
    """Start another process in a running container."""

    id: str
    exec_id: str
    process: dict[str, Any]
    """The OCI process object."""
    terminal: bool = False
    fds: list[str] = field(default_factory=list)


class ExecResponse(Message):
    pid: int
    """In the container's own pid namespace."""


class Wait(Message):
    """Answered when the process has ended, at once if it already has."""

    id: str
    exec_id: str = ""
    """"" is the container's first process."""


class ExitStatus(Message):
    exit_status: int
    """0..255; 128 + signal when killed."""
    exited_at_ns: int
    """Unix time."""


class Signal(Message):
    """Fails with 5, "process already finished", when there is nobody left to signal."""

    id: str
    signal: int
    exec_id: str = ""
    all: bool = False
    """Every process of the container."""


class Resize(Message):
    """The size of a process's terminal, in character cells."""

    id: str
    rows: int
    cols: int
    exec_id: str = ""


class Processes(Message):
    id: str


class Process(Message):
    """One row of ps."""

    pid: int
    ppid: int
    tid_count: int
    uid: int
    state: str
    """One letter, as in proc(5)."""
    tty: str
    start_time_ns: int
    """Unix time."""
    cpu_ns: int
    command: str
    args: list[str] = field(default_factory=list)
    is_first: bool = False
    """Whether it is the container's first process, which is pid 1 only in a namespace of its own."""
    host_pid: int = 0
    """Of the host process that runs it, in the Sentry's PID namespace; 0: it has none of its own."""


class ProcessesResponse(Message):
    processes: list[Process] = field(default_factory=list)


class State(Message):
    id: str


class StateResponse(Message):
    status: str
    """CREATED, RUNNING, PAUSED or STOPPED."""
    exit_status: int = 0
    exited_at_ns: int = 0
    pid: int = 0
    """Of the first process, in the container's own pid namespace."""


class Pause(Message):
    """Freeze every process of a running container; answered when none runs.  Fails with 9 in any other state."""

    id: str


class Resume(Message):
    """Let the processes of a paused container run on.  Fails with 9 if it is not paused."""

    id: str


class Update(Message):
    """New limits, as far as the Sentry keeps or shows them; the host's cgroup has the rest."""

    id: str
    max_tasks: int | None = None
    """Processes and threads; negative: no limit; None: as before."""
    memory: int | None = None
    """Bytes that it is to see, and may have where that is not its cgroup's business; None: as before."""


class Usage(Message):
    """What a container uses, as far as its cgroup on the host does not know."""

    id: str


class UsageResponse(Message):
    tasks: int
    """Processes and threads, zombies included."""
    memory: int | None = None
    """Bytes; None: its cgroup has them."""
    cpu_ns: int | None = None
    """Since it was made; None: its cgroup has it."""
    oom_kills: int = 0
    """Processes that the Sentry ended because the container's memory was used up."""


class DestroyContainer(Message):
    """Kill what is left of a container and release everything it holds."""

    id: str


class Profile(Message):
    """Measure where the whole Sentry's time goes, for a while.  Fails with 9 while another such request runs."""

    id: str
    duration_ms: int


class CallCost(Message):
    """One system call: how often it was made, and the time spent in its handler."""

    name: str
    count: int
    ns: int


class ProfileResponse(Message):
    samples: int
    stacks: list[str] = field(default_factory=list)
    """Folded: outermost;...;innermost, a blank, and how often it was seen; the rarest may be missing."""
    calls: list[CallCost] = field(default_factory=list)


class Shutdown(Message):
    """The Sentry answers, then exits."""


METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    "CreateContainer": (CreateContainer, Empty),
    "StartContainer": (StartContainer, Empty),
    "Exec": (Exec, ExecResponse),
    "Wait": (Wait, ExitStatus),
    "Signal": (Signal, Empty),
    "Resize": (Resize, Empty),
    "Processes": (Processes, ProcessesResponse),
    "State": (State, StateResponse),
    "Pause": (Pause, Empty),
    "Resume": (Resume, Empty),
    "Update": (Update, Empty),
    "Usage": (Usage, UsageResponse),
    "DestroyContainer": (DestroyContainer, Empty),
    "Profile": (Profile, ProfileResponse),
    "Shutdown": (Shutdown, Empty),
}


class BootConfig(Message):
    """What the Sentry is told when it boots (not over the socket: it comes on an inherited pipe)."""

    id: str
    control_fd: int
    """A listening unix stream socket."""
    ready_fd: int
    """Gets "ok\\n" or one line that says what went wrong."""
    log_fd: int
    proc_fd: int
    """O_PATH directory of /proc of the sandbox's own pid namespace."""
    lifeline_fd: int | None = None
    """A pipe's read end: at its end of file the Sentry kills everything and exits."""
    log_level: str = "info"
    log_format: str = "text"
    watchdog_s: int = 0
    """Seconds without a turn of the loop after which its stack is logged; 0: never."""
    watchdog_kills: bool = False
    debug: bool = False
    strace: bool = False
    strace_calls: list[str] = field(default_factory=list)
    """The calls that strace is for; empty: all."""
    strace_fd: int | None = None
    platform: str = "auto"
    exit_with_init: bool = False
    """Exit when the root container has ended: nobody is there to say so."""
    hostname: str = ""
    ncpus: int = 1
    total_ram: int = 0
