"""The shim's command line, in the syntax of Go's flag package: one dash or two, the value behind "=" or the next word.

Not argparse: it costs more to import than the whole start action takes.
"""

VALUES = frozenset({"namespace", "address", "publish-binary", "id", "bundle", "socket", "debug-socket"})
SWITCHES = frozenset({"debug", "v", "version", "info"})


class UsageError(Exception):
    """The command line, or what containerd prepared for us, makes no sense."""


class Flags:
    """What containerd says on the command line.  `action` is the first word that is no flag."""

    __slots__ = ("action", "address", "arguments", "bundle", "debug", "id", "info", "namespace", "version")

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self.action = ""
        self.namespace = ""
        self.id = ""
        self.address = ""  # containerd's gRPC socket
        self.bundle = ""
        self.debug = False
        self.version = False
        self.info = False


def parse(arguments: list[str]) -> Flags:
    """Read the flags.  Unknown ones are skipped: later versions of containerd may have more."""
    flags = Flags()
    flags.arguments = arguments
    words = iter(arguments)
    for word in words:
        if not word.startswith("-") or word == "-":
            flags.action = word
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name in VALUES and not equals:
            value = next(words, "")
        _set(flags, name, value)
    return flags


def _set(flags: Flags, name: str, value: str) -> None:
    if name in SWITCHES:
        on = value.lower() not in ("0", "f", "false")
        setattr(flags, "version" if name == "v" else name, on)
    elif name == "address":
        flags.address = value.removeprefix("unix://")
    elif name in ("namespace", "id", "bundle"):
        setattr(flags, name, value)
