"""HOME for a first process whose configuration names none: the container's own /etc/passwd has it, passwd(5).

runc's rule, and images rely on it: engines pass only what the image and the user set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sentry.abi.errno import LinuxError
from sentry.abi.fcntl import O_RDONLY
from sentry.abi.stat import S_IFMT, S_IFREG
from sentry.vfs.caller import CAP_DAC_READ_SEARCH, Caller
from sentry.vfs.iov import BytesSink
from sentry.vfs.walk import Where, walk

if TYPE_CHECKING:
    from sentry.vfs.dentry import Path

PASSWD: Final = "/etc/passwd"
LIMIT: Final = 1 << 20
"""Bytes that are read of it: the image's, so its size is anybody's choice."""


async def with_home(env: Sequence[str], root: Path, uid: int) -> list[str]:
    """The environment with a HOME that is not empty; "/" for a user that the container does not know."""
    if any(entry.startswith("HOME=") and len(entry) > len("HOME=") for entry in env):
        return list(env)
    kept = [entry for entry in env if not entry.startswith("HOME=")]
    return [*kept, f"HOME={home_of(await _read(root), uid)}"]


def home_of(passwd: bytes, uid: int) -> str:
    """The sixth field of the user's line; "/" if there is none."""
    for line in passwd.decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[2] == str(uid):
            home = fields[5]
            return home if home and "\0" not in home else "/"
    return "/"


async def _read(root: Path) -> bytes:
    """Nothing, if it is not there or no file: that must not keep a container from starting."""
    runtime = Caller(caps=CAP_DAC_READ_SEARCH)  # the container's user need not be able to
    try:
        path = await walk(Where(root, root, runtime), PASSWD)
        if path.inode.mode & S_IFMT != S_IFREG:
            return b""
        file = (await path.inode.open(path, O_RDONLY)).hold()
    except LinuxError:
        return b""
    sink = BytesSink(LIMIT)
    try:
        while sink.remaining and file.read_at(sink, len(sink.data)):
            pass
    except LinuxError:
        return b""
    finally:
        file.drop()
    return bytes(sink.data)
