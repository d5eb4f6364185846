"""New limits for a container that exists: its cgroup is told, and the Sentry of what that keeps to or shows."""

import errno
import os

from proto import control
from sandbox import state
from sandbox.cgroups import Cgroup
from sandbox.errors import FailedPrecondition, InvalidSpec, NotFound, SandboxError, Unsupported
from sandbox.limits import check, merged
from sandbox.sandbox import CALL_TIMEOUT, CREATING, Sandbox
from sandbox.spec import Resources


def update(sandbox: Sandbox, change: Resources) -> None:
    """Give a created, running or paused container new limits; on failure it has those that it had.

    Raises InvalidSpec, FailedPrecondition, NotFound or another SandboxError.
    """
    with state.locked(sandbox.directory):
        sandbox.record = state.load(os.path.dirname(sandbox.directory), sandbox.id)[1]
        name = sandbox.id
        status = sandbox.status()
        known = sandbox.record.container
        if known is None:
            raise NotFound(f"container {name} does not exist")
        if status in (control.STOPPED, CREATING):
            raise FailedPrecondition(f"cannot update container {name}: it is {status}")
        resources = merged(known.resources, change)
        check(resources, known.cgroup.version if known.cgroup else 0)
        if known.cgroup is not None:
            _apply(known.cgroup, known.resources, resources)
        elif change != Resources():
            raise FailedPrecondition(f"cannot update container {name}: it has no cgroup")
        sandbox.call("Update", _for_sentry(sandbox, change), control.Empty, CALL_TIMEOUT)
        known.resources = resources
        state.save(sandbox.directory, sandbox.record)


def _apply(cgroup: Cgroup, old: Resources, new: Resources) -> None:
    try:
        cgroup.apply(new)
    except (OSError, SandboxError) as e:
        try:
            cgroup.apply(old)
        except (OSError, SandboxError):
            pass  # the first error is the one to hear of
        if isinstance(e, SandboxError):
            raise
        raise _explained(e) from None


def _explained(e: OSError) -> SandboxError:
    """A limit that the kernel does not take."""
    name = os.path.basename(e.filename or "cgroup")
    if e.errno == errno.EBUSY:
        return FailedPrecondition(f"cannot update {name}: more is in use than it would allow")
    if e.errno in (errno.EINVAL, errno.ERANGE, errno.EOVERFLOW):
        return InvalidSpec(f"cannot update {name}: the kernel refuses the value")
    if e.errno == errno.ENOENT:
        return Unsupported(f"cannot update {name}: this host's kernel does not have it")
    return SandboxError(f"cannot update {name}: {e.strerror}")


def _for_sentry(sandbox: Sandbox, change: Resources) -> control.Update:
    """What the Sentry keeps to, or shows."""
    request = control.Update(sandbox.id, change.pids_limit or None)
    if change.memory_limit:
        from sandbox.launch import memory_size

        request.memory = memory_size(change)
    return request
