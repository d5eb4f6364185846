"""Credentials and capabilities, credentials(7) and capabilities(7): pure state of the application.

None of it is a privilege on the host.
"""

from __future__ import annotations

from typing import Any, Final

from proto.slotted import made, slotted
from sentry.vfs.caller import Caller

CAP_NAMES: Final = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
CAP_LAST: Final = len(CAP_NAMES) - 1
ALL_CAPS: Final = (1 << len(CAP_NAMES)) - 1

CAP_CHOWN: Final = 1 << 0
CAP_DAC_OVERRIDE: Final = 1 << 1
CAP_DAC_READ_SEARCH: Final = 1 << 2
CAP_FOWNER: Final = 1 << 3
CAP_FSETID: Final = 1 << 4
CAP_KILL: Final = 1 << 5
CAP_SETGID: Final = 1 << 6
CAP_SETUID: Final = 1 << 7
CAP_SETPCAP: Final = 1 << 8
CAP_SYS_CHROOT: Final = 1 << 18
CAP_SYS_PTRACE: Final = 1 << 19
CAP_SYS_ADMIN: Final = 1 << 21
CAP_SYS_BOOT: Final = 1 << 22
CAP_SYS_NICE: Final = 1 << 23
CAP_SYS_RESOURCE: Final = 1 << 24
CAP_SYS_TIME: Final = 1 << 25
CAP_SYS_TTY_CONFIG: Final = 1 << 26
CAP_MKNOD: Final = 1 << 27
CAP_SETFCAP: Final = 1 << 31
CAP_SYSLOG: Final = 1 << 34
CAP_WAKE_ALARM: Final = 1 << 35
FS_CAPS: Final = (
    CAP_CHOWN | CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH | CAP_FOWNER | CAP_FSETID | CAP_MKNOD | 1 << 9 | 1 << 32
)

SECBIT_NOROOT: Final = 1
SECBIT_NO_SETUID_FIXUP: Final = 4
SECBIT_KEEP_CAPS: Final = 16
SECBIT_KEEP_CAPS_LOCKED: Final = 32
SECBIT_NO_CAP_AMBIENT_RAISE: Final = 64
SECURE_ALL_LOCKS: Final = 0xAA


@slotted
class Creds:
    """struct cred.  Treated as immutable: change by replace(), so that threads may share one."""

    uid: int = 0
    euid: int = 0
    suid: int = 0
    fsuid: int = 0
    gid: int = 0
    egid: int = 0
    sgid: int = 0
    fsgid: int = 0
    groups: tuple[int, ...] = ()
    permitted: int = 0
    effective: int = 0
    inheritable: int = 0
    bounding: int = ALL_CAPS
    ambient: int = 0
    securebits: int = 0
    _callers: dict[int, Caller] = made(dict)

    def changed(self, **changes: object) -> Creds:
        kept: dict[str, Any] = {name: getattr(self, name) for name in self.__match_args__ if not name.startswith("_")}
        return Creds(**kept | changes)

    def has(self, cap: int) -> bool:
        """ns_capable(): cap is a CAP_* bit."""
        return bool(self.effective & cap)

    def caller(self, umask: int) -> Caller:
        caller = self._callers.get(umask)
        if caller is None:
            caller = Caller(self.fsuid, self.fsgid, frozenset(self.groups), self.effective, umask)
            self._callers[umask] = caller
        return caller

    def in_group(self, gid: int) -> bool:
        return gid == self.egid or gid in self.groups

    def real_caller(self, umask: int) -> Caller:
        """access(2): the real ids, and for a real non-root user no effective capabilities."""
        caller = self._callers.get(~umask)  # kept among the others under a key that is no umask
        if caller is None:
            caps = self.effective
            if not self.securebits & SECBIT_NO_SETUID_FIXUP:
                caps = self.permitted if self.uid == 0 else 0
            caller = self._callers[~umask] = Caller(self.uid, self.gid, frozenset(self.groups), caps, umask)
        return caller


def fixup_for_uids(old: Creds, new: Creds) -> Creds:
    """cap_task_fix_setuid(): what a change of the uid triple does to the capability sets."""
    if old.securebits & SECBIT_NO_SETUID_FIXUP:
        return new
    permitted, effective, ambient = new.permitted, new.effective, new.ambient
    had_root = 0 in (old.uid, old.euid, old.suid)
    has_root = 0 in (new.uid, new.euid, new.suid)
    if had_root and not has_root:
        if not old.securebits & SECBIT_KEEP_CAPS:
            permitted = effective = 0
        ambient = 0
    if old.euid == 0 and new.euid != 0:
        effective = 0
    if old.euid != 0 and new.euid == 0:
        effective = permitted
    return new.changed(permitted=permitted, effective=effective, ambient=ambient)


def fixup_for_fsuid(old: Creds, new: Creds) -> Creds:
    """cap_task_fix_setuid(LSM_SETID_FS)."""
    if old.securebits & SECBIT_NO_SETUID_FIXUP:
        return new
    if old.fsuid == 0 and new.fsuid != 0:
        return new.changed(effective=new.effective & ~FS_CAPS)
    if old.fsuid != 0 and new.fsuid == 0:
        return new.changed(effective=new.effective | (new.permitted & FS_CAPS))
    return new
