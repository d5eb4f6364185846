"""/proc/sys: the kernel's settings, sysctl(8).

Almost all of them are facts about this kernel, and can only be read.  The names of the host
can be set, by whoever may call sethostname(2).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EACCES, EINVAL, EPERM
from sentry.abi.fcntl import O_ACCMODE, O_RDONLY
from sentry.fs.devpts import MAX_PTYS, DevPts
from sentry.fs.pipefs import MAX_UNPRIVILEGED_SIZE
from sentry.fs.simple import StaticDir, Text, TextNode
from sentry.kernel import utsname
from sentry.kernel.creds import CAP_LAST, CAP_SYS_ADMIN
from sentry.kernel.ids import PID_MAX
from sentry.kernel.rlimits import NR_OPEN
from sentry.kernel.task import current
from sentry.vfs.dentry import Path
from sentry.vfs.file import File
from sentry.vfs.inode import Inode

if TYPE_CHECKING:
    from sentry.fs.procfs import ProcFs

Maker = Callable[["ProcFs"], Text]
SHM_LIMIT: Final = (1 << 64) - 1 - (1 << 24)
NOBODY: Final = 65534
FILE_MAX: Final = (1 << 63) - 1
BYTES_PER_THREAD: Final = 128 << 10  # set_max_threads(): threads may take an eighth of the memory, 16 KiB each


class Setting(TextNode):
    """One setting.  EACCES: it is opened for writing and can't be set (proc_sys_permission)."""

    __slots__ = ()

    async def open(self, path: Path, flags: int) -> File:
        if self.take is None and flags & O_ACCMODE != O_RDONLY:
            raise EACCES
        return await super().open(path, flags)


# -- values that are computed --


def _uuid(data: bytes) -> str:
    """16 bytes as a version 4 UUID."""
    number = int.from_bytes(data, "big") & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) + "\n"


def _threads_max(fs: ProcFs) -> str:
    return f"{max(fs.container.facts.total_ram // BYTES_PER_THREAD, 20)}\n"


def _ptys(fs: ProcFs) -> str:
    instances = {mount.fs for mount in fs.container.mounts.mounts if isinstance(mount.fs, DevPts)}
    return f"{sum(len(instance.slaves) for instance in instances)}\n"


def _open_files(fs: ProcFs) -> str:
    """Open files of the container, none allocated and free, and the limit."""
    tables = {t.files for t in fs.ns.tasks.values() if t in t.tg.tasks}
    files = {file for table in tables for _, file in table.items()}
    return f"{len(files)}\t0\t{FILE_MAX}\n"


def _set_name(fs: ProcFs, which: str, data: bytes) -> None:
    """EPERM, EINVAL."""
    t = current()
    if t is not None and not t.creds.has(CAP_SYS_ADMIN):
        raise EPERM
    name = data.split(b"\0", 1)[0].split(b"\n", 1)[0]
    if len(name) > utsname.NAME_SIZE:
        raise EINVAL
    setattr(fs.container.uts, which, name)


# -- the tree: a name leads to a directory, a text, or a function of the file system that makes it --

Tree = dict[str, "Tree | Maker | str"]

_FS: Final[Tree] = {
    "aio-max-nr": "65536",
    "aio-nr": "0",
    "file-max": str(FILE_MAX),
    "file-nr": _open_files,
    "inotify": {"max_queued_events": "16384", "max_user_instances": "128", "max_user_watches": "65536"},
    "mount-max": "100000",
    "nr_open": str(NR_OPEN),
    "overflowgid": str(NOBODY),
    "overflowuid": str(NOBODY),
    "pipe-max-size": str(MAX_UNPRIVILEGED_SIZE),
    "protected_fifos": "0",
    "protected_hardlinks": "0",
    "protected_regular": "0",
    "protected_symlinks": "0",
    "suid_dumpable": "0",
}
_KERNEL: Final[Tree] = {
    "arch": utsname.MACHINE,
    "cap_last_cap": str(CAP_LAST),
    "core_pattern": "core",
    "core_uses_pid": "0",
    "domainname": lambda fs: fs.container.uts.domainname + b"\n",
    "hostname": lambda fs: fs.container.uts.nodename + b"\n",
    "msgmax": "8192",
    "msgmnb": "16384",
    "msgmni": "32000",
    "ngroups_max": "65536",
    "osrelease": utsname.RELEASE,
    "ostype": utsname.SYSNAME,
    "overflowgid": str(NOBODY),
    "overflowuid": str(NOBODY),
    "panic": "0",
    "pid_max": str(PID_MAX),
    "printk": "4\t4\t1\t7",
    "pty": {"max": str(MAX_PTYS), "nr": _ptys, "reserve": "0"},
    "random": {
        "boot_id": lambda fs: _uuid(fs.kernel.boot_id),
        "entropy_avail": "256",
        "poolsize": "256",
        "uuid": lambda fs: _uuid(os.urandom(16)),
    },
    "randomize_va_space": "2",
    "sem": "32000\t1024000000\t500\t32000",
    "shmall": str(SHM_LIMIT),
    "shmmax": str(SHM_LIMIT),
    "shmmni": "4096",
    "tainted": "0",
    "threads-max": _threads_max,
    "unprivileged_bpf_disabled": "2",
    "version": utsname.VERSION,
}
_NET: Final[Tree] = {
    "core": {"somaxconn": "4096"},
    "ipv4": {"ip_local_port_range": "32768\t60999", "ip_unprivileged_port_start": "1024"},
}
_VM: Final[Tree] = {
    "dirty_background_ratio": "10",
    "dirty_ratio": "20",
    "max_map_count": "65530",
    "mmap_min_addr": "65536",
    "nr_hugepages": "0",
    "overcommit_kbytes": "0",
    "overcommit_memory": "0",
    "overcommit_ratio": "50",
    "panic_on_oom": "0",
    "swappiness": "60",
    "vfs_cache_pressure": "100",
}
# None can be made: see clone(2) in SYSCALLS.md.
_USER: Final[Tree] = {
    f"max_{kind}_namespaces": "0" for kind in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
}
TREE: Final[Tree] = {"fs": _FS, "kernel": _KERNEL, "net": _NET, "user": _USER, "vm": _VM}
# Names below kernel/ that can be set -> the attribute of UtsNamespace.
_NAMES: Final = {"hostname": "nodename", "domainname": "domainname"}


def sys_dir(fs: ProcFs) -> Inode:
    """/proc/sys of one mount."""
    return _make(fs, "sys", TREE)


def value_of(fs: ProcFs, path: list[str]) -> str | None:
    """What the setting at a path below /proc/sys says; None: there is no such setting."""
    value: Tree | Maker | str | None = TREE
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return None
    text = value(fs)
    return text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")


def _make(fs: ProcFs, name: str, value: Tree | Maker | str) -> Inode:
    if isinstance(value, dict):
        return StaticDir(fs, {child: _make(fs, child, below) for child, below in value.items()})
    if isinstance(value, str):
        return Setting(fs, lambda: value + "\n")
    which = _NAMES.get(name)
    if which is not None:
        return Setting(fs, lambda: value(fs), 0o644, lambda data, offset: _set_name(fs, which, data))
    return Setting(fs, lambda: value(fs))
