"""/proc/PID/mounts and mountinfo: fs/proc_namespace.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sentry.fs.proc_view import TaskView
from sentry.vfs.dentry import (
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_STRICTATIME,
    Dentry,
    Mount,
    Path,
    path_name,
)

_FLAGS: Final = (
    (MS_NOSUID, ",nosuid"),
    (MS_NODEV, ",nodev"),
    (MS_NOEXEC, ",noexec"),
    (MS_NOATIME, ",noatime"),
    (MS_NODIRATIME, ",nodiratime"),
    (MS_NOSYMFOLLOW, ",nosymfollow"),
)
_ESCAPES: Final = str.maketrans({" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134", "#": "\\043"})


def mounts(view: TaskView) -> str:
    """/proc/PID/mounts, as fstab(5)."""
    return "".join(
        f"{_escape(mount.source)} {_escape(where)} {mount.fs.NAME} {_options(mount)}{mount.fs.show_options()} 0 0\n"
        for mount, where in _visible(view)
    )


def mountinfo(view: TaskView) -> str:
    """/proc/PID/mountinfo, proc(5)."""
    return "".join(_mountinfo_line(mount, where) for mount, where in _visible(view))


def _mountinfo_line(mount: Mount, where: str) -> str:
    parent = mount.parent.id if mount.parent is not None else mount.id
    dev = mount.fs.dev
    return (
        f"{mount.id} {parent} {dev >> 8 & 0xFFF}:{dev & 0xFF | dev >> 12 & 0xFFF00} {_escape(_root_of(mount.root))} "
        f"{_escape(where)} {_options(mount)} - {mount.fs.NAME} {_escape(mount.source)} rw{mount.fs.show_options()}\n"
    )


def _visible(view: TaskView) -> Iterator[tuple[Mount, str]]:
    """(mount, mount point) of all that can be reached from the task's root."""
    if not view.alive:
        return
    root = view.t.fs.root
    for mount in root.mount.ns.walk_mounts():
        if mount is root.mount:
            yield mount, path_name(Path(mount, mount.root), Path(mount, mount.root))[0]
        elif mount.parent is not None and mount.mountpoint is not None:
            name, reachable = path_name(Path(mount.parent, mount.mountpoint), root)
            if reachable:
                yield mount, name


def _root_of(dentry: Dentry) -> str:
    """A mount's root within its file system: not `/` for bind mounts."""
    parts: list[str] = []
    while dentry.parent is not None:
        parts.append(dentry.name)
        dentry = dentry.parent
    return "/" + "/".join(reversed(parts))


def _options(mount: Mount) -> str:
    shown = "ro" if mount.readonly else "rw"
    for flag, name in _FLAGS:
        if mount.flags & flag:
            shown += name
    return shown if mount.flags & (MS_NOATIME | MS_STRICTATIME) else shown + ",relatime"


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)
