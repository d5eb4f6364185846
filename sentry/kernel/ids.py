"""Process ids, process groups and sessions: pid_namespaces(7), credentials(7), setsid(2).

A thread has one number in its own PID namespace and one in each ancestor of it; they are
kept in Task.numbers.  A process group or session is named by the number of the process
that founded it, which stays taken as long as the group has members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi.errno import EAGAIN

if TYPE_CHECKING:
    from sentry.fs.tty import Tty
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

PID_MAX: Final = 4194304
RESERVED_PIDS: Final = 300  # after a wrap-around numbers start here, kernel/pid.c


class PidNamespace:
    """A set of process ids.  `init` is its pid 1, None before it started and after it died."""

    __slots__ = ("_last", "chain", "groups", "id", "init", "level", "parent", "sessions", "tasks")

    _next_id = 4026531836

    def __init__(self, parent: PidNamespace | None) -> None:
        self.parent = parent
        self.chain: tuple[PidNamespace, ...] = (self, *(parent.chain if parent is not None else ()))
        """This namespace and its ancestors."""
        self.level: int = parent.level + 1 if parent is not None else 0
        self.tasks: dict[int, Task] = {}
        self.groups: dict[int, ProcessGroup] = {}
        self.sessions: dict[int, Session] = {}
        self.init: ThreadGroup | None = None
        self._last = 0
        self.id = PidNamespace._next_id
        PidNamespace._next_id += 1

    def _taken(self, number: int) -> bool:
        return number in self.tasks or number in self.groups or number in self.sessions

    def allocate(self) -> int:
        """The next free number.  EAGAIN if there is none."""
        number = self._last
        for _ in range(PID_MAX):
            number += 1
            if number >= PID_MAX:
                number = RESERVED_PIDS
            if not self._taken(number):
                self._last = number
                return number
        raise EAGAIN

    def thread_groups(self) -> list[ThreadGroup]:
        """Every process in it, zombies included, by pid."""
        return [t.tg for number, t in sorted(self.tasks.items()) if t.tg.leader is t]

    def find(self, number: int) -> Task | None:
        return self.tasks.get(number)

    def find_tg(self, number: int) -> ThreadGroup | None:
        """The process with this pid (not a mere thread's)."""
        t = self.tasks.get(number)
        return t.tg if t is not None and t.tg.leader is t else None

    def find_pgrp(self, number: int) -> ProcessGroup | None:
        return self.groups.get(number)


class Session:
    """A session: its process groups and its controlling terminal."""

    __slots__ = ("foreground", "leader_tg", "numbers", "pgrps", "tty")

    def __init__(self, leader: ThreadGroup) -> None:
        self.leader_tg: ThreadGroup | None = leader
        self.numbers = dict(leader.leader.numbers)
        self.pgrps: set[ProcessGroup] = set()
        self.tty: Tty | None = None
        self.foreground: ProcessGroup | None = None
        for ns, number in self.numbers.items():
            ns.sessions[number] = self

    def id(self, ns: PidNamespace) -> int:
        """Its id as seen from ns, 0 if it is not visible there."""
        return self.numbers.get(ns, 0)

    def drop_if_empty(self) -> None:
        if not self.pgrps:
            for ns, number in self.numbers.items():
                ns.sessions.pop(number, None)


class ProcessGroup:
    """A process group.  It ends with its last member."""

    __slots__ = ("members", "numbers", "session")

    def __init__(self, founder: ThreadGroup, session: Session) -> None:
        self.session = session
        self.members: set[ThreadGroup] = set()
        self.numbers = dict(founder.leader.numbers)
        session.pgrps.add(self)
        for ns, number in self.numbers.items():
            ns.groups[number] = self

    def id(self, ns: PidNamespace) -> int:
        """Its id as seen from ns, 0 if it is not visible there."""
        return self.numbers.get(ns, 0)

    def adopt(self, tg: ThreadGroup) -> None:
        """Take a process that is in no group yet."""
        tg.pgrp = self
        self.members.add(tg)

    def join(self, tg: ThreadGroup) -> None:
        """Move a process here from the group it is in."""
        old = tg.pgrp
        self.adopt(tg)
        if old is not self:
            old.leave(tg)

    def leave(self, tg: ThreadGroup) -> None:
        self.members.discard(tg)
        if not self.members:
            for ns, number in self.numbers.items():
                ns.groups.pop(number, None)
            session = self.session
            session.pgrps.discard(self)
            if session.foreground is self:
                session.foreground = None
            session.drop_if_empty()

    def is_orphaned(self, but_for: ThreadGroup | None = None) -> bool:
        """No live member has a parent in another group of the session: kernel/exit.c:will_become_orphaned_pgrp."""
        for tg in self.members:
            parent = tg.parent
            if tg is but_for or tg.dead or parent is None:
                continue
            if parent.pgrp is not self and parent.pgrp is not None and parent.pgrp.session is self.session:
                return False
        return True

    def has_stopped(self) -> bool:
        return any(tg.stopped for tg in self.members)

    def signal(self, signo: int) -> None:
        """Send signo to every member, as the kernel itself (SI_KERNEL)."""
        for tg in list(self.members):
            tg.send_kernel_signal(signo)
