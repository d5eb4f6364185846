"""Makes OCI bundles: a root file system and the config.json that a container manager would write for it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PYSC = Path(sys.executable).parent / "pysc"
IMAGE_MAKER = Path(__file__).resolve().parents[2] / "packaging" / "image.py"

CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP SYSLOG
"""
ALL_CAPABILITIES = [f"CAP_{name}" for name in CAPABILITIES.split()]

MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
]


@dataclass(slots=True)
class Process:
    """What to run: the process object of the spec."""

    args: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    terminal: bool = False
    uid: int = 0
    capabilities: list[str] = field(default_factory=lambda: list(ALL_CAPABILITIES))

    def to_spec(self) -> dict[str, Any]:
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **self.env}
        sets = ("bounding", "effective", "permitted")
        return {
            "terminal": self.terminal,
            "user": {"uid": self.uid, "gid": self.uid},
            "args": self.args,
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": self.cwd,
            "capabilities": dict.fromkeys(sets, self.capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": False,
        }


def write_bundle(bundle: Path, rootfs: Path, process: Process, mounts: list[dict[str, Any]] | None = None) -> Path:
    """Writes bundle/config.json for a root file system that may lie elsewhere; more mounts come after the usual."""
    bundle.mkdir(parents=True, exist_ok=True)
    spec = {
        "ociVersion": "1.0.2",
        "process": process.to_spec(),
        "root": {"path": str(rootfs), "readonly": False},
        "hostname": "guest",
        "mounts": MOUNTS + (mounts or []),
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }
    (bundle / "config.json").write_text(json.dumps(spec, indent=1))
    return bundle


def busybox_rootfs(rootfs: Path) -> Path:
    """A root with a static busybox under all its names."""
    subprocess.run([sys.executable, IMAGE_MAKER, "busybox-root", rootfs], check=True)
    return rootfs
