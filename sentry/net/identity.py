"""Who sent a message, or is at the other end: struct ucred as it is kept until somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sentry.abi.socket import UCRED

if TYPE_CHECKING:
    from sentry.kernel.ids import PidNamespace
    from sentry.kernel.task import Task
    from sentry.kernel.threadgroup import ThreadGroup

OVERFLOW_ID: Final = 65534


class Identity(NamedTuple):
    """A process and ids.  numbers: its pids by namespace, kept because they outlive it."""

    tg: ThreadGroup
    numbers: dict[PidNamespace, int]
    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def ucred(self, ns: PidNamespace) -> bytes:
        """struct ucred for a reader in ns; a process that is not visible there has pid 0."""
        return UCRED.pack(self.numbers.get(ns, 0), self.uid, self.gid)


# What a message without credentials shows: sent before anybody asked for them.
NOBODY: Final = UCRED.pack(0, OVERFLOW_ID, OVERFLOW_ID)
# What SO_PEERCRED shows without a peer.
NO_PEER: Final = UCRED.pack(0, 0xFFFFFFFF, 0xFFFFFFFF)


def sender(t: Task) -> Identity:
    """Of a message that t sends: the real ids."""
    creds = t.creds
    return Identity(t.tg, t.tg.leader.numbers, creds.uid, creds.gid)


def peer(t: Task) -> Identity:
    """Of a connection that t makes or listens for: the effective ids."""
    creds = t.creds
    return Identity(t.tg, t.tg.leader.numbers, creds.euid, creds.egid, creds.groups)
