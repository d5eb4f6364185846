"""The global flags, and what they mean for a sandbox."""

from __future__ import annotations

import os

from cli.args import Flag, UsageError, Values, ignored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from sandbox.config import Config, Layer
    from sandbox.expected import Expected
    from sandbox.sandbox import Options

GLOBAL_FLAGS = (
    Flag("root", "folder of the containers' state", str, value="DIR"),
    Flag("log", "append errors of this command to a file", str, value="FILE"),
    Flag("log-format", "format of that log and the sandbox's: text (default) or json", str),
    Flag("config", "options: this file, not /etc/pysc/config.toml", str, value="FILE"),
    Flag("debug", "log what the sandbox does"),
    Flag("debug-log", "log of the sandbox itself (default: in its state folder)", str, value="FILE"),
    Flag("log-level", "what goes into it: debug, info (default), warning, error", str, value="NAME"),
    Flag("platform", "what runs programs: auto (default), systrap, ptrace, kvm", str, value="NAME"),
    Flag("network", "network namespace: that of the container (default), none", str, value="NAME"),
    Flag("overlay", "where changes of the root go: none (there; default), memory", str, value="NAME"),
    Flag("strace", "log the container's system calls"),
    Flag("strace-syscalls", "log these system calls only: names with commas between", str, value="LIST"),
    Flag("watchdog", "log where the sandbox hangs after so many seconds (60; 0: never)", str, value="SECONDS"),
    Flag("watchdog-action", "what else it does then: log (default), kill", str, value="NAME"),
    Flag("systemd-cgroup", "cgroupsPath is of the form slice:prefix:name"),
    Flag("cgroup-manager", "auto (default), cgroupfs, systemd or disabled", str, value="NAME"),
    Flag("rootless", "accepted; being root or not is found out", str, default="auto"),
    Flag("version", "print the version", short="v"),
    Flag("help", "print this help", short="h"),
    *ignored("criu", "file-access", "debug-log-format", "alsologtostderr", kind=str),
)

SETTING_FLAGS: Final = {
    "platform": "platform",
    "network": "network",
    "overlay": "overlay",
    "log-level": "log_level",
    "log-format": "log_format",
    "strace-syscalls": "strace",
    "watchdog": "watchdog",
    "watchdog-action": "watchdog_action",
    "cgroup-manager": "cgroup_driver",
}
"""Flags with a value -> the options that they set (sandbox/settings.py)."""

LOG_FORMATS = ("text", "json")


def state_root(flags: Values) -> str:
    """Where containers are remembered."""
    root: str = flags["root"]
    return root


def _default_root() -> str:
    """A folder that only this user has."""
    if os.geteuid() == 0:
        return "/run/pysc"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/pysc" if runtime else f"/tmp/pysc-{os.geteuid()}"


def settle(flags: Values) -> None:
    """Check what every command uses, and fill in what depends on who we are, before `do` changes that.

    Raises UsageError for a value that is not one of the few.
    """
    if flags["log-format"] not in (None, *LOG_FORMATS):
        raise UsageError(f"flag --log-format: {flags['log-format']!r} is not one of {', '.join(LOG_FORMATS)}")
    flags["root"] = os.path.abspath(flags["root"] or _default_root())


def given(flags: Values) -> list[Layer]:
    """What the flags say about options, each a layer.  Raises UsageError."""
    from sandbox.config import InvalidConfig, Layer, parse_flag

    layers = [Layer(f"flag --{name}", {name: True}) for name in ("debug", "strace") if flags[name]]
    if flags["systemd-cgroup"]:
        layers.append(Layer("flag --systemd-cgroup", {"cgroup_driver": "systemd"}))
    if flags["debug-log"]:
        layers.append(Layer("flag --debug-log", {"log": _log_path(flags["debug-log"])}))
    try:
        return layers + [parse_flag(SETTING_FLAGS[name], name, flags[name]) for name in SETTING_FLAGS if flags[name]]
    except InvalidConfig as e:
        raise UsageError(str(e)) from None


def _log_path(path: str) -> str:
    """Absolute; that it is a folder must not get lost."""
    return os.path.abspath(path) + ("/" if path.endswith("/") else "")


def effective(flags: Values, annotations: Mapping[str, str]) -> Config:
    """The options that hold for a container with these annotations.  Raises InvalidConfig."""
    from sandbox import config

    node = config.read_file(flags["config"]) if flags["config"] else config.read_node_file()
    return config.settle([node], annotations, given(flags))


def sandbox_options(flags: Values, container_id: str, annotations: Mapping[str, str], foreground: bool) -> Options:
    """How to make a container's sandbox.

    In the foreground the sandbox lives and dies with this command, and its log goes to our stderr if anybody wants to
    see it and has not said where.  Raises InvalidConfig.
    """
    from sandbox.config import sandbox_fields
    from sandbox.sandbox import Options

    config = effective(flags, annotations)
    if config.warnings:
        from cli.report import warn

        for warning in config.warnings:
            warn(flags, warning)
    options = Options(**sandbox_fields(config, container_id))
    if options.log is None and foreground and (options.debug or options.strace):
        options.log = "/dev/stderr"
    options.exit_with_init = not foreground
    options.lifeline = foreground
    expected: Expected | None = flags["nursery"]
    options.nursery = expected.take(warm=foreground) if expected else None
    return options
