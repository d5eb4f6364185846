"""pysc checkpoint and restore: refused, in one line, with whatever flags an engine gives."""

from cli.args import Command, Flag, Values, ignored
from sandbox.errors import Unsupported

_TEXTS = (
    *("image-path", "work-path", "parent-path", "status-fd", "page-server", "manage-cgroups-mode", "empty-ns"),
    *("console-socket", "pid-file", "lsm-profile", "lsm-mount-context"),
)
_SWITCHES = (
    *("leave-running", "tcp-established", "ext-unix-sk", "shell-job", "lazy-pages", "file-locks", "pre-dump"),
    *("auto-dedup", "no-subreaper", "no-pivot"),
)


def _checkpoint(flags: Values, values: Values, words: list[str]) -> int:
    raise Unsupported("saving the state of a running container: not implemented")


def _restore(flags: Values, values: Values, words: list[str]) -> int:
    raise Unsupported("restoring a container from a saved state: not implemented")


_FLAGS = (
    *ignored(*_TEXTS, kind=str), *ignored(*_SWITCHES), Flag("detach", short="d"), Flag("bundle", kind=str, short="b"),
)  # fmt: skip

COMMANDS = (
    Command("checkpoint", "ID", "Not implemented: save the state of a running container.", _checkpoint, _FLAGS, (1, 1)),
    Command("restore", "ID", "Not implemented: restore a container from a saved state.", _restore, _FLAGS, (1, 1)),
)
