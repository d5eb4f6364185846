"""pysc version: in the form in which engines look for runc's."""

from cli.args import Command, Values

VERSION = "0.1.0"
SPEC_VERSION = "1.0.2"


def _version(flags: Values, values: Values, words: list[str]) -> int:
    print(f"pysc version {VERSION}\nspec: {SPEC_VERSION}")
    return 0


COMMANDS = (Command("version", "", "Print the version.", _version),)
