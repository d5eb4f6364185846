"""Command lines, declared as tables of flags and read the way Go's OCI runtimes read theirs.

argparse would do, but takes as long to load as `state` takes to run, cannot leave a command's own words alone after
the first positional one, and insists on `--flag=true` being wrong.  Accepted: --flag value, --flag=value, -flag,
-f value, bundled one-letter switches (-it), and `--` as the end of all flags.
"""

from __future__ import annotations

from proto.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

_WORDS = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


class UsageError(Exception):
    """The command line makes no sense; exit status 2."""


class Flag(Record):
    """One flag.  kind: bool (a switch), str, int or list (may be repeated, collects strings)."""

    name: str
    help: str = ""
    kind: type = bool
    short: str = ""
    default: Any = None
    value: str = ""
    """What to call its value in the help text."""

    @property
    def initial(self) -> Any:
        if self.kind is list:
            return []
        return False if self.kind is bool and self.default is None else self.default


def ignored(*names: str, kind: type = bool) -> tuple[Flag, ...]:
    """Flags of other runtimes that mean nothing here: accepted, not shown in the help."""
    return tuple(Flag(name, kind=kind) for name in names)


class Command(Record):
    """One subcommand; `run` gets the global and its own flags' values and the positional words."""

    name: str
    usage: str
    """The positional words."""
    help: str
    run: Callable[[Values, Values, list[str]], int]
    flags: tuple[Flag, ...] = ()
    words: tuple[int, int | None] = (0, 0)
    """How many positional words, at least and at most."""
    flags_first: bool = False
    """Flags end at the first positional word: what follows is a command of the user's."""


class Values:
    """The values of the flags of one table, by name."""

    def __init__(self, flags: Iterable[Flag]) -> None:
        self._values = {flag.name: flag.initial for flag in flags}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value

    def set(self, flag: Flag, text: str) -> None:
        if flag.kind is list:
            self._values[flag.name].append(text)
        else:
            self._values[flag.name] = _converted(flag, text)


def _converted(flag: Flag, text: str) -> Any:
    try:
        if flag.kind is bool:
            return _WORDS[text.lower()]
        return flag.kind(text)
    except (KeyError, ValueError):
        raise UsageError(f"flag --{flag.name}: {text!r} is not {_KIND_NAMES[flag.kind]}") from None


_KIND_NAMES = {bool: "true or false", int: "a number", str: "a text"}


def parse(flags: Sequence[Flag], argv: Sequence[str], flags_first: bool = False) -> tuple[Values, list[str]]:
    """Read a command line.  Returns the flags' values and the other words.  Raises UsageError."""
    values = Values(flags)
    by_name = {name: flag for flag in flags for name in (flag.name, flag.short) if name}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return values, words + rest
        if not word.startswith("-") or word == "-":
            words.append(word)
            if flags_first:
                return values, words + rest
            continue
        for flag, text in _read_flag(by_name, word, rest):
            values.set(flag, text)
    return values, words


def _read_flag(by_name: dict[str, Flag], word: str, rest: list[str]) -> list[tuple[Flag, str]]:
    """The flag, or bundled flags, of one word; takes a value from `rest` if one is needed."""
    name, has_value, text = word.lstrip("-").partition("=")
    flag = by_name.get(name)
    if flag is None:
        bundle = [by_name.get(letter) for letter in name]
        if has_value or word.startswith("--") or not all(f and f.kind is bool for f in bundle):
            raise UsageError(f"unknown flag {word.partition('=')[0]}")
        return [(f, "true") for f in bundle if f]
    if has_value:
        return [(flag, text)]
    if flag.kind is bool:
        return [(flag, "true")]
    if not rest:
        raise UsageError(f"flag {word} needs a value")
    return [(flag, rest.pop(0))]


def check_words(command: Command, words: Sequence[str]) -> None:
    """Raises UsageError unless there are as many positional words as the command takes."""
    least, most = command.words
    if len(words) < least:
        raise UsageError(f"too few arguments: {command.usage} expected")
    if most is not None and len(words) > most:
        raise UsageError(f"unexpected argument {words[most]!r}")


def describe_flags(flags: Iterable[Flag]) -> str:
    """Help lines for the flags that have a help text."""
    rows = []
    for flag in flags:
        if flag.help:
            value = "" if flag.kind is bool else f" {flag.value or flag.kind.__name__.upper()}"
            short = f"-{flag.short}, " if flag.short else "    "
            rows.append((f"  {short}--{flag.name}{value}", flag.help))
    width = max((len(left) for left, _ in rows), default=0)
    return "".join(f"{left:<{width}}  {right}\n" for left, right in rows)
