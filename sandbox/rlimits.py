"""Resource limits and the OOM score of our own processes.

Raising a limit or lowering a score needs CAP_SYS_RESOURCE, which a container's root often lacks: everything here does
what it may and never fails.
"""

import resource

_RAISED = (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK, resource.RLIMIT_SIGPENDING)
"""One Sentry holds the files, threads and signals of all of its container's processes."""


def raise_limits() -> None:
    """Soft limits up to the hard ones; no core files, which would hold the container's secrets."""
    for limit in _RAISED:
        hard = resource.getrlimit(limit)[1]
        _set(limit, (hard, hard))
    _set(resource.RLIMIT_CORE, (0, 0))


def _set(limit: int, values: tuple[int, int]) -> None:
    try:
        resource.setrlimit(limit, values)
    except (OSError, ValueError):
        pass


def set_oom_score_adj(value: int, pid: int | None = None) -> None:
    """Of this process or another one.  Inherited by the stubs, which hold the container's memory."""
    try:
        with open(f"/proc/{pid or 'self'}/oom_score_adj", "w") as f:
            f.write(str(value))
    except OSError:
        pass


def own_oom_score_adj() -> int:
    try:
        with open("/proc/self/oom_score_adj") as f:
            return int(f.read())
    except (OSError, ValueError):
        return 0
