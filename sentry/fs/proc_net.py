"""/proc/PID/net, and /proc/net which leads there.

The files belong to the network code: whoever implements a protocol puts its tables into FILES
at import, as name -> function of the kernel.  What nobody implements is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final

from sentry.abi import stat as st
from sentry.abi.errno import ENOENT
from sentry.fs.simple import ListedDir, TextNode
from sentry.vfs.inode import Inode

if TYPE_CHECKING:
    from sentry.fs.proc_view import TaskView
    from sentry.fs.procfs import ProcFs
    from sentry.kernel.kernel import Kernel

FILES: Final[dict[str, Callable[[Kernel], str]]] = {}


class NetDir(ListedDir):
    """The same for all processes: there is one network namespace."""

    __slots__ = ("_kept", "view")

    volatile: ClassVar[bool] = True

    def __init__(self, fs: ProcFs, view: TaskView) -> None:
        super().__init__(fs, st.S_IFDIR | 0o555)
        self.view = view
        self._kept: dict[str, Inode] = {}

    async def lookup(self, name: str) -> Inode:
        make = FILES.get(name)
        if make is None or self.view.gone:
            raise ENOENT
        inode = self._kept.get(name)
        if inode is None:
            kernel = self.view.kernel
            inode = self._kept[name] = TextNode(self.fs, lambda: make(kernel))
        return inode

    def listing(self) -> Iterable[tuple[str, int, int]]:
        return [(name, self.ino + 1, st.S_IFREG) for name in FILES]
