"""Changes to others' configuration files: worked out first, shown as a diff, then made, a file whole or not at all."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.errors import SandboxError


class Refused(SandboxError):
    """A file is not as we can change it; the message says how it could be."""


@dataclass(slots=True)
class Edit:
    """A file's text before and after; None: there is no such file."""

    path: Path
    before: str | None
    after: str | None

    @property
    def is_change(self) -> bool:
        return self.before != self.after

    def diff(self) -> str:
        """As `diff -u` shows it."""
        old, new = ((text or "").splitlines(keepends=True) for text in (self.before, self.after))
        old_name, new_name = ("/dev/null" if text is None else str(self.path) for text in (self.before, self.after))
        lines = difflib.unified_diff(old, new, old_name, new_name)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def make(self) -> None:
        """A reader sees the old file or the new one.  Mode and owner stay."""
        path = Path(os.path.realpath(self.path))
        if self.after is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(self.after)
            if self.before is None:
                temporary.chmod(0o644)
            else:
                there = path.stat()
                os.chown(temporary, there.st_uid, there.st_gid)
                temporary.chmod(there.st_mode & 0o7777)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@dataclass(slots=True)
class Link:
    """A symbolic link to make, or to remove."""

    path: Path
    target: str
    remove: bool = False

    @property
    def is_change(self) -> bool:
        return self._is_there() == self.remove

    def _is_there(self) -> bool:
        return self.path.is_symlink() and os.readlink(self.path) == self.target

    def diff(self) -> str:
        return f"{'-' if self.remove else '+'} {self.path} -> {self.target}\n"

    def make(self) -> None:
        if self.remove:
            self.path.unlink()
            return
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(self.target)


Change = Edit | Link


@dataclass(slots=True)
class Plan:
    """What one engine needs, and what to say afterwards."""

    changes: Sequence[Change]
    notes: Sequence[str] = ()
    restart: str = ""
    """The command that makes the engine read its configuration again."""


def read(path: Path) -> str | None:
    """A file's text; None if it is not there.  Raises Refused if it cannot be read as text."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise Refused(f"cannot read {path}: {e}") from None
