"""Names that were walked before, and where they led: a whole walk as one look into a dict.

Most names that a program gives, it has given before: the same few files, and again and again the same libraries
and settings that are not there.  A walk depends on the root, the working directory and the credentials, so there is
a Known for each combination of these (FsContext), and on what the walk has passed.  Each dentry that a walk passes is
marked `passed`; when a marked one is unhashed or becomes another file, and whenever a directory moves, changes its mode
or owner, or a mount comes or goes, forget_known() empties all of them.  So what is in one is what walking would find.

cachedwalk.py fills it, with walks that follow a last symbolic link.  What a volatile directory has is never in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sentry.vfs.dentry import Path

NAMES_LIMIT: Final = 1024  # of one combination; then it begins anew
FILLED_LIMIT: Final = 64

_filled: Final[list[Known]] = []


class Known(dict[bytes, "Path"]):
    """A name as the application gave it -> where it leads; to a negative dentry if the file does not exist."""

    __slots__ = ()

    def note(self, name: bytes, path: Path) -> None:
        """name leads to path, now: nothing was waited for since the walk."""
        if not self:
            # They may belong to processes that have ended: keep few.
            if len(_filled) >= FILLED_LIMIT:
                forget_known()
            _filled.append(self)
        elif len(self) >= NAMES_LIMIT:
            self.clear()
        self[name] = path


def forget_known() -> None:
    """Something has changed that a walk may have passed."""
    for known in _filled:
        known.clear()
    _filled.clear()
