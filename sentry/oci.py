"""From an OCI configuration to kernel objects: credentials, limits, mounts.

The configuration was validated by the sandbox package; what is read here is still checked
for type, since it crosses a process boundary.
"""

from __future__ import annotations

from typing import Any

from sentry.abi.errno import LinuxError
from sentry.kernel.container import ProcessSpec, StartError
from sentry.kernel.creds import CAP_NAMES, Creds
from sentry.kernel.rlimits import NR_OPEN, Rlimits
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
    """process.user and process.capabilities, as they are just before the execve: its rules decide what stays."""
    user = process.get("user") or {}
    uid, gid = int(user.get("uid", 0)), int(user.get("gid", 0))
    caps = process.get("capabilities") or {}
    sets = {key: _cap_mask(caps.get(key) or []) for key in ("bounding", "effective", "inheritable", "permitted")}
    ambient = _cap_mask(caps.get("ambient") or []) & sets["permitted"] & sets["inheritable"]
    return Creds(
        *(uid, uid, uid, uid),
        *(gid, gid, gid, gid),
        groups=tuple(sorted(user.get("additionalGids") or ())),
        permitted=sets["permitted"],
        effective=sets["effective"] & sets["permitted"],
        inheritable=sets["inheritable"],
        bounding=sets["bounding"],
        ambient=ambient,
    )


def max_tasks(spec: dict[str, Any]) -> int | None:
    """linux.resources.pids.limit; None, 0 and less: there is none.  StartError if it is no number."""
    linux = spec.get("linux") or {}
    limit = ((linux.get("resources") or {}).get("pids") or {}).get("limit")
    if limit is not None and not isinstance(limit, int):
        raise StartError(3, "linux.resources.pids.limit: not a number")
    return limit if limit and limit > 0 else None


def process_spec(process: dict[str, Any]) -> ProcessSpec:
    """The OCI process object.  StartError if it can't be one."""
    args, env = process.get("args") or [], process.get("env") or []
    for name, strings in (("args", args), ("env", env)):
        if not isinstance(strings, list) or not all(isinstance(s, str) and "\0" not in s for s in strings):
            raise StartError(3, f"process.{name}: not a list of strings")
    if not args:
        raise StartError(3, "process.args: at least one string is needed")
    try:
        return _process_spec(process, args, env)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise StartError(3, f"process: malformed: {e}") from None


def _process_spec(process: dict[str, Any], args: list[str], env: list[str]) -> ProcessSpec:
    user = process.get("user") or {}
    return ProcessSpec(
        args=args,
        env=env,
        cwd=process.get("cwd") or "/",
        creds=credentials(process),
        umask=int(user.get("umask", 0o022)),
        no_new_privs=bool(process.get("noNewPrivileges", False)),
        rlimits=_rlimits(process.get("rlimits") or []),
        oom_score_adj=int(process.get("oomScoreAdj") or 0),
    )


def _rlimits(entries: list[dict[str, Any]]) -> Rlimits:
    """process.rlimits.  More descriptors than this kernel's tables hold are as good as all of them."""
    limits = Rlimits()
    for entry in entries:
        name, soft, hard = entry["type"], int(entry["soft"]), int(entry["hard"])
        if name == "RLIMIT_NOFILE":
            soft, hard = min(soft, NR_OPEN), min(hard, NR_OPEN)
        try:
            limits.apply([(name, soft, hard)])
        except LinuxError as e:
            raise StartError(3, f"process.rlimits: {name}: {e.why}") from None
    return limits
