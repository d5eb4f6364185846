"""pysc exec: another process in a running container.

Detached, a process of the host must stand for it: engines read a pid file and wait for that pid's exit status.  A
child of ours stays behind for that, passes signals on, and exits as the process does.
"""

from __future__ import annotations

import os

from cli.args import Command, Flag, UsageError, Values, ignored
from cli.attach import OWN_STREAMS, check_console, send_console, write_pid_file
from cli.options import state_root
from proto.jsontext import loads
from sandbox.console import open_console, window_size
from sandbox.errors import InvalidSpec, SandboxError
from sandbox.sandbox import Sandbox, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CAPABILITY_SETS = ("bounding", "effective", "permitted")


def _exec(flags: Values, values: Values, words: list[str]) -> int:
    if bool(values["process"]) == (len(words) > 1):
        raise UsageError("exec: either a command or --process is needed; see 'pysc exec --help'")
    sandbox = Sandbox.load(state_root(flags), words[0])
    process = _process(sandbox, values, words[1:])
    terminal = bool(process.get("terminal"))
    check_console(terminal, values["console-socket"], detached=values["detach"])
    exec_id = os.urandom(16).hex()
    if not terminal:
        sandbox.exec(exec_id, process, terminal, OWN_STREAMS)
        return _attend(sandbox, exec_id, values, None)
    master, slave = open_console(None if values["console-socket"] else window_size(0))
    try:
        try:
            sandbox.exec(exec_id, process, terminal, Stdio(console=slave))
        finally:
            os.close(slave)
        if values["console-socket"]:
            send_console(values["console-socket"], master)
        return _attend(sandbox, exec_id, values, None if values["console-socket"] else master)
    finally:
        os.close(master)


def _attend(sandbox: Sandbox, exec_id: str, values: Values, master: int | None) -> int:
    if values["detach"]:
        return _leave_waiter(sandbox, exec_id, values["pid-file"])
    return _wait(sandbox, exec_id, master, values["pid-file"])


def _wait(sandbox: Sandbox, exec_id: str, master: int | None, pid_file: str | None) -> int:
    from cli.foreground import supervise

    if pid_file:
        write_pid_file(pid_file, os.getpid())
    return supervise(sandbox, exec_id, master)


def _leave_waiter(sandbox: Sandbox, exec_id: str, pid_file: str | None) -> int:
    pid = os.fork()
    if pid == 0:
        _stand_for(sandbox, exec_id)
    if pid_file:
        write_pid_file(pid_file, pid)
    return 0


def _stand_for(sandbox: Sandbox, exec_id: str) -> None:
    """In the child: hold on to nothing of the caller's, least of all the pipes whose end somebody waits for."""
    from cli.foreground import supervise

    status = 255
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        status = supervise(sandbox, exec_id)
    except SandboxError:
        pass
    finally:
        os._exit(status)


def _process(sandbox: Sandbox, values: Values, words: list[str]) -> dict[str, Any]:
    """The OCI process object: from a file, or the container's own with another command line."""
    if values["process"]:
        process = _read_object(values["process"])
    else:
        process = dict(_read_object(f"{sandbox.bundle}/config.json").get("process") or {})
        process.update(args=words, terminal=values["tty"])
    _override(process, values)
    return process


def _read_object(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as f:
            obj = loads(f.read())
    except OSError as e:
        raise InvalidSpec(f"cannot read {path}: {e.strerror}") from None
    except ValueError as e:
        raise InvalidSpec(f"{path} is not valid JSON: {e}") from None
    if not isinstance(obj, dict):
        raise InvalidSpec(f"{path}: object expected")
    return obj


def _override(process: dict[str, Any], values: Values) -> None:
    if values["cwd"]:
        process["cwd"] = values["cwd"]
    if values["env"]:
        names = {entry.partition("=")[0] for entry in values["env"]}
        kept = [entry for entry in process.get("env") or [] if entry.partition("=")[0] not in names]
        process["env"] = kept + values["env"]
    if values["user"]:
        process["user"] = _user(values["user"])
    if values["additional-gids"]:
        user = process["user"] = dict(process.get("user") or {})
        user["additionalGids"] = list(user.get("additionalGids") or []) + _numbers(values["additional-gids"])
    if values["cap"]:
        sets = process["capabilities"] = dict(process.get("capabilities") or {})
        for name in _CAPABILITY_SETS:
            sets[name] = sorted({*(sets.get(name) or []), *map(_capability, values["cap"])})
    if values["no-new-privs"]:
        process["noNewPrivileges"] = True


def _capability(name: str) -> str:
    name = name.upper()
    return name if name.startswith("CAP_") else f"CAP_{name}"


def _numbers(texts: list[str]) -> list[int]:
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise UsageError("exec: --additional-gids takes numbers") from None


def _user(text: str) -> dict[str, int]:
    """UID or UID:GID."""
    uid, _, gid = text.partition(":")
    if not uid.isdigit() or (gid and not gid.isdigit()):
        raise UsageError(f"exec: --user: {text!r} is not UID[:GID] in numbers")
    return {"uid": int(uid), "gid": int(gid or 0)}


COMMANDS = (
    Command(
        "exec", "ID COMMAND [ARGUMENT...]", "Run another process in a running container.", _exec,
        (
            Flag("tty", "give it a terminal", short="t"),
            Flag("detach", "do not wait", short="d"),
            Flag("process", "file with an OCI process object", str, short="p", value="FILE"),
            Flag("cwd", "working directory in the container", str, value="DIR"),
            Flag("env", "NAME=VALUE for its environment; may be repeated", list, short="e", value="ENTRY"),
            Flag("user", "UID[:GID]", str, short="u", value="USER"),
            Flag("additional-gids", "another group; may be repeated", list, short="g", value="GID"),
            Flag("cap", "another capability; may be repeated", list, short="c", value="NAME"),
            Flag("no-new-privs", "it can gain no privileges"),
            Flag("pid-file", "write the pid of the host process that stands for it there", str, value="FILE"),
            Flag("console-socket", "unix socket that gets the terminal", str, value="PATH"),
            *ignored("preserve-fds", kind=int), *ignored("ignore-paused"),
            *ignored("process-label", "apparmor", "cgroup", "internal-pid-file", "pidfd-socket", kind=str),
        ),
        (1, None), flags_first=True,
    ),
)  # fmt: skip
