"""Whether two processes live in the same surroundings, so that a fork of one is as good as a fork of the other.

A fork inherits all of this from the warm parent and not from the process that asked for it, for which containerd, or
an administrator, may have chosen something else.
"""

import os

_PROC_FILES = ("cgroup", "limits", "attr/current", "personality")
_STATUS_FIELDS = frozenset(
    b"Uid Gid Groups Umask NoNewPrivs Seccomp CapInh CapPrm CapEff CapBnd CapAmb Mems_allowed".split()
)


def surroundings(pid: int) -> tuple[object, ...]:
    """All that a process passes on to its children and that we never change; the OOM score is the caller's affair.

    Raises OSError if it is gone or not ours to look at.
    """
    proc = f"/proc/{pid}"
    namespaces = sorted(os.readlink(f"{proc}/ns/{name}") for name in os.listdir(f"{proc}/ns"))
    root = os.stat(f"{proc}/root")
    return (
        namespaces,
        (root.st_dev, root.st_ino),
        _status(proc),
        [_read(f"{proc}/{name}") for name in _PROC_FILES],
        os.getpriority(os.PRIO_PROCESS, pid),
        os.sched_getscheduler(pid),
        os.sched_getaffinity(pid),
    )


def oom_score(pid: int) -> int:
    """Raises OSError."""
    with open(f"/proc/{pid}/oom_score_adj", "rb") as file:
        return int(file.read())


def parent_of(pid: int) -> int:
    """Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def _status(proc: str) -> list[bytes]:
    with open(f"{proc}/status", "rb") as file:
        return [line for line in file if line.partition(b":")[0] in _STATUS_FIELDS]


def _read(path: str) -> bytes | None:
    """What does not exist here, or says nothing without a security module, is the same for everybody."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ValueError):
        return None
    except OSError as e:
        if e.errno in (22, 95):
            return None
        raise
