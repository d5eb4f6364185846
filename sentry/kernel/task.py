"""Task: one application thread (struct task_struct).

A Task is a Job of the loop whose coroutine is kernel/run.py.  At any moment it is in one of
three places: running application code (`context.switch()`), running a handler, or parked
in a wait (blocking.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from sentry.abi import signal as sig
from sentry.abi.errno import EBADF, LinuxError
from sentry.abi.fcntl import AT_FDCWD
from sentry.kernel.creds import Creds
from sentry.kernel.delivery import deliver
from sentry.kernel.fscontext import FsContext
from sentry.kernel.signals import INTERRUPTED, Pending, SigInfo
from sentry.platform import AddressSpace, Context, ExitTrap, SyscallTrap, Trap
from sentry.vfs.caller import Caller
from sentry.vfs.fdtable import FdTable
from sentry.vfs.walk import Where
from sentry.wait import READY, RUNNING, Event, Job, Waiter

if TYPE_CHECKING:
    from sentry.kernel.container import Container
    from sentry.kernel.ids import PidNamespace
    from sentry.kernel.kernel import Kernel
    from sentry.kernel.restart import Restart
    from sentry.kernel.threadgroup import ThreadGroup
    from sentry.mm.mm import Mm

_current_kernel: list[Kernel] = []


def set_kernel(kernel: Kernel) -> None:
    """Name the kernel that current() asks; there is one per process."""
    _current_kernel[:] = [kernel]


def current() -> Task | None:
    """The task on whose behalf code runs now, None in the kernel's own jobs."""
    if not _current_kernel:
        return None
    job = _current_kernel[0].loop.current
    return job if isinstance(job, Task) else None


async def _raising(error: Exception) -> int:
    """The answer of a handler that failed, for the coroutine to deal with."""
    raise error


class Task(Job):
    """Fields, by who changes them and when.

    identity      kernel tg numbers pidns: fixed; name: execve, prctl
    resources     context mm mem files fs creds: by the task itself (clone, execve, unshare)
    signals       sigmask pending altstack saved_sigmask attention: by itself; pending and attention by senders
    waiting       interruptible: true while parked in a wait that a signal may end; stopped
    scheduling    affinity sched_policy nice ioprio: kept for the application to read back
    ending        exiting exit_code: by itself or group exit
    """

    __slots__ = (
        "affinity",
        "altstack",
        "attention",
        "begun",
        "clear_child_tid",
        "container",
        "context",
        "cpu_before_ns",
        "creds",
        "exit_code",
        "exiting",
        "files",
        "fs",
        "interruptible",
        "ioprio",
        "kernel",
        "killable",
        "mem",
        "mm",
        "nice",
        "no_new_privs",
        "numbers",
        "parent_death_signal",
        "pending",
        "pidns",
        "restart",
        "robust_list",
        "saved_sigmask",
        "sched_policy",
        "sigmask",
        "sigwait_set",
        "start_ns",
        "stopped",
        "task_name",
        "tg",
        "vfork_done",
        "waiter",
    )

    _serial = itertools.count(1)

    def __init__(self, kernel: Kernel, tg: ThreadGroup, context: Context, mm: Mm, creds: Creds) -> None:
        # What Job's own would do, but for the coroutine, which start() brings.
        self.name = "task"
        self.parked = self.queued = self.done = False
        self.kernel = kernel
        self.tg = tg
        self.container: Container = tg.container
        self.pidns: PidNamespace = tg.pidns
        self.numbers: dict[PidNamespace, int] = {}
        self.context = context
        context.owner = self
        self.mm = mm
        self.mem: AddressSpace = mm.space
        self.files: FdTable
        self.fs: FsContext
        self.creds = creds
        self.no_new_privs = False
        self.task_name = ""
        self.sigmask = 0
        self.saved_sigmask: int | None = None  # to be restored when no handler ran: sigsuspend, ppoll
        self.sigwait_set = 0  # sigtimedwait: blocked signals that end this wait
        self.pending = Pending()
        self.altstack = (0, sig.SS_DISABLE, 0)  # ss_sp, ss_flags, ss_size
        self.begun: Awaitable[int | None] | None = None  # the handler of its call, yet to be awaited
        self.attention = False  # something to look at before running application code
        self.interruptible = False
        self.killable = False  # parked in a wait that only death ends
        self.restart: Restart | None = None
        self.stopped = False  # parked in a group stop
        self.exiting = False
        self.exit_code = 0  # wait(2) status word
        self.clear_child_tid = 0
        self.robust_list = 0
        self.parent_death_signal = 0
        self.vfork_done: Event | None = None
        self.cpu_before_ns = 0  # used in contexts that execve left behind
        self.affinity = 0  # 0: every CPU
        self.sched_policy = 0
        self.nice = 0
        self.ioprio = 0
        self.waiter = Waiter(0, self._ready)  # for a wait in one queue
        self.start_ns = kernel.loop.now_ns()

    # -- identity --

    @property
    def tid(self) -> int:
        """gettid(2): the number in its own PID namespace."""
        return self.numbers[self.pidns]

    def tid_in(self, ns: PidNamespace) -> int:
        """Its number as seen from ns, 0 if not visible."""
        return self.numbers.get(ns, 0)

    @property
    def caller(self) -> Caller:
        """Its credentials for file access."""
        return self.creds.caller(self.fs.umask)

    def where(self, dirfd: int = AT_FDCWD, resolve: int = 0) -> Where:
        """Where a name given with dirfd starts.  EBADF."""
        fs = self.fs
        if dirfd == AT_FDCWD:
            return Where(fs.root, fs.cwd, self.creds.caller(fs.umask), resolve)
        path = self.files.get_any(dirfd).path
        if path is None:
            raise EBADF
        return Where(fs.root, path, self.creds.caller(fs.umask), resolve)

    @property
    def cpu_ns(self) -> int:
        """Processor time used so far."""
        return self.cpu_before_ns + self.context.cpu_ns()

    # -- signals --

    def has_signal(self) -> bool:
        """A signal that is not blocked is pending, or the task must end."""
        if self.exiting or self.tg.stop_signal:
            return True
        return bool((self.pending.mask | self.tg.pending.mask) & ~self.sigmask)

    def signal_blocked_or_ignored(self, signo: int) -> bool:
        """For job control: would signo have no effect on this task?"""
        return bool(self.sigmask & sig.bit(signo)) or self.tg.handlers.is_ignored(signo)

    def notify(self) -> None:
        """Make the task look at its signals soon, wherever it is now."""
        self.attention = True
        if self.parked:
            if self.interruptible or (self.exiting and self.killable):
                self.kernel.loop.wake(self, INTERRUPTED)
            else:
                self.context.interrupt()

    def force_signal(self, info: SigInfo) -> None:
        """A fault's signal: cannot be blocked or ignored, force_sig_info(9)."""
        handlers = self.tg.handlers
        signo = info.signo
        if self.sigmask & sig.bit(signo) or handlers.is_ignored(signo):
            handlers.reset(signo)
            self.sigmask &= ~sig.bit(signo)
        if handlers.get(signo).handler == sig.SIG_DFL:
            self.tg.unkillable = False
        self.pending.add(info)
        self.attention = True

    def trapped(self, trap: Trap) -> Any:
        """The hot path: a call whose handler does not wait is answered here, and the coroutine never hears of it.

        Nor of a signal that comes with that, unless it stops or ends the task: it gets None then.  Else it gets the
        trap, with what the handler has `begun`; or what delivering a signal failed with.
        """
        if type(trap) is not SyscallTrap:
            if type(trap) is ExitTrap and not trap.running:
                # Killed from outside while in the kernel: as SIGKILL to the process.
                self.tg.exit_group(sig.SIGKILL)
                return RUNNING
            return trap
        kernel = self.kernel
        row = kernel.table.get(trap.number)
        if row is None or kernel.strace is not None or not trap.native:
            return trap
        try:
            answer = row.call(self, trap.args)
        except LinuxError as e:
            answer = -e.code
        except Exception as e:
            answer = _raising(e)
        if type(answer) is int:
            if not self.attention:
                self.context.resume_with(answer)
                return RUNNING
            self.context.set_result(answer)
        elif answer is not None:
            self.begun = answer
            return trap
        if self.attention:
            try:
                if self.exiting or not deliver(self):
                    return None
            except Exception as e:
                return e
        self.context.resume()
        return RUNNING

    def _ready(self, events: int) -> None:
        self.kernel.loop.wake(self, READY)

    def start(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        """Begin to run: coro is kernel/run.py's."""
        self.coro = coro
        self.name = name
        self.parked = True
        if self.container.frozen:
            self.container.freezer.began(self)
        self.kernel.loop.wake(self)
