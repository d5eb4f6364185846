"""How a process of ours gives up what it does not need: namespaces, root, identity, capabilities.

The order is fixed by what each step needs: namespaces need CAP_SYS_ADMIN, so do the mounts of the empty root; dropping
the bounding set needs CAP_SETPCAP; the user id goes next, then the capability sets; no_new_privs comes last before the
system call filter (filters.py), which may be loaded without privilege only then.

As root, everything happens in the initial user namespace and the Sentry ends as nobody.  Without root, or without
CAP_SYS_ADMIN, a user namespace of its own that maps the single caller comes first; there is no nobody in it, and the
process ends as that caller without capabilities.
"""

from __future__ import annotations

import errno
import os

from proto.record import Record
from sandbox import hostcalls as hc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Final

NOBODY: Final = 65534

CAP_SYS_ADMIN: Final = 21
CAP_NET_BIND_SERVICE: Final = 10

GOFER_CAPABILITIES: Final = {
    0: "CAP_CHOWN: the Sentry's files belong to the container's users",
    1: "CAP_DAC_OVERRIDE: the Sentry has checked the caller's permission; the gofer acts for all of them",
    3: "CAP_FOWNER: chmod, utimensat and sticky directories for files of the container's users",
    4: "CAP_FSETID: chmod keeps set-group-id bits though the gofer is not in the file's group",
    31: "CAP_SETFCAP: security.capability attributes, which package managers set",
}
"""Capabilities that a gofer keeps, and what for.  The Sentry keeps none (but see `sentry_capabilities`)."""

_NAMESPACE_FLAGS: Final = {
    "pid": hc.CLONE_NEWPID,
    "mount": hc.CLONE_NEWNS,
    "ipc": hc.CLONE_NEWIPC,
    "uts": hc.CLONE_NEWUTS,
    "cgroup": hc.CLONE_NEWCGROUP,
}


def sentry_capabilities(host_network: bool, bind_low_ports: bool) -> frozenset[int]:
    """The Sentry keeps a capability in one case: a container that shares the host's network and may bind to ports
    below 1024 there.  In a network namespace of its own those ports are opened to everybody instead (network.py)."""
    return frozenset({CAP_NET_BIND_SERVICE}) if host_network and bind_low_ports else frozenset()


def permitted_capabilities() -> int:
    """The calling thread's permitted set, as a bit mask."""
    with open("/proc/thread-self/status", "rb") as f:
        for line in f:
            if line.startswith(b"CapPrm:"):
                return int(line.split()[1], 16)
    raise OSError(errno.ENODATA, "no CapPrm in /proc/thread-self/status")


def is_privileged() -> bool:
    """Whether namespaces and mounts can be made without a user namespace first."""
    return os.geteuid() == 0 and bool(permitted_capabilities() >> CAP_SYS_ADMIN & 1)


def in_initial_user_namespace() -> bool:
    with open("/proc/self/uid_map", "rb") as f:
        return f.read().split() == [b"0", b"0", b"4294967295"]


def enter_user_namespace() -> None:
    """A new user namespace in which the caller is root and nobody else exists."""
    uid, gid = os.geteuid(), os.getegid()
    hc.unshare(hc.CLONE_NEWUSER)
    # An unprivileged gid_map is refused unless setgroups was denied first - user_namespaces(7).
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)


def can_mount_proc() -> bool:
    """Whether the kernel would let us mount a /proc of a new pid namespace: inside unprivileged containers, where
    parts of /proc are masked, it does not.  Tried out in a throw-away child; only needed in a user namespace."""
    pid = os.fork()
    if pid == 0:
        os._exit(_try_mounting_proc())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _try_mounting_proc() -> int:
    try:
        hc.unshare(hc.CLONE_NEWPID | hc.CLONE_NEWNS)
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        hc.mount("none", "/", "", hc.MS_REC | hc.MS_PRIVATE)
        hc.mount("proc", "/proc", "proc")
        return 0
    except OSError:
        return 1


class Namespaces(Record):
    """What `enter` made of the request."""

    own_pid: bool
    """False: no /proc of a new pid namespace can be had here, so the host's is shared with everything else apart."""


def enter(kinds: Collection[str]) -> Namespaces:
    """Leave the creator's namespaces; those of kind pid take effect for the next child."""
    if not is_privileged():
        enter_user_namespace()
    wanted = set(kinds)
    if "pid" in wanted and not in_initial_user_namespace() and not can_mount_proc():
        wanted.remove("pid")
    flags = 0
    for kind in wanted:
        flags |= _NAMESPACE_FLAGS[kind]
    hc.unshare(flags)
    return Namespaces(own_pid="pid" in wanted)


def enter_network(new: bool, path: str) -> None:
    """A network namespace: the one that `path` names, or a new one, or the creator's."""
    if path:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            hc.setns(fd, hc.CLONE_NEWNET)
        finally:
            os.close(fd)
    elif new:
        hc.unshare(hc.CLONE_NEWNET)


def enter_empty_root(own_pid: bool) -> int:
    """Make / an empty read-only directory but for /proc; returns an O_PATH descriptor of /proc.

    /proc is that of our own pid namespace, processes only where the kernel can hide the rest.
    """
    flags = hc.MS_NOSUID | hc.MS_NODEV | hc.MS_NOEXEC
    hc.mount("none", "/", "", hc.MS_REC | hc.MS_PRIVATE)
    outer_proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # /proc is the one directory that surely exists; what it covers is gone after the pivot anyhow.
    hc.mount("pysc", "/proc", "tmpfs", flags, "mode=755,size=4k,nr_inodes=4")
    os.mkdir("/proc/proc", 0o555)
    if own_pid:
        _mount_proc("/proc/proc", flags | hc.MS_RDONLY)
    else:
        os.fchdir(outer_proc)
        hc.mount(".", "/proc/proc", "", hc.MS_BIND | hc.MS_REC)
    os.close(outer_proc)
    os.chdir("/proc")
    # The new root is stacked upon the old one, and the old one then taken away below it.
    hc.pivot_root(".", ".")
    hc.umount2(".", hc.MNT_DETACH)
    os.chdir("/")
    hc.mount("none", "/", "", hc.MS_REMOUNT | hc.MS_BIND | hc.MS_RDONLY | flags)
    return os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _mount_proc(target: str, flags: int) -> None:
    try:
        hc.mount("proc", target, "proc", flags, "subset=pid")
    except OSError as e:
        if e.errno != errno.EINVAL:  # Linux < 5.8 does not know subset=
            raise
        hc.mount("proc", target, "proc", flags)


def drop_privileges(keep: Collection[int], become_nobody: bool, dumpable: bool) -> None:
    """Keep only the capabilities in `keep`, in all sets; never to gain any again.

    `dumpable`: whether processes of the same user may trace this one and, through fork, its children.
    """
    mask = sum(1 << capability for capability in keep)
    _drop_bounding_set(keep)
    if become_nobody:
        hc.prctl(hc.PR_SET_KEEPCAPS, 1)
        _become_nobody()
        hc.prctl(hc.PR_SET_KEEPCAPS, 0)
    mask &= permitted_capabilities()
    hc.capset(mask, mask, 0)
    hc.prctl(hc.PR_CAP_AMBIENT, hc.PR_CAP_AMBIENT_CLEAR_ALL)
    hc.prctl(hc.PR_SET_NO_NEW_PRIVS, 1)
    hc.prctl(hc.PR_SET_DUMPABLE, int(dumpable))


def _drop_bounding_set(keep: Collection[int]) -> None:
    """As far as possible: without CAP_SETPCAP it stays, and no_new_privs alone guards execve."""
    for capability in range(64):
        try:
            if hc.prctl(hc.PR_CAPBSET_READ, capability) and capability not in keep:
                hc.prctl(hc.PR_CAPBSET_DROP, capability)
        except OSError as e:
            if e.errno == errno.EINVAL:  # past the last capability
                return
            if e.errno != errno.EPERM:
                raise


def _become_nobody() -> None:
    """Unless the user namespace has no such user: then we stay who we are."""
    try:
        os.setgroups([])
    except PermissionError:
        if in_initial_user_namespace():
            raise
    try:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
