"""ThreadGroup: a process (struct signal_struct), its relations and its shared signals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi import signal as sig
from sentry.abi.poll import ANY
from sentry.kernel.rlimits import RLIMIT_SIGPENDING, Rlimits
from sentry.kernel.signals import Pending, SigInfo, SignalHandlers
from sentry.wait import WaitQueue

if TYPE_CHECKING:
    from sentry.kernel.container import Container
    from sentry.kernel.ids import PidNamespace, ProcessGroup, Session
    from sentry.kernel.kernel import Kernel
    from sentry.kernel.task import Task
    from sentry.kernel.timers import ProcessTimers

JOB_CONTROL: Final = sig.STOP_SIGNALS | sig.bit(sig.SIGCONT)


class ThreadGroup:
    """Fields, by who changes them.

    relations    parent children pgrp: clone, exit, setpgid, setsid
    threads      leader tasks: clone, exit, execve
    ending       exiting exit_code: exit_group and fatal signals; dead: its last thread's exit
    stopping     stop_signal (a group stop is under way or done), stopped, stop_report, cont_report
    children     child_queue is woken when a child changes state; child_*: what reaped children used
    """

    __slots__ = (
        "__weakref__",
        "child_cpu_ns",
        "child_maxrss_kb",
        "child_queue",
        "child_subreaper",
        "children",
        "cont_report",
        "container",
        "dead",
        "did_exec",
        "dumpable",
        "end_queue",
        "ended_cpu_ns",
        "exec_waiter",
        "exit_code",
        "exit_signal",
        "exiting",
        "handlers",
        "kernel",
        "leader",
        "oom_score_adj",
        "parent",
        "pending",
        "pgrp",
        "pidns",
        "rlimits",
        "signal_queue",
        "start_ns",
        "stop_queue",
        "stop_report",
        "stop_signal",
        "stopped",
        "tasks",
        "timers",
        "unkillable",
        "zombie_reaped",
    )

    leader: Task
    pgrp: ProcessGroup

    def __init__(
        self,
        kernel: Kernel,
        container: Container,
        pidns: PidNamespace,
        parent: ThreadGroup | None,
        handlers: SignalHandlers,
        rlimits: Rlimits,
    ) -> None:
        self.kernel = kernel
        self.container = container
        self.pidns = pidns
        self.parent = parent
        self.children: list[ThreadGroup] = []
        self.tasks: list[Task] = []
        self.handlers = handlers
        self.pending = Pending()
        self.rlimits = rlimits
        self.exit_signal = sig.SIGCHLD
        self.exiting = False
        self.exit_code = 0
        self.dead = False
        self.zombie_reaped = False
        self.stop_signal = 0
        self.stopped = False
        self.stop_report = 0
        self.cont_report = False
        self.stop_queue = WaitQueue()
        self.child_queue = WaitQueue()
        self.end_queue = WaitQueue()  # woken when it ends: pidfd_open(2)
        self.signal_queue = WaitQueue()  # woken when a signal becomes pending: signalfd(2)
        self.child_subreaper = False
        self.child_cpu_ns = (0, 0)
        self.child_maxrss_kb = 0
        self.ended_cpu_ns = 0
        self.did_exec = False
        self.dumpable = 1
        self.oom_score_adj = 0
        self.unkillable = False  # pid 1 of its namespace: SIGNAL_UNKILLABLE
        self.exec_waiter: Task | None = None
        self.timers: ProcessTimers | None = None
        self.start_ns = kernel.loop.now_ns()
        if parent is not None:
            parent.children.append(self)

    # -- identity --

    @property
    def pid(self) -> int:
        """getpid(2): in its own PID namespace."""
        return self.leader.numbers[self.pidns]

    def pid_in(self, ns: PidNamespace) -> int:
        """Its pid as seen from ns, 0 if not visible."""
        return self.leader.numbers.get(ns, 0)

    @property
    def session(self) -> Session:
        return self.pgrp.session

    @property
    def is_session_leader(self) -> bool:
        return self.pgrp.session.leader_tg is self

    # -- sending signals --

    def send_kernel_signal(self, signo: int) -> None:
        """As the kernel itself: SEND_SIG_PRIV."""
        self.send_signal(SigInfo(signo, sig.SI_KERNEL))

    def send_signal(self, info: SigInfo, forced: bool = False) -> None:
        """To the process: any thread may take it.

        forced: from an ancestor PID namespace or from outside of the sandbox, so that even pid 1 obeys SIGKILL
        and SIGSTOP.
        """
        self._send(info, None, forced)

    def send_to(self, t: Task, info: SigInfo) -> None:
        """To one thread: tgkill(2) and its like."""
        self._send(info, t, False)

    def _send(self, info: SigInfo, t: Task | None, forced: bool) -> None:
        if self.dead:
            return
        signo = info.signo
        if sig.bit(signo) & JOB_CONTROL:
            self._prepare(signo)
        if not self.handlers.is_handled(signo) and self._drops(signo, t, forced):
            return
        if signo == sig.SIGKILL:
            self.exit_group(sig.SIGKILL)
            return
        pending = t.pending if t is not None else self.pending
        # Of standard signals at most one is pending: nothing to count.
        limited = signo >= sig.SIGRTMIN and info.timer is None
        limit = self.rlimits.get(RLIMIT_SIGPENDING)[0] if limited else None
        if pending.add(info, limit) or t is None or not t.attention:
            self._tell(signo, t)

    def _prepare(self, signo: int) -> None:
        """prepare_signal(): SIGCONT undoes stops, stop signals undo a pending SIGCONT."""
        if signo != sig.SIGCONT:
            self.discard(sig.bit(sig.SIGCONT))
        else:
            self.discard(sig.STOP_SIGNALS)
            self.resume()

    def discard(self, mask: int) -> None:
        """Forget pending signals of mask, shared and of every thread."""
        self.pending.discard(mask)
        for t in self.tasks:
            t.pending.discard(mask)

    def _drops(self, signo: int, t: Task | None, forced: bool) -> bool:
        """sig_ignored(): nobody would ever notice it."""
        only_kernel = signo in (sig.SIGKILL, sig.SIGSTOP)
        bit = sig.bit(signo)
        # A blocked signal may find a handler when it is unblocked; a sigwait takes it too.
        if t is not None:
            awaited = (t.sigmask | t.sigwait_set) & bit
        else:
            awaited = 0
            for task in self.tasks:
                awaited |= (task.sigmask | task.sigwait_set) & bit
        if awaited and not only_kernel:
            return False
        handlers = self.handlers
        if self.unkillable and handlers.get(signo).handler == sig.SIG_DFL and not (forced and only_kernel):
            return True
        return handlers.is_ignored(signo)

    def _tell(self, signo: int, t: Task | None) -> None:
        """complete_signal(): choose a thread that does not block it."""
        bit = sig.bit(signo)
        candidates = [t] if t is not None else [self.leader, *self.tasks]
        for task in candidates:
            if task.exiting:
                continue
            if task.sigwait_set & bit or not task.sigmask & bit:
                task.notify()
                break
        self.signal_queue.wake(ANY)

    def retarget(self, t: Task, mask: int) -> None:
        """t was told of signals to the process, those of mask, and will not take them: tell another thread."""
        mask &= self.pending.mask
        for task in self.tasks if mask else ():
            if task is not t and mask & ~task.sigmask:
                task.notify()

    # -- stop and continue --

    def begin_stop(self, signo: int) -> None:
        """do_signal_stop(): every thread parks; the last one reports."""
        self.stop_signal = signo
        for task in self.tasks:
            task.notify()

    def check_stopped(self) -> None:
        """A thread stopped, or ended during a stop: when the last one has, the parent hears of it."""
        if self.stop_signal and not self.stopped and all(task.stopped or task.exiting for task in self.tasks):
            self.stopped = True
            self.stop_report = self.stop_signal
            self.cont_report = False
            self.tell_parent(sig.CLD_STOPPED, self.stop_signal)

    def resume(self) -> None:
        """SIGCONT (or SIGKILL) ends a group stop."""
        if not self.stop_signal:
            return
        was_stopped = self.stopped
        self.stop_signal = 0
        self.stopped = False
        self.stop_report = 0
        self.stop_queue.wake(ANY)
        if was_stopped:
            self.cont_report = True
            self.tell_parent(sig.CLD_CONTINUED, sig.SIGCONT)

    def tell_parent(self, code: int, status: int) -> None:
        """SIGCHLD about a stop, a continuation or the end; and wake its waits."""
        parent = self.parent
        if parent is None:
            return
        signo = self.exit_signal if code in (sig.CLD_EXITED, sig.CLD_KILLED, sig.CLD_DUMPED) else sig.SIGCHLD
        stops = code in (sig.CLD_STOPPED, sig.CLD_CONTINUED)
        quiet = stops and parent.handlers.get(sig.SIGCHLD).flags & sig.SA_NOCLDSTOP
        if 0 < signo <= sig.NSIG and not quiet:
            user_ns, system_ns = self.cpu_ns()
            parent.send_signal(
                SigInfo(
                    signo,
                    code,
                    pid=self.pid_in(parent.pidns),
                    uid=self.leader.creds.uid,
                    status=status,
                    utime=user_ns // 10_000_000,
                    stime=system_ns // 10_000_000,
                )
            )
        parent.child_queue.wake(ANY)

    # -- ending --

    def exit_group(self, code: int) -> None:
        """do_group_exit(): every thread ends; code is the wait(2) status word."""
        if not self.exiting:
            self.exiting = True
            self.exit_code = code
        self.resume_silently()
        for task in list(self.tasks):
            task.exiting = True
            task.notify()

    def resume_silently(self) -> None:
        self.stop_signal = 0
        self.stopped = False
        self.stop_queue.wake(ANY)

    # -- accounting --

    def cpu_ns(self) -> tuple[int, int]:
        """(user, system) time of all threads, ended ones included."""
        return self.ended_cpu_ns + (self.tasks[0].context.process_cpu_ns() if self.tasks else 0), 0
