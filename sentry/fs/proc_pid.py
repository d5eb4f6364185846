"""/proc/PID and /proc/PID/task/TID: directories about one process or thread, proc(5).

What they hold is in the tables at the end of this file; proc_fd.py has the descriptors.
Inodes are made when they are looked up and kept by their directory, so that a name leads to one
inode as long as its task lives.  Everything is asked anew on each walk: tasks end, and
descriptors are closed, without a word.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final

from sentry.abi import stat as st
from sentry.abi.errno import EACCES, EFAULT, EINVAL, EIO, ENOENT, EPERM
from sentry.fs import proc_mounts, proc_status
from sentry.fs.nsfs import LINKS as NAMESPACES
from sentry.fs.nsfs import namespace_path, number_of
from sentry.fs.proc_dir import ProcDir
from sentry.fs.proc_fd import FdDir, FdInfoDir
from sentry.fs.proc_maps import maps
from sentry.fs.proc_net import NetDir
from sentry.fs.proc_view import TaskView, reader_root
from sentry.fs.simple import Text, TextFile, TextNode
from sentry.kernel.creds import CAP_SYS_RESOURCE
from sentry.kernel.task import current
from sentry.platform import SpaceGone
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Path, display_name
from sentry.vfs.file import File
from sentry.vfs.inode import Inode
from sentry.vfs.iov import Sink, Source

if TYPE_CHECKING:
    from sentry.fs.procfs import ProcFs
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

COMM_SIZE: Final = 15
MEM_SLICE: Final = 1 << 20
NO_UID: Final = 0xFFFFFFFF
CAP_AUDIT_CONTROL: Final = 1 << 30
_loginuids: Final[weakref.WeakKeyDictionary[ThreadGroup, int]] = weakref.WeakKeyDictionary()
OOM_SCORE_ADJ: Final = range(-1000, 1001)


# -- the directory --


class TaskDir(ProcDir):
    """/proc/PID, or /proc/PID/task/TID."""

    __slots__ = ()

    def __init__(self, fs: ProcFs, view: TaskView) -> None:
        super().__init__(fs, view)
        self.uid, self.gid = view.owner()

    @property
    def ended(self) -> bool:
        return self.view.gone

    def names(self) -> Iterable[str]:
        yield from (name for name, row in _FILES.items() if row.applies(self.view.whole))
        yield from _LINKS
        yield from (name for name in _DIRS if name != "task" or self.view.whole)

    def kind(self, name: str) -> int:
        return st.S_IFDIR if name in _DIRS else st.S_IFLNK if name in _LINKS else st.S_IFREG

    def make(self, name: str) -> Inode:
        fs, view = self.fs, self.view
        if name == "mem":
            return MemNode(fs, view)
        row = _FILES.get(name)
        if row is not None and row.applies(view.whole):
            return TaskText(fs, view, row)
        if name in _LINKS:
            return TaskLink(fs, view, _LINKS[name])
        if name in _DIRS and (name != "task" or view.whole):
            return _DIRS[name](fs, view)
        raise ENOENT


class ThreadsDir(ProcDir):
    """/proc/PID/task."""

    __slots__ = ()

    def _thread(self, name: str) -> Task | None:
        t = self.view.ns.tasks.get(int(name)) if name.isdecimal() and name.isascii() else None
        return t if t is not None and t.tg is self.view.tg and name == str(t.tid_in(self.view.ns)) else None

    def still(self, name: str) -> bool:
        kept = self._kept.get(name)
        return isinstance(kept, TaskDir) and kept.view.t is self._thread(name)

    def make(self, name: str) -> Inode:
        t = self._thread(name)
        if t is None:
            self._kept.pop(name, None)
            raise ENOENT
        return TaskDir(self.fs, TaskView(t, self.view.ns, whole=False))

    def names(self) -> Iterable[str]:
        tg = self.view.tg
        threads = tg.tasks or [tg.leader]
        return [str(number) for number in sorted(t.tid_in(self.view.ns) for t in threads) if number]

    def kind(self, name: str) -> int:
        return st.S_IFDIR


# -- files --


class Row:
    """One file: its mode, the text it shows, who takes what is written, and who may open it.

    private: only those who may look into the process.  where: "both", or in "process" or "thread" directories only.
    """

    __slots__ = ("mode", "private", "take", "text", "where")

    def __init__(
        self,
        text: Callable[[TaskView], Text],
        mode: int = 0o444,
        take: Callable[[TaskView, bytes], None] | None = None,
        private: bool = False,
        where: str = "both",
    ) -> None:
        self.text = text
        self.mode = mode
        self.take = take
        self.private = private
        self.where = where

    def applies(self, whole: bool) -> bool:
        return self.where in ("both", "process" if whole else "thread")


class TaskText(TextNode):
    """A file of a task's directory."""

    __slots__ = ("row", "view")

    def __init__(self, fs: ProcFs, view: TaskView, row: Row) -> None:
        self.view = view
        self.row = row
        super().__init__(fs, self._text, row.mode, self._take if row.take is not None else None)

    def _text(self) -> Text:
        """ESRCH: the task is gone."""
        self.view.check()
        return self.row.text(self.view)

    def _take(self, data: bytes, offset: int) -> None:
        self.view.check()
        assert self.row.take is not None
        self.row.take(self.view, data)

    async def open(self, path: Path, flags: int) -> File:
        """EACCES."""
        if self.row.private:
            self.view.check_inspect()
        return TextFile(self, path, flags)


def _set_comm(view: TaskView, data: bytes) -> None:
    """Threads may name each other, strangers may not.  EINVAL."""
    if not proc_status.is_own_process(view.tg):
        raise EINVAL
    name = data.split(b"\0", 1)[0].removesuffix(b"\n")[:COMM_SIZE]
    view.t.task_name = name.decode("utf-8", "surrogateescape")


def _set_oom_score_adj(view: TaskView, data: bytes) -> None:
    """EINVAL; EACCES: made smaller without CAP_SYS_RESOURCE."""
    try:
        value = int(data.strip(b" \t\n\0"))
    except ValueError:
        raise EINVAL from None
    if value not in OOM_SCORE_ADJ:
        raise EINVAL
    t = current()
    if value < view.tg.oom_score_adj and t is not None and not t.creds.has(CAP_SYS_RESOURCE):
        raise EACCES
    view.tg.oom_score_adj = value


def _loginuid(view: TaskView) -> str:
    """Who logged in: inherited, so the nearest ancestor that was told counts."""
    tg: ThreadGroup | None = view.tg
    while tg is not None:
        if tg in _loginuids:
            return str(_loginuids[tg])
        tg = tg.parent
    return str(NO_UID)


def _set_loginuid(view: TaskView, data: bytes) -> None:
    """pam_loginuid(8).  EPERM: of another process, or set already and not CAP_AUDIT_CONTROL.  EINVAL."""
    t = current()
    if t is None or t.tg is not view.tg:
        raise EPERM
    if _loginuid(view) != str(NO_UID) and not t.creds.has(CAP_AUDIT_CONTROL):
        raise EPERM
    if not data.strip(b"\n\0").isdigit() or int(data.strip(b"\n\0")) > NO_UID:
        raise EINVAL
    _loginuids[view.tg] = int(data.strip(b"\n\0"))


def _refuse(view: TaskView, data: bytes) -> None:
    """uid_map and its like are written once, and were."""
    raise EPERM


ID_MAP: Final = f"{0:>10} {0:>10} {0xFFFFFFFF:>10}\n"


class MemNode(Inode):
    """/proc/PID/mem."""

    __slots__ = ("view",)

    def __init__(self, fs: ProcFs, view: TaskView) -> None:
        super().__init__(fs, st.S_IFREG | 0o600)
        self.view = view

    async def open(self, path: Path, flags: int) -> File:
        self.view.check_inspect()
        return MemFile(self, path, flags)


class MemFile(File):
    """The process's memory at its addresses.  EIO: nothing is mapped there."""

    __slots__ = ()

    seekable: ClassVar[bool] = True
    inode: MemNode

    def read_at(self, dst: Sink, offset: int) -> int:
        mm = self.inode.view.mm
        if mm is None or not dst.remaining:
            return 0
        try:
            data = mm.space.read_some(offset, min(dst.remaining, MEM_SLICE))
        except EFAULT:
            raise EIO from None
        except SpaceGone:
            return 0
        return dst.put(data)

    def write_at(self, src: Source, offset: int) -> int:
        mm = self.inode.view.mm
        if mm is None:
            return 0
        data = src.take(MEM_SLICE)
        try:
            return mm.space.write_some(offset, data)
        except EFAULT:
            raise EIO from None
        except SpaceGone:
            return 0


# -- links --


class LinkRow:
    """A magic link: where it leads, and what readlink(2) says."""

    __slots__ = ("target", "text")

    def __init__(self, target: Callable[[TaskView], Path], text: Callable[[TaskView], str]) -> None:
        self.target = target
        self.text = text


class TaskLink(Inode):
    """A magic link of a task's directory.  EACCES: the reader may not look into the process."""

    __slots__ = ("row", "view")

    magic: ClassVar[bool] = True

    def __init__(self, fs: ProcFs, view: TaskView, row: LinkRow) -> None:
        super().__init__(fs, st.S_IFLNK | 0o777)
        self.view = view
        self.row = row

    async def readlink(self) -> str:
        self.view.check_inspect()
        return self.row.text(self.view)

    async def follow(self, caller: Caller) -> Path | None:
        self.view.check_inspect()
        return self.row.target(self.view)


def _cwd(view: TaskView) -> Path:
    if not view.alive:
        raise ENOENT
    return view.t.fs.cwd


def _root(view: TaskView) -> Path:
    if not view.alive:
        raise ENOENT
    return view.t.fs.root


def _exe(view: TaskView) -> Path:
    """ENOENT: a zombie has none."""
    mm = view.mm
    if mm is None or mm.exe is None:
        raise ENOENT
    return mm.exe


def _path_link(target: Callable[[TaskView], Path]) -> LinkRow:
    return LinkRow(target, lambda view: display_name(target(view), reader_root(view)))


def _namespace_link(kind: str) -> LinkRow:
    return LinkRow(
        lambda view: namespace_path(view.check(), kind),
        lambda view: f"{kind}:[{number_of(view.check(), kind)}]",
    )


class NamespacesDir(ProcDir):
    """/proc/PID/ns."""

    __slots__ = ()

    def __init__(self, fs: ProcFs, view: TaskView) -> None:
        super().__init__(fs, view, 0o511)

    def make(self, name: str) -> Inode:
        kind = NAMESPACES.get(name)
        if kind is None:
            raise ENOENT
        return TaskLink(self.fs, self.view, _namespace_link(kind))

    def names(self) -> Iterable[str]:
        return NAMESPACES

    def kind(self, name: str) -> int:
        return st.S_IFLNK


# -- the tables --

_FILES: Final[dict[str, Row]] = {
    "auxv": Row(proc_status.auxv, 0o400, private=True),
    "cgroup": Row(lambda view: "0::/\n"),
    "children": Row(proc_status.children, where="thread"),
    "cmdline": Row(proc_status.cmdline),
    "comm": Row(proc_status.comm, 0o644, _set_comm),
    "coredump_filter": Row(lambda view: "00000033\n", where="process"),
    "cpuset": Row(lambda view: "/\n"),
    "environ": Row(proc_status.environ, 0o400, private=True),
    "gid_map": Row(lambda view: ID_MAP, 0o644, _refuse),
    "io": Row(proc_status.io, 0o400),
    "limits": Row(proc_status.limits),
    "loginuid": Row(_loginuid, 0o644, _set_loginuid),
    "maps": Row(maps, private=True),
    "mem": Row(lambda view: "", 0o600),
    "mountinfo": Row(proc_mounts.mountinfo),
    "mounts": Row(proc_mounts.mounts),
    "oom_score": Row(proc_status.oom_score),
    "oom_score_adj": Row(lambda view: f"{view.tg.oom_score_adj}\n", 0o644, _set_oom_score_adj),
    "personality": Row(lambda view: "00000000\n", 0o400, private=True),
    "projid_map": Row(lambda view: ID_MAP, 0o644, _refuse),
    "sessionid": Row(lambda view: str(NO_UID)),
    "setgroups": Row(lambda view: "allow\n", 0o644, _refuse, where="process"),
    "stat": Row(proc_status.stat),
    "statm": Row(proc_status.statm),
    "status": Row(proc_status.status),
    "uid_map": Row(lambda view: ID_MAP, 0o644, _refuse),
    "wchan": Row(lambda view: "0"),
}

_LINKS: Final[dict[str, LinkRow]] = {
    "cwd": _path_link(_cwd),
    "exe": _path_link(_exe),
    "root": _path_link(_root),
}

_DIRS: Final[dict[str, Callable[[ProcFs, TaskView], Inode]]] = {
    "fd": FdDir,
    "fdinfo": FdInfoDir,
    "net": NetDir,
    "ns": NamespacesDir,
    "task": ThreadsDir,
}
