"""linux.sysctl: what is set, what is what it is anyway, and what is refused."""

from __future__ import annotations

import pytest

from sentry import sysctls
from sentry.kernel.container import StartError
from tests.unit.kernel.world import World


def test_names_of_the_host_are_set(empty_world: World) -> None:
    sysctls.apply(empty_world.container, {"kernel.domainname": "example.org", "kernel.hostname": "web"})
    assert (empty_world.container.uts.domainname, empty_world.container.uts.nodename) == (b"example.org", b"web")


@pytest.mark.parametrize(("name", "value"), [
    ("kernel.sem", "32000 1024000000 500 32000"), ("fs.suid_dumpable", "0"), ("kernel/pid_max", "4194304"),
    ("net.ipv4.anything", "the stage's affair"),
])  # fmt: skip
def test_what_is_so_anyway_is_fine(empty_world: World, name: str, value: str) -> None:
    sysctls.apply(empty_world.container, {name: value})


@pytest.mark.parametrize(("name", "value", "text"), [
    ("kernel.shm_rmid_forced", "1", "kernel.shm_rmid_forced: the sandbox's kernel has no such setting"),
    ("kernel", "1", "kernel: the sandbox's kernel has no such setting"),
    ("kernel.msgmax.more", "1", "kernel.msgmax.more: the sandbox's kernel has no such setting"),
    ("kernel.msgmax", "65536", "kernel.msgmax is 8192 in the sandbox's kernel and cannot be 65536"),
])  # fmt: skip
def test_what_cannot_be_is_refused(empty_world: World, name: str, value: str, text: str) -> None:
    with pytest.raises(StartError) as raised:
        sysctls.apply(empty_world.container, {name: value})
    assert str(raised.value) == f"linux.sysctl: {text}"
