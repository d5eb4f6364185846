"""What can go wrong with a sandbox, as the shim and the command line see it.

Every error is one line of text for the user and a ttrpc status code for containerd.
"""

from __future__ import annotations

from proto.ttrpc import status
from proto.ttrpc.status import RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class SandboxError(Exception):
    """Base; `code` is the ttrpc status that the shim answers with."""

    default_code: ClassVar[int] = status.INTERNAL

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code


class InvalidSpec(SandboxError):
    """The OCI configuration, or an argument that comes with it, is not valid."""

    default_code = status.INVALID_ARGUMENT


class NotFound(SandboxError):
    """No such sandbox, container or process, or the process has already finished."""

    default_code = status.NOT_FOUND


class NoSuchExecutable(NotFound):
    """The program to run does not exist in the container: exit status 127 at a shell."""


class AlreadyExists(SandboxError):
    """The id is in use."""

    default_code = status.ALREADY_EXISTS


class NotExecutable(SandboxError):
    """The program to run exists but may not be executed: exit status 126 at a shell."""

    default_code = status.PERMISSION_DENIED


class FailedPrecondition(SandboxError):
    """The container is not in a state in which this can be done."""

    default_code = status.FAILED_PRECONDITION


class Unsupported(SandboxError):
    """It makes sense, but is not to be had: from pysc, or from this host's kernel."""

    default_code = status.UNIMPLEMENTED


_KINDS = (InvalidSpec, NotFound, AlreadyExists, NotExecutable, FailedPrecondition, Unsupported)
_BY_CODE: dict[int, type[SandboxError]] = {kind.default_code: kind for kind in _KINDS}


def from_rpc(error: RpcError) -> SandboxError:
    """The exception for a status that the Sentry answered with."""
    kind = _BY_CODE.get(error.code, SandboxError)
    if kind is NotFound and error.message.startswith("exec: "):
        kind = NoSuchExecutable
    return kind(error.message, error.code)
