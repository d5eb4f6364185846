"""From an OCI configuration to kernel objects: credentials, limits, mounts.

The configuration was validated by the sandbox package; what is read here is still checked
for type, since it crosses a process boundary.
"""

from __future__ import annotations

from typing import Any

from sentry.kernel.container import ProcessSpec, StartError
from sentry.kernel.creds import CAP_NAMES, Creds
from sentry.kernel.rlimits import Rlimits
from sentry.vfs.dentry import (
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
    MS_STRICTATIME,
)

_SET_FLAGS = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
    "nosymfollow": MS_NOSYMFOLLOW,
}
_CLEAR_FLAGS = {
    "rw": MS_RDONLY,
    "suid": MS_NOSUID,
    "dev": MS_NODEV,
    "exec": MS_NOEXEC,
    "atime": MS_NOATIME,
    "diratime": MS_NODIRATIME,
    "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME,
    "symfollow": MS_NOSYMFOLLOW,
}
# Words about how the host mounts, which mean nothing inside.
_IGNORED = frozenset(
    (
        *("bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"),
        *("defaults", "sync", "async", "dirsync", "mand", "nomand", "silent", "loud", "iversion", "noiversion"),
        *("lazytime", "nolazytime", "remount", "tmpcopyup", "idmap", "ridmap"),
    )
)


def mount_options(options: list[str]) -> tuple[int, dict[str, str]]:
    """(MS_* flags, options of the file system itself such as size=64k)."""
    flags = 0
    data: dict[str, str] = {}
    for option in options:
        if option in _SET_FLAGS:
            flags |= _SET_FLAGS[option]
        elif option in _CLEAR_FLAGS:
            flags &= ~_CLEAR_FLAGS[option]
        elif option not in _IGNORED:
            key, _, value = option.partition("=")
            data[key] = value
    return flags, data


def _cap_mask(names: list[str]) -> int:
    mask = 0
    for name in names:
        short = name.removeprefix("CAP_")
        if short in CAP_NAMES:
            mask |= 1 << CAP_NAMES.index(short)
    return mask


def credentials(process: dict[str, Any]) -> Creds:
    """process.user and process.capabilities."""
    user = process.get("user") or {}
    uid, gid = int(user.get("uid", 0)), int(user.get("gid", 0))
    caps = process.get("capabilities") or {}
    sets = {key: _cap_mask(caps.get(key) or []) for key in ("bounding", "effective", "inheritable", "permitted")}
    ambient = _cap_mask(caps.get("ambient") or []) & sets["permitted"] & sets["inheritable"]
    effective = sets["effective"] & sets["permitted"]
    return Creds(
        *(uid, uid, uid, uid),
        *(gid, gid, gid, gid),
        groups=tuple(user.get("additionalGids") or ()),
        permitted=sets["permitted"],
        effective=effective if uid == 0 else ambient,
        inheritable=sets["inheritable"],
        bounding=sets["bounding"],
        ambient=ambient,
    )


def process_spec(process: dict[str, Any]) -> ProcessSpec:
    """The OCI process object.  StartError if it can't be one."""
    args = process.get("args") or []
    if not args or not all(isinstance(a, str) for a in args):
        raise StartError(3, "process.args: at least one string is needed")
    user = process.get("user") or {}
    rlimits = Rlimits()
    rlimits.apply((e["type"], int(e["soft"]), int(e["hard"])) for e in process.get("rlimits") or [])
    creds = credentials(process)
    if creds.uid and not creds.ambient:
        creds = creds.changed(permitted=0, effective=0)
    return ProcessSpec(
        args=list(args),
        env=list(process.get("env") or []),
        cwd=process.get("cwd") or "/",
        creds=creds,
        umask=int(user.get("umask", 0o022)),
        no_new_privs=bool(process.get("noNewPrivileges", False)),
        rlimits=rlimits,
        oom_score_adj=int(process.get("oomScoreAdj") or 0),
    )
