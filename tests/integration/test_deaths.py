"""kill -9 of any process of ours: the task is reported dead exactly once, and nothing of it stays on the host."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.integration.daemon import Daemon, command_line, processes_in, until
from tests.integration.events import Events
from tests.integration.tasks import Client, Stdio, make_fifos

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containerd")]


@pytest.fixture
def task(daemon: Daemon, events: Events) -> str:
    """A task that runs, and whose start the event stream has shown."""
    name = daemon.start_detached("sleep", "1000")
    assert until(lambda: bool(events.about("/tasks/start", name)))
    return name


def process_with(daemon: Daemon, words: str) -> int:
    found = [pid for pid in daemon.processes() if re.search(words, command_line(pid))]
    assert len(found) == 1, [command_line(pid) for pid in daemon.processes()]
    return found[0]


def application_processes(daemon: Daemon, name: str) -> set[int]:
    """The stubs: they are in the container's own cgroup."""
    return {pid for path in daemon.cgroups() if path.name == name for pid in processes_in(path)}


def assert_reported_dead_once(daemon: Daemon, events: Events, name: str) -> None:
    assert until(lambda: daemon.status(name) in ("STOPPED", "")), daemon.status(name)
    daemon.ctr("task", "rm", "-f", name, check=False)
    daemon.ctr("containers", "rm", name)
    assert until(lambda: bool(events.about("/tasks/delete", name))), events.text()
    exits = events.about("/tasks/exit", name)
    assert len(exits) == 1, events.text()
    assert '"exit_status":137' in exits[0]


def test_kill_of_the_sandbox(daemon: Daemon, events: Events, task: str) -> None:
    os.kill(daemon.tasks()[task][0], signal.SIGKILL)
    assert_reported_dead_once(daemon, events, task)


def test_kill_of_the_shim(daemon: Daemon, events: Events, task: str) -> None:
    os.kill(process_with(daemon, rf"shim.* -id {task}"), signal.SIGKILL)
    assert_reported_dead_once(daemon, events, task)


def test_kill_of_the_gofer(daemon: Daemon, events: Events, task: str) -> None:
    os.kill(process_with(daemon, r"sandbox.* gofer( |$)"), signal.SIGKILL)
    assert_reported_dead_once(daemon, events, task)


def test_kill_of_every_application_process(daemon: Daemon, events: Events, task: str) -> None:
    """As the OOM killer would take them."""
    pids = application_processes(daemon, task)
    assert pids
    for pid in pids:
        with suppress(ProcessLookupError):  # it has gone with the one before
            os.kill(pid, signal.SIGKILL)
    assert_reported_dead_once(daemon, events, task)


def test_restart_of_containerd_keeps_the_task(daemon: Daemon, task: str) -> None:
    daemon.restart()
    assert daemon.status(task) == "RUNNING"
    done = daemon.ctr("task", "exec", "--exec-id", "after", task, "echo", "still here")
    assert done.stdout == "still here\n"
    daemon.ctr("task", "kill", "-s", "9", task)
    assert until(lambda: daemon.status(task) == "STOPPED")


def test_open_streams_outlive_a_restart_of_containerd(
    daemon: Daemon, client: Client, busybox: Path, tmp_path: Path
) -> None:
    """Of the container and of an exec: input and output go on, and the input can be ended."""
    with client.container(busybox, ["cat"]) as task, ExitStack() as ends:

        def begin(name: str, make: Callable[[Stdio], object], exec_id: str) -> Callable[[bytes], bytes]:
            stdio = make_fifos(tmp_path / name, "stdin", "stdout")
            reader = os.open(stdio.stdout, os.O_RDONLY | os.O_NONBLOCK)
            ends.callback(os.close, reader)
            os.set_blocking(reader, True)
            writer = os.open(stdio.stdin, os.O_RDWR)
            ends.callback(os.close, writer)
            make(stdio)
            task.start(exec_id)

            def echo(text: bytes) -> bytes:
                os.write(writer, text)
                return os.read(reader, len(text))

            return echo

        main = begin("main", task.create, "")
        more = begin("more", lambda stdio: task.exec("e", ["cat"], stdio), "e")
        assert (main(b"before\n"), more(b"before\n")) == (b"before\n", b"before\n")
        daemon.restart()
        assert (main(b"after\n"), more(b"after\n")) == (b"after\n", b"after\n")
        ends.close()  # the client's ends; the shim has its own until it is told
        task.close_stdin("e")
        assert (task.wait("e"), task.delete("e")) == (0, 0)
        task.close_stdin()
        assert (task.wait(), task.delete()) == (0, 0)


def test_the_shims_log_reaches_a_containerd_that_was_restarted(daemon: Daemon, task: str) -> None:
    daemon.restart()
    before = len(daemon.log.read_text())
    os.kill(process_with(daemon, rf"shim.* -id {task}"), signal.SIGTERM)
    assert until(lambda: "ignored a request to end" in daemon.log.read_text()[before:])
    assert daemon.status(task) == "RUNNING"


def test_task_that_ended_while_containerd_was_away(daemon: Daemon, tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:rw"
    script = "until [ -e /mnt/go ]; do sleep 0.02; done; exit 21"
    name = daemon.start_detached("sh", "-c", script, options=("--mount", mount))
    daemon.process.terminate()
    daemon.process.wait(60)
    assert any("exit 21" in command_line(pid) for pid in application_processes(daemon, name))
    (tmp_path / "go").touch()
    assert until(lambda: not any("exit 21" in command_line(pid) for pid in application_processes(daemon, name)))
    daemon.process = daemon.start()
    assert until(lambda: daemon.status(name) == "STOPPED")
    assert "exit code 21" in daemon.ctr("task", "rm", name, check=False).stderr


def test_kill_of_ctr_leaves_the_container_alone(daemon: Daemon) -> None:
    run = subprocess.Popen(daemon.run_command("sleep", "1000", name="ctr-killed"), stdin=subprocess.DEVNULL)
    try:
        assert until(lambda: daemon.status("ctr-killed") == "RUNNING")
    finally:
        run.kill()
        run.wait()
    assert daemon.status("ctr-killed") == "RUNNING"


def pod_of(daemon: Daemon, events: Events) -> list[str]:
    """The root and two others, all running."""
    kind, sandbox = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
    root = f"d{uuid.uuid4().hex[:10]}"
    names: list[str] = []
    for role in ("sandbox", "container", "container"):
        options = ("--annotation", f"{kind}={role}", "--annotation", f"{sandbox}={root}")
        names.append(daemon.start_detached("sleep", "1000", options=options, name="" if names else root))
    assert until(lambda: all(events.about("/tasks/start", name) for name in names))
    assert len([pid for pid in daemon.processes() if "stage sentry" in command_line(pid)]) == 1
    return names


@pytest.mark.parametrize("victim", [r"sandbox.stage sentry ", r"shim.* -id "])
def test_what_ends_all_containers_of_a_pod(daemon: Daemon, events: Events, victim: str) -> None:
    names = pod_of(daemon, events)
    os.kill(process_with(daemon, victim), signal.SIGKILL)
    for name in reversed(names):
        assert_reported_dead_once(daemon, events, name)


def test_the_end_of_a_pods_root(daemon: Daemon, events: Events) -> None:
    names = pod_of(daemon, events)
    daemon.ctr("task", "kill", "-s", "KILL", names[0])
    for name in names:
        assert_reported_dead_once(daemon, events, name)


def test_removal_of_a_pods_root_before_the_others(daemon: Daemon, events: Events) -> None:
    root, *others = pod_of(daemon, events)
    daemon.ctr("task", "rm", "-f", root, check=False)
    daemon.ctr("containers", "rm", root)
    for name in others:
        assert_reported_dead_once(daemon, events, name)
