"""Options of the runtime: from containerd's configuration, from a file that it names, or from a pod's annotations.

containerd wraps them in a runtimeoptions.v1.Options: `config_path` names a TOML file on the host, `config_body` (1.7
and newer) is the options table itself as TOML.  Keys:

    platform = "auto" | "systrap" | "ptrace" | "kvm"
    debug = true                 # debug messages in the sandbox's log
    strace = true                # every system call into the log
    log = "/var/log/pysc/%ID%.log"
    log_format = "text" | "json"

Options of other types (runc's, for a class that was pointed at pysc) are ignored.

Options are the node administrator's, annotations the pod author's: the annotation dev.pysc.platform chooses only where
the options leave the choice open.
"""

import tomllib
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from proto.containerd.options_pb2 import Options as RuntimeOptions
from proto.ttrpc.status import INVALID_ARGUMENT, RpcError
from sandbox.sandbox import Options
from sandbox.spec import Spec

TYPE = "runtimeoptions.v1.Options"
PLATFORM_ANNOTATION = "dev.pysc.platform"
_KINDS: dict[str, type] = {"platform": str, "debug": bool, "strace": bool, "log": str, "log_format": str}


def sandbox_options(wrapped: AnyMessage, spec: Spec, container_id: str, debug: bool) -> Options:
    """How to make the sandbox of a container.  Raises RpcError for options that cannot be read.

    Nobody tells a shim which cgroup driver is in use; the form of the path does (slice:prefix:name is systemd's).
    """
    table: dict[str, Any] = {"debug": debug} if debug else {}
    if wrapped.type_url.rpartition("/")[2] == TYPE:
        table |= read_table(RuntimeOptions.FromString(wrapped.value))
    options = Options(lifeline=True, systemd_cgroup=spec.cgroups_path.count(":") == 2)
    for key, kind in _KINDS.items():
        value = table.get(key)
        if value is None:
            continue
        if not isinstance(value, kind):
            raise RpcError(INVALID_ARGUMENT, f"runtime option {key}: {kind.__name__} expected: invalid argument")
        setattr(options, key, Path(str(value).replace("%ID%", container_id)) if key == "log" else value)
    if options.platform in ("", "auto"):
        options.platform = spec.annotations.get(PLATFORM_ANNOTATION) or "auto"
    return options


def read_table(options: RuntimeOptions) -> dict[str, Any]:
    """The options as a table; a file counts for more than the body, as with containerd's own shims."""
    try:
        if options.config_path:
            return tomllib.loads(Path(options.config_path).read_text())
        return tomllib.loads(options.config_body.decode())
    except (OSError, ValueError) as e:
        where = options.config_path or "the options table"
        raise RpcError(INVALID_ARGUMENT, f"runtime options in {where}: {e}: invalid argument") from None
