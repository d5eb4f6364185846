"""containerd: the handler `pysc` of its CRI plugin.  ctr and nerdctl need none of it: they name the runtime in full.

Where it is written depends on the format of /etc/containerd/config.toml:

    version 2    at the end of the file itself.  containerd 1.x would take a drop-in's section of the CRI plugin in
                 place of the main file's, and lose what that says (containerd#7982).
    version 3    a drop-in in conf.d, and `imports` if the file has none: containerd 2.x merges sections.

What we write stands between two marks, so that taking it away leaves the file as it was (but for a line break at its
end, if it had none).  The result is read as TOML and compared with what it should say before anything is written.
"""

import fnmatch
import re
import tomllib
from pathlib import Path
from typing import Any

from cli.edits import Edit, Plan, Refused, read

CONFIG = "etc/containerd/config.toml"
DROP_IN = "etc/containerd/conf.d/pysc.toml"
IMPORTS = "/etc/containerd/conf.d/*.toml"
RESTART = "systemctl restart containerd"

NAME = "pysc"
BEGIN = "# pysc install: begin\n"
END = "# pysc install: end\n"

Config = dict[str, Any]
Tables = dict[str, dict[str, Any]]

PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
"""What the plugin that has the handlers is called, by the version of the file's format."""

HANDLER = {
    "runtime_type": "io.containerd.pysc.v1",
    "pod_annotations": ["dev.pysc.*"],
    "privileged_without_host_devices": True,
}
RUNC = {"runtime_type": "io.containerd.runc.v2"}
"""containerd's own default goes when a file names handlers; without it the CRI plugin does not load."""

_MARKED = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)


def install(root: Path) -> Plan:
    path, before = root / CONFIG, read(root / CONFIG)
    text = _without_ours(before or "")
    config = _parsed(path, text)
    notes = []
    if _is_disabled(config):
        notes.append(f"{path} disables the CRI plugin: only ctr and nerdctl will find pysc, Kubernetes will not")
    version = _version(path, config)
    if version == 3 and _takes_drop_ins(config):
        changes = _drop_in(root, before, text, config)
    else:
        changes = [Edit(path, before, _with_tables(path, text, config, version))]
    return Plan(changes, notes, RESTART)


def uninstall(root: Path) -> Plan:
    path, before = root / CONFIG, read(root / CONFIG)
    drop_in = read(root / DROP_IN)
    changes = []
    if before is not None and (after := _without_ours(before)) != before:
        changes.append(Edit(path, before, after or None))
    if drop_in is not None and drop_in.startswith(BEGIN):
        changes.append(Edit(root / DROP_IN, drop_in, None))
    return Plan(changes, restart=RESTART if changes else "")


def _without_ours(text: str) -> str:
    return _MARKED.sub("", text)


def _parsed(path: Path, text: str) -> Config:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise Refused(f"{path} is not valid TOML: {e}") from None


def _version(path: Path, config: Config) -> int:
    """Of the file's format.  An empty file may be of any: 2 is what every containerd since 1.3 reads."""
    if not config:
        return 2
    version = config.get("version")
    if version not in PLUGINS:
        said = "says no version, which means 1" if version is None else f"has the format {version}"
        raise Refused(f"{path} {said}: only 2 and 3 are known here (containerd config migrate writes a newer one)")
    assert isinstance(version, int)
    return version


def _is_disabled(config: Config) -> bool:
    return any(name in ("cri", *PLUGINS.values()) for name in config.get("disabled_plugins") or [])


def _imports(config: Config) -> list[str]:
    imports = config.get("imports")
    return [name for name in imports if isinstance(name, str)] if isinstance(imports, list) else []


def _takes_drop_ins(config: Config) -> bool:
    """If there are imports that do not reach the drop-in, the file itself is written: they are not ours to change."""
    return "imports" not in config or any(fnmatch.fnmatch(f"/{DROP_IN}", pattern) for pattern in _imports(config))


def _drop_in(root: Path, before: str | None, text: str, config: Config) -> list[Edit]:
    path = root / CONFIG
    after = text
    if "imports" not in config:
        # A key of the top level must stand before the first table.
        after = f'{BEGIN}imports = ["{IMPORTS}"]\n{END}{text}'
        _check(path, after, {**config, "imports": [IMPORTS]})
    drop_in = f"{BEGIN}version = 3\n{_tables_text(_tables(path, config, 3), 3)}{END}"
    return [Edit(path, before, after), Edit(root / DROP_IN, read(root / DROP_IN), drop_in)]


def _with_tables(path: Path, text: str, config: Config, version: int) -> str:
    tables = _tables(path, config, version)
    head = "" if config else "version = 2\n"
    separator = "" if not text or text.endswith("\n") else "\n"
    after = f"{text}{separator}{BEGIN}{head}{_tables_text(tables, version)}{END}"
    expected = {**config, "version": version}
    handlers: Config = expected
    for name in ("plugins", PLUGINS[version], "containerd", "runtimes"):
        handlers[name] = dict(handlers.get(name) or {})
        handlers = handlers[name]
    handlers.update(tables)
    _check(path, after, expected)
    return after


def _tables(path: Path, config: Config, version: int) -> Tables:
    """The handlers that are missing."""
    found: Any = config
    for name in ("plugins", PLUGINS[version], "containerd", "runtimes"):
        found = found.get(name) or {}
        if not isinstance(found, dict):
            raise Refused(f"{path}: {name} is no table")
    if NAME in found:
        raise Refused(f"{path} has a runtime {NAME} already, which pysc install has not written: remove it first")
    return {NAME: HANDLER} if "runc" in found else {"runc": RUNC, NAME: HANDLER}


def _tables_text(tables: Tables, version: int) -> str:
    lines = []
    for name, values in tables.items():
        lines.append(f'[plugins."{PLUGINS[version]}".containerd.runtimes.{name}]')
        lines += [f"  {key} = {_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f'"{value}"'


def _check(path: Path, text: str, expected: Config) -> None:
    """What we would write says what was said before and what we add.  A table in one line, for example, can't be
    added to at the end of a file."""
    try:
        if tomllib.loads(text) == expected:
            return
    except tomllib.TOMLDecodeError:
        pass
    raise Refused(f"{path} is written in a way that nothing can be added to at its end: see docs/kubernetes.md")
