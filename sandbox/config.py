"""The values of the options in settings.py: from files, annotations and flags, and where each came from.

The order in which they win, the last one first:

    the defaults
    the node's file, /etc/pysc/config.toml, or what PYSC_CONFIG names (empty: none)
    the file, or the table, that containerd's configuration or ctr gives the shim
    the pod's annotations, as far as the option `annotations` lets them
    the flags of the command line

A file that cannot be read, a key that is unknown and a value that is not of its kind are errors, which say where.
"""

from __future__ import annotations

import os

from proto.record import Record, field
from sandbox.errors import InvalidSpec
from sandbox.settings import (
    ANNOTATION_PREFIX,
    BY_NAME,
    SETTINGS,
    SHIM_TABLE_KEYS,
    Setting,
    Value,
    ValueProblem,
    nearest,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Final

    from _typeshed import StrPath

NODE_FILE: Final = "/etc/pysc/config.toml"
NODE_FILE_VARIABLE: Final = "PYSC_CONFIG"
DEFAULT: Final = "default"


class InvalidConfig(InvalidSpec):
    """An option cannot be used; the text says which, where it was set, and what was expected."""


class Layer(Record):
    """What one source says."""

    origin: str
    """For people: a file's path, an annotation, a flag."""
    values: dict[str, Value] = field(default_factory=dict)


class Config(Record):
    """The values that hold."""

    values: dict[str, Value] = field(default_factory=lambda: {setting.name: setting.default for setting in SETTINGS})
    origins: dict[str, str] = field(default_factory=lambda: dict.fromkeys(BY_NAME, DEFAULT))
    warnings: list[str] = field(default_factory=list)
    """What was not followed, and why."""

    def take(self, layer: Layer) -> None:
        for name, value in layer.values.items():
            self.values[name] = value
            self.origins[name] = layer.origin

    def text(self, name: str) -> str:
        value = self.values[name]
        assert isinstance(value, str)
        return value

    def number(self, name: str) -> int:
        value = self.values[name]
        assert isinstance(value, int)
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """A list; one that is a switch instead is empty."""
        value = self.values[name]
        return value if isinstance(value, tuple) else ()


def node_file(environment: Mapping[str, str] = os.environ) -> str:
    """The path of the node's file; "" if there shall be none."""
    return environment.get(NODE_FILE_VARIABLE, NODE_FILE)


def read_node_file() -> Layer:
    """The node's file, which need not be there unless it was named."""
    path = node_file()
    if not path or (path == NODE_FILE and not os.path.exists(path)):
        return Layer(path)
    return read_file(path)


def read_file(path: StrPath) -> Layer:
    """A file of options."""
    try:
        with open(path, "rb") as f:
            text = f.read().decode()
    except OSError as e:
        raise InvalidConfig(f"{path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidConfig(f"{path}: not UTF-8") from None
    return parse(text, str(path))


def parse(text: str, origin: str, ignored: Iterable[str] = ()) -> Layer:
    """Options as TOML."""
    import tomllib  # takes as long as all that a command without a file needs

    try:
        table = tomllib.loads(text)
    except ValueError as e:
        raise InvalidConfig(f"{origin}: not TOML: {e}") from None
    return Layer(origin, {key: _checked(origin, key, table[key]) for key in table if key not in set(ignored)})


def parse_shim_table(text: str) -> Layer:
    """An options table of containerd's configuration, which it sends with its own keys."""
    return parse(text, "the runtime's options in containerd's configuration", SHIM_TABLE_KEYS)


def _setting(where: str, name: str) -> Setting:
    setting = BY_NAME.get(name)
    if setting is None:
        raise InvalidConfig(f"{where}: there is no such option{nearest(name, list(BY_NAME))}")
    return setting


def _checked(origin: str, key: str, value: Any) -> Value:
    where = f"{origin}: {key}"
    try:
        return _checked_names(where, key, _setting(where, key).kind.from_toml(value))
    except ValueProblem as e:
        raise InvalidConfig(f"{where}: {e}") from None


def _checked_names(where: str, key: str, value: Value) -> Value:
    """`annotations` names options, of which not all are for pods."""
    if key == "annotations" and isinstance(value, tuple):
        for name in value:
            if not _setting(f"{where}: {name!r}", name).by_annotation:
                raise InvalidConfig(f"{where}: {name!r} is not for annotations")
    return value


def parse_flag(name: str, flag: str, text: str) -> Layer:
    """The layer of one flag of the command line."""
    try:
        return Layer(f"flag --{flag}", {name: BY_NAME[name].kind.from_text(text)})
    except ValueProblem as e:
        raise InvalidConfig(f"flag --{flag}: {e}") from None


def take_annotations(config: Config, annotations: Mapping[str, str]) -> None:
    """Let a pod choose what it may.  What it may not is left out, as containerd leaves out annotations itself.

    Names with another dot in them are not options.
    """
    for key, text in annotations.items():
        name = key.removeprefix(ANNOTATION_PREFIX)
        if name == key or "." in name or not text:
            continue
        where = f"annotation {key}"
        setting = _setting(where, name)
        refusal = _refusal(config, setting)
        if refusal:
            config.warnings.append(f"{where} is ignored: {refusal}")
            continue
        try:
            config.take(Layer(where, {name: setting.kind.from_text(text)}))
        except ValueProblem as e:
            raise InvalidConfig(f"{where}: {e}") from None


def _refusal(config: Config, setting: Setting) -> str:
    """Why a pod may not choose an option; "" if it may."""
    name, origin = setting.name, config.origins[setting.name]
    if not setting.by_annotation:
        return "pods never choose that"
    if name not in config.names("annotations"):
        return f"the option annotations ({config.origins['annotations']}) does not name it"
    if config.origins["annotations"] == DEFAULT and origin != DEFAULT:
        return f"{origin} sets it"
    return ""


def settle(layers: Iterable[Layer], annotations: Mapping[str, str], flags: Iterable[Layer] = ()) -> Config:
    """What holds, after the files (the last one counts most), a pod's annotations and flags."""
    config = Config()
    for layer in layers:
        config.take(layer)
    take_annotations(config, annotations)
    for layer in flags:
        config.take(layer)
    return config


def log_path(config: Config, container_id: str) -> str | None:
    """The log of a container's sandbox; None: in its state folder."""
    pattern = config.text("log")
    if pattern.endswith("/"):
        pattern += "%ID%.log"
    return pattern.replace("%ID%", container_id) if pattern else None


def sandbox_fields(config: Config, container_id: str) -> dict[str, Any]:
    """The options as fields of sandbox.Options."""
    driver = config.text("cgroup_driver")
    return {
        "platform": config.text("platform"),
        "network": config.text("network"),
        "overlay": config.text("overlay"),
        "strace": bool(config.values["strace"]),
        "strace_calls": config.names("strace"),
        "debug": bool(config.values["debug"]),
        "log": log_path(config, container_id),
        "log_level": "debug" if config.values["debug"] else config.text("log_level"),
        "log_format": config.text("log_format"),
        "watchdog_s": config.number("watchdog"),
        "watchdog_kills": config.text("watchdog_action") == "kill",
        "systemd_cgroup": None if driver in ("auto", "disabled") else driver == "systemd",
        "ignore_cgroups": driver == "disabled",
    }
