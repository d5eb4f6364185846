"""What is measured and what pysc promises: every row with its title and its limits.

A limit is the largest ratio that counts as kept.  `base` is against the section's base runtime (Linux itself, or runc
for what only runtimes do), `rival` against RIVAL.  The report marks the rows that miss.
"""

from __future__ import annotations

from dataclasses import dataclass

RIVAL = "runsc-ptrace"
NATIVE = "native"
OURS = "pysc-"

HALF, LESS = 0.5, 1.0


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    title: str
    base: float | None = None
    rival: float | None = None
    unit: str = ""  # where it is not the section's


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that are measured together, in one unit, against one base."""

    name: str
    title: str
    unit: str
    base: str
    rows: tuple[Row, ...]


MICRO = Section(
    "micro",
    "System calls",
    "ns",
    NATIVE,
    (
        Row("getpid", "getpid", 60, HALF),
        Row("clock_gettime", "clock_gettime", 1.1, HALF),
        Row("pread_4k", "pread 4 KiB", 18, HALF),
        Row("pwrite_4k", "pwrite 4 KiB", 18, HALF),
        Row("pread_64k", "pread 64 KiB", None, LESS),
        Row("pwrite_64k", "pwrite 64 KiB", None, HALF),
        Row("fstat", "fstat", None, HALF),
        Row("stat", "stat", 14, HALF),
        Row("stat_miss", "stat, no such file", 18, HALF),
        Row("open_close", "open + close", 12, HALF),
        Row("create_unlink", "create + unlink", None, HALF),
        Row("readdir", "readdir, 100 entries", None, LESS),
        Row("mmap_munmap", "mmap + touch + munmap", 4, HALF),
        Row("page_fault", "page fault", 1.15, LESS),
        Row("thread", "thread create + join", 4, LESS),
        Row("fork_exit", "fork + exit + wait", 3, HALF),
        Row("fork_exec", "fork + exec + wait", 5, HALF),
        Row("futex_pong", "futex ping-pong", 4, HALF),
        Row("pipe_pong", "pipe ping-pong", 5, HALF),
        Row("signal", "signal to self", 45, HALF),
        Row("pipe", "pipe write + read", None, HALF),
        Row("epoll_eventfd", "eventfd + epoll + read", 30, HALF),
        Row("unix", "unix socket 1 KiB", 14, HALF),
        Row("tcp", "TCP loopback 1 KiB", None, HALF),
    ),
)

STARTUP = Section(
    "startup",
    "Start-up",
    "ms",
    "runc",
    (
        Row("ctr_run", "ctr run --rm … true", 2.2, LESS),
        Row("oci_run", "RUNTIME run, true", None, LESS),
        Row("oci_run_warm", "the same; pysc with PYSC_WARM_DIR", None, LESS),
        Row("ctr_exec", "ctr task exec … true", None, LESS),
        Row("oci_exec", "RUNTIME exec, true", None, LESS),
    ),
)

MEMORY = Section(
    "memory",
    "Idle pods (PSS)",
    "MB",
    "runc",
    (
        Row("shim", "shim"),
        Row("sandbox", "sandbox"),
        Row("gofer", "gofer"),
        Row("stubs", "stubs; runc, crun: the program"),
        Row("warm", "warm parent of all shims, once"),
        Row("pod", "the first pod, with all of these", None, LESS),
        Row("pod_without_shim", "sandbox, gofer and stubs", None, LESS),
        Row("next_pod", "each further pod", None, LESS),
        Row("many_memory", "many pods, each", None, LESS),
        Row("many_start", "many pods, start of each", None, LESS, "ms"),
    ),
)

PROGRAMS = Section(
    "programs",
    "Programs",
    "ms",
    NATIVE,
    (
        Row("bash", "bash, 200 × /bin/true", None, LESS),
        Row("python", "5 × python3 -c pass", None, LESS),
        Row("tar", "tar of Python's library", None, LESS),
        Row("gcc", "gcc, 6 small files", None, LESS),
        Row("sqlite", "sqlite3, 10,050 inserts", None, LESS),
        Row("git", "5 × git status, 1,000 files", None, LESS),
    ),
)

SECTIONS = (MICRO, STARTUP, MEMORY, PROGRAMS)
