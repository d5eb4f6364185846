"""pysc config: the options that hold and where each comes from; the file to begin with; is a file good?"""

import json
import sys

from cli.args import Command, Flag, UsageError, Values
from cli.options import effective
from cli.report import warn
from sandbox.config import Config, node_file, read_file
from sandbox.settings import SETTINGS, as_toml

HEAD = """\
# Options of pysc on this node, for the shim and for the command. They are described in docs/configuration.md, and the
# defaults are what is written here. Check a change with: pysc config --validate {path}
# It holds for sandboxes that are made from then on.
"""


def default_file() -> str:
    """A file that sets nothing and describes everything."""
    parts = [HEAD.format(path=node_file({}))]
    for setting in SETTINGS:
        lines = setting.help.split("\n")
        kind = setting.kind.expected.rstrip(",")
        parts.append("".join(f"# {line}\n" for line in [*lines, f"Value: {kind}."]))
        parts.append(f"#{setting.name} = {as_toml(setting.default)}\n")
    return parts[0] + "".join(f"\n{text}{line}" for text, line in zip(parts[1::2], parts[2::2]))


def _config(flags: Values, values: Values, words: list[str]) -> int:
    if values["default"]:
        sys.stdout.write(default_file())
        return 0
    if values["validate"]:
        read_file(values["validate"])
        print(f"{values['validate']}: valid")
        return 0
    config = effective(flags, _annotations(values["annotation"]))
    for warning in config.warnings:
        warn(flags, warning)
    _print(config, values["format"])
    return 0


def _annotations(entries: list[str]) -> dict[str, str]:
    for entry in entries:
        if "=" not in entry:
            raise UsageError(f"config: --annotation: {entry!r} is not NAME=VALUE")
    return {entry.partition("=")[0]: entry.partition("=")[2] for entry in entries}


def _print(config: Config, form: str) -> None:
    if form == "json":
        rows = {name: {"value": value, "from": config.origins[name]} for name, value in config.values.items()}
        print(json.dumps(rows))
    elif form == "table":
        lines = [(f"{name} = {as_toml(value)}", config.origins[name]) for name, value in config.values.items()]
        width = max(len(left) for left, _ in lines)
        for left, origin in lines:
            print(f"{left:<{width}}  # {origin}")
    else:
        raise UsageError(f"config: --format: {form!r} is not one of table, json")


COMMANDS = (
    Command(
        "config", "", "Show the options that hold, and where each comes from.", _config,
        (
            Flag("annotation", "NAME=VALUE: as for a container with this annotation; may be repeated", list,
                 value="ENTRY"),
            Flag("validate", "only check a file", str, value="FILE"),
            Flag("default", "print a file with all options to begin with"),
            Flag("format", "table (default), which is TOML, or json", str, short="f", default="table"),
        ),
    ),
)  # fmt: skip
