"""Containers that are added to a sandbox, and taken away from it, on the host's side."""

import json
import os
import signal
from pathlib import Path

import pytest

from sandbox import pod, state
from sandbox.errors import AlreadyExists, FailedPrecondition, InvalidSpec, NoSuchExecutable, NotFound
from sandbox.process import is_alive, wait_gone
from sandbox.sandbox import Sandbox, Stdio
from tests.descriptors import open_descriptors
from tests.unit.sandbox.test_sandbox import children, everything_of

TYPE, ID = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
SHARING = [{"type": kind} for kind in ("pid", "network", "ipc", "uts")]


@pytest.fixture
def root_container(create):
    return create("sleep", annotations={TYPE: "sandbox"})


@pytest.fixture
def add(create, root_container):
    """add(id, *args, **spec changes): a further container."""

    def make(name, *args, **changes):
        annotations = {TYPE: "container", ID: root_container.id}
        return create(*args, sandbox_id=f"{root_container.id}-{name}", annotations=annotations, **changes)

    return make


@pytest.fixture
def output():
    """A pipe's write end for a program, and a function that reads what came."""
    read_end, write_end = os.pipe()

    def read():
        return os.read(read_end, 1000).decode()

    yield write_end, read
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(
    ("annotations", "found"),
    [
        ({}, ""),
        ({TYPE: "sandbox", ID: "p"}, ""),
        ({TYPE: "container", ID: "p"}, "p"),
        ({"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "p"}, "p"),
        ({ID: "p"}, ""),
    ],
)
def test_annotations_tell_the_sandbox_of_a_container(annotations, found):
    assert pod.sandbox_of(annotations) == found


def test_a_container_that_does_not_say_of_which_pod_is_refused():
    with pytest.raises(InvalidSpec, match="sandbox-id: missing"):
        pod.sandbox_of({TYPE: "container"})


def test_a_further_container_has_a_gofer_and_no_sentry_of_its_own(add, root_container):
    container = add("c1", "sleep")

    assert container.record.sentry == root_container.record.sentry
    assert container.pid == container.container.gofer.pid != root_container.pid
    assert container.control_path == root_container.control_path
    assert Path(f"/proc/{container.pid}").exists()


def test_a_container_is_found_by_its_id(add, root_container, root):
    add("c1", "sleep").start()
    found = Sandbox.load(root, f"{root_container.id}-c1")

    assert found.oci_state()["status"] == "running"
    assert found.oci_state()["pid"] == found.pid
    assert root_container.status() == "created"
    assert sorted(state.list_ids(root)) == [root_container.id, found.id]
    found.signal(signal.SIGTERM)
    assert found.wait().exit_status == 143


def test_containers_leave_on_their_own(add, root_container, root):
    first, second = add("c1", "sleep"), add("c2", "sleep")
    first.start()
    gofer = first.container.gofer
    with pytest.raises(FailedPrecondition, match="it is running"):
        first.delete()
    first.delete(force=True)
    first.destroy()

    assert not is_alive(gofer)
    assert everything_of(first.id, root) == []
    assert second.status() == "created" and root_container.is_alive()
    assert add("c1", "sleep").status() == "created", "its id is free again"


def test_a_container_that_cannot_be_made_leaves_the_others_alone(add, root_container, root):
    before, processes = open_descriptors(), children()
    with pytest.raises(NoSuchExecutable):
        add("c1", "missing")

    assert everything_of(f"{root_container.id}-c1", root) == []
    assert open_descriptors() <= before
    assert children() == processes
    assert root_container.status() == "created"


def test_an_id_of_a_pod_is_given_once(add, root_container):
    add("c1", "sleep")
    with pytest.raises(AlreadyExists):
        add("c1", "sleep")


def test_a_sentry_that_does_not_answer_keeps_no_container(add, root_container, root):
    container = add("c1", "stuck")
    gofer = container.container.gofer
    container.destroy()

    assert not is_alive(gofer) and everything_of(container.id, root) == []
    assert root_container.is_alive()


def test_containers_are_removed_when_their_sandbox_has_gone(add, root_container, root):
    containers = [add("c1", "sleep"), add("c2", "sleep")]
    root_container.destroy()

    for container in containers:
        assert wait_gone(container.container.gofer, 10), "it ends with its connections"
        assert container.status() == "stopped"
        container.delete()
        assert everything_of(container.id, root) == []


def test_containers_are_removed_when_their_sandbox_was_killed(add, root_container, root):
    container = add("c1", "sleep")
    os.kill(root_container.pid, signal.SIGKILL)
    assert wait_gone(root_container.record.sentry, 10)

    assert Sandbox.load(root, container.id).status() == "stopped"
    container.delete()
    assert everything_of(container.id, root) == []


def test_a_sandbox_that_is_not_there_is_named(create, add, root_container):
    with pytest.raises(NotFound, match="the pod's sandbox nobody does not exist"):
        create("sleep", sandbox_id="x", annotations={TYPE: "container", ID: "nobody"})
    member = add("c1", "sleep")
    with pytest.raises(InvalidSpec, match="not a sandbox"):
        create("sleep", sandbox_id="x", annotations={TYPE: "container", ID: member.id})
    os.kill(root_container.pid, signal.SIGKILL)
    assert wait_gone(root_container.record.sentry, 10)
    with pytest.raises(NotFound, match="has ended"):
        add("c2", "sleep")


def linux(*namespaces):
    return {"namespaces": [*namespaces, {"type": "network"}]}


def test_paths_to_our_own_pids_mean_the_containers_namespaces(add, root_container, output):
    write_end, read = output
    other = add("other", "sleep", linux=linux({"type": "pid"}))
    paths = [
        {"type": "pid", "path": f"/proc/{other.pid}/ns/pid"},
        {"type": "uts", "path": f"/proc/{root_container.pid}/ns/uts"},
        {"type": "ipc", "path": f"/proc/{root_container.pid}/ns/ipc"},
    ]
    add("c1", "shares", linux=linux(*paths), stdio=Stdio(stdout=write_end)).start()

    assert read() == f"ipc:{root_container.id} pid:{other.id} uts:{root_container.id}\n"


def test_without_a_pid_namespace_it_is_the_sandboxs(add, root_container, output):
    write_end, read = output
    add("c1", "shares", linux=linux(), stdio=Stdio(stdout=write_end)).start()

    assert read() == f"pid:{root_container.id}\n"


def test_a_pid_namespace_of_somebody_else_is_refused(add, create, root_container):
    stranger = linux({"type": "pid", "path": "/proc/1/ns/pid"})
    with pytest.raises(InvalidSpec, match="cannot join the pid namespace /proc/1/ns/pid"):
        add("c1", "sleep", linux=stranger)
    with pytest.raises(InvalidSpec, match="cannot join the pid namespace /proc/1/ns/pid"):
        create("sleep", sandbox_id="alone", linux=stranger)


def test_hooks_get_the_containers_own_state(add, root_container, tmp_path):
    out, script = tmp_path / "out", tmp_path / "hook"
    script.write_text(f"#!/bin/sh\ncat >> {out}; echo >> {out}\n")
    script.chmod(0o755)
    hooks = {point: [{"path": str(script)}] for point in ("createRuntime", "poststop")}
    container = add("c1", "sleep", hooks=hooks)
    container.delete(force=True)

    states = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(each["id"], each["status"]) for each in states] == [(container.id, "creating"), (container.id, "stopped")]
    assert states[0]["pid"] == container.container.gofer.pid
