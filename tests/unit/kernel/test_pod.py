"""Containers that share a kernel, and perhaps a PID namespace: what is whose."""

from __future__ import annotations

import gc
import weakref

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import EAGAIN
from sentry.fs.nsfs import number_of
from sentry.fs.tmpfs import TmpFs
from sentry.kernel.clone import check_process_limit
from sentry.kernel.container import Container, IpcNamespace, Process, StartError
from sentry.kernel.ids import PidNamespace
from sentry.kernel.signals import SigInfo
from sentry.kernel.task import Task
from sentry.kernel.utsname import UtsNamespace
from sentry.vfs.dentry import Dentry, Path
from tests.fakes import ScriptedTemplate, Step
from tests.unit.kernel.test_container import PROGRAM, job, spec, start
from tests.unit.kernel.world import World, call


class Pod(World):
    """A world whose container is the root; `of` tells in which one things are done."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.container
        self.file("prog", PROGRAM)

    def add(self, name: str, pidns: PidNamespace | None = None) -> Container:
        uts, ipc = self.first.uts, self.first.ipc
        template = ScriptedTemplate(self.platform)
        added = self.kernel.containers[name] = Container(self.kernel, name, template, uts, pidns, ipc)
        added.mounts.attach(added.mounts.new_mount(self.root.mount.fs, self.root.dentry), None)
        return added

    def start(self, container: Container, *steps: Step, name: str = "") -> tuple[Process, Task]:
        self.container = container
        return start(self, spec("/prog"), *steps, name=name)


@pytest.fixture
def pod() -> Pod:
    return Pod()


@pytest.fixture(autouse=True)
def closed(pod: Pod) -> object:
    yield
    pod.close()


def test_each_container_has_a_pid_1(pod: Pod) -> None:
    _, first = pod.start(pod.first)
    other = pod.add("other")
    process, second = pod.start(other)
    assert (first.tg.pid, second.tg.pid) == (1, 1)
    assert first.pidns is not second.pidns
    second.tg.send_signal(SigInfo(sig.SIGKILL), forced=True)
    pod.run()
    assert process.status == 137 and other.status == "stopped"
    assert not first.tg.dead and pod.first.status == "running"


def test_in_a_shared_pid_namespace_one_process_is_pid_1(pod: Pod) -> None:
    _, first = pod.start(pod.first)
    other = pod.add("other", pod.first.pidns)
    _, second = pod.start(other)
    assert (first.tg.pid, second.tg.pid) == (1, 2)
    assert (first.tg.unkillable, second.tg.unkillable) == (True, False)
    assert pod.first.pidns.init is first.tg
    assert [tg.pid for tg in other.thread_groups()] == [2]


def test_a_first_process_takes_along_the_rest_of_its_container(pod: Pod) -> None:
    """Processes that it left behind, and those that were exec'ed into it; but nobody else's."""
    _, first = pod.start(pod.first, call("fork"))
    other = pod.add("other", pod.first.pidns)
    process, second = pod.start(other, call("fork"))
    execed, _ = pod.start(other, name="exec")
    assert len(other.thread_groups()) == 3
    second.tg.send_kernel_signal(sig.SIGTERM)
    pod.run()
    assert (process.status, execed.status) == (143, 137)
    assert all(tg.dead for tg in other.thread_groups())
    assert not first.tg.dead and len(pod.first.thread_groups()) == 2


def test_with_the_namespaces_init_all_end(pod: Pod) -> None:
    _, first = pod.start(pod.first)
    process, _ = pod.start(pod.add("other", pod.first.pidns))
    apart, _ = pod.start(pod.add("apart"))
    first.tg.send_signal(SigInfo(sig.SIGKILL), forced=True)
    pod.run()
    assert process.status == 137
    assert not apart.ended.is_set


def test_nothing_starts_in_a_namespace_without_init(pod: Pod) -> None:
    other = pod.add("other", pod.first.pidns)
    with pytest.raises(StartError, match="shares a pid namespace that has no init"):
        pod.start(other)
    _, first = pod.start(pod.first)
    assert first.tg.pid == 1, "the failed attempt must not have used the number up"
    pod.start(other)
    first.tg.send_signal(SigInfo(sig.SIGKILL), forced=True)
    pod.run()
    with pytest.raises(StartError, match="has no init"):
        pod.start(other, name="exec")


def test_signals_to_all_are_for_the_container(pod: Pod) -> None:
    pod.start(pod.first)
    bystander, _ = pod.start(pod.first, name="exec")
    other = pod.add("other", pod.first.pidns)
    process, _ = pod.start(other)
    other.signal_all(sig.SIGTERM)
    pod.run()
    assert process.status == 143 and not bystander.ended.is_set


def test_the_limit_of_tasks_is_the_containers(pod: Pod) -> None:
    _, first = pod.start(pod.first, call("fork"))
    other = pod.add("other", pod.first.pidns)
    other.max_tasks = 2
    _, second = pod.start(other)
    check_process_limit(second)
    pod.start(other, name="exec")
    with pytest.raises(EAGAIN):
        check_process_limit(second)
    check_process_limit(first)


def test_members_are_forgotten_when_they_are_reaped(pod: Pod) -> None:
    _, first = pod.start(pod.first)
    other = pod.add("other", pod.first.pidns)
    pod.start(other, call("fork"))
    other.kill()
    pod.run()
    assert {t.tg.container for t in other.members} <= {other}
    assert all(t.tg.dead for t in other.members), "at most zombies, which the namespace's init is to reap"
    assert first.tg.children and all(child.dead for child in first.tg.children)


def test_namespaces_have_the_same_number_if_they_are_the_same(pod: Pod) -> None:
    _, first = pod.start(pod.first)
    other = pod.add("other", pod.first.pidns)
    _, second = pod.start(other)
    kinds = ("net", "uts", "ipc", "pid", "mnt", "cgroup")
    same = {kind for kind in kinds if number_of(first, kind) == number_of(second, kind)}
    assert same == {"net", "uts", "ipc", "pid"}
    other.uts, other.ipc = UtsNamespace("own"), IpcNamespace()
    assert number_of(first, "uts") != number_of(second, "uts")
    assert number_of(first, "ipc") != number_of(second, "ipc")


def test_a_zombie_that_stays_keeps_no_files_of_its_container(pod: Pod) -> None:
    _, first = pod.start(pod.first)
    other = pod.add("other", pod.first.pidns)
    pod.start(other, call("fork"))
    volume = other.mounts.new_mount(TmpFs(), Dentry("", None, None))
    root = other.root()
    other.mounts.attach(volume, Path(root.mount, Dentry("volume", root.dentry, None)))
    trees = weakref.ref(volume.fs)
    del volume, root
    assert job(pod, other.destroy()).done
    assert [child.dead for child in first.tg.children] == [True]
    gc.collect()
    assert trees() is None
