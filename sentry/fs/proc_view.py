"""A task as /proc shows it: one that may be ending, may have ended, and may not be the reader's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentry.abi.errno import EACCES, ESRCH
from sentry.kernel.creds import CAP_SYS_PTRACE
from sentry.kernel.task import current

if TYPE_CHECKING:
    from sentry.kernel.ids import PidNamespace
    from sentry.kernel.kernel import Kernel
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup
    from sentry.mm.mm import Mm
    from sentry.vfs.dentry import Path

ROOT_OWNED = 1  # suid_dumpable: what other values than this make root's own


class TaskView:
    """t, seen from the PID namespace of a mount of procfs.

    whole: the directory stands for the process (/proc/PID), not for the thread (/proc/PID/task/TID).
    """

    __slots__ = ("ns", "t", "whole")

    def __init__(self, t: Task, ns: PidNamespace, whole: bool) -> None:
        self.t = t
        self.ns = ns
        self.whole = whole

    @property
    def tg(self) -> ThreadGroup:
        return self.t.tg

    @property
    def kernel(self) -> Kernel:
        return self.t.kernel

    @property
    def number(self) -> int:
        """Its number, which is its directory's name; 0 once it is gone."""
        number = self.t.numbers.get(self.ns, 0)
        return number if self.ns.tasks.get(number) is self.t else 0

    @property
    def gone(self) -> bool:
        return not self.number

    @property
    def alive(self) -> bool:
        """It has memory and files: it is no zombie."""
        return self.t in self.t.tg.tasks

    def check(self) -> Task:
        """ESRCH: it is gone."""
        if not self.number:
            raise ESRCH
        return self.t

    @property
    def mm(self) -> Mm | None:
        """Its memory; None for a zombie."""
        return self.t.mm if self.alive else None

    # -- who may look --

    def owner(self) -> tuple[int, int]:
        """(uid, gid) of its files: task_dump_owner()."""
        t = self.t
        return (t.creds.euid, t.creds.egid) if t.tg.dumpable == ROOT_OWNED else (0, 0)

    def may_inspect(self) -> bool:
        """ptrace_may_access(PTRACE_MODE_READ_FSCREDS): may the current task look into this one?"""
        reader = current()
        if reader is None or reader.tg is self.t.tg:
            return True
        mine, its = reader.creds, self.t.creds
        if mine.has(CAP_SYS_PTRACE):
            return True
        same_user = {its.uid, its.euid, its.suid} == {mine.fsuid} and {its.gid, its.egid, its.sgid} == {mine.fsgid}
        return same_user and self.t.tg.dumpable == ROOT_OWNED and not its.permitted & ~mine.effective

    def check_inspect(self) -> Task:
        """EACCES; ESRCH."""
        t = self.check()
        if not self.may_inspect():
            raise EACCES
        return t


def reader_root(view: TaskView) -> Path:
    """The root that names are shown relative to: the reader's."""
    reader = current()
    return (reader or view.t).fs.root
