"""Options of a container's sandbox, as the shim finds them: the node's file, containerd's configuration, annotations.

What there is, and which source wins, is sandbox/config.py's affair.  containerd wraps its part in a
runtimeoptions.v1.Options: `config_path` names a TOML file on the host, `config_body` (1.7 and newer) is the options
table itself as TOML.  Options of other types (runc's, for a class that was pointed at pysc) are ignored.
"""

import logging
import tomllib  # noqa: F401  what a fork of the warm parent needs, whose node has a file

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from proto.containerd.options_pb2 import Options as RuntimeOptions
from proto.ttrpc.status import INVALID_ARGUMENT, RpcError
from sandbox.config import (
    InvalidConfig,
    Layer,
    parse_shim_table,
    read_file,
    read_node_file,
    sandbox_fields,
    settle,
)
from sandbox.sandbox import Options
from sandbox.spec import Spec

log = logging.getLogger(__name__)

TYPE = "runtimeoptions.v1.Options"


def sandbox_options(wrapped: AnyMessage, spec: Spec, container_id: str, debug: bool) -> Options:
    """How to make the sandbox of a container.  Raises RpcError for options that cannot be read or used.

    debug: containerd itself logs at that level, which it tells by a flag; any file counts for more.
    """
    try:
        said = Layer("containerd's -debug", {"debug": True}) if debug else Layer("")
        config = settle([said, read_node_file(), *_from_containerd(wrapped)], spec.annotations)
    except InvalidConfig as e:
        raise RpcError(INVALID_ARGUMENT, f"{e}: invalid argument") from None
    for warning in config.warnings:
        log.warning("container %s: %s", container_id, warning)
    return Options(lifeline=True, **sandbox_fields(config, container_id))


def _from_containerd(wrapped: AnyMessage) -> list[Layer]:
    """A file counts, and the body does not, where both are given: as with containerd's own shims."""
    if wrapped.type_url.rpartition("/")[2] != TYPE:
        return []
    try:
        options = RuntimeOptions.FromString(wrapped.value)
        body = options.config_body.decode()
    except (DecodeError, UnicodeDecodeError) as e:
        raise InvalidConfig(f"the runtime's options in containerd's configuration: {e}") from None
    if options.config_path:
        return [read_file(options.config_path)]
    return [parse_shim_table(body)] if body else []
