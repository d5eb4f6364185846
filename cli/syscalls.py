"""pysc syscalls: which system calls the Sentry has, as its own table says."""

import os

from cli.args import Command, Flag, UsageError, Values
from sandbox.interpreter import module_command

FORMATS = ("table", "json", "csv")


def _syscalls(flags: Values, values: Values, words: list[str]) -> int:
    if values["format"] not in FORMATS:
        raise UsageError(f"syscalls: --format: {values['format']!r} is not one of {', '.join(FORMATS)}")
    command = module_command("sentry.syscalls", "--format", values["format"])
    os.execv(command[0], command)


COMMANDS = (
    Command(
        "syscalls", "", "List the system calls and how far each is supported.", _syscalls,
        (Flag("format", "table (default), json or csv", str, short="f", default="table"),),
    ),
)  # fmt: skip
