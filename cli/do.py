"""pysc do: run a command on the host's own files, in a sandbox, without changing them.

The host's root is the lower layer of an overlay whose upper layer is in memory; so are other real file systems below
it.  The overlay lives in a mount namespace of this process and goes with it.
"""

import os
import socket
import tempfile
from contextlib import ExitStack
from typing import Any

from cli.args import Command, Flag, UsageError, Values
from cli.report import warn
from cli.run import run_foreground
from cli.spec import default_spec
from sandbox import confine, mounts
from sandbox import hostcalls as hc
from sandbox.errors import InvalidSpec, SandboxError
from sandbox.spec import Spec

RESOLVER = "/etc/resolv.conf"


def _do(flags: Values, values: Values, words: list[str]) -> int:
    root = os.path.realpath(values["root"])
    if not os.path.isdir(root):
        raise InvalidSpec(f"--root: {root} is not a directory")
    volumes = [_volume(text) for text in values["volume"]]
    if flags["nursery"] and confine.is_privileged():
        flags["nursery"].take(warm=True)  # before we differ from those who might do for us
    else:
        flags["nursery"] = None
    with ExitStack() as cleanup:
        scratch = _make_scratch(cleanup)
        view, readonly = _private_view(flags, root, scratch, cleanup)
        spec = _spec(values, words, view, readonly, volumes)
        container_id = f"do-{os.getpid()}-{os.urandom(4).hex()}"
        typed = Spec.from_json(spec, os.path.dirname(scratch))
        return run_foreground(flags, container_id, typed, lambda sandbox: None)


def _make_scratch(cleanup: ExitStack) -> str:
    """An empty folder to mount upon; ours alone, so that nobody can put anything in its place."""
    folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pysc-do-"))
    scratch = f"{folder}/scratch"
    os.mkdir(scratch)
    return scratch


def _private_view(flags: Values, root: str, scratch: str, cleanup: ExitStack) -> tuple[str, bool]:
    """Where the command finds its root, and whether that must be read-only because there is no overlay to be had."""
    try:
        if not confine.is_privileged():
            confine.enter_user_namespace()
        mounts.enter_private_mounts()
    except OSError as e:
        raise SandboxError(f"do: cannot make a private mount namespace: {e}") from None
    try:
        view = mounts.overlay_root(root, scratch)
    except OSError as e:
        warn(flags, f"no overlay of {root} can be made ({e.strerror}): its files are read-only")
        view = ""
    if os.path.ismount(scratch):
        cleanup.callback(hc.umount2, scratch, hc.MNT_DETACH)
    return view or root, not view


def _spec(values: Values, words: list[str], view: str, readonly: bool, volumes: list[dict[str, Any]]) -> dict[str, Any]:
    spec = default_spec()
    process = spec["process"]
    process["args"] = words
    process["cwd"] = values["cwd"] or _inner_directory(values["root"])
    process["env"] = [f"{name}={value}" for name, value in os.environ.items()] + values["env"]
    process["user"] = {"uid": os.geteuid(), "gid": os.getegid(), "additionalGids": os.getgroups()}
    process["terminal"] = os.isatty(0) and os.isatty(1)
    process["rlimits"] = []
    process["noNewPrivileges"] = False
    spec["root"] = {"path": view, "readonly": readonly}
    spec["hostname"] = socket.gethostname()
    spec["mounts"] += [{"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}]
    if readonly:
        spec["mounts"] += [{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}]
    spec["mounts"] += _resolver(values) + volumes
    if values["network"] == "host":
        spec["linux"]["namespaces"] = [item for item in spec["linux"]["namespaces"] if item["type"] != "network"]
    elif values["network"] != "none":
        raise UsageError(f"do: --network: {values['network']!r} is not one of host, none")
    spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
    return spec


def _inner_directory(root: str) -> str:
    """Our working directory, as the command will see it; / if it lies outside."""
    here, root = os.getcwd(), os.path.realpath(root)
    if root == "/":
        return here
    return here[len(root) :] or "/" if (here + "/").startswith(root + "/") else "/"


def _resolver(values: Values) -> list[dict[str, Any]]:
    """/etc/resolv.conf often is a link into /run, which the sandbox has anew."""
    target = os.path.realpath(RESOLVER)
    if values["network"] != "host" or os.path.realpath(values["root"]) != "/" or not target.startswith("/run/"):
        return []
    if not os.path.isfile(target):
        return []
    return [{"destination": target, "type": "bind", "source": target, "options": ["bind", "ro"]}]


def _volume(text: str) -> dict[str, Any]:
    """SRC[:DST[:ro]]."""
    source, *more = text.split(":")
    if not source or len(more) > 2 or (len(more) == 2 and more[1] not in ("ro", "rw")):
        raise UsageError(f"do: --volume: {text!r} is not SRC[:DST[:ro]]")
    source = os.path.abspath(source)
    destination = more[0] if more and more[0] else source
    return {"destination": destination, "type": "bind", "source": source, "options": ["rbind", *more[1:2]]}


COMMANDS = (
    Command(
        "do", "COMMAND [ARGUMENT...]",
        "Run a command on this host's files in a sandbox; what it changes is forgotten.", _do,
        (
            Flag("root", "another folder as the root", str, default="/", value="DIR"),
            Flag("cwd", "working directory inside (default: this one)", str, value="DIR"),
            Flag("env", "NAME=VALUE for its environment; may be repeated", list, short="e", value="ENTRY"),
            Flag("volume", "SRC[:DST[:ro]]: a folder whose changes are kept; may be repeated", list, short="v",
                 value="SPEC"),
            Flag("network", "host (default) or none", str, default="host"),
        ),
        (1, None), flags_first=True,
    ),
)  # fmt: skip
