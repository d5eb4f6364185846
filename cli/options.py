"""The global flags, and what they mean for a sandbox."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cli.args import Flag, UsageError, Values, ignored

if TYPE_CHECKING:
    from sandbox.sandbox import Options

GLOBAL_FLAGS = (
    Flag("root", "folder of the containers' state", str, value="DIR"),
    Flag("log", "append errors of this command to a file", str, value="FILE"),
    Flag("log-format", "format of that log and the sandbox's: text (default) or json", str, default="text"),
    Flag("debug", "log what the sandbox does"),
    Flag("debug-log", "log of the sandbox itself (default: in its state folder)", str, value="FILE"),
    Flag("platform", "what runs programs: auto (default), systrap, ptrace, kvm", str, default="auto", value="NAME"),
    Flag("strace", "log the container's system calls"),
    Flag("systemd-cgroup", "cgroupsPath is of the form slice:prefix:name"),
    Flag("cgroup-manager", "cgroupfs (default), systemd or disabled", str, default="cgroupfs", value="NAME"),
    Flag("rootless", "accepted; being root or not is found out", str, default="auto"),
    Flag("version", "print the version", short="v"),
    Flag("help", "print this help", short="h"),
    *ignored("criu", "network", "overlay2", "file-access", "debug-log-format", "alsologtostderr", kind=str),
)

LOG_FORMATS = ("text", "json")
CGROUP_MANAGERS = ("cgroupfs", "systemd", "disabled")


def state_root(flags: Values) -> Path:
    """Where containers are remembered."""
    return Path(flags["root"])


def _default_root() -> str:
    """A folder that only this user has."""
    if os.geteuid() == 0:
        return "/run/pysc"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/pysc" if runtime else f"/tmp/pysc-{os.geteuid()}"


def settle(flags: Values) -> None:
    """Check the global flags' values and fill in what depends on who we are, before `do` changes that.

    Raises UsageError for a value that is not one of the few.
    """
    for name, known in (("log-format", LOG_FORMATS), ("cgroup-manager", CGROUP_MANAGERS)):
        if flags[name] not in known:
            raise UsageError(f"flag --{name}: {flags[name]!r} is not one of {', '.join(known)}")
    flags["root"] = os.path.abspath(flags["root"] or _default_root())


def sandbox_options(flags: Values, foreground: bool) -> "Options":
    """The creation options that the global flags ask for.

    In the foreground the sandbox lives and dies with this command, and its log goes to our stderr if anybody wants to
    see it and has not said where.
    """
    from sandbox.sandbox import Options

    log = Path(os.path.abspath(flags["debug-log"])) if flags["debug-log"] else None
    if log is None and foreground and (flags["debug"] or flags["strace"]):
        log = Path("/dev/stderr")
    return Options(
        platform=flags["platform"],
        strace=flags["strace"],
        debug=flags["debug"],
        log=log,
        log_format=flags["log-format"],
        systemd_cgroup=flags["systemd-cgroup"] or flags["cgroup-manager"] == "systemd",
        ignore_cgroups=flags["cgroup-manager"] == "disabled",
        exit_with_init=not foreground,
        lifeline=foreground,
        nursery=flags["nursery"],
    )
