"""The options of pysc: what there is, what values may be, who may set them.  One table; all else is made from it.

config.py reads values from files, annotations and flags by it, `pysc config --default` prints the node's file from it,
and packaging/gen/configuration_md.py writes the options in docs/configuration.md.

A value is what TOML has: bool, int, str, or a tuple of str.  A kind says how one is recognised, in TOML and as the text
of an annotation or a flag.
"""

from __future__ import annotations

from proto.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, Protocol
else:
    Protocol = object

Value = bool | int | str | tuple[str, ...]

ANNOTATION_PREFIX: Final = "dev.pysc."
SHIM_TABLE_KEYS: Final = frozenset({"TypeUrl", "ConfigPath", "ConfigBody"})
"""containerd's own keys in an options table; they come along when it sends the table as it is."""

_WORDS: Final = {"true": True, "1": True, "false": False, "0": False}


class ValueProblem(ValueError):
    """A value is not of its option's kind; the text says what was expected."""


class Kind(Protocol):
    """What values an option has.  Both methods raise ValueProblem."""

    @property
    def expected(self) -> str:
        """What a value must be, for people."""

    def from_toml(self, value: object) -> Value: ...

    def from_text(self, text: str) -> Value: ...


def _refused(kind: Kind, value: object) -> ValueProblem:
    return ValueProblem(f"{kind.expected} expected, not {value!r}")


class Switch:
    """true or false."""

    expected = "true or false"

    def from_toml(self, value: object) -> Value:
        if not isinstance(value, bool):
            raise _refused(self, value)
        return value

    def from_text(self, text: str) -> Value:
        if text.lower() not in _WORDS:
            raise _refused(self, text)
        return _WORDS[text.lower()]


class Choice:
    """One of a few words.  `absent`: words that other programs know, each with the reason why it is not here."""

    def __init__(self, *words: str, absent: dict[str, str] | None = None) -> None:
        self.words = words
        self.absent = absent or {}

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(f'"{word}"' for word in self.words)

    def from_toml(self, value: object) -> Value:
        if not isinstance(value, str):
            raise _refused(self, value)
        return self.from_text(value)

    def from_text(self, text: str) -> Value:
        if text in self.absent:
            raise ValueProblem(f"{self.expected} expected: {text!r} {self.absent[text]}")
        if text not in self.words:
            raise _refused(self, text)
        return text


class FilePath:
    """An absolute path, or nothing."""

    expected = 'an absolute path, or ""'

    def from_toml(self, value: object) -> Value:
        if not isinstance(value, str) or "\0" in value or (value and not value.startswith("/")):
            raise _refused(self, value)
        return value

    def from_text(self, text: str) -> Value:
        return self.from_toml(text)


class Seconds:
    """A whole number of seconds, 0 or from a least one on."""

    LEAST, MOST = 2, 86_400

    expected = f"0 or a whole number of seconds from {LEAST} to {MOST}"

    def from_toml(self, value: object) -> Value:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _refused(self, value)
        if value and not self.LEAST <= value <= self.MOST:
            raise _refused(self, value)
        return value

    def from_text(self, text: str) -> Value:
        if not text.isascii() or not text.isdigit():
            raise _refused(self, text)
        return self.from_toml(int(text))


class Names:
    """A list of words; in a text, between commas."""

    def __init__(self, what: str) -> None:
        self.expected = f"a list of {what}"

    def from_toml(self, value: object) -> Value:
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise _refused(self, value)
        return tuple(value)

    def from_text(self, text: str) -> Value:
        return tuple(word.strip() for word in text.split(",") if word.strip())


class SwitchOrNames:
    """true, false, or a list that means true for these only."""

    def __init__(self, what: str) -> None:
        self._names = Names(what)
        self._switch = Switch()
        self.expected = f"{self._switch.expected}, or {self._names.expected},"

    def from_toml(self, value: object) -> Value:
        if isinstance(value, bool):
            return value
        if not isinstance(value, list) or not value:
            raise _refused(self, value)
        return self._names.from_toml(value)

    def from_text(self, text: str) -> Value:
        if text.lower() in _WORDS:
            return self._switch.from_text(text)
        return self._names.from_text(text) or False


class Setting(Record):
    """One option.  Its name is the key in files, and with dev.pysc. in front the annotation."""

    name: str
    kind: Kind
    default: Value
    help: str
    """What it does: whole sentences, a line of the documentation each."""
    flag: str = ""
    """The global flag of `pysc` that sets it, without dashes, and with its value if it takes one."""
    by_annotation: bool = True
    """Whether an administrator may leave it to pods."""


_LATER: Final = "does not exist yet: programs in a sandbox have unix-domain sockets only"

SETTINGS: Final = (
    Setting(
        "platform", Choice("auto", "systrap", "ptrace", "kvm", "systrap:plain", "systrap:eager"), "auto",
        "What runs programs: auto (what suits the host), systrap, ptrace or kvm; see platforms.md. The variants of\n"
        "systrap are for measurements and tests: plain without its ring, eager with the ring used at every chance.",
        "platform NAME",
    ),
    Setting(
        "network", Choice("container", "none", absent={"host": _LATER, "sandbox": _LATER}), "container",
        "The network namespace of the sandbox's processes: the one that the container's configuration names, or an\n"
        "empty one of their own. Programs have unix-domain sockets only, in either.",
        "network NAME",
    ),
    Setting(
        "overlay", Choice("none", "memory"), "none",
        "Where changes of the container's root go: into that root, or into memory, where they are forgotten with the\n"
        "container. They may take as much as the container's memory limit, or all of the host's memory if it has\n"
        "none, and are not charged to the container. Volumes are not affected. Needs root.",
        "overlay NAME",
    ),
    Setting(
        "strace", SwitchOrNames("system calls"), False,
        "System calls into the sandbox's log, as strace writes them: all, or those that are named.",
        "strace, --strace-syscalls LIST",
    ),
    Setting(
        "debug", Switch(), False,
        "Debug messages in the sandbox's log; a gofer that makes a host call which it may not is killed for it.",
        "debug",
    ),
    Setting(
        "log", FilePath(), "",
        "The sandbox's log: a file or, with / at its end, a folder. %ID% in it stands for the container's id; in a\n"
        "folder the file is %ID%.log. Folders are made. Empty: sandbox.log in the sandbox's state folder, which goes\n"
        "with the sandbox.",
        "debug-log FILE", by_annotation=False,
    ),
    Setting(
        "log_level", Choice("debug", "info", "warning", "error"), "info",
        "The least important messages that are logged.",
        "log-level NAME",
    ),
    Setting(
        "log_format", Choice("text", "json"), "text",
        "The form of that log.",
        "log-format NAME", by_annotation=False,
    ),
    Setting(
        "watchdog", Seconds(), 60,
        "After how many seconds in which the Sentry did not come round, because it hangs in the handling of one\n"
        "thing, its stack is written into the log. 0: never.",
        "watchdog SECONDS",
    ),
    Setting(
        "watchdog_action", Choice("log", "kill"), "log",
        "What then: log the stack, again and again as long as it lasts, or also end the sandbox. A Sentry that the\n"
        "host kept from running for so long may count as hanging.",
        "watchdog-action NAME",
    ),
    Setting(
        "cgroup_driver", Choice("auto", "cgroupfs", "systemd", "disabled"), "auto",
        "How linux.cgroupsPath is read: as a path (cgroupfs), as slice:prefix:name (systemd), or as what it\n"
        "looks like (auto). disabled: no cgroup is made, and no limit holds.",
        "cgroup-manager NAME, --systemd-cgroup", by_annotation=False,
    ),
    Setting(
        "annotations", Names("options"), ("platform",),
        "The options that a pod may choose by an annotation, dev.pysc.NAME; they then win over the files. Not given:\n"
        "platform, as long as no file sets that.",
        by_annotation=False,
    ),
)  # fmt: skip

BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?` for a name that is nearly a known one, else nothing."""
    from difflib import get_close_matches

    found = get_close_matches(name.lower(), known, 1)
    return f"; did you mean {found[0]}?" if found else ""


def as_toml(value: Value) -> str:
    """A value as it stands in a file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        import json

        return json.dumps(value).replace("\x7f", "\\u007f")
    return "[" + ", ".join(as_toml(item) for item in value) + "]"
