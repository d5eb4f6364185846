"""Docker: the runtime `pysc` in /etc/docker/daemon.json, which is JSON and keeps the order of its members."""

import json
import re
from pathlib import Path
from typing import Any

from cli.edits import Edit, Plan, Refused, read

CONFIG = "etc/docker/daemon.json"
RESTART = "systemctl reload docker   (or send SIGHUP to dockerd)"
NAME = "pysc"


def install(root: Path, command: str) -> Plan:
    """`command` is the path of pysc on the host."""
    path, text, config = _load(root)
    runtimes = config.setdefault("runtimes", {})
    if not isinstance(runtimes, dict):
        raise Refused(f'{path}: "runtimes" is no object')
    entry = runtimes.get(NAME)
    if entry is not None and not isinstance(entry, dict):
        raise Refused(f'{path}: "runtimes": "{NAME}" is no object')
    if entry is None or "runtimeType" in entry:
        entry = {}
    runtimes[NAME] = {**entry, "path": command}  # runtimeArgs that somebody has added stay
    return Plan([Edit(path, text, _text(config, text))], restart=RESTART)


def uninstall(root: Path) -> Plan:
    path, text, config = _load(root)
    runtimes = config.get("runtimes")
    if text is None or not isinstance(runtimes, dict) or NAME not in runtimes:
        return Plan([])
    if config.get("default-runtime") == NAME:
        raise Refused(f'{path}: "{NAME}" is the default runtime: name another as "default-runtime" first')
    del runtimes[NAME]
    if not runtimes:
        del config["runtimes"]
    return Plan([Edit(path, text, _text(config, text) if config else None)], restart=RESTART)


def _load(root: Path) -> tuple[Path, str | None, dict[str, Any]]:
    path = root / CONFIG
    text = read(path)
    if text is None or not text.strip():
        return path, text, {}
    try:
        config = json.loads(text)
    except ValueError as e:
        raise Refused(f"{path} is not valid JSON: {e}") from None
    if not isinstance(config, dict):
        raise Refused(f"{path}: an object is expected")
    return path, text, config


def _text(config: dict[str, Any], old: str | None) -> str:
    """In the indentation of what was there, and the same text if it says the same."""
    if old and old.strip() and json.loads(old) == config:
        return old
    indent = re.search(r"^([ \t]+)\"", old or "", re.MULTILINE)
    return json.dumps(config, indent=indent[1] if indent else 4, ensure_ascii=False) + "\n"
