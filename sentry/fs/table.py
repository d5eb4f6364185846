"""The file systems that can be mounted, by the name mount(2) and the OCI spec give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from sentry.fs.devpts import DevPts
from sentry.fs.procfs import ProcFs
from sentry.fs.sysfs import SysFs
from sentry.fs.tmpfs import TmpFs
from sentry.vfs.inode import FileSystem

if TYPE_CHECKING:
    from sentry.kernel.container import Container

Maker = Callable[["Container", Mapping[str, str]], FileSystem]

FILESYSTEMS: Final[dict[str, Maker]] = {
    "devpts": lambda container, options: DevPts(options),
    "proc": ProcFs,
    "sysfs": SysFs,
    "tmpfs": lambda container, options: TmpFs(options, container.memory),
}
