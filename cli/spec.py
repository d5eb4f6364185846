"""pysc spec: a configuration to begin with; `pysc do` begins with it too."""

import json
import os
from pathlib import Path
from typing import Any

from cli.args import Command, Flag, Values
from cli.version import SPEC_VERSION
from sandbox.errors import AlreadyExists

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def _mount(destination: str, fstype: str, *options: str) -> dict[str, Any]:
    mount = {"destination": destination, "type": fstype, "source": fstype, "options": list(options)}
    return mount if options else {key: value for key, value in mount.items() if key != "options"}


def kernel_mounts() -> list[dict[str, Any]]:
    """What every container expects to find mounted."""
    return [
        _mount("/proc", "proc"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    ]


def default_spec() -> dict[str, Any]:
    """A shell in `rootfs`, with the capabilities that container engines give."""
    capabilities = list(DEFAULT_CAPABILITIES)
    namespaces = ("pid", "network", "ipc", "uts", "mount")
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [DEFAULT_PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pysc",
        "mounts": kernel_mounts(),
        "linux": {
            "namespaces": [{"type": name} for name in namespaces],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _spec(flags: Values, values: Values, words: list[str]) -> int:
    path = Path(values["bundle"] or ".") / "config.json"
    spec = default_spec()
    if words:
        spec["process"]["args"] = words
    if values["rootless"]:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    try:
        with open(path, "x") as f:
            json.dump(spec, f, indent=4)
            f.write("\n")
    except FileExistsError:
        raise AlreadyExists(f"{path} already exists; it is left as it is") from None
    return 0


COMMANDS = (
    Command(
        "spec", "[COMMAND [ARGUMENT...]]", "Write a config.json to begin with.", _spec,
        (
            Flag("bundle", "folder to write it to (default: here)", str, short="b", value="DIR"),
            Flag("rootless", "for running without being root"),
        ),
        (0, None), flags_first=True,
    ),
)  # fmt: skip
